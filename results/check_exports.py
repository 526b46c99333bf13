"""Opens what export.py writes with the readers that it is meant for, and compares it with the records; reads
the kept forms of the study's records and compares them with their checksums.

    pip install -r results/requirements-export.txt && python3 results/check_exports.py [RUN ARM]
"""

import json
import pathlib
import sys
import tempfile

import blake3
import pandas
from inspect_ai.log import list_eval_logs, read_eval_log
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import export

HERE = pathlib.Path(__file__).parent
run, arm = (pathlib.Path(sys.argv[1]), sys.argv[2]) if len(sys.argv) > 2 else (HERE / "runs" / "micro", "teacher")

with tempfile.TemporaryDirectory() as name:
    out = pathlib.Path(name)
    export.export(run, out, export.FORMS, [arm])
    folders = export.folders(run, [arm])
    records = [record for folder, _ in folders for record in export.lines(folder, "records.jsonl")]
    judged = [record for record in records if record["verdict"] != "not_judged"]
    right = sum(record["verdict"] == "right" for record in judged)

    table = pandas.read_parquet(out / "records.parquet")
    assert len(table) == len(records), (len(table), len(records))
    assert (table["verdict"] == "right").sum() == right
    print(f"pandas: {len(table)} records, {right} right")

    logs = [read_eval_log(log) for log in list_eval_logs(str(out / "inspect"))]
    samples = [sample for log in logs for sample in log.samples]
    assert len(samples) == len(records), (len(samples), len(records))
    scored = [score.value for sample in samples for score in (sample.scores or {}).values()]
    assert len(scored) == len(judged) and scored.count("C") == right, (len(scored), scored.count("C"))
    for log in logs:
        (score,) = log.results.scores
        own = [record for record in judged if record["set"] == log.eval.task and record["seed"] == log.eval.metadata["seed"]]
        accuracy = sum(record["verdict"] == "right" for record in own) / len(own)
        assert abs(score.metrics["accuracy"].value - accuracy) < 1e-12, log.eval.task
    print(f"inspect_ai: {len(logs)} logs, {len(samples)} samples")

    scalars = 0
    for folder, manifest in folders:
        metrics = export.lines(folder, "metrics.jsonl")
        events = EventAccumulator(str(out / "tensorboard" / arm / f"seed-{manifest['seed']}")).Reload()
        for tag in events.Tags()["scalars"]:
            known = {line["update"]: dict(export.numbers(line)).get(tag) for line in metrics}
            for event in events.Scalars(tag):
                # Event files hold single precision.
                assert abs(event.value - known[event.step]) <= 1e-6 * max(1, abs(known[event.step])), (tag, event)
                scalars += 1
        assert len(events.Scalars("reward")) == len(metrics)
    assert scalars > 0
    print(f"TensorBoard: {scalars} scalars")

# Kept runs of the study: whole, or told by one or two others.
kept = [folder for folder, _ in export.folders(HERE / "study") if any(folder.glob("records.jsonl*"))]
for folder in kept:
    text = "".join(json.dumps(record, separators=(",", ":"), ensure_ascii=False) + "\n" for record in export.lines(folder, "records.jsonl"))
    expected = export.manifest_of(folder)["files"]["records.jsonl"]["blake3"]
    assert blake3.blake3(text.encode("utf-8")).hexdigest() == expected, folder
print(f"the records of {len(kept)} runs of the study are what their manifests say")
