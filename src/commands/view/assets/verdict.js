// The verdict, differences of the arms with the paper's beside them, the table.

function verdictView(main, route) {
  const number = Number(route.query.get("run") || 0);
  const source = meta.sources[number];
  const reference = source.differences.find((one) => one.reference === route.query.get("to")) || source.differences[0];
  const go = (change) => { location.hash = link(["verdict"], { run: number, to: reference ? reference.reference : "", ...change }); };
  append(main, [
    el("h1", {}, source.title),
    source.verdict && el("p", { class: "headline" }, source.verdict[0]),
    source.alarms.length > 0 && el("p", { class: "warn" }, "Training ended in alarm: ", source.alarms.join("; "), "."),
    meta.unfinished.length > 0 && el("p", { class: "warn" }, `Training on its way when the page was made: ${meta.unfinished.length}. `, el("a", { href: link(["time"]) }, "How far it is.")),
    source.unverified > 0 && el("p", { class: "warn" }, `${source.unverified} runs hold no checksums and are not verified.`),
    el("div", { class: "bar" },
      manySources() && choice("run", meta.sources.map((_, i) => [i, sourceName(i)]), number, (value) => go({ run: value, to: "" })),
      source.differences.length > 1 && choice("difference to", source.differences.map((one) => [one.reference, one.reference]), reference.reference, (value) => go({ to: value }))),
  ]);
  if (reference) append(main, [differencePlot(number, source, reference)]);
  append(main, [accuracyTable(number, source)]);
  if (source.verdict) {
    append(main, [el("details", { class: "card" }, el("summary", {}, "The verdict in full, and its rule"), source.verdict.map((line) => el("p", {}, line)))]);
  }
  append(main, [el("details", { class: "card" }, el("summary", {}, "How to read the table"), source.notes.map((line) => el("p", {}, line)))]);
}

function differencePlot(number, source, reference) {
  const colour = (name) => { const arm = armOf(number, name); return arm ? armStyle(arm).color : "var(--ink)"; };
  const label = (name) => { const arm = armOf(number, name); return arm ? arm.label : name; };
  // Models that were not trained as the arms were lie far off: on a scale of their own.
  const apart = ["untrained", "teacher"];
  const rows = (list) => list.map((row) => ({
    label: label(row.arm),
    why: row.why, paper: row.paper, color: colour(row.arm),
    ...(row.found && { value: row.found.value, low: row.found.low, high: row.found.high, seeds: row.found.seeds.map((seed) => seed[1]) }),
  }));
  const trained = reference.rows.filter((row) => !apart.includes(row.arm));
  const others = reference.rows.filter((row) => apart.includes(row.arm));
  const bySet = reference.rows.filter((row) => row.found).map((row) => [
    el("h3", {}, label(row.arm) + " − " + reference.reference + ", set by set"),
    forest(row.found.sets.map((set) => ({ label: set.set, value: set.value, low: set.low, high: set.high, minor: true, color: colour(row.arm) }))),
  ]);
  return el("section", {},
    el("h2", {}, `Each arm less ${label(reference.reference)}: average over six sets, in points`),
    el("p", { class: "legend" },
      el("span", {}, "large dot and line: all seeds, 95 % interval (crossed random effects of seed and question)"),
      el("span", {}, "small dots: single seeds"),
      el("span", {}, "◇ the paper's difference")),
    trained.length > 0 && forest(rows(trained)),
    others.length > 0 && [el("h3", {}, "Beside them, on another scale"), forest(rows(others))],
    el("details", {}, el("summary", { class: "soft" }, "Set by set (intervals by bootstrap over figures and seeds)"), bySet));
}

function accuracyTable(number, source) {
  const shown = (cell) => {
    if (!cell) return numberCell("–");
    if (cell.invalid) return numberCell("invalid", el("span", { class: "range" }, cell.invalid + " % not judged"));
    return numberCell(cell[0], el("span", { class: "range" }, cell[1] + " – " + cell[2]));
  };
  const rows = source.rows.map((row) => {
    const arm = armOf(number, row.arm);
    return [
      el("td", {}, el("span", { class: "swatch", vars: { "--c": armStyle(arm).color } }), row.label),
      shown(row.average), ...row.cells.map(shown),
      numberCell(row.questions + " × " + row.seeds), numberCell(row.callRate), numberCell(row.successRate || "–"),
    ];
  });
  const papers = source.paperRows.map((row) => el("tr", { class: "paper" },
    el("td", {}, row.arm + " (paper)"),
    [row.values[row.values.length - 1], ...row.values.slice(0, -1)].map((value) => numberCell(value === null ? "unreported" : value.toFixed(1))),
    el("td", {}), el("td", {}), el("td", {})));
  return el("section", {}, el("h2", {}, "Accuracy, percent"),
    table(["arm", "average", ...meta.sets, "n × seeds", "calls", "run"].map((name, i) => el("th", { class: i ? "n" : null }, name)),
      [...rows.map((row) => el("tr", {}, row)), ...papers]));
}
