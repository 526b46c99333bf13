"""Expected images of the visual tools, painted by Pillow.

    python make_golden.py synthetic OUT                       the committed fixtures (OUT = this folder)
    python make_golden.py real OUT --charts CHARTS [--limit N] [--tools STYLE=FILE]...
                                                              real charts with real boxes, for a proof

Needs the packages of requirements.txt. `real` reads CHARTS/refocus_chartqa_test.jsonl and
CHARTS/png; with `--tools refocus=tools.py` it paints with that published module (VTool-R1's
verl/tooluse/tools.py, or recipe/vtool/refocus_tools.py for `vtool_v2`) instead of with the tools
below, which proves that these say the same.

OUT gets `cases.json`, a list of {name, style, image, boxes, code, expected}: `code` is run here
(all of it is written in this file) with the twelve tools, `image_1`, the four dicts of boxes and
`display`; `expected` is the image that it shows, or null where it fails.
"""

import argparse
import hashlib
import importlib.util
import json
import random
import sys
from pathlib import Path

import PIL
from PIL import Image, ImageDraw

PILLOW = "12.0.0"
AXES = ["columns", "rows", "x_values", "y_values"]
EFFECTS = ["mask", "draw", "highlight"]

# Margin (negative: inset) by effect, clamping, outline width, what an unknown name does, whether
# the first row is a header that is never masked.
STYLES = {
    "refocus": dict(margin=dict(mask=-2, draw=-2, highlight=-2), clamp=False, width=5, names="refocus", header=True),
    "vtool_v2": dict(margin=dict(mask=1, draw=2, highlight=2), clamp=True, width=3, names="skip", header=True),
    "micro": dict(margin=dict(mask=0, draw=0, highlight=0), clamp=False, width=1, names="strict", header=False),
}


def similar(a, b):
    return a in b or b in a


class Tools:
    """The twelve functions in one style, on PIL images, in place where the published ones are."""

    def __init__(self, style):
        self.style = style

    def function(self, axis, effect):
        parameters = ["image", f"{axis}_to_focus_on", f"all_{axis}_bounding_boxes"]

        def tool(*given, **named):
            bound = dict(zip(parameters, given, strict=False))
            if set(bound) & set(named) or set(bound) | set(named) != set(parameters) or len(given) > 3:
                raise TypeError("wrong arguments")
            bound |= named
            return self.apply(axis, effect, *(bound[p] for p in parameters))

        return tool

    def corners(self, box, effect, image):
        margin = self.style["margin"][effect]
        x1, y1 = int(box["x1"] - margin), int(box["y1"] - margin)
        x2, y2 = int(box["x2"] + margin), int(box["y2"] + margin)
        if self.style["clamp"]:
            x1, y1 = max(0, x1), max(0, y1)
            x2, y2 = min(image.width, x2), min(image.height, y2)
        return (x1, y1), (x2, y2)

    def apply(self, axis, effect, image, names, boxes):
        if len(boxes) == 0 or len(names) == 0:
            return image
        rule = self.style["names"]
        if effect == "mask":
            if rule == "strict" and any(name not in boxes for name in names):
                raise KeyError("unknown name")
            wanted = names if rule == "refocus" else set(names)
            candidates = list(boxes)[1:] if axis == "rows" and self.style["header"] else list(boxes)
            hidden = [label for label in candidates if label not in wanted]
            if len(hidden) == len(candidates):
                return image
            draw = ImageDraw.Draw(image, "RGBA")
            for label in hidden:
                draw.rectangle(self.corners(boxes[label], effect, image), fill="white")
            return image

        forgiving = rule == "refocus" and (axis, effect) in [("y_values", "draw"), ("x_values", "highlight")]
        regions = []
        for name in names:
            if (axis, effect) == ("y_values", "draw"):
                if rule == "refocus":
                    for label in boxes:
                        if similar(name, label):
                            name = label
                elif rule == "skip" and name not in boxes:
                    name = next((label for label in boxes if similar(name, label)), name)
            if name not in boxes:
                if rule == "skip" or forgiving:
                    continue
                raise KeyError(name)
            regions.append(self.corners(boxes[name], effect, image))
        if not regions:
            return image
        target = image.convert("RGBA") if effect == "highlight" else image
        draw = ImageDraw.Draw(target) if effect == "highlight" else ImageDraw.Draw(target, "RGBA")
        for region in regions:
            try:
                if effect == "highlight":
                    draw.rectangle(region, fill=(255, 0, 0, 50))
                else:
                    draw.rectangle(region, outline="red", width=self.style["width"])
            except ValueError:
                if not forgiving:
                    raise
        return Image.alpha_composite(image.convert("RGBA"), target) if effect == "highlight" else image

    def all(self):
        return {f"focus_on_{a}_with_{e}": self.function(a, e) for a in AXES for e in EFFECTS}


def published(path):
    """The twelve functions of a published module. Its cv2 import is not used by them."""
    sys.modules.setdefault("cv2", sys)
    sys.modules.setdefault("numpy", sys)
    spec = importlib.util.spec_from_file_location(f"published_{Path(path).stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return {f"focus_on_{a}_with_{e}": getattr(module, f"focus_on_{a}_with_{e}") for a in AXES for e in EFFECTS}


def show(tools, image, boxes, code):
    """The image that `code` shows, as RGB, or None where Python raises."""
    shown = []
    chart = boxes.get("x_values") or boxes.get("y_values") or {}
    is_table = bool(boxes.get("columns") or boxes.get("rows"))
    scope = {
        "image_1": image.convert("RGB").copy(),
        "columns_bbox": boxes.get("columns", {}) if is_table else chart,
        "rows_bbox": boxes.get("rows", {}) if is_table else chart,
        "x_values_bbox": boxes.get("x_values", {}),
        "y_values_bbox": boxes.get("y_values", {}),
        "display": shown.append,
        **tools,
    }
    try:
        exec(code, scope)
    except Exception as error:
        print(f"  fails with {type(error).__name__}: {error}", file=sys.stderr)
        return None
    return shown[-1].convert("RGB")


class Writer:
    """Collects cases; equal images share a file."""

    def __init__(self, out, tools, packing):
        self.out, self.tools, self.packing, self.cases = Path(out), tools, packing, []
        (self.out / "expected").mkdir(parents=True, exist_ok=True)

    def case(self, name, style, image_file, image, boxes, code):
        image = show(self.tools[style], image, boxes, code)
        expected = None
        if image is not None:
            digest = hashlib.sha256(image.tobytes() + repr(image.size).encode()).hexdigest()[:12]
            expected = f"expected/{digest}.png"
            if not (self.out / expected).exists():
                image.save(self.out / expected, **self.packing)
        self.cases.append(
            dict(name=name, style=style, image=str(image_file), boxes=boxes, code=code, expected=expected)
        )

    def finish(self):
        text = "[\n" + ",\n".join(json.dumps(case) for case in self.cases) + "\n]\n"
        (self.out / "cases.json").write_text(text)
        failing = sum(case["expected"] is None for case in self.cases)
        print(f"{len(self.cases)} cases, {failing} of them failing in Python", file=sys.stderr)


def box(x1, y1, x2, y2):
    return dict(x1=x1, y1=y1, x2=x2, y2=y2)


def gradient(width, height):
    """All levels of all channels, in a form that PNG stores in a few hundred bytes."""
    image = Image.new("RGB", (width, height))
    image.putdata(
        [(255 * x // (width - 1), 255 * y // (height - 1), 255 * (x + y) // (width + height - 2))
         for y in range(height) for x in range(width)]
    )
    return image


def call(axis, effect, names):
    return f"display(focus_on_{axis}_with_{effect}(image_1, {names!r}, {axis}_bbox))"


def synthetic(out):
    writer = Writer(out, {name: Tools(style).all() for name, style in STYLES.items()}, dict(optimize=True))
    images = {"figure.png": gradient(96, 72), "micro.png": gradient(64, 48), "stamp.png": gradient(24, 18)}
    for name, image in images.items():
        image.save(writer.out / name, optimize=True)

    columns = {"Year": box(3, 2, 30, 69), "Name, first": box(31.6, 2, 60.4, 69.9), "it's": box(61, 2, 93, 69)}
    rows = {"Year": box(3, 2, 93, 15), "1969": box(3, 16, 93, 32), "1972": box(3, 33, 93, 50), "": box(3, 51, 93, 69)}
    bands = {"Lamb": box(5, 4, 90, 20), "Lamb chops": box(5, 21.7, 90.9, 36.2), "Beef": box(5, 37, 120, 80), "low": box(5, 60, 90, 67)}
    table = dict(columns=columns, rows=rows)
    asks = {
        "columns": [["Year"], ["Name, first", "it's"], ["Nobody"], ["Year", "Nobody"], []],
        "rows": [["1969"], ["1972", "", "Year"], ["Nobody"], ["Year"]],
        "x_values": [["Lamb"], ["Beef", "low"], ["Nobody"], ["Beef", "Nobody"]],
        "y_values": [["Lamb"], ["Beef", "low"], ["Nobody"], ["chops"], ["the Beef"], [""]],
    }
    for style in STYLES:
        for axis in AXES:
            boxes = table if axis in ("columns", "rows") else {axis: bands}
            for effect in EFFECTS:
                for names in asks[axis]:
                    writer.case(f"{axis} {effect} {names}", style, "figure.png", images["figure.png"], boxes, call(axis, effect, names))

    cells = {f"c{i}": box(8 * i, 0, 8 * i + 7, 47) for i in range(8)}
    for style in STYLES:
        for effect in EFFECTS:
            writer.case(f"cells {effect}", style, "micro.png", images["micro.png"], dict(x_values=cells), call("x_values", effect, ["c1", "c2", "c6"]))

    # Whole programs: images painted in place, new images, chains, several ways to write a call.
    chart = dict(y_values=bands)
    programs = [
        "a = focus_on_y_values_with_draw(image_1, ['Lamb'], y_values_bbox)\nb = focus_on_y_values_with_highlight(a, ['Beef'], y_values_bbox)\ndisplay(b)",
        "b = focus_on_y_values_with_highlight(image_1, ['Beef'], y_values_bbox)\nfocus_on_y_values_with_draw(image_1, ['Lamb'], y_values_bbox)\ndisplay(b)",
        "b = focus_on_y_values_with_highlight(image_1, [], y_values_bbox)\nfocus_on_y_values_with_draw(b, ['Lamb'], y_values_bbox)\ndisplay(image_1)",
        "display(focus_on_y_values_with_mask(image_1, ['Lamb'], y_values_bbox)); focus_on_y_values_with_draw(image_1, ['Beef'], y_values_bbox)",
        "display(focus_on_y_values_with_draw(focus_on_y_values_with_highlight(image_1, ['Beef', 'Lamb'], y_values_bbox), ['Lamb'], y_values_bbox))",
        "display(focus_on_y_values_with_highlight(focus_on_y_values_with_highlight(image_1, ['Beef'], y_values_bbox), ['Beef'], y_values_bbox))",
        "meat = ['Lamb']\nmore = meat + ['Beef', ]\n# both\nimage_1 = focus_on_y_values_with_mask(all_y_values_bounding_boxes=y_values_bbox, image=image_1, y_values_to_focus_on=more)\ndisplay(image_1)",
        "display(focus_on_y_values_with_highlight(image_1, y_values_bbox.keys(), y_values_bbox))",
        "names = list(y_values_bbox.keys())\ndisplay(focus_on_y_values_with_highlight(image_1, names, y_values_bbox))",
        "display(focus_on_columns_with_highlight(image_1, ['Beef'], columns_bbox))",
        "display(focus_on_y_values_with_draw(image_1, ['Beef'], x_values_bbox))",
        "one = {'this': y_values_bbox['Beef'], 'that': {'x1': 10, 'y1': 10, 'x2': 40.5, 'y2': 30}}\ndisplay(focus_on_columns_with_draw(image_1, ['that'], one))",
        "which = {'a': ['Lamb'], 'b': 'Beef'}\ndisplay(focus_on_columns_with_highlight(image_1, [which['b'], which['a'][-1]], y_values_bbox))",
        "display(focus_on_y_values_with_mask(image_1, 'Lamb', y_values_bbox))",
        "display(focus_on_y_values_with_highlight(image_1, 'Lamb', y_values_bbox))",
        "display(focus_on_y_values_with_mask(image_1, 'the Beef', y_values_bbox))",
        "display(focus_on_y_values_with_draw(image_1, ['Lamb'], y_values_bbox))\ndisplay(focus_on_y_values_with_highlight(image_1, ['Beef'], y_values_bbox))",
        "x = focus_on_y_values_with_draw(image_1, ['Lamb'], y_values_bbox)\nfocus_on_columns_with_draw(image_1, ['Nobody'], y_values_bbox)\ndisplay(x)",
    ]
    for style in STYLES:
        for number, code in enumerate(programs):
            writer.case(f"program {number}", style, "figure.png", images["figure.png"], chart, code)

    # Small, thin, inverted and outlying regions.
    draw = random.Random(20260)
    for number in range(120):
        style = list(STYLES)[number % 3]
        effect = EFFECTS[number // 3 % 3]
        boxes = {}
        for label in "abc":
            x, y = draw.uniform(-8, 26), draw.uniform(-8, 20)
            boxes[label] = box(round(x, 2), round(y, 2), round(x + draw.uniform(-1, 24), 2), round(y + draw.uniform(-1, 18), 2))
        writer.case(f"random {number}", style, "stamp.png", images["stamp.png"], dict(columns=boxes), call("columns", effect, ["b"]))
    writer.finish()


def real(out, charts, limit, modules):
    tools = {name: Tools(STYLES[name]).all() for name in ("refocus", "vtool_v2")}
    tools |= {style: published(path) for style, path in modules.items()}
    writer = Writer(out, tools, dict(compress_level=1))
    seen = set()
    draw = random.Random(7)
    for line in (Path(charts) / "refocus_chartqa_test.jsonl").read_text().splitlines():
        row = json.loads(line)
        file = row["image_file"] and (Path(charts) / row["image_file"]).resolve()
        if file is None or not file.exists() or file in seen or len(seen) == limit:
            continue
        seen.add(file)
        image = Image.open(file).convert("RGB")
        boxes = {axis: dict(zip(row[axis], row[f"{axis}_bbox"])) for axis in ("x_values", "y_values")}
        axis = "x_values" if boxes["x_values"] else "y_values"
        labels = list(boxes[axis])
        names = draw.sample(labels, min(len(labels), draw.randint(1, 3)))
        for style in tools:
            for effect in EFFECTS:
                writer.case(f"{row['id']} {effect}", style, file, image, boxes, call(axis, effect, names))
            # The same bands as a table's rows: header kept, no fuzzy names.
            code = f"display(focus_on_rows_with_mask(image_1, {names!r}, rows_bbox))"
            writer.case(f"{row['id']} rows mask", style, file, image, boxes, code)
    print(f"{len(seen)} charts", file=sys.stderr)
    writer.finish()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["synthetic", "real"])
    parser.add_argument("out")
    parser.add_argument("--charts")
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--tools", action="append", default=[], metavar="STYLE=FILE")
    args = parser.parse_args()
    if PIL.__version__ != PILLOW:
        sys.exit(f"Pillow {PILLOW} is needed, found {PIL.__version__}")
    if args.what == "synthetic":
        synthetic(args.out)
    elif args.charts is None:
        sys.exit("real needs --charts")
    else:
        real(args.out, args.charts, args.limit, dict(item.split("=", 1) for item in args.tools))


if __name__ == "__main__":
    main()
