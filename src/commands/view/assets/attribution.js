// Attribution by arm and set, student beside teacher, and the episodes that are furthest apart.

async function attributionView(main, route) {
  const all = await chunk("attribution");
  const set = route.query.get("set") || "";
  append(main, [
    el("h1", {}, "What of the prompt speaks for the calls"),
    el("div", { class: "bar" }, choice("set", [["", "all sets"], ...meta.sets.map((name) => [name, name])], set, (value) => { location.hash = link(["attribution"], value ? { set: value } : {}); })),
    el("p", { class: "legend" }, BLOCKS.map(([block, name]) => el("span", {}, el("span", { class: "swatch", vars: { "--c": `var(--block-${block})` } }), block + " " + name))),
  ]);
  const rows = meta.arms.map((arm, i) => [arm, all[i].find((one) => (one.set || "") === set)]).filter(([, found]) => found);
  if (!rows.length) return append(main, [el("p", { class: "card" }, "No attribution was recorded.")]);
  append(main, [gapWarning(rows.map(([, found]) => found.gap))]);
  const bar = (shares) => stack(shares.map((share, b) => [share, blockColors[b], BLOCKS[b][0] + " " + percent(share, 1)]));
  append(main, [table(["arm", "student, mean shares", "teacher, the same calls", "divergence", "calls"], rows.map(([arm, found]) => el("tr", {},
    el("td", {}, el("span", { class: "swatch", vars: { "--c": armStyle(arm).color } }), armLabel(arm)),
    el("td", { vars: { width: "32%" } }, bar(found.student), el("span", { class: "range" }, found.student.map((share, b) => BLOCKS[b][0] + " " + percent(share)).join("  "))),
    el("td", { vars: { width: "32%" } }, found.teacher ? [bar(found.teacher), el("span", { class: "range" }, found.teacher.map((share, b) => `${BLOCKS[b][0]} ${percent(share)} (${signed(100 * (found.student[b] - share))})`).join("  "))] : el("span", { class: "soft" }, "not stored")),
    numberCell(found.divergence === null ? "–" : found.divergence.toFixed(4)), numberCell(found.n))), { vars: { width: "100%" } }),
  el("p", { class: "soft small" }, "In brackets: student less teacher, in points. Means over the calls that were measured, all seeds together; a call counts once.")]);
  const list = el("div", {}, el("p", { class: "soft" }, "Looking for the calls that are furthest apart …"));
  append(main, [el("h2", {}, "Calls whose attribution is furthest from the teacher's"), list]);
  const measured = [];
  for (const arm of meta.arms) {
    for (const column of arm.columns) {
      const details = await chunk("column-" + column);
      for (const [question, row] of Object.entries(details.answers)) {
        const found = row[7];
        if (found && (!set || questions[question].set === set)) measured.push([Number(question), column, found]);
      }
    }
  }
  const apart = measured.filter(([, , found]) => found.divergence !== null && found.divergence !== undefined);
  const sortedBy = apart.length ? apart.sort((a, b) => b[2].divergence - a[2].divergence) : measured;
  list.replaceChildren(
    apart.length ? "" : el("p", { class: "soft" }, "This run did not store the teacher's attribution, so these are the first that were measured."),
    table(["question", "of", "student", apart.length > 0 && "teacher", apart.length > 0 && "divergence"].filter((name) => name), sortedBy.slice(0, 40).map(([question, column, found]) => el("tr", {},
      el("td", {}, el("a", { href: episodeLink(question, column) }, questions[question].id)),
      el("td", {}, columnLabel(column)),
      el("td", {}, bar(found.student.slice(0, 4))),
      apart.length > 0 && el("td", {}, found.teacher && bar(found.teacher.slice(0, 4))),
      apart.length > 0 && numberCell(found.divergence.toFixed(4))))));
}
