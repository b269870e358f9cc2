"use strict";
// Heat map: entries by tasks, each column coloured between its lowest and its highest score.

const MOST = 200;

function start() {
  const tables = pageData().tables, select = document.getElementById("table");
  if (!tables.length) { document.getElementById("heat").replaceChildren(node("p", {class: "empty"}, "There are no ranked entries yet.")); return; }
  fill(select, tables.map(one => [one.key, `${one.scale}, ${one.track}`]));
  const render = () => heat(tables.find(one => one.key === select.value));
  select.addEventListener("change", render);
  render();
}

function heat(table) {
  const span = table.tasks.map((task, i) => {
    const values = table.rows.map(row => row[2][i]).filter(value => value !== null);
    return [Math.min(...values), Math.max(...values)];
  });
  const head = node("tr", {}, node("th", {scope: "col"}, "Entry"), ...table.tasks.map(task => node("th", {scope: "col", title: task[2]}, node("span", {}, task[1]))));
  const rows = table.rows.slice(0, MOST).map(row => node("tr", {},
    node("th", {scope: "row"}, node("a", {href: `entries/${encodeURIComponent(row[0])}.html`}, row[1])),
    ...row[2].map((value, i) => {
      const cell = node("td", {title: `${row[1]}, ${table.tasks[i][1]}: ${score(value)} (chance ${score(table.tasks[i][3])})`});
      const [low, high] = span[i];
      const share = value === null ? 0 : high > low ? (value - low) / (high - low) : .5;
      // Set through the object model: style attributes are refused by the page's policy.
      cell.style.backgroundColor = `rgba(var(--heat), ${(.06 + .9 * share).toFixed(2)})`;
      return cell;
    })));
  document.getElementById("heat").replaceChildren(node("table", {class: "heat"}, node("thead", {}, head), node("tbody", {}, ...rows)));
}

document.addEventListener("DOMContentLoaded", start);
