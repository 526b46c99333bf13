"""Vectors of the scorers, and the character tables that they need, from CPython 3.11 (Unicode 14).

    python3 golden/scorers/make.py            # writes numbers.jsonl, text.jsonl, digests.json here
    python3 golden/scorers/make.py --tables   # prints benchmarks/src/scorers/unicode.rs

Only the standard library is used. `pairs.jsonl` beside this file is written by hand.
"""

import json
import sys
import unicodedata
from pathlib import Path

HERE = Path(__file__).parent
EVERY = [chr(i) for i in range(0x110000) if not 0xD800 <= i < 0xE000]


def ranges(predicate):
    found = []
    for c in map(ord, filter(predicate, EVERY)):
        if found and found[-1][1] == c - 1:
            found[-1][1] = c
        else:
            found.append([c, c])
    return found


def table(name, doc, rows):
    print(f"\n/// {doc}\n#[rustfmt::skip]\npub(super) static {name}: [(u32, u32); {len(rows)}] = [")
    line = "   "
    for first, last in rows:
        cell = f" ({first:#x}, {last:#x}),"
        if len(line) + len(cell) > 99:
            print(line)
            line = "   "
        line += cell
    print(line + "\n];")


def tables():
    print("//! Character classes of Python 3.11 (Unicode 14.0), which wrote the official verdicts: newer")
    print("//! characters are unassigned there. Made by `golden/scorers/make.py --tables`.")
    print("//!\n//! Sorted, inclusive ranges of code points.")
    category = unicodedata.category
    table("NONSPACING", "Category Mn.", ranges(lambda c: category(c) == "Mn"))
    table("DECIMAL", "Decimal digits (`str.isdecimal`); each run of ten starts with its zero.", ranges(str.isdecimal))
    table("WORD", r"Characters of the regular expression `\w`.", ranges(lambda c: c.isalnum() or c == "_"))
    table("UNASSIGNED", "Category Cn.", ranges(lambda c: category(c) == "Cn"))


def fnv(values):
    digest = 0xCBF29CE484222325
    for value in values:
        for byte in value.encode("utf-8") + b"\xff":
            digest = (digest ^ byte) * 0x100000001B3 % 2**64
    return f"{digest:016x}"


def attempt(function, text):
    try:
        return repr(function(text))
    except ValueError:
        return None


def number_texts():
    spaces = ["", " ", "\t", "\n", "\x0b", "\x0c", "\r", "\x1c", "\x1f", "\x85", "\xa0", "\u1680", "\u2003",
              "\u2028", "\u200b", "\u3000", "\ufeff", "\x00", "\x7f"]
    cores = ["5", "+5", "-5", "- 5", "+-5", "05", "1_0", "1__0", "_1", "1_", "1_000_000", "1,000", "0x10", "1e3",
             "1E+3", "1e-3", "1e", "1e+", "e5", ".5", "5.", ".", "-.5e1", "1.e5", "1_0.5_0e1_0", "1_.5", "1._5",
             "1e_5", "1e5_", "1_e5", "5.5.5", "inf", "-inf", "+Infinity", "INFINITY", "infinit", "nan", "-NaN",
             "nan(1)", "in_f", "1e999", "-1e999", "1e-999", "1e308", "1.7976931348623159e308", "\uff15", "\u0665",
             "\u0665.\u0665", "\U0001d7d3", "\xb2", "\u2460", "\u22125", "\u0665\uff0e5", "\u0661_\u0660", "5\u0301",
             "True", "", "0", "-0", "-0.0", "0.9999999", "2.9999999", "9007199254740993", "9007199254740993.0",
             "123456789012345678901234567890", "0b1", "1l", "5 5", "5%", "$5", "(5)"]
    texts = [space + core for core in cores for space in spaces] + [core + space for core in cores for space in spaces]
    texts += ["9" * 4300, "9" * 4301, "0" * 4300 + "5", "-" + "9" * 4300, "-" + "9" * 4301, "0" * 4299 + "5",
              "1_" * 4299 + "1", "1_" * 4300 + "1", "9" * 309, " " + "8" * 400 + " ", "9" * 4300 + ".5"]
    return dict.fromkeys(texts)


def lines(name, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (HERE / name).write_text(text, encoding="ascii")


def main():
    lines("numbers.jsonl", ({"text": t, "int": attempt(int, t), "float": attempt(float, t)} for t in number_texts()))
    words = ["", " ", "\x1c x \x1f", "\x85x\xa0", "\u200bx\u200b", "\u3000x\u2028", "\ufeffx", "x\x00 ",
             "\u039f\u0394\u039f\u03a3", "\u03a3", "\u03a3\u03a3", "A\u03a3", "A\u03a3 B", "A\u03a3B", "A.\u03a3",
             "A\u03a3.B", "A\u03a3'", "\u0130", "\u01c5", "\u1e9e", "\u212a\u212b", "\ufb03", "STRASSE", "\u00dc\u0308",
             "A\u03a3\u0301", "\u0301\u03a3", "1\u03a3", "\u1f88", "\U00010400", "\u13a0", "\u10a0", "\u24b6"]
    lines("text.jsonl", ({"text": t, "strip": t.strip(), "lower": t.lower()} for t in words))
    without_marks = lambda t: "".join(c for c in unicodedata.normalize("NFKD", t) if unicodedata.category(c) != "Mn")
    blocks = [EVERY[i:i + 0x1000] for i in range(0, len(EVERY), 0x1000)]
    functions = {
        "decomposed": lambda c: without_marks("a" + c + "\u0323"),
        "lower": lambda c: c.lower(),
        "space": lambda c: str(int(c.isspace())),
        "word": lambda c: str(int(c.isalnum() or c == "_")),
        "decimal": lambda c: str(unicodedata.decimal(c, -1)),
    }
    digests = {name: [fnv(map(function, block)) for block in blocks] for name, function in functions.items()}
    (HERE / "digests.json").write_text(json.dumps(digests, indent=0) + "\n", encoding="ascii")


if __name__ == "__main__":
    assert sys.version_info[:2] == (3, 11), "the vectors are those of Python 3.11"
    tables() if "--tables" in sys.argv else main()
