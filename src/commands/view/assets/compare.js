// Two runs side by side, and where everything came from.

async function compareView(main, route) {
  append(main, [el("h1", {}, "Two runs")]);
  if (!manySources()) {
    return append(main, [el("p", { class: "card" }, "Give two runs to compare them: ", el("code", {}, "iapo view RUN OTHER"), ". Within one run, the ",
      el("a", { href: link(["grid"], { a: 0, b: 1 }) }, "grid"), " shows what flipped between two arms.")]);
  }
  const all = await chunk("compare");
  const place = Math.min(all.length - 1, Number(route.query.get("with") || 0));
  const compared = all[place];
  const other = place + 1;
  append(main, [
    el("p", {}, el("b", {}, sourceName(other)), " against ", el("b", {}, sourceName(0)), "."),
    all.length > 1 && el("div", { class: "bar" }, choice("with", all.map((_, i) => [i, sourceName(i + 1)]), place, (value) => { location.hash = link(["compare"], { with: value }); })),
  ]);
  if (compared.why) return append(main, [el("p", { class: "warn" }, "They cannot be paired: ", compared.why)]);
  append(main, [
    el("h2", {}, "Settings that differ"),
    compared.settings.length ? table(["setting", sourceName(0), sourceName(other), "in the runs of"], compared.settings.map((one) => el("tr", {},
      el("td", { class: "mono" }, one.key), el("td", { class: "mono" }, JSON.stringify(one.first)), el("td", { class: "mono" }, JSON.stringify(one.second)), el("td", {}, one.arms.join(", ")))))
      : el("p", { class: "soft" }, "None in what the manifests hold."),
    el("h2", {}, `Differences on ${compared.common} common questions, in points`),
    forest(compared.arms.map((one) => ({ label: one.arm, why: one.why, color: armStyle(armOf(0, one.arm)).color,
      ...(one.found && { value: one.found.value, low: one.found.low, high: one.found.high, seeds: one.found.seeds.map((seed) => seed[1]) }) }))),
    (compared.onlyFirst.length > 0 || compared.onlySecond.length > 0) && el("p", { class: "soft small" },
      compared.onlyFirst.length > 0 && `Only in ${sourceName(0)}: ${compared.onlyFirst.join(", ")}. `, compared.onlySecond.length > 0 && `Only in ${sourceName(other)}: ${compared.onlySecond.join(", ")}.`),
    el("h2", {}, "Answers that changed"),
    table(["arm", "became right", "became wrong", "of"].map((name, i) => el("th", { class: i ? "n" : null }, name)), compared.arms.map((one) => el("tr", {}, el("td", {}, one.arm), numberCell(one.flips.gained), numberCell(one.flips.lost), numberCell(one.flips.compared)))),
  ]);
  const flips = compared.arms.flatMap((one) => one.flips.questions.map((flip) => [one.arm, flip]));
  append(main, [flips.length > 0 && el("h2", {}, `The first ${Math.min(300, flips.length)} of ${flips.length} questions that changed`),
    flips.length > 0 && table(["question", "arm", "became right for seed", "became wrong for seed"], flips.slice(0, 300).map(([arm, flip]) => {
      const question = questionOf(flip.set, flip.qa_id);
      const seeds = (list) => list.map((seed, i) => [i > 0 && ", ", question === undefined ? seed
        : el("a", { href: episodeLink(question, columnOf(`${other}:${arm}`, String(seed))) }, String(seed))]);
      return el("tr", {}, el("td", {}, question === undefined ? flip.qa_id : el("a", { href: questionLink(question) }, flip.qa_id)), el("td", {}, arm), el("td", {}, seeds(flip.gained)), el("td", {}, seeds(flip.lost)));
    }))]);
}

async function provenanceView(main) {
  const manifests = await chunk("provenance");
  const short = (text) => (text ? el("code", { title: text }, text.slice(0, 12)) : "–");
  append(main, [
    el("h1", {}, "Where everything came from"),
    el("p", {}, `This page was written by iapo ${meta.version}`, meta.commit && [", commit ", short(meta.commit)], ". Verdicts, intervals and means were computed then; the scripts of the page only show them. ",
      `${meta.asked} questions, ${meta.columns.length} runs.`),
    meta.figuresLeftOut > 0 && el("p", { class: "warn" }, `${meta.figuresLeftOut} figures were left out to keep the file small.`),
    table(["run", "profile", "commit", "command", "machine", "started", "seconds", "memory", "weights"].map((name) => el("th", {}, name)), manifests.map((one, i) => el("tr", {},
      el("td", {}, columnLabel(i), el("span", { class: "range" }, meta.columns[i].folder)),
      one ? [el("td", {}, one.profile.name, " ", short(one.profile.hash)), el("td", {}, short(one.commit)),
        el("td", { class: "mono" }, one.command.map((part) => part.split("/").pop()).join(" ")), el("td", {}, [one.machine.cpu, one.machine.threads && one.machine.threads + " threads"].filter((text) => text).join(", ")),
        el("td", {}, one.started ? new Date(1000 * one.started).toISOString().slice(0, 16).replace("T", " ") : "–"),
        numberCell(Math.round(Object.values(one.seconds).reduce((sum, part) => sum + part, 0))),
        numberCell(one.peak_memory_bytes ? (one.peak_memory_bytes / 2 ** 30).toFixed(2) + " GiB" : "–"), el("td", {}, short(one.checkpoints.final))]
        : el("td", { colspan: "8", class: "soft" }, "no manifest")))),
    el("h2", {}, "Manifests in full"),
    manifests.map((one, i) => one && el("details", { class: "card" }, el("summary", {}, columnLabel(i)), el("pre", {}, JSON.stringify(one, null, 1)))),
  ]);
}
