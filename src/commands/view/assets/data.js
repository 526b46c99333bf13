// The data of the page: chunks that are decompressed when they are asked for, questions, figures.

const opened = new Map();

/** The bytes of a chunk. */
async function bytesOf(name) {
  const text = document.getElementById("chunk-" + name).textContent;
  const packed = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** A chunk of JSON, kept once it was read. */
function chunk(name) {
  if (!opened.has(name)) {
    opened.set(name, bytesOf(name).then((bytes) => JSON.parse(new TextDecoder().decode(bytes))));
  }
  return opened.get(name);
}

let meta = null;
let questions = [];
let letters = [];

async function openData() {
  [meta, questions, letters] = await Promise.all([chunk("meta"), chunk("questions"), chunk("letters")]);
}

const VERDICTS = { r: "right", w: "wrong", n: "not judged", "-": "not asked" };
const OUTCOMES = { s: "the call ran", f: "the call failed", x: "the call was refused", u: "the call did not run", "0": "no call", "-": "" };
const BLOCKS = [["P", "plain context"], ["R", "request"], ["I", "image"], ["T", "tools"]];

const manySources = () => meta.sources.length > 1;
const sourceName = (source) => meta.sources[source].name.replace(/\/+$/, "").split("/").slice(-2).join("/");

/** An arm's name; with several runs, also whose. */
function armLabel(arm) {
  return manySources() ? arm.label + " · " + sourceName(arm.source) : arm.label;
}

const armOf = (source, name) => meta.arms.find((arm) => arm.source === source && arm.name === name);
const armOfColumn = (column) => armOf(meta.columns[column].source, meta.columns[column].arm);
const columnLabel = (column) => armLabel(armOfColumn(column)) + ", seed " + meta.columns[column].seed;

/** Colour and dash of an arm: the same arm of two runs differs in its dash. */
function armStyle(arm) {
  const dashes = ["", "7 4", "2 3", "9 3 2 3"];
  return {
    color: "var(--arm-" + arm.slot + ")",
    dash: dashes[(manySources() ? arm.source : arm.slot + 2) % 4],
  };
}

/** The name of a question in links. */
const questionName = (question) => {
  const { set, id } = questions[question];
  const twins = questions.slice(0, meta.asked).filter((other) => other.set === set && other.id === id);
  return twins.length > 1 ? set + "/" + id + "~" + twins.indexOf(questions[question]) : set + "/" + id;
};

let byName = null;
function questionOf(set, id) {
  if (!byName) {
    byName = new Map();
    questions.slice(0, meta.asked).forEach((question, place) => {
      const name = question.set + "/" + question.id;
      const own = byName.get(name) || [];
      own.push(place);
      byName.set(name, own);
    });
  }
  const [name, twin] = id.split("~");
  const found = byName.get(set + "/" + name);
  return found ? found[Number(twin || 0)] : undefined;
}

const columnName = (column) => {
  const { source, arm, seed } = meta.columns[column];
  return [(manySources() ? source + ":" : "") + arm, String(seed)];
};

function columnOf(name, seed) {
  const [source, arm] = name.includes(":") ? name.split(":") : ["0", name];
  return meta.columns.findIndex((one) => one.source === Number(source) && one.arm === arm && String(one.seed) === seed);
}

const episodeLink = (question, column) => link(["episode", ...questionName(question).split("/"), ...columnName(column)]);
const questionLink = (question) => link(["question", ...questionName(question).split("/")]);

/** What was said, by the texts' numbers; null where the column has no such answer. */
async function answerOf(question, column) {
  const details = await chunk("column-" + column);
  const row = details.answers[question];
  if (!row) return null;
  const text = (number) => (number === null || number === undefined ? null : details.texts[number]);
  const sampled = row[6];
  return {
    prediction: text(row[0]), words: text(row[1]), second: text(row[2]), why: text(row[3]),
    reason: text(row[4]), edited: row[5] === undefined ? null : row[5],
    sampled: sampled && { prediction: text(sampled[0]), verdict: sampled[1], words: text(sampled[2]), second: text(sampled[3]) },
    attribution: row[7] || null,
    verdict: letters[column].verdict[question],
    outcome: letters[column].outcome[question],
    focus: letters[column].focus[question],
    scorers: details.scorers, keepsWords: details.keepsWords,
  };
}

/** The pictures of a chunk, in order. */
function readFigures(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const figures = [];
  let at = 0;
  let base = null;
  while (at < bytes.length) {
    const width = view.getUint16(at, true);
    const height = view.getUint16(at + 2, true);
    const form = bytes[at + 4];
    at += 5;
    if (form === 3) {
      const length = view.getUint32(at, true);
      figures.push({ width, height, file: bytes.slice(at + 4, at + 4 + length) });
      at += 4 + length;
      continue;
    }
    const pixels = new Uint8ClampedArray(4 * width * height);
    if (form === 2) {
      for (let p = 0; p < width * height; p += 1) pixels.set([bytes[at], bytes[at + 1], bytes[at + 2], 255], 4 * p), at += 3;
    } else {
      const colours = view.getUint16(at, true);
      const palette = at + 2;
      at = palette + 3 * colours;
      if (form === 1) pixels.set(base);
      for (let p = 0; p < width * height; p += 1, at += 1) {
        const colour = form === 1 ? bytes[at] - 1 : bytes[at];
        if (colour < 0) continue;
        const from = palette + 3 * colour;
        pixels.set([bytes[from], bytes[from + 1], bytes[from + 2], 255], 4 * p);
      }
      if (form === 0) base = pixels;
    }
    figures.push({ width, height, pixels });
  }
  return figures;
}

async function figureOf(number) {
  const starts = meta.figureStarts;
  let place = starts.length - 1;
  while (starts[place] > number) place -= 1;
  const name = "figures-" + place;
  if (!opened.has(name)) opened.set(name, bytesOf(name).then(readFigures));
  return (await opened.get(name))[number - starts[place]];
}

/** A canvas that shows a figure at a readable size; small ones in whole pixels. */
function figureCanvas(number, alt, wide) {
  const canvas = el("canvas", { role: "img", "aria-label": alt });
  figureOf(number).then(async (figure) => {
    const scale = figure.file ? 1 : Math.max(1, Math.floor((wide || 384) / figure.width));
    canvas.width = figure.width * scale;
    canvas.height = figure.height * scale;
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = false;
    const bitmap = figure.file
      ? await createImageBitmap(new Blob([figure.file], { type: "image/jpeg" }))
      : await createImageBitmap(new ImageData(figure.pixels, figure.width, figure.height));
    context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  });
  return canvas;
}
