"use strict";
// Shared by all pages: the theme, the page's data block, and elements made without ever parsing text as HTML.

const stored = (() => { try { return localStorage.getItem("theme"); } catch { return null; } })();
const prefersDark = matchMedia("(prefers-color-scheme: dark)");
function setTheme(theme) { document.documentElement.dataset.theme = theme; }
setTheme(stored === "dark" || stored === "light" ? stored : prefersDark.matches ? "dark" : "light");
prefersDark.addEventListener("change", event => { if (!stored) setTheme(event.matches ? "dark" : "light"); });

document.addEventListener("DOMContentLoaded", () => {
  document.getElementById("theme").addEventListener("click", () => {
    const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    setTheme(theme);
    try { localStorage.setItem("theme", theme); } catch { /* a page opened from a folder may not store */ }
  });
});

// What the address names after #; nothing if it is not well formed.
function hash() { try { return decodeURIComponent(location.hash.slice(1)); } catch { return ""; } }

// The text with places where a line may break: after _, - and /.
function breakable(text) { return text.split(/(?<=[_/-])/).flatMap((part, i) => i ? [node("wbr"), part] : [part]); }

function pageData() { return JSON.parse(document.getElementById("data").textContent); }

// node("td", {class: "n"}, "text", child): children that are not elements become text.
function node(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) if (value !== null && value !== undefined) made.setAttribute(key, value);
  made.append(...children.map(child => child instanceof Node ? child : String(child)));
  return made;
}

function svg(name, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
  made.append(...children.map(child => child instanceof Node ? child : String(child)));
  return made;
}

function score(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  return value.toFixed(digits).replace(/^-(?=[0.]*$)/, "").replace(/^(-?)0\./, "$1.").replace("-", "−");
}

function count(value) {
  if (value < 1e6) return value.toLocaleString("en");
  return value < 1e9 ? (value / 1e6).toPrecision(3) + " M" : (value / 1e9).toPrecision(3) + " G";
}

function duration(seconds) {
  if (seconds === null) return "–";
  if (seconds < 90) return `${+seconds.toPrecision(2)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${+(seconds / 3600).toPrecision(3)} h` : `${+(seconds / 86400).toPrecision(3)} days`;
}

function fill(select, options) {
  select.replaceChildren(...options.map(([value, text]) => node("option", {value}, text)));
}
