// Views, keys, and what happens when the address changes.

const VIEWS = [
  ["verdict", "Verdict", verdictView], ["grid", "Grid", gridView], ["attribution", "Attribution", attributionView],
  ["groups", "Groups", groupsView], ["time", "Time", timeView], ["calls", "Calls", callsView],
  ["compare", "Compare", compareView], ["provenance", "Provenance", provenanceView],
];
const PAGES = { episode: episodeView, question: questionView, ...Object.fromEntries(VIEWS.map(([name, , show]) => [name, show])) };

/** Keys of the view that is shown. */
let keysOfView = {};
let drawing = 0;
/** The address that is drawn or being drawn; null where it was replaced since. */
let routed = null;

async function redraw(keepPlace) {
  const mine = (drawing += 1);
  routed = location.hash;
  const route = readRoute();
  const name = PAGES[route.parts[0]] ? route.parts[0] : meta && !meta.arms.length ? "time" : "verdict";
  const next = document.createElement("main");
  keysOfView = {};
  document.querySelectorAll("nav a").forEach((a) => {
    const own = { episode: "grid", question: "grid" }[name] || name;
    if (a.dataset.view === own) {
      a.setAttribute("aria-current", "page");
      const nav = document.getElementById("nav");
      nav.scrollLeft = a.offsetLeft - nav.offsetLeft - (nav.clientWidth - a.offsetWidth) / 2;
    } else a.removeAttribute("aria-current");
  });
  try {
    await PAGES[name](next, route);
  } catch (error) {
    console.error(error);
    append(next, [el("p", { class: "warn" }, "This view could not be drawn: ", String(error))]);
  }
  if (mine !== drawing) return;
  const main = document.getElementById("main");
  main.replaceChildren(...next.childNodes);
  if (keepPlace !== true) scrollTo(0, 0);
  document.documentElement.dataset.shown = name;
}

/** Goes to another address and begins to draw it at once: keys that follow are those of the new view, not of
 *  the one that still stands. */
function goTo(hash) {
  location.hash = hash;
  redraw();
}

function keysDialog() {
  const dialog = document.getElementById("keys");
  const rows = [
    ["/", "filter the answers"], ["1 … " + VIEWS.length, "a view"], ["← →", "question or group before, next"], ["↑ ↓", "the same question by another arm or seed"],
    ["arrows in the grid", "from cell to cell; Enter opens"], ["b", "named regions of a figure"], ["t", "light, dark, as the system says"], ["?", "this list"], ["Esc", "close"],
  ];
  dialog.replaceChildren(el("h2", {}, "Keys"), table(null, rows.map(([key, what]) => el("tr", {}, el("td", {}, el("kbd", {}, key)), el("td", {}, what)))),
    el("p", {}, el("button", { onclick: () => dialog.close() }, "Close")));
  if (dialog.open) dialog.close(); else dialog.showModal();
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName)) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (document.getElementById("keys").open && event.key !== "?") return;
  const digit = Number(event.key);
  const act = keysOfView[event.key] || {
    "?": keysDialog, t: nextTheme,
    "/": () => {
      const field = () => document.getElementById("filter");
      if (field()) return field().focus();
      location.hash = "#/grid";
      const wait = () => (field() ? field().focus() : requestAnimationFrame(wait));
      wait();
    },
  }[event.key] || (digit >= 1 && digit <= VIEWS.length && (() => { location.hash = "#/" + VIEWS[digit - 1][0]; }));
  if (!act) return;
  event.preventDefault();
  act();
}

async function start() {
  applyTheme();
  document.getElementById("theme").addEventListener("click", nextTheme);
  document.getElementById("help").addEventListener("click", keysDialog);
  document.getElementById("nav").replaceChildren(...VIEWS.map(([name, title]) => el("a", { href: "#/" + name, "data-view": name }, title)));
  document.addEventListener("keydown", onKey);
  addEventListener("hashchange", () => { if (location.hash !== routed) redraw(); });
  if (typeof DecompressionStream === "undefined") {
    document.getElementById("loading").textContent = "This browser cannot decompress the data of the page: one of 2023 or later can.";
    return;
  }
  await openData();
  await redraw();
}

start();
