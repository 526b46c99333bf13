// One episode: figure, prompt by blocks, call, edited figure, second turn, answer; and one question
// answered by all arms.

let showBoxes = true;

const AXIS_COLORS = { columns: "#0072b2", rows: "#d55e00", x_values: "#009e73", y_values: "#cc79a7" };

/** A call without the fence around it. */
const bareCall = (text) => text.replace(/^```\w*\s*/, "").replace(/\s*```$/, "");

function verdictChip(letter) {
  return el("span", { class: "verdict " + letter }, VERDICTS[letter]);
}

/** The figure with its named regions. */
function figureBox(question, number, alt, wide) {
  const own = questions[question];
  if (number === null || number === undefined) {
    const image = own.image;
    return el("p", { class: "soft" }, image
      ? ["The figure is not in this page: ", el("code", {}, image[0] || "unnamed"), image[1] && [", BLAKE3 of its pixels ", el("code", {}, image[1].slice(0, 16) + "…")], "."]
      : "The figure of this question cannot be made again here.");
  }
  const box = el("div", { class: "figure" + (showBoxes ? "" : " plain") }, figureCanvas(number, alt, wide));
  const [width, height] = own.size || [1, 1];
  for (const [axis, regions] of Object.entries(own.boxes || {})) {
    for (const [name, x1, y1, x2, y2] of regions) {
      box.append(el("div", { class: "box", title: `${axis}: ${name}`, vars: {
        "--c": AXIS_COLORS[axis], left: (100 * x1) / width + "%", top: (100 * y1) / height + "%",
        width: (100 * (x2 - x1 + 1)) / width + "%", height: (100 * (y2 - y1 + 1)) / height + "%" } }, el("b", {}, name)));
    }
  }
  return box;
}

/** The parts of a prompt; `fill` stands in for the call's words and the reason of its failure. */
function promptParts(parts, fill) {
  let role = null;
  return parts.map(([own, block, text]) => {
    const named = own !== role && own;
    role = own;
    const words = text === null ? "‹figure›" : text.replaceAll("\u0001call\u0001", fill.call || "").replaceAll("\u0001why\u0001", fill.why || "");
    return el("div", { class: "part " + block }, el("span", { class: "tag" }, block, named && " · " + named), el("pre", {}, words));
  });
}

function said(tag, text) {
  return el("div", { class: "said" }, el("span", { class: "tag" }, tag), el("pre", {}, text === "" ? "(nothing)" : text));
}

/** The next question or column in an order, round the end. */
function stepLinks(question, column) {
  const order = lastGrid && lastGrid.includes(question) ? lastGrid : [...Array(meta.asked).keys()];
  const columns = meta.arms.flatMap((arm) => arm.columns).filter((one) => letters[one].verdict[question] !== "-");
  const around = (list, now, step) => list[(list.indexOf(now) + step + list.length) % list.length];
  const answered = (step) => {
    let next = question;
    for (let tries = 0; tries < order.length; tries += 1) {
      next = around(order, next, step);
      if (letters[column].verdict[next] !== "-") break;
    }
    return next;
  };
  return {
    ArrowLeft: () => episodeLink(answered(-1), column), ArrowRight: () => episodeLink(answered(1), column),
    ArrowUp: () => episodeLink(question, around(columns, column, -1)), ArrowDown: () => episodeLink(question, around(columns, column, 1)),
    place: `${order.indexOf(question) + 1} of ${order.length}`,
  };
}

async function episodeView(main, route) {
  const [, set, id, name, seed] = route.parts;
  const question = questionOf(set || "", id || "");
  const column = columnOf(name || "", seed || "");
  if (question === undefined || column < 0) return missing(main);
  const steps = stepLinks(question, column);
  const keys = { ...Object.fromEntries(["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"].map((key) => [key, () => goTo(steps[key]())])),
    b: () => { showBoxes = !showBoxes; document.querySelectorAll(".figure").forEach((box) => box.classList.toggle("plain", !showBoxes)); } };
  // Before the answer is there: the next key may be quicker.
  keysOfView = keys;
  const answer = await answerOf(question, column);
  if (!answer) return missing(main);
  const own = questions[question];
  const arms = meta.arms.filter((arm) => arm.columns.some((one) => letters[one].verdict[question] !== "-"));
  const arm = armOfColumn(column);
  const button = (key, text, title) => el("button", { title, onclick: keys[key] }, text);
  append(main, [
    el("h1", {}, own.id, " · ", columnLabel(column), " ", verdictChip(answer.verdict)),
    el("div", { class: "bar" },
      button("ArrowLeft", "← question", "the question before (←)"), el("span", { class: "soft small" }, steps.place), button("ArrowRight", "question →", "the next question (→)"),
      choice("arm", arms.map((one) => [meta.arms.indexOf(one), armLabel(one)]), meta.arms.indexOf(arm), (value) => {
        const columns = meta.arms[Number(value)].columns;
        location.hash = episodeLink(question, columns.find((one) => meta.columns[one].seed === meta.columns[column].seed) ?? columns[0]);
      }),
      choice("seed", arm.columns.map((one) => [one, meta.columns[one].seed]), column, (value) => { location.hash = episodeLink(question, Number(value)); }),
      el("a", { href: questionLink(question) }, "this question, all arms"),
      button("b", "boxes", "named regions of the figure (b)")),
    !answer.keepsWords && el("p", { class: "warn" }, "The version that recorded this run kept the answer and whether a call ran, not what was said: the call, the edited figure and the second turn cannot be shown."),
    el("div", { class: "two" }, el("div", {}, figures(question, answer)), el("div", {}, turns(own, answer))),
    attributionCard(answer),
    answer.sampled && el("section", { class: "card" }, el("h2", {}, "Sampled once more at temperature ", verdictChip(answer.sampled.verdict)),
      answer.sampled.words !== null && said("first turn", answer.sampled.words), answer.sampled.second !== null && said("second turn", answer.sampled.second),
      el("p", {}, "Answer: ", el("code", {}, answer.sampled.prediction || "none"))),
  ]);
}

function figures(question, answer) {
  const own = questions[question];
  let edited;
  if (answer.edited !== null) edited = figureBox(question, answer.edited, "the figure after the call");
  else if (answer.outcome === "0") edited = el("p", { class: "soft" }, "No tool was called.");
  else if (answer.outcome === "s") edited = el("p", { class: "soft" }, "The call ran; its words were not kept, so the figure that it made cannot be shown.");
  else edited = el("p", {}, el("b", {}, OUTCOMES[answer.outcome]), answer.why ? [": ", el("code", {}, answer.why)] : ": why was not recorded.");
  return [
    el("div", { class: "card" }, el("h3", {}, "Figure ", own.size && el("span", { class: "soft small" }, own.size.join(" × "))), figureBox(question, own.figure, "the figure"),
      Object.keys(own.boxes || {}).length > 0 && el("p", { class: "legend" }, Object.keys(own.boxes).map((axis) => el("span", {}, el("span", { class: "swatch", vars: { "--c": AXIS_COLORS[axis] } }), axis)))),
    el("div", { class: "card" }, el("h3", {}, "After the call"), edited),
  ];
}

function turns(own, answer) {
  const ran = answer.outcome === "s";
  const fill = { call: answer.words || "", why: answer.why || "" };
  const second = own.turns && (ran ? own.turns.ran : own.turns.failed);
  const called = answer.outcome !== "0" && answer.outcome !== "-";
  return [
    el("div", { class: "card" },
      el("h3", {}, "Answer"),
      el("dl", { class: "facts" },
        el("dt", {}, "answer"), el("dd", {}, answer.prediction ? el("code", {}, answer.prediction) : el("span", { class: "soft" }, "none")),
        el("dt", {}, "gold"), el("dd", {}, el("code", {}, own.gold)),
        el("dt", {}, "verdict"), el("dd", {}, VERDICTS[answer.verdict], answer.reason && [": ", answer.reason], el("span", { class: "soft" }, " (scorer: ", answer.scorers.join(", "), ")")),
        el("dt", {}, "call"), el("dd", {}, OUTCOMES[answer.outcome], { y: ", focus right", n: ", focus wrong" }[answer.focus] || ""),
        own.rightCall && [el("dt", {}, "a right call"), el("dd", {}, el("code", {}, bareCall(own.rightCall)))])),
    el("div", { class: "card" },
      el("h3", {}, "First turn"),
      own.turns ? promptParts(own.turns.first, fill) : el("p", { class: "soft" }, "The prompt was not recorded."),
      answer.words !== null && said("the model", answer.words),
      called && [
        el("h3", {}, "Second turn"),
        second && second.repeats && el("p", { class: "soft small" }, "… the first turn again, then:"),
        second && promptParts(second.parts, fill),
        answer.second !== null ? said("the model", answer.second)
          : el("p", { class: "soft small" }, answer.prediction ? ["Its words were not kept; the answer taken from them: ", el("code", {}, answer.prediction)] : "Its words were not kept.")]),
  ];
}

function attributionCard(answer) {
  const found = answer.attribution;
  if (!found) {
    return el("section", { class: "card" }, el("h2", {}, "Attribution of the call"), el("p", { class: "soft" }, "Not measured for this answer: the profile says how many calls of each set are."));
  }
  const { student, teacher, divergence } = found;
  return el("section", { class: "card" },
    el("h2", {}, "Attribution of the call to the blocks of the prompt"),
    gapWarning([student[5], teacher && teacher[5]]),
    blockBars(student, teacher),
    el("p", { class: "soft small" },
      teacher ? "Upper bar: the student; lower, broken bar: the teacher on the same prompt and call. " : "The student's alone: this run did not store the teacher's. ",
      divergence !== null && divergence !== undefined && `Divergence ${divergence}. `,
      student[4] !== null && `Log-probability ${student[4]}${teacher && teacher[4] !== null ? " and " + teacher[4] : ""} nats. `,
      student[5] !== null && `Completeness gap ${percent(student[5], 1)}.`));
}

async function questionView(main, route) {
  const [, set, id] = route.parts;
  const question = questionOf(set || "", id || "");
  if (question === undefined) return missing(main);
  const own = questions[question];
  const order = lastGrid && lastGrid.includes(question) ? lastGrid : [...Array(meta.asked).keys()];
  const step = (by) => () => goTo(questionLink(order[(order.indexOf(question) + by + order.length) % order.length]));
  keysOfView = { ArrowLeft: step(-1), ArrowRight: step(1) };
  const columns = meta.arms.flatMap((arm) => arm.columns).filter((column) => letters[column].verdict[question] !== "-");
  const answers = await Promise.all(columns.map((column) => answerOf(question, column)));
  const rows = columns.map((column, i) => {
    const answer = answers[i];
    const arm = armOfColumn(column);
    return [
      el("td", {}, el("a", { href: episodeLink(question, column) }, el("span", { class: "swatch", vars: { "--c": armStyle(arm).color } }), columnLabel(column))),
      el("td", {}, verdictChip(answer.verdict)),
      el("td", {}, el("code", {}, answer.prediction || "–")),
      el("td", {}, OUTCOMES[answer.outcome], { y: ", focus right", n: ", focus wrong" }[answer.focus] || ""),
      el("td", { class: "mono" }, answer.words ? bareCall(answer.words) : el("span", { class: "soft" }, answer.keepsWords ? "" : "not kept")),
    ];
  });
  const tally = meta.arms.map((arm) => {
    const verdicts = arm.columns.map((column) => letters[column].verdict[question]).filter((letter) => letter !== "-");
    return verdicts.length > 0 && el("div", {}, el("span", { class: "swatch", vars: { "--c": armStyle(arm).color } }), armLabel(arm), ": ", `${verdicts.filter((letter) => letter === "r").length} of ${verdicts.length} right`);
  });
  append(main, [
    el("h1", {}, own.id, own.request && [": ", own.request]),
    el("div", { class: "bar" }, el("button", { onclick: step(-1) }, "← question"), el("button", { onclick: step(1) }, "question →"), el("span", { class: "soft" }, "gold ", el("code", {}, own.gold), own.kind && `, kind ${own.kind}`)),
    el("div", { class: "two" }, el("div", { class: "card" }, figureBox(question, own.figure, "the figure")), el("div", { class: "card" }, el("h3", {}, "Seeds that are right"), tally)),
    table(["answer of", "verdict", "answer", "call", "its words"], rows.map((row) => el("tr", {}, row))),
  ]);
}

function missing(main) {
  append(main, [el("p", { class: "card" }, "There is nothing at this address: the link is of another page. ", el("a", { href: "#/grid" }, "Every answer"))]);
}
