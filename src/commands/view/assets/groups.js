// One training group: the samples of a prompt with what each was worth.

async function groupsView(main, route) {
  const columns = meta.columns.map((_, i) => i).filter((i) => meta.columns[i].groups);
  append(main, [el("h1", {}, "Training groups")]);
  if (!columns.length) {
    return append(main, [el("p", { class: "card" }, "This run stored none. A profile keeps some of each update with ", el("code", {}, "[episodes] groups = 1"), "; runs of earlier versions have none.")]);
  }
  const asked = route.parts.length > 2 ? columnOf(route.parts[1], route.parts[2]) : columns[0];
  const column = columns.includes(asked) ? asked : columns[0];
  const groups = await chunk("groups-" + column);
  const place = Math.max(0, groups.findIndex((group) => `${group.update}.${group.prompt}` === route.parts[3]));
  const group = groups[place];
  const to = (next, own) => link(["groups", ...columnName(own === undefined ? column : own), `${groups[next].update}.${groups[next].prompt}`]);
  const step = (by) => () => goTo(to((place + by + groups.length) % groups.length));
  keysOfView = { ArrowLeft: step(-1), ArrowRight: step(1) };
  append(main, [
    el("div", { class: "bar" },
      choice("of", columns.map((one) => [one, columnLabel(one)]), column, (value) => { location.hash = to(place, Number(value)); }),
      el("button", { onclick: step(-1) }, "← group"),
      choice("update", groups.map((one, i) => [i, `${one.update} (${one.stage}), prompt ${one.prompt}`]), place, (value) => { location.hash = to(Number(value)); }),
      el("button", { onclick: step(1) }, "group →")),
    group.question === null && el("p", { class: "warn" }, "The question of this group cannot be made again by this version."),
    el("div", { class: "two" },
      el("div", { class: "card" }, group.question !== null && figureBox(group.question, questions[group.question].figure, "the figure")),
      el("div", { class: "card" }, el("dl", { class: "facts" },
        el("dt", {}, "request"), el("dd", {}, group.request), el("dt", {}, "gold"), el("dd", {}, el("code", {}, group.gold)),
        el("dt", {}, "set"), el("dd", {}, group.set), group.question !== null && [el("dt", {}, "a right call"), el("dd", {}, el("code", {}, bareCall(questions[group.question].rightCall || "unknown")))]),
        group.question !== null && questions[group.question].turns && el("details", {}, el("summary", { class: "soft" }, "the prompt, by blocks"), promptParts(questions[group.question].turns.first, {})))),
    gapWarning(group.samples.flatMap((sample) => [sample.student && sample.student[5], sample.teacher && sample.teacher[5]])),
    sampleTable(group),
  ]);
}

function sampleTable(group) {
  const parts = [...new Set(group.samples.flatMap((sample) => Object.keys(sample.parts || {})))];
  const most = Math.max(0.01, ...group.samples.map((sample) => Math.abs(sample.advantage)));
  const rows = group.samples.map((sample, i) => el("tr", {},
    numberCell(i + 1),
    el("td", { class: "mono" }, bareCall(sample.words || ""), sample.second !== null && [el("br"), el("span", { class: "soft" }, "→ "), sample.second]),
    el("td", {}, OUTCOMES[sample.outcome], { true: ", focus right", false: ", focus wrong" }[sample.focus] || "", sample.why && el("span", { class: "range" }, sample.why)),
    el("td", {}, el("code", {}, sample.prediction || "–"), " ", verdictChip(sample.verdict)),
    parts.map((part) => numberCell(sample.parts && sample.parts[part] !== undefined ? signed(sample.parts[part], 3) : "–")),
    numberCell(sample.reward === null ? "–" : signed(sample.reward, 3)),
    el("td", {}, signedBar(sample.advantage, most), el("span", { class: "range" }, signed(sample.advantage, 2))),
    el("td", {}, sample.student ? [stack(sample.student.slice(0, 4).map((share, b) => [share, blockColors[b], BLOCKS[b][0] + " " + percent(share)])), sample.teacher && stack(sample.teacher.slice(0, 4).map((share, b) => [share, blockColors[b], BLOCKS[b][0] + " " + percent(share)])), el("span", { class: "range" }, "divergence " + sample.divergence)] : el("span", { class: "soft" }, sample.teacherLogProb !== null ? `teacher ${sample.teacherLogProb} nats` : sample.ownLogProb !== null ? `own ${sample.ownLogProb} nats` : "–"))));
  return el("section", {}, el("h2", {}, "Samples"),
    table(["", "what was said", "call", "answer", ...parts, "reward", "advantage", "attribution"], rows),
    el("p", { class: "soft small" }, "Parts of the reward as they were added. Attribution: the student above, the teacher below, shares in the order P, R, I, T."));
}

function signedBar(value, most) {
  const half = (50 * Math.abs(value)) / most;
  return el("div", { class: "signed", vars: { "--c": value < 0 ? "var(--wrong)" : "var(--right)" } },
    el("i", { vars: { width: half + "%", left: (value < 0 ? 50 - half : 50) + "%" } }));
}
