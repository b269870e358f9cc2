"use strict";
// Two entries side by side: task by task, with the noise of each difference.

let tables, table;
const element = id => document.getElementById(id);

function start() {
  tables = pageData().tables;
  if (!tables.length) { element("verdict").textContent = "There are no ranked entries yet."; return; }
  fill(element("table"), tables.map(one => [one.key, `${one.scale}, ${one.track}`]));
  const wanted = hash().split(",").filter(Boolean);
  table = tables.find(one => one.rows.some(row => row[0] === wanted[0])) || tables[0];
  element("table").value = table.key;
  choose(wanted);
  element("table").addEventListener("change", () => { table = tables.find(one => one.key === element("table").value); choose([]); });
  for (const id of ["first", "second"]) element(id).addEventListener("change", render);
}

function choose(wanted) {
  const options = table.rows.map(row => [row[0], row[1]]);
  for (const id of ["first", "second"]) fill(element(id), options);
  const known = wanted.filter(slug => table.rows.some(row => row[0] === slug));
  element("first").value = known[0] || table.rows[0][0];
  element("second").value = known[1] || (table.rows.find(row => row[0] !== element("first").value) || table.rows[0])[0];
  render();
}

function render() {
  const [a, b] = ["first", "second"].map(id => table.rows.find(row => row[0] === element(id).value));
  history.replaceState(null, "", `#${encodeURIComponent(a[0])},${encodeURIComponent(b[0])}`);
  const rows = table.tasks.map(([key, name, group, chance], i) => ({name, group, chance, a: a[2][i], b: b[2][i], noise: Math.hypot(a[3][i], b[3][i])}));
  const clear = rows.filter(row => Math.abs(row.a - row.b) > row.noise);
  const wins = clear.filter(row => row.a > row.b).length;
  element("verdict").textContent = `${a[1]} ${score(a[4])} against ${b[1]} ${score(b[4])}: the first is clearly better on ${wins} tasks, the second on ${clear.length - wins}, ${rows.length - clear.length} lie within the noise of their samples.`;
  rows.sort((first, second) => (second.a - second.b) - (first.a - first.b));
  const most = Math.max(...rows.map(row => Math.abs(row.a - row.b) + row.noise), .01);
  const head = ["Task", "First", "Second", "Difference", "second better – first better", "Group"];
  element("comparison").replaceChildren(node("table", {},
    node("thead", {}, node("tr", {}, ...head.map((title, i) => node("th", {scope: "col", class: i === 0 ? "" : i < 4 ? "n" : "wide-only"}, title)))),
    node("tbody", {}, ...rows.map(row => line(row, most)))));
}

function line(row, most) {
  const difference = row.a - row.b, x = value => 100 + 96 * value / most;
  const clear = Math.abs(difference) > row.noise;
  const bar = svg("svg", {viewBox: "0 0 200 16", "aria-hidden": "true"},
    svg("line", {class: "chance", x1: 100, x2: 100, y1: 1, y2: 15}),
    svg("line", {class: "span", x1: x(difference - row.noise), x2: x(difference + row.noise), y1: 8, y2: 8}),
    svg("circle", {class: "dot", cx: x(difference), cy: 8, r: 4}));
  return node("tr", {}, node("th", {scope: "row"}, row.name), node("td", {class: "n"}, score(row.a)), node("td", {class: "n"}, score(row.b)),
    node("td", {class: `n ${clear ? (difference > 0 ? "beats" : "beaten") : "dim"}`}, (difference > .0005 ? "+" : "") + score(difference)),
    node("td", {class: "plot wide-only"}, bar), node("td", {class: "dim wide-only"}, row.group));
}

document.addEventListener("DOMContentLoaded", start);
