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

function filter(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0, all = 0;
  for (const item of document.querySelectorAll("tbody tr, .run")) {
    const own = item.textContent.toLowerCase();
    item.hidden = !words.every(word => own.includes(word));
    all += 1;
    shown += !item.hidden;
  }
  document.getElementById("count").textContent = words.length ? `${shown} of ${all} rows and runs` : "";
}

for (const head of document.querySelectorAll("thead th")) head.querySelector("button").addEventListener("click", () => sort(head));
document.getElementById("filter").addEventListener("input", event => filter(event.target.value));
