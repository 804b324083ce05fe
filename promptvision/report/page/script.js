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

let contents = null;

async function unpack() {
  const letters = atob(document.getElementById("packed").content.textContent);
  const bytes = Uint8Array.from(letters, letter => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

function element(name, text) {
  const made = document.createElement(name);
  made.textContent = text;
  return made;
}

function show(run, content) {
  const facts = document.createElement("dl");
  for (const [name, fact] of Object.entries(content.facts)) facts.append(element("dt", name), element("dd", fact));
  run.append(facts);
  for (const [name, text] of content.files) {
    const file = document.createElement("details");
    file.append(element("summary", name), element("pre", text));
    run.append(file);
  }
}

async function fill(run) {
  if (!run.open || run.dataset.filled) return;
  run.dataset.filled = "yes";
  try {
    contents = contents || unpack();
    show(run, (await contents)[run.dataset.run]);
  } catch (error) {
    run.append(element("p", `This browser cannot unpack the run: ${error.message}`));
  }
}

for (const head of document.querySelectorAll("thead th")) head.querySelector("button")?.addEventListener("click", () => sort(head));
for (const run of document.querySelectorAll(".run")) run.addEventListener("toggle", () => fill(run));
document.getElementById("filter")?.addEventListener("input", event => filter(event.target.value));
