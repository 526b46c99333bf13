"""Recorded .gz files again by zopfli, an eighth smaller, their content the same: what a repository keeps.

    python -m venv .venv && .venv/bin/pip install zopfli==0.4.3
    .venv/bin/python results/recompress.py [FOLDER…]      results/study, results/ablations, results/runs
"""

import gzip
import os
import sys
from pathlib import Path

import zopfli.gzip


def main():
    here = Path(__file__).parent
    folders = sys.argv[1:] or [here / "study", here / "ablations", here / "runs"]
    before = after = 0
    for file in sorted(file for folder in folders for file in Path(folder).rglob("*.gz")):
        packed = file.read_bytes()
        smaller = zopfli.gzip.compress(gzip.decompress(packed))
        before += len(packed)
        after += min(len(packed), len(smaller))
        if len(smaller) < len(packed):
            part = file.with_name(file.name + ".part")
            part.write_bytes(smaller)
            os.replace(part, file)
    print(f"{before} bytes before, {after} after")


main()
