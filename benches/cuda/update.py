"""What one IAPO update cost at several numbers of nodes, and whether fewer rank the calls alike.

    python benches/cuda/update.py OUT.json NODES=RUN...     RUN: the arm's folder of that seed

The runs sample the same episodes, since they differ in nodes alone. Every run's calls are ranked within
their prompt by the penalty; ranks are compared with those of the last run.
"""

import gzip
import itertools
import json
import sys
from pathlib import Path


def lines(path):
    packed = path.with_name(path.name + ".gz")
    with gzip.open(packed, "rt") if packed.exists() else path.open() as file:
        return [json.loads(line) for line in file]


def penalties(run):
    """(prompt, call) to penalty, of the first update of the arm's own stage."""
    found = {}
    for line in lines(run / "groups.jsonl"):
        training = line["training"]
        own = {k: v for k, v in training.get("reward_parts", {}).items() if k != "outcome"}
        if training["stage"] == "iapo" and own and line["outcome"] != "no-call":
            found.setdefault((training["stage_update"], training["prompt"]), {})[
                line["first_completion"]
            ] = sum(own.values())
    return found


def agreement(ours, reference):
    """Of the pairs of calls of a prompt that the reference ranks, the share that is ranked alike."""
    alike = pairs = 0
    for prompt, calls in reference.items():
        for a, b in itertools.combinations(sorted(calls), 2):
            want = calls[a] - calls[b]
            own = ours.get(prompt, {})
            if want != 0 and a in own and b in own:
                pairs += 1
                alike += (own[a] - own[b]) * want > 0
    return alike, pairs


def main():
    out, *given = sys.argv[1:]
    runs = [(int(nodes), Path(run)) for nodes, run in (arg.split("=", 1) for arg in given)]
    reference = penalties(runs[-1][1])
    figures = []

    def figure(name, value, unit):
        figures.append({"name": name, "value": value, "unit": unit})
        print(f"{name:<48} {value:>12.4f} {unit}")

    for nodes, run in runs:
        own = [line for line in lines(run / "metrics.jsonl") if line["stage"] == "iapo"]
        assert own, f"{run} has no update of iapo"
        for part in sorted(own[0]["seconds"]):
            taken = sum(line["seconds"].get(part, 0) for line in own) / len(own)
            figure(f"{nodes} nodes: {part}", taken, "s an update")
        calls = sum(line.get("attribution", {}).get("calls", 0) for line in own)
        figure(f"{nodes} nodes: distinct calls", calls, "")
        gaps = [line["attribution"]["gap"] for line in own if line.get("attribution", {}).get("gap")]
        if gaps:
            figure(f"{nodes} nodes: median completeness gap", max(gaps), "of F(1) - F(0)")
        alike, pairs = agreement(penalties(run), reference)
        figure(f"{nodes} nodes: pairs ranked as by {runs[-1][0]}", alike / max(pairs, 1), f"of {pairs}")
        tokens = sum(line["tokens"]["computed"] for line in own) / len(own)
        figure(f"{nodes} nodes: tokens of a step", tokens, "")
    report = {"check": "update", "passed": True, "figures": figures}
    Path(out).write_text(json.dumps(report, indent=2) + "\n")


main()
