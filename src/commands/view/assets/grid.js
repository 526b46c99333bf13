// Questions × arms × seeds by verdict; only the lines in sight are in the page.

const LINE = 22;
const SHOWN = {
  all: ["every answer", () => true],
  right: ["right", (c) => c.verdict === "r"],
  wrong: ["wrong", (c) => c.verdict === "w"],
  open: ["not judged", (c) => c.verdict === "n"],
  failed: ["call failed or refused", (c) => "fxu".includes(c.outcome)],
  none: ["no call", (c) => c.outcome === "0"],
  misled: ["right call, wrong answer", (c) => c.focus === "y" && c.verdict === "w"],
  lucky: ["wrong call, right answer", (c) => c.focus === "n" && c.verdict === "r"],
};

/** The questions of the last grid, in its order: what the arrow keys step through. */
let lastGrid = null;

const cellOf = (question, column) => ({
  verdict: letters[column].verdict[question], outcome: letters[column].outcome[question], focus: letters[column].focus[question],
});

/** The questions that a filter leaves, with what holds of their cells. */
function filterQuestions(query) {
  const [set, kind, text] = ["set", "kind", "q"].map((name) => query.get(name) || "");
  const holds = (SHOWN[query.get("show")] || SHOWN.all)[1];
  const everything = !SHOWN[query.get("show")] || query.get("show") === "all";
  const [first, second] = [query.get("a") || "", query.get("b") || ""];
  const flippedBetween = first !== "" && second !== "" && first !== second ? flipsOf(meta.arms[Number(first)], meta.arms[Number(second)]) : null;
  const of = query.get("of") || "";
  const columns = meta.arms.flatMap((arm, i) => (of === "" || Number(of) === i ? arm.columns : []));
  const needle = text.toLowerCase();
  const found = [];
  let cells = 0;
  for (let question = 0; question < meta.asked; question += 1) {
    const { set: own, kind: ownKind, id, request, gold } = questions[question];
    if (set && own !== set) continue;
    if (kind && ownKind !== kind) continue;
    if (needle && ![id, request || "", gold].some((field) => field.toLowerCase().includes(needle))) continue;
    if (flippedBetween && !flippedBetween.has(question)) continue;
    const holding = columns.filter((column) => letters[column].verdict[question] !== "-" && holds(cellOf(question, column)));
    if (!holding.length) continue;
    cells += holding.length;
    found.push(question);
  }
  const right = (question) => columns.filter((column) => letters[column].verdict[question] === "r").length;
  const order = query.get("sort");
  if (order === "hard" || order === "easy") {
    const key = new Map(found.map((question) => [question, right(question)]));
    found.sort((a, b) => (order === "hard" ? 1 : -1) * (key.get(a) - key.get(b)) || a - b);
  }
  return { found, cells, columns: new Set(columns), holds, everything };
}

/** The questions whose verdict differs between two arms for a seed that both have. */
function flipsOf(first, second) {
  const flips = new Set();
  const single = first.columns.length === 1 || second.columns.length === 1;
  for (const a of first.columns) {
    for (const b of second.columns) {
      if (!single && meta.columns[a].seed !== meta.columns[b].seed) continue;
      for (let question = 0; question < meta.asked; question += 1) {
        const [one, other] = [letters[a].verdict[question], letters[b].verdict[question]];
        if ((one === "r" && other === "w") || (one === "w" && other === "r")) flips.add(question);
      }
    }
  }
  return flips;
}

function gridView(main, route) {
  const query = route.query;
  const kinds = [...new Set(questions.slice(0, meta.asked).map((question) => question.kind).filter((kind) => kind))].sort();
  const arms = meta.arms.map((arm, i) => [i, armLabel(arm)]);
  const status = el("span", { class: "soft small", role: "status" });
  const place = el("div", {});
  const set = (name) => (value) => {
    if (value === "") query.delete(name); else query.set(name, value);
    replaceRoute(["grid"], query);
    paint();
  };
  const search = el("input", { id: "filter", type: "search", placeholder: "id, words or gold  ( / )", value: query.get("q") || "", oninput: () => set("q")(search.value), "aria-label": "filter" });
  const any = ["", "any"];
  append(main, [
    el("h1", {}, "Every answer"),
    el("div", { class: "bar filters" }, search,
      choice("set", [any, ...meta.sets.map((name) => [name, name])], query.get("set"), set("set")),
      kinds.length > 0 && choice("kind", [any, ...kinds.map((name) => [name, name])], query.get("kind"), set("kind")),
      choice("show", Object.entries(SHOWN).map(([key, [name]]) => [key, name]), query.get("show"), set("show")),
      choice("of", [["", "any arm"], ...arms], query.get("of"), set("of")),
      choice("flipped between", [any, ...arms], query.get("a"), set("a")), choice("and", [any, ...arms], query.get("b"), set("b")),
      choice("order", [["", "as asked"], ["hard", "hardest first"], ["easy", "easiest first"]], query.get("sort"), set("sort"))),
    el("div", { class: "legend" },
      ["r", "w", "n"].map((letter) => el("span", {}, el("span", { class: "cell swatch " + letter }), VERDICTS[letter])),
      el("span", {}, el("span", { class: "swatch", vars: { "--c": "var(--fail)", height: "4px" } }), "call failed or refused"), status),
    place,
  ]);
  const paint = () => {
    const filtered = filterQuestions(query);
    lastGrid = filtered.found;
    status.textContent = `${filtered.found.length} of ${meta.asked} questions, ${filtered.cells} answers`;
    place.replaceChildren(filtered.found.length ? gridOf(filtered) : el("p", { class: "card" }, "No answer is left: loosen the filters."));
  };
  paint();
}

function gridOf(filtered) {
  const { found, columns, holds, everything } = filtered;
  const flat = meta.arms.flatMap((arm) => arm.columns);
  const head = el("div", { class: "head" }, el("div", { class: "name" }, "question"),
    meta.arms.map((arm) => el("div", { class: "group" + (arm.columns.length > 6 ? " wide" : ""), vars: { width: 16 * arm.columns.length + "px", color: armStyle(arm).color }, title: armLabel(arm) },
      el("span", {}, armLabel(arm)))));
  const lines = el("div", { class: "lines" });
  const space = el("div", { class: "space", vars: { height: found.length * LINE + "px" } }, lines);
  const box = el("div", { class: "grid", tabindex: "-1", role: "grid", "aria-rowcount": found.length }, head, space);
  let from = -1;
  let focused = null;
  const cell = (question, column, row, place) => {
    const { verdict, outcome, focus } = cellOf(question, column);
    if (verdict === "-") return el("span", { class: "cell gone" });
    const dim = !columns.has(column) || (!everything && !holds({ verdict, outcome, focus }));
    const failed = "fxu".includes(outcome);
    return el("a", {
      class: `cell ${verdict}${failed ? " fail" : ""}${dim ? " faint" : ""}`, href: episodeLink(question, column),
      "data-row": row, "data-place": place, tabindex: row === 0 && place === 0 ? "0" : "-1",
      title: `${questions[question].id} · ${columnLabel(column)} · ${VERDICTS[verdict]}${OUTCOMES[outcome] ? " · " + OUTCOMES[outcome] : ""}`,
    }, { r: "", w: "×", n: "?" }[verdict]);
  };
  const paint = () => {
    const first = Math.max(0, Math.floor(box.scrollTop / LINE) - 8);
    if (first === from) return;
    from = first;
    const last = Math.min(found.length, first + Math.ceil(box.clientHeight / LINE) + 24);
    lines.style.top = first * LINE + "px";
    lines.replaceChildren(...found.slice(first, last).map((question, i) => {
      const row = first + i;
      let place = 0;
      const own = questions[question];
      return el("div", { class: "line", role: "row" },
        el("div", { class: "name" }, el("a", { href: questionLink(question), title: own.request || own.id }, own.id), el("span", { class: "soft" }, " ", own.request || "")),
        meta.arms.map((arm) => el("div", { class: "group" }, arm.columns.map((column) => cell(question, column, row, place++)))));
    }));
    if (focused) focusCell(focused[0], focused[1], false);
  };
  const focusCell = (row, place, scroll) => {
    if (scroll) {
      const top = row * LINE;
      if (top < box.scrollTop) box.scrollTop = top;
      if (top + 2 * LINE > box.scrollTop + box.clientHeight - head.offsetHeight) box.scrollTop = top + 2 * LINE - box.clientHeight + head.offsetHeight;
      from = -1;
      focused = null;
      paint();
    }
    const target = lines.querySelector(`[data-row="${row}"][data-place="${place}"]`);
    if (target) target.focus({ preventScroll: !scroll });
  };
  box.addEventListener("scroll", () => requestAnimationFrame(paint));
  box.addEventListener("focusin", (event) => {
    const { row, place } = event.target.dataset;
    focused = row === undefined ? null : [Number(row), Number(place)];
  });
  box.addEventListener("keydown", (event) => {
    const step = { ArrowDown: [1, 0], ArrowUp: [-1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], PageDown: [20, 0], PageUp: [-20, 0] }[event.key];
    if (!step || !focused) return;
    event.preventDefault();
    event.stopPropagation();
    const row = Math.max(0, Math.min(found.length - 1, focused[0] + step[0]));
    const place = Math.max(0, Math.min(flat.length - 1, focused[1] + step[1]));
    focusCell(row, place, true);
  });
  new ResizeObserver(() => { from = -1; paint(); }).observe(box);
  return box;
}
