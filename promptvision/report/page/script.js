"use strict";

function key(row, place, number) {
  const cell = row.cells[place];
  if (!number) return cell.textContent.trim().toLowerCase();
  return "value" in cell.dataset ? Number(cell.dataset.value) : null;
}

function compare(a, b, descending) {
  const emptyA = a === null || a === "", emptyB = b === null || b === "";
  if (emptyA || emptyB) return emptyA - emptyB;
  const order = typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true });
  return descending ? -order : order;
}

function sort(head) {
  const table = head.closest("table"), number = head.classList.contains("number");
  const last = head.getAttribute("aria-sort");
  const descending = last === "none" ? number : last === "ascending";
  for (const other of head.parentNode.cells) other.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const rows = Array.from(table.tBodies[0].rows, row => [key(row, head.cellIndex, number), row]);
  rows.sort((a, b) => compare(a[0], b[0], descending));
  table.tBodies[0].append(...rows.map(pair => pair[1]));
}

const items = Array.from(document.querySelectorAll("tbody tr, .run"), item => [item, item.textContent.toLowerCase()]);

function filter(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const [item, own] of items) {
    item.hidden = !words.every(word => own.includes(word));
    shown += !item.hidden;
  }
  for (const group of document.querySelectorAll(".group")) group.hidden = !group.querySelector(".run:not([hidden])");
  document.getElementById("count").textContent = words.length ? `${shown} of ${items.length} rows and runs` : "";
}

const unpacked = {};

async function unpack(id) {
  const letters = atob(document.getElementById(id).content.textContent);
  const bytes = Uint8Array.from(letters, letter => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

function element(name, text) {
  const made = document.createElement(name);
  made.textContent = text;
  return made;
}

function list(entries) {
  const made = document.createElement("dl");
  for (const [name, fact] of entries) made.append(element("dt", name), element("dd", fact));
  return made;
}

function folded(name, content) {
  const made = document.createElement("details");
  made.append(element("summary", name), content);
  return made;
}

function classTable(rows) {
  const made = document.createElement("table"), body = document.createElement("tbody");
  const line = (cells, kind) => {
    const row = document.createElement("tr");
    cells.forEach((text, place) => { row.append(element(place ? kind : "th", text)); row.lastChild.className = place && place < 4 ? "number" : ""; });
    return row;
  };
  const head = document.createElement("thead");
  head.append(line(["class", "images", "accuracy", "95 % interval", "most often taken for"], "th"));
  body.append(...rows.map(cells => line(cells, "td")));
  made.append(head, body);
  const box = document.createElement("div");
  box.className = "scroll small";
  box.tabIndex = 0;
  box.append(made);
  return box;
}

const SVG = new DOMParser().parseFromString("<svg></svg>", "text/html").body.firstChild.namespaceURI;

function mark(parent, name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
}

function matrix([names, cells]) {
  const cell = names.length > 12 ? 16 : 30, margin = 12 + 7 * Math.max(...names.map(name => name.length)), size = margin + cell * names.length + 4;
  const box = document.createElement("div");
  box.className = "scroll plain";
  box.tabIndex = 0;
  const svg = mark(box, "svg", { width: size, height: size, viewBox: `0 0 ${size} ${size}`, "font-size": 11, role: "img", "aria-label": "Confusion matrix" });
  const images = names.map((_, label) => cells.reduce((sum, [row, , count]) => sum + (row === label ? count : 0), 0));
  names.forEach((name, place) => {
    const at = margin + cell * (place + 0.5);
    mark(svg, "text", { x: margin - 4, y: at, class: "row" }, name);
    mark(svg, "text", { transform: `translate(${at} ${margin - 4}) rotate(-90)`, class: "column" }, name);
  });
  for (const [label, prediction, count] of cells) {
    const group = mark(svg, "g", {}), x = margin + cell * prediction, y = margin + cell * label;
    mark(group, "title", {}, `${names[label]} → ${names[prediction]}: ${count} of ${images[label]}`);
    mark(group, "rect", { x, y, width: cell - 1, height: cell - 1, class: label === prediction ? "hit" : "miss", "fill-opacity": 0.12 + 0.58 * count / images[label] });
    if (cell > 16) mark(group, "text", { x: x + cell / 2, y: y + cell / 2, class: "inside" }, count);
  }
  return box;
}

function samples(rows, images) {
  const made = document.createElement("ul");
  made.className = "cards";
  for (const [path, label, prediction, per_cent] of rows) {
    const item = document.createElement("li"), image = document.createElement("img");
    image.src = images[path];
    image.alt = image.title = path;
    const guess = element("span", `${prediction} ${per_cent}\u00a0%`);
    guess.className = label === prediction ? "within" : "outside";
    item.append(image, element("b", label), guess);
    made.append(item);
  }
  return made;
}

function show(run, content, images) {
  const facts = Object.entries(content.facts), more = ([name]) => content.folded.includes(name);
  run.append(list(facts.filter(fact => !more(fact))));
  if (Object.keys(content.changed || {}).length) run.append(element("h4", "Settings that differ between the runs"), list(Object.entries(content.changed)));
  const beside = document.createElement("div");
  beside.className = "beside";
  if (content.classes) beside.append(classTable(content.classes));
  if (content.matrix) beside.append(matrix(content.matrix));
  if (beside.children.length) run.append(element("h4", "Accuracy per class, the lowest first"), beside);
  if ((content.samples || []).length) run.append(element("h4", "Sample images: label and prediction"), samples(content.samples, images[content.images]));
  for (const [name, text] of content.files) run.append(folded(name, element("pre", text)));
  if (facts.some(more)) run.append(folded("class list, hashes, environment", list(facts.filter(more))));
}

async function fill(run) {
  if (!run.open || run.dataset.filled) return;
  run.dataset.filled = "yes";
  try {
    for (const id of ["packed", "samples"]) unpacked[id] = unpacked[id] || unpack(id);
    show(run, (await unpacked.packed)[run.dataset.run], (await unpacked.samples));
  } catch (error) {
    run.append(element("p", `This browser cannot unpack the run: ${error.message}`));
  }
}

for (const head of document.querySelectorAll("thead th")) head.querySelector("button")?.addEventListener("click", () => sort(head));
for (const run of document.querySelectorAll(".run")) run.addEventListener("toggle", () => fill(run));
document.getElementById("filter")?.addEventListener("input", event => filter(event.target.value));
