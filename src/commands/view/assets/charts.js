// Forest plots, curves, block bars. Every number in them was computed before the page was written.

/** Round steps of an axis from `low` to `high`. */
function ticks(low, high, about) {
  const rough = (high - low) / about;
  const power = Math.pow(10, Math.floor(Math.log10(rough)));
  const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= rough) || rough;
  const found = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high + step * 1e-9; tick += step) found.push(Math.abs(tick) < step * 1e-6 ? 0 : tick);
  return found;
}

/**
 * Rows of points with intervals around zero. A row: label (a node or text), value, low, high, seeds
 * (numbers), paper (a number or null), color, minor, why (in place of a number).
 */
function forest(rows) {
  const values = rows.flatMap((row) => [row.low, row.high, row.value, row.paper, ...(row.seeds || [])])
    .filter((value) => Number.isFinite(value)).concat(0);
  let [low, high] = [Math.min(...values), Math.max(...values)];
  const room = 0.04 * (high - low || 1);
  [low, high] = [low - room, high + room];
  const at = (value) => (100 * (value - low)) / (high - low) + "%";
  const mark = (kind, value, title) => Number.isFinite(value) && el("i", { class: kind, vars: { left: at(value) }, title });
  const lines = rows.map((row) => el("div", { class: "row" + (row.minor ? " minor" : ""), vars: { "--c": row.color || "var(--ink)" } },
    el("span", {}, row.label),
    el("div", { class: "track" },
      mark("zero", 0),
      Number.isFinite(row.low) && el("i", { class: "interval", vars: { left: at(row.low), width: `calc(${at(row.high)} - ${at(row.low)})` } }),
      (row.seeds || []).map((seed) => mark("seed", seed, signed(seed, 2))),
      mark("point", row.value),
      mark("papers", row.paper, "the paper: " + signed(row.paper))),
    el("span", { class: "number" }, row.why
      ? el("span", { class: "soft small", title: row.why }, "not compared")
      : [el("b", {}, signed(row.value)), ` [${signed(row.low, 2)}, ${signed(row.high, 2)}]`])));
  const axis = el("div", { class: "axis" }, el("span", {}),
    el("div", { class: "track" }, ticks(low, high, 6).map((tick) => el("span", { vars: { left: at(tick) } }, signed(tick, Math.abs(high - low) < 4 ? 1 : 0)))),
    el("span", {}));
  return el("div", { class: "forest", role: "table" }, axis, lines);
}

/**
 * Curves in a drawing as wide as its place. A curve: points [x, mean, least, greatest], color,
 * dash, label. `onmove` is told the x under the pointer; `at` draws a line there.
 */
function curvesChart(curves, caption, at, onmove) {
  const place = el("div", { class: "chart" });
  const paint = () => {
    const width = Math.max(280, place.clientWidth || 600);
    const height = Math.round(Math.min(360, Math.max(220, width * 0.42)));
    const [left, right, top, bottom] = [50, 10, 12, 34];
    const points = curves.flatMap((curve) => curve.points);
    const last = Math.max(1, ...points.map((point) => point[0]));
    let low = Math.min(...points.map((point) => point[2]));
    let high = Math.max(...points.map((point) => point[3]));
    if (!(high > low)) [low, high] = [low - 0.5, high + 0.5];
    const room = 0.06 * (high - low);
    [low, high] = [low - room, high + room];
    const x = (value) => left + ((width - left - right) * value) / last;
    const y = (value) => top + ((height - top - bottom) * (high - value)) / (high - low);
    const digits = high - low < 0.02 ? 4 : high - low < 0.5 ? 3 : high - low < 5 ? 2 : 1;
    const lines = ticks(low, high, 5).map((tick) => [
      draw("line", { class: "gridline", x1: left, x2: width - right, y1: y(tick), y2: y(tick) }),
      draw("text", { x: left - 6, y: y(tick) + 4, "text-anchor": "end" }, tick.toFixed(digits)),
    ]);
    const below = ticks(0, last, width < 500 ? 4 : 9).map((tick) =>
      draw("text", { x: x(tick), y: height - 17, "text-anchor": "middle" }, String(tick)));
    const path = (list) => list.map((point, i) => (i ? "L" : "M") + x(point[0]).toFixed(1) + " " + y(point[1]).toFixed(1)).join("");
    const bands = curves.filter((curve) => curve.points.some((point) => point[3] > point[2])).map((curve) => draw("path", {
      d: path([...curve.points.map((p) => [p[0], p[3]]), ...curve.points.slice().reverse().map((p) => [p[0], p[2]])]) + "Z",
      vars: { fill: curve.color, opacity: "0.12" },
    }));
    const drawn = curves.map((curve) => draw("path", {
      d: path(curve.points), fill: "none", "stroke-dasharray": curve.dash || null, "stroke-width": 2.2, vars: { stroke: curve.color },
    }));
    const dots = curves.flatMap((curve) => curve.points.length < 12
      ? curve.points.map((p) => draw("circle", { cx: x(p[0]), cy: y(p[1]), r: 2.8, vars: { fill: curve.color } })) : []);
    const cursor = at ? draw("line", { x1: x(at), x2: x(at), y1: top, y2: height - bottom, "stroke-dasharray": "3 3", vars: { stroke: "var(--soft)" } }) : null;
    const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": caption },
      lines, below, draw("text", { x: (left + width - right) / 2, y: height - 2, "text-anchor": "middle" }, "update"), bands, drawn, dots, cursor);
    if (onmove) {
      svg.addEventListener("click", (event) => {
        const from = svg.getBoundingClientRect();
        const value = ((event.clientX - from.left - left) / (from.width - left - right)) * last;
        onmove(Math.max(0, Math.min(last, value)));
      });
    }
    place.replaceChildren(svg);
  };
  let known = 0;
  new ResizeObserver(() => {
    if (place.clientWidth !== known) {
      known = place.clientWidth;
      paint();
    }
  }).observe(place);
  return place;
}

/** Shares of the four blocks under student and teacher, with their difference. */
function blockBars(student, teacher) {
  const most = Math.max(0.01, ...student.slice(0, 4), ...(teacher || []).slice(0, 4));
  const rows = BLOCKS.map(([block, name], i) => [
    el("span", { title: name }, el("span", { class: "swatch", vars: { "--c": `var(--block-${block})` } }), block + " ", el("span", { class: "soft small" }, name.split(" ").pop())),
    el("div", { class: "pair", vars: { "--c": `var(--block-${block})` } },
      el("div", { class: "fill", vars: { width: (100 * student[i]) / most + "%" } }),
      teacher && el("div", { class: "fill teacher", vars: { width: (100 * teacher[i]) / most + "%" } })),
    el("span", { class: "values" }, percent(student[i], 1), teacher && [" / ", percent(teacher[i], 1), " (", signed(100 * (student[i] - teacher[i]), 1), ")"]),
  ]);
  return el("div", { class: "blocks" }, rows);
}

/** A warning where the completeness gap leaves nothing to read in the shares. */
function gapWarning(gaps) {
  const large = gaps.filter((gap) => gap !== null && gap !== undefined && gap > meta.largestGap);
  return large.length > 0 && el("p", { class: "warn" },
    `The completeness gap is ${percent(Math.max(...large))} of what is to be explained: above ${percent(meta.largestGap)} these shares say nothing.`);
}

/** A row of parts that fill their place: [share, colour, title]. */
function stack(parts) {
  return el("div", { class: "stack" }, parts.map(([share, color, title]) =>
    el("i", { vars: { width: 100 * share + "%", "--c": color }, title })));
}

const blockColors = BLOCKS.map(([block]) => `var(--block-${block})`);
