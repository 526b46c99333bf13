"use strict";
// Elements, routes, theme. Whatever a model wrote is set as text, never as markup.

/** An element. `attributes` may hold `class`, `onclick` and the like, and `vars` (custom properties). */
function el(tag, attributes, ...children) {
  const node = document.createElement(tag);
  return dress(node, attributes, children);
}

/** An element of a drawing. */
function draw(tag, attributes, ...children) {
  const node = document.createElementNS(document.getElementById("svg").namespaceURI, tag);
  return dress(node, attributes, children);
}

function dress(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "vars") {
      for (const [key, own] of Object.entries(value)) node.style.setProperty(key, own);
    } else if (typeof value === "function") {
      node.addEventListener(name.slice(2), value);
    } else {
      node.setAttribute(name, value === true ? "" : value);
    }
  }
  append(node, children);
  return node;
}

function append(node, children) {
  for (const child of children.flat(9)) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child instanceof Node ? child : String(child));
  }
  return node;
}

/** A `#/path/of/parts?key=value` as parts and a map. */
function readRoute() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  return {
    parts: path.split("/").filter((part) => part).map((part) => decodeURIComponent(part)),
    query: new URLSearchParams(query || ""),
  };
}

function link(parts, query) {
  const path = parts.map((part) => encodeURIComponent(part)).join("/");
  const text = new URLSearchParams(query || {}).toString();
  return "#/" + path + (text ? "?" + text : "");
}

/** Goes on without a step in the history: for filters and steps through a list. */
function replaceRoute(parts, query) {
  history.replaceState(null, "", link(parts, query));
  routed = null;
}

/** A choice: `options` are [value, text]. */
function choice(label, options, value, onchange) {
  const box = el("select", { onchange: () => onchange(box.value) },
    options.map(([key, text]) => el("option", { value: key, selected: String(key) === String(value) }, text)));
  return el("label", {}, label, box);
}

function table(head, rows, attributes) {
  const cell = (tag) => (content) => {
    if (content instanceof HTMLTableCellElement) return content;
    const number = typeof content === "number";
    return el(tag, { class: number ? "n" : null }, number ? String(content) : content);
  };
  return el("div", { class: "scroll" }, el("table", attributes || {},
    head && el("thead", {}, el("tr", {}, head.map(cell("th")))),
    el("tbody", {}, rows.map((row) => (row instanceof Node ? row : el("tr", {}, row.map(cell("td"))))))));
}

function numberCell(...content) {
  return el("td", { class: "n" }, content);
}

function signed(value, digits) {
  if (value === null || value === undefined) return "–";
  const text = Math.abs(value).toFixed(digits === undefined ? 1 : digits);
  return (value < 0 && Number(text) !== 0 ? "−" : "+") + text;
}

function percent(share, digits) {
  return (100 * share).toFixed(digits || 0) + " %";
}

// Theme: as the system says until somebody says otherwise.
const darkSystem = matchMedia("(prefers-color-scheme: dark)");
const THEMES = ["auto", "light", "dark"];
let theme = "auto";
try { theme = localStorage.getItem("iapo-view-theme") || "auto"; } catch { /* a page that may not keep anything */ }

function applyTheme() {
  const dark = theme === "dark" || (theme === "auto" && darkSystem.matches);
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  document.getElementById("theme").textContent = { auto: "◐", light: "☀", dark: "☾" }[theme] || "◐";
  document.getElementById("theme").setAttribute("aria-label", "theme: " + theme);
}

function nextTheme() {
  theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
  try { localStorage.setItem("iapo-view-theme", theme); } catch { /* kept for this page alone */ }
  applyTheme();
}

darkSystem.addEventListener("change", applyTheme);
