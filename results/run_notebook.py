"""Runs the cells of results/notebook.ipynb one after the other, as a reader would, without Jupyter.

    pip install -r results/requirements.txt && python3 results/run_notebook.py
"""

import json
import pathlib
import sys

notebook = json.loads((pathlib.Path(__file__).parent / "notebook.ipynb").read_text())
names = {}
for number, cell in enumerate(notebook["cells"]):
    if cell["cell_type"] == "code":
        source = "".join(cell["source"])
        try:
            exec(compile(source, f"cell {number}", "exec"), names)
        except Exception:
            print(source, file=sys.stderr)
            raise
