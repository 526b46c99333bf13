// Learning curves by arm, split by parts of the reward; a validation question at each validation.

const hiddenArms = new Set();

async function timeView(main, route) {
  const all = await chunk("curves");
  append(main, [el("h1", {}, "Over the updates"), meta.unfinished.length > 0 && unfinishedCard(route)]);
  if (!all.length) return append(main, [el("p", { class: "card" }, "Nothing was trained here: there are no updates.")]);
  const keys = [...new Map(all.map((curve) => [curve.key, curve.title]))];
  const shown = (route.query.get("show") || "validation.accuracy,reward").split(",").filter((key) => keys.some(([own]) => own === key));
  const update = Number(route.query.get("at") || 0);
  const arms = meta.arms.filter((arm) => all.some((curve) => curve.source === arm.source && curve.arm === arm.name));
  const kept = Object.fromEntries(["q", "again"].filter((key) => route.query.get(key)).map((key) => [key, route.query.get(key)]));
  const go = (change) => { replaceRoute(["time"], { show: shown.join(","), ...(update ? { at: update } : {}), ...kept, ...change }); redraw(true); };
  const last = Math.max(...all.flatMap((curve) => curve.points.map((point) => point[0])));
  append(main, [
    el("div", { class: "chips", role: "group", "aria-label": "arms" }, arms.map((arm) => {
      const style = armStyle(arm);
      const place = meta.arms.indexOf(arm);
      return el("button", { "aria-pressed": String(!hiddenArms.has(place)), onclick: () => { if (!hiddenArms.delete(place)) hiddenArms.add(place); redraw(true); } },
        el("span", { class: "key", vars: { "--c": style.color, "--dash": style.dash ? (style.dash.startsWith("2") ? "dotted" : "dashed") : "solid" } }), armLabel(arm));
    })),
    el("div", { class: "bar" }, choice("add a curve", [["", "…"], ...keys.filter(([key]) => !shown.includes(key))], "", (value) => value && go({ show: [...shown, value].join(",") }))),
  ]);
  for (const key of shown) {
    const ofKey = all.filter((curve) => curve.key === key);
    const finished = ofKey.map((curve) => ({ ...curve, own: armOf(curve.source, curve.arm) }))
      .filter((curve) => curve.own && !hiddenArms.has(meta.arms.indexOf(curve.own)))
      .map((curve) => ({ points: curve.points, ...armStyle(curve.own) }));
    const goingOn = ofKey.filter((curve) => curve.unfinished !== undefined)
      .map((curve) => ({ points: curve.points, color: `var(--arm-${meta.unfinished[curve.unfinished].slot})`, dash: UNFINISHED_DASH }));
    const curves = [...finished, ...goingOn];
    append(main, [el("section", { class: "card" },
      el("div", { class: "bar" }, el("h3", { vars: { margin: "0" } }, keys.find(([own]) => own === key)[1]), shown.length > 1 && el("button", { class: "small", onclick: () => go({ show: shown.filter((own) => own !== key).join(",") }) }, "remove")),
      curves.length ? curvesChart(curves, keys.find(([own]) => own === key)[1], update, (value) => go({ at: Math.round(value) })) : el("p", { class: "soft" }, "No arm that is shown has it."))]);
  }
  append(main, [el("p", { class: "soft small" }, "Lines: means over seeds; bands: from least to greatest seed. A click on a plot sets the update below.")]);
  await validationCard(main, route, update || last, last, go);
}

const UNFINISHED_DASH = "1 5";

/** Training on its way when the page was made; served pages can be made again every half minute. */
function unfinishedCard(route) {
  const again = route.query.get("again") === "1";
  const served = location.protocol.startsWith("http");
  if (again && served) setTimeout(() => { if (readRoute().query.get("again") === "1") location.reload(); }, 30000);
  const rows = meta.unfinished.map((run) => el("tr", {},
    el("td", {}, el("span", { class: "swatch", vars: { "--c": `var(--arm-${run.slot})` } }), run.arm, manySources() ? " · " + sourceName(run.source) : ""),
    numberCell(run.seed), numberCell(run.update || 0), numberCell(run.reward === null ? "–" : run.reward.toFixed(3)),
    numberCell(run.validation === null ? "–" : percent(run.validation, 1)), numberCell(run.calls === null ? "–" : percent(run.calls)),
    numberCell(run.seconds === null ? "–" : run.seconds.toFixed(1)),
    el("td", {}, run.alarms && run.alarms.length ? run.alarms.join(", ") : "")));
  return el("section", { class: "card" }, el("h2", {}, "Training on its way"),
    table([el("th", {}, "arm"), ...["seed", "updates made", "reward", "validation", "calls", "seconds an update"].map((name) => el("th", { class: "n" }, name)), el("th", {}, "alarms")], rows),
    el("p", { class: "soft small" }, "As it was when the page was made; dotted in the plots. ",
      served && el("button", { class: "small", "aria-pressed": String(again), onclick: () => { const next = Object.fromEntries(route.query); if (again) delete next.again; else next.again = "1"; replaceRoute(["time"], next); redraw(true); } }, "again every 30 seconds")));
}

async function validationCard(main, route, update, last, go) {
  const columns = meta.columns.map((_, i) => i).filter((i) => meta.columns[i].validation && !hiddenArms.has(meta.arms.indexOf(armOfColumn(i))));
  if (!columns.length) {
    return append(main, [el("p", { class: "card" }, "No validation answers were stored: ", el("code", {}, "[episodes] validation = 20"), " in the profile keeps some.")]);
  }
  const stored = await Promise.all(columns.map((column) => chunk("validation-" + column)));
  const list = stored[0].map((one) => one.question);
  const question = list.includes(Number(route.query.get("q"))) ? Number(route.query.get("q")) : list[0];
  const own = questions[question];
  const range = el("input", { type: "range", min: 1, max: last, value: update, "aria-label": "update", onchange: () => go({ at: range.value }) });
  const rows = columns.map((column, i) => {
    const found = stored[i].find((one) => one.question === question);
    const before = found ? found.answers.filter((answer) => answer.update <= update) : [];
    const answer = before[before.length - 1];
    if (!answer) return null;
    const track = found.answers.map((one) => el("span", { class: "cell swatch " + one.verdict, title: `update ${one.update}: ${one.prediction}`, vars: { opacity: one === answer ? 1 : 0.45 } }));
    return el("tr", {}, el("td", {}, el("span", { class: "swatch", vars: { "--c": armStyle(armOfColumn(column)).color } }), columnLabel(column)), el("td", {}, track),
      numberCell(answer.update), el("td", {}, verdictChip(answer.verdict)), el("td", {}, el("code", {}, answer.prediction || "–")),
      el("td", { class: "mono" }, bareCall(answer.words || "")), el("td", {}, OUTCOMES[answer.outcome], answer.why && el("span", { class: "range" }, answer.why)));
  }).filter((row) => row);
  append(main, [el("section", { class: "card" },
    el("h2", {}, "A validation question at update ", String(update)),
    el("div", { class: "bar" }, range, choice("question", list.map((one) => [one, questions[one].id]), question, (value) => go({ q: value }))),
    el("div", { class: "two" }, figureBox(question, own.figure, "the figure"), el("p", {}, own.request, el("br"), el("span", { class: "soft" }, "gold "), el("code", {}, own.gold))),
    table(["of", "over time", "asked at", "verdict", "answer", "what was said", "call"], rows))]);
}
