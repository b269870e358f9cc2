"use strict";
// The board: tabs by scale and track, a table that sorts and filters, and charts of what it shows.

// The browser lays out every line that is shown, and that is what sorting costs: 50 fill two screens.
const STEP = 50;
const FIELDS = ["slug", "name", "authors", "ranks", "size", "scores", "low", "high", "std", "seeds", "level", "date", "seconds", "random", "beats", "other"];
const LEVELS = ["unverified", "claimed", "rescored", "retrained"];

// title, class, key to sort by, first direction (1 ascending), whether only wide screens show it
const COLUMNS = [
  ["Rank", "rank", row => row.ranks[8], 1, false],
  ["Method", "", row => row.name.toLowerCase(), 1, false],
  ["Average", "n", row => row.scores[4], -1, false],
  ["95 %", "", row => row.low, -1, true],
  ...["ImageNet", "Shifts", "VTAB", "Retrieval"].map((title, i) => [title, "n", row => row.scores[i], -1, true]),
  ["Size", "n", row => row.size, -1, false],
  ["vs random", "", row => row.beats === null ? -1 : row.beats, -1, true],
  ["Selection", "n", row => row.seconds ?? Infinity, 1, true],
  ["Level", "", row => LEVELS.indexOf(row.level), -1, true],
  ["Packed", "n", row => row.date, -1, true],
];
const AVERAGE = 2;
let tables, current, sorted = AVERAGE, direction = -1, shown = STEP;

function start() {
  tables = pageData().tables.map(table => ({...table, rows: table.rows.map(row => Object.fromEntries(FIELDS.map((field, i) => [field, row[i]])))}));
  if (!tables.length) return;
  const tabs = document.getElementById("tabs");
  for (const table of tables) {
    const button = node("button", {type: "button", "data-key": table.key}, label(table));
    button.addEventListener("click", () => { location.hash = table.key; });
    tabs.append(button);
  }
  document.getElementById("filter").addEventListener("input", () => { shown = STEP; render(); });
  document.getElementById("level").addEventListener("change", () => { shown = STEP; render(); });
  document.getElementById("more").addEventListener("click", () => { shown += STEP; list(matching()); });
  addEventListener("hashchange", choose);
  makeTable();
  choose();
}

function label(table) {
  const one = tables.filter(other => other.scale === table.scale).length === 1;
  return table.scale + (one && table.track === "filtering" ? "" : ` · ${table.track}`) + (table.protocol === "v1" ? "" : ` · ${table.protocol}`);
}

function choose() {
  const key = hash();
  current = tables.find(table => table.key === key) || tables[0];
  for (const button of document.querySelectorAll("#tabs button")) button.setAttribute("aria-pressed", button.dataset.key === current.key);
  shown = STEP;
  render();
  renderApart();
  renderPublished();
}

function matching() {
  const words = document.getElementById("filter").value.trim().toLowerCase().split(/\s+/).filter(Boolean);
  const least = LEVELS.indexOf(document.getElementById("level").value);
  // Random rows stay: they are what every other row is measured by.
  return current.rows.filter(row => row.random || (words.every(word => `${row.name} ${row.authors}`.toLowerCase().includes(word)) && LEVELS.indexOf(row.level) >= least));
}

function ordered(rows) {
  const key = COLUMNS[sorted][2];
  const keyed = rows.map(row => [key(row), row]);
  keyed.sort(([a, first], [b, second]) => (a < b ? -1 : a > b ? 1 : 0) * direction || second.scores[4] - first.scores[4] || (first.name < second.name ? -1 : 1));
  return keyed.map(([, row]) => row);
}

// Filter, draw the charts of what is left, and list it.
function render() {
  const rows = matching();
  const noise = current.seedFreedom ? "" : " No entry of this scale has two seeds, so the noise of seeds is taken as .0083 a run, what it is at scale tiny.";
  const standIns = current.scale === "tiny" ? " At scale tiny the pool and the tasks are generated stand-ins." : "";
  const otherSize = rows.some(row => row.other !== null) ? " * No random entry has this size; the nearest one is taken." : "";
  document.getElementById("note").textContent = `${rows.length.toLocaleString("en")} of ${current.rows.length.toLocaleString("en")} ranked entries, protocol ${current.protocol}.${standIns}${noise}${otherSize}`;
  charts(rows);
  list(rows);
}

// The table alone: sorting changes nothing else. Lines are made once and moved.
function list(rows) {
  const span = extent(current.rows);
  for (const [i, cell] of [...heads()].entries()) {
    if (i === sorted) cell.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
    else cell.removeAttribute("aria-sort");
  }
  document.querySelector("#board tbody").replaceChildren(...ordered(rows).slice(0, shown).map(row => row.line ??= line(row, span)));
  const more = document.getElementById("more");
  more.hidden = rows.length <= shown;
  more.textContent = `Show more (${(rows.length - shown).toLocaleString("en")})`;
}

function heads() { return document.querySelectorAll("#board thead th"); }

function makeTable() {
  const cells = COLUMNS.map(([title, style, , first, wide], i) => {
    const button = node("button", {type: "button"}, title);
    button.addEventListener("click", () => {
      [sorted, direction] = [i, i === sorted ? -direction : first];
      list(matching());
    });
    return node("th", {scope: "col", class: `${style === "n" ? "n" : ""}${wide ? " wide-only" : ""}`}, button);
  });
  document.getElementById("board").replaceChildren(node("table", {}, node("thead", {}, node("tr", {}, ...cells)), node("tbody")));
}

function extent(rows) {
  const low = Math.min(...rows.map(row => row.low)), high = Math.max(...rows.map(row => row.high));
  return [low, Math.max(high - low, 1e-9)];
}

function line(row, [low, width]) {
  const [best, worst] = row.ranks.slice(8);
  const who = [row.authors, `${row.seeds}\u00a0${row.seeds === 1 ? "seed" : "seeds"}`].filter(Boolean).join(" · ");
  const rank = i => `rank ${row.ranks[2 * i]}–${row.ranks[2 * i + 1]}`;
  const versus = row.beats === null ? "–" : (row.beats ? "better" : "not better") + (row.other === null ? "" : "*");
  const cells = [
    node("td", {class: "rank"}, best === worst ? best : `${best}–${worst}`),
    node("th", {scope: "row", class: "method"}, node("a", {href: `entries/${encodeURIComponent(row.slug)}.html`}, ...breakable(row.name)), node("small", {}, who), node("small", {class: "narrow-only"}, row.level)),
    node("td", {class: "n main", title: row.std === null ? rank(4) : `${rank(4)}, standard deviation between seeds ${score(row.std, 4)}`}, score(row.scores[4]), node("small", {class: "narrow-only"}, `${score(row.low)}–${score(row.high)}`)),
    node("td", {class: "wide-only", title: `${score(row.low)} to ${score(row.high)}`}, spark(row, low, width)),
    ...row.scores.slice(0, 4).map((value, i) => node("td", {class: "n wide-only", title: rank(i)}, score(value))),
    node("td", {class: "n"}, count(row.size)),
    node("td", {class: `wide-only ${row.beats === 1 ? "beats" : row.beats === 0 ? "beaten" : "dim"}`, title: row.other === null ? null : `nearest random entry: ${count(row.other)} pairs`}, row.random ? "yardstick" : versus),
    node("td", {class: "n wide-only"}, duration(row.seconds)),
    node("td", {class: "wide-only"}, node("span", {class: `level ${row.level}`}, row.level)),
    node("td", {class: "n dim wide-only"}, row.date || "–"),
  ];
  return node("tr", {class: row.random ? "random" : null}, ...cells);
}

function spark(row, low, width) {
  const x = value => 4 + 102 * (value - low) / width;
  return svg("svg", {viewBox: "0 0 110 14", class: "spark", "aria-hidden": "true"},
    svg("line", {class: "axis", x1: 0, x2: 110, y1: 7, y2: 7}),
    svg("line", {class: "span", x1: x(row.low), x2: x(row.high), y1: 7, y2: 7}),
    svg("circle", {class: "dot", cx: x(row.scores[4]), cy: 7, r: 3.5}));
}

function renderApart() {
  const place = document.getElementById("apart");
  if (!current.apart.length) { place.replaceChildren(); return; }
  const rows = current.apart.map(row => node("tr", {},
    node("th", {scope: "row", class: "method"}, node("a", {href: `entries/${encodeURIComponent(row.slug)}.html`}, row.name)),
    node("td", {}, row.reason), node("td", {class: "n"}, score(row.average))));
  place.replaceChildren(node("h2", {}, "Not ranked"), node("div", {class: "scroll", tabindex: 0, role: "region", "aria-label": "Entries that are not ranked"},
    node("table", {}, node("thead", {}, node("tr", {}, node("th", {scope: "col"}, "Method"), node("th", {scope: "col"}, "Why"), node("th", {scope: "col", class: "n"}, "Average"))), node("tbody", {}, ...rows))));
}

function renderPublished() {
  const rows = [...document.querySelectorAll("#published tbody tr")];
  const here = rows.some(row => row.dataset.scale === current.scale);
  for (const row of rows) row.hidden = here && row.dataset.scale !== current.scale;
  document.querySelector("#published details").open = here;
}

function charts(rows) {
  scatter("chart-imagenet", "ImageNet against average", rows, row => row.scores[0], row => row.scores[4], {x: "ImageNet", y: "average"});
  scatter("chart-size", "Average against subset size", rows, row => row.size, row => row.scores[4], {x: "pairs", y: "average", marks: DECADES, tick: count});
  scatter("chart-cost", "Average against selection cost", rows.filter(row => row.seconds > 0), row => row.seconds, row => row.scores[4], {x: "selection", y: "average", marks: TIMES, tick: duration});
}

// Round values between low and high, about four.
function linear(low, high) {
  const least = (high - low) / 4, power = 10 ** Math.floor(Math.log10(least));
  const step = power * [1, 2, 5, 10].find(times => times * power >= least);
  return Array.from({length: Math.floor(high / step) - Math.ceil(low / step) + 1}, (_, i) => (Math.ceil(low / step) + i) * step);
}

// The same where each decade takes as much room: of `marks` as many as are legible.
function logarithmic(low, high, marks) {
  const inside = marks.filter(mark => low <= mark && mark <= high);
  return inside.length < 2 ? linear(low, high) : inside.filter((_, i) => i % Math.ceil(inside.length / 6) === 0);
}

const DECADES = Array.from({length: 36}, (_, i) => [1, 2, 5][i % 3] * 10 ** Math.floor(i / 3));
const TIMES = [.01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30, ...[2, 5, 10, 30].map(minutes => 60 * minutes), ...[2, 5, 10, 24].map(hours => 3600 * hours), ...[2, 5, 10, 20, 50, 100].map(days => 86400 * days)];

function scatter(id, title, rows, xOf, yOf, {x, y, marks = null, tick = value => score(value, 2)}) {
  const place = document.getElementById(id);
  if (rows.length < 2) { place.replaceChildren(); return; }
  const scale = marks ? Math.log10 : value => value;
  const range = values => {
    const low = Math.min(...values), high = Math.max(...values), pad = (high - low || Math.abs(high) || 1) * .08;
    return [low - pad, high + pad];
  };
  const [x0, x1] = range(rows.map(row => scale(xOf(row)))), [y0, y1] = range(rows.map(yOf));
  const px = value => 44 + 266 * (scale(value) - x0) / (x1 - x0), py = value => 178 - 164 * (value - y0) / (y1 - y0);
  const parts = [];
  for (const at of linear(y0, y1)) {
    parts.push(svg("line", {class: "grid", x1: 44, x2: 310, y1: py(at), y2: py(at)}), svg("text", {class: "end", x: 39, y: py(at) + 4}, score(at, y1 - y0 < .04 ? 3 : 2)));
  }
  for (const at of marks ? logarithmic(10 ** x0, 10 ** x1, marks) : linear(x0, x1)) parts.push(svg("text", {class: "mid", x: px(at), y: 196}, tick(at)));
  parts.push(svg("text", {class: "end", x: 310, y: 213}, x), svg("text", {x: 4, y: 8}, y));
  for (const row of rows.slice(0, 400)) {
    const link = svg("a", {href: `entries/${encodeURIComponent(row.slug)}.html`, "aria-label": `${row.name}, ${score(yOf(row))}`},
      svg("circle", {class: row.random ? "point random" : "point", cx: px(xOf(row)), cy: py(yOf(row)), r: 4.5}, svg("title", {}, `${row.name}: ${tick(xOf(row))}, ${score(yOf(row))}`)));
    parts.push(link);
  }
  parts.push(...labels(rows.map(row => [row.name, px(xOf(row)), py(yOf(row))])));
  place.replaceChildren(node("h2", {}, title), svg("svg", {viewBox: "0 0 320 218", class: "chart", role: "group", "aria-label": title}, ...parts));
}

// Names beside points, best first, wherever there is room for one; the others are told when pointed at.
function labels(points) {
  const taken = points.map(([, x, y]) => [x - 5, x + 5, y - 5, y + 5]), made = [];
  for (const [name, x, y] of points.slice(0, 60).sort((a, b) => a[2] - b[2])) {
    const long = 5 * name.length;
    const place = [[x + 7, "start"], [x - 7 - long, "end"]].find(([left]) => left > 44 && left + long < 318
      && taken.every(([x0, x1, y0, y1], i) => points[i][1] === x && points[i][2] === y || left > x1 || left + long < x0 || y - 5 > y1 || y + 5 < y0));
    if (!place) continue;
    taken.push([place[0], place[0] + long, y - 5, y + 5]);
    points.push(["", NaN, NaN]);
    made.push(svg("text", {class: `name ${place[1]}`, x: place[1] === "end" ? x - 7 : x + 7, y: y + 3}, name));
  }
  return made;
}

document.addEventListener("DOMContentLoaded", start);
