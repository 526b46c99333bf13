// What the arms call, what becomes of it, and why it fails.

const OUTCOME_COLORS = { s: "var(--right)", f: "var(--wrong)", x: "var(--fail)", u: "var(--block-R)", "0": "var(--none)" };

async function callsView(main) {
  const all = await chunk("calls");
  const CALL_LETTERS = ["s", "f", "x", "u", "0"].filter((letter) => all.some((one) => one.outcomes[letter]));
  append(main, [
    el("h1", {}, "Calls"),
    el("p", { class: "legend" }, CALL_LETTERS.map((letter) => el("span", {}, el("span", { class: "swatch", vars: { "--c": OUTCOME_COLORS[letter] } }), OUTCOMES[letter]))),
    table(["arm", "outcome of the call", "answers"], meta.arms.map((arm, i) => {
      const counts = all[i].outcomes;
      const total = Object.values(counts).reduce((sum, count) => sum + count, 0);
      return el("tr", {}, el("td", {}, el("span", { class: "swatch", vars: { "--c": armStyle(arm).color } }), armLabel(arm)),
        el("td", { vars: { width: "60%" } }, stack(CALL_LETTERS.map((letter) => [(counts[letter] || 0) / total, OUTCOME_COLORS[letter], `${OUTCOMES[letter]}: ${counts[letter] || 0}`])),
          el("span", { class: "range" }, CALL_LETTERS.filter((letter) => counts[letter]).map((letter) => `${OUTCOMES[letter]} ${percent(counts[letter] / total, 1)}`).join("  ·  "))),
        numberCell(total));
    }), { vars: { width: "100%" } }),
    el("h2", {}, "Where the call pointed, and what came of the answer"),
    CALL_LETTERS.includes("u") && el("p", { class: "soft small" }, "Why a call did not run is not known where its words were not kept."),
    el("p", { class: "soft small" }, "Right: exactly what the question names. Unknown where the words of the call were not kept, or nobody knows the right one."),
    table(["arm", "call", "focus", "answers", "right"], meta.arms.flatMap((arm, i) => all[i].crossing.map(([outcome, focus, [right, wrong, open]], row) => el("tr", {},
      el("td", {}, row ? "" : armLabel(arm)), el("td", {}, OUTCOMES[outcome]), el("td", {}, outcome === "0" ? "" : focus),
      numberCell(right + wrong + open), numberCell(right + wrong ? percent(right / (right + wrong), 1) : "–"))))),
  ]);
  counted(main, "Tools", "tool", all.map((one) => one.tools));
  counted(main, "Names in a call", "names", all.map((one) => one.names));
  counted(main, "Why calls fail", "reason, in the words of the parser or the tool", all.map((one) => one.reasons));
}

/** Counts by arm as a table: a line each for what was counted. */
function counted(main, title, head, lists) {
  const totals = new Map();
  lists.forEach((list) => list.forEach(([name, count]) => totals.set(name, (totals.get(name) || 0) + count)));
  const names = [...totals].sort((a, b) => b[1] - a[1]).slice(0, 25).map(([name]) => name);
  append(main, [el("h2", {}, title), names.length
    ? table([head, ...meta.arms.map(armLabel)].map((name, i) => el("th", { class: i ? "n" : null }, name)), names.map((name) => el("tr", {}, el("td", { class: "mono" }, name),
      lists.map((list) => numberCell((list.find(([own]) => own === name) || [0, ""])[1] || "·")))))
    : el("p", { class: "soft" }, "Not recorded in this run.")]);
}
