"""Hands recorded runs to tools that people know: Parquet, TensorBoard, inspect_ai.

    pip install -r results/requirements-export.txt
    python3 results/export.py RUN --out DIR [--only parquet,tensorboard,inspect] [--arms A,B]

RUN is a folder that `replicate --out`, `eval-all --out` or `study` wrote. What is written:

    DIR/records.parquet, metrics.parquet, episodes.parquet   one row a line of METRICS.md's files
    DIR/tensorboard/ARM/seed-N/                              a scalar for every number of metrics.jsonl
    DIR/inspect/SET_ARM_seed-N.eval                          a log a set, for `inspect view --log-dir DIR/inspect`

A question without a verdict has no score in the logs and `not_judged` in the tables: it is never a wrong one.
"""

import argparse
import datetime
import gzip
import json
import pathlib
import sys

FORMS = ["parquet", "tensorboard", "inspect"]


def manifest_of(folder):
    """What a run was made with; nothing where it was not finished."""
    plain, packed = folder / "manifest.json", folder / "manifest.json.gz"
    text = plain.read_bytes() if plain.exists() else gzip.decompress(packed.read_bytes())
    return json.loads(text)


def lines(folder, name):
    """The objects of a file of lines, compressed or not; none where it is not there."""
    plain, packed, delta = (folder / (name + ending) for ending in ("", ".gz", ".delta.gz"))
    if plain.exists():
        text = plain.read_text(encoding="utf-8")
    elif packed.exists():
        text = gzip.decompress(packed.read_bytes()).decode("utf-8")
    elif delta.exists():
        return differing(folder, gzip.decompress(delta.read_bytes()).decode("utf-8"))
    else:
        return []
    return [json.loads(line) for line in text.splitlines()]


def differing(folder, text):
    """The lines that are kept as what differs from other runs' (results/src/delta.rs tells the form)."""
    text = iter(text.splitlines())
    header = json.loads(next(text))
    references = [(folder / reference["path"]).resolve() for reference in header["references"]]
    others = [lines(reference.parent, reference.name) for reference in references]
    for reference, other in zip(references, others):
        if not other:
            sys.exit(f"{folder}: its records are told by {reference}, which is not there; take the whole study")
    flat = "lines" in header
    others = [[dict(flattened(line)) for line in other] if flat else other for other in others]
    fields = [field for field in header["order"] if field not in header["same"]]
    signs = {field: next(text) for field in fields}
    records = [dict(header["same"]) for _ in range(header["lines"] if flat else len(others[0]))]
    for field in fields:
        for place, record in enumerate(records):
            sign = signs[field][place] if signs[field] else "0"
            if sign == "!":
                record[field] = json.loads(next(text))
            elif sign != "-" and field in (other := others[int(sign)][place]):
                record[field] = other[field]
    return [nested({field: record[field] for field in header["order"] if field in record}) for record in records]


def flattened(line, prefix=""):
    """A line's fields, those of objects within it as `outer/inner`."""
    for key, value in line.items():
        if isinstance(value, dict) and value:
            yield from flattened(value, f"{prefix}{key}/")
        else:
            yield prefix + key, value


def nested(fields):
    """The line that has these fields."""
    line = {}
    for field, value in fields.items():
        *outer, name = field.split("/")
        place = line
        for key in outer:
            place = place.setdefault(key, {})
        place[name] = value
    return line


def folders(run, arms=None):
    """The folders of the arms and their seeds, with their manifests."""
    found = []
    for folder in sorted({path.parent for path in run.glob("**/seed-*/manifest.json*")}):
        found.append((folder, manifest_of(folder)))
    if not found:
        sys.exit(f"{run}: no ARM/seed-N/manifest.json below it; give a folder that `replicate --out` or `eval-all --out` wrote")
    known = sorted({manifest["arm"] for _, manifest in found})
    for arm in arms or []:
        if arm not in known:
            sys.exit(f"--arms: '{arm}' is not in {run}, which has {', '.join(known)}")
    return [own for own in found if not arms or own[1]["arm"] in arms]


def numbers(line, prefix=""):
    """Every number of a line of metrics by its path: `reward`, `reward_parts/outcome`."""
    for key, value in line.items():
        if isinstance(value, dict):
            yield from numbers(value, f"{prefix}{key}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield prefix + key, value


def to_parquet(runs, out):
    """One file a kind of line; nested fields become columns with a dot."""
    import pandas

    tables = {"records": [], "metrics": [], "episodes": []}
    for folder, manifest in runs:
        tables["records"] += lines(folder, "records.jsonl")
        tables["episodes"] += lines(folder, "episodes.jsonl")
        own = {"arm": manifest["arm"], "seed": manifest["seed"]}
        tables["metrics"] += [{**own, **line} for line in lines(folder, "metrics.jsonl")]
    for name, rows in tables.items():
        if rows:
            pandas.json_normalize(rows).to_parquet(out / f"{name}.parquet", index=False)


def to_tensorboard(runs, out):
    """An event file for each arm and seed."""
    from tensorboardX import SummaryWriter

    for folder, manifest in runs:
        metrics = lines(folder, "metrics.jsonl")
        if not metrics:
            continue
        place = out / "tensorboard" / manifest["arm"] / f"seed-{manifest['seed']}"
        writer = SummaryWriter(str(place), write_to_disk=True)
        for line in metrics:
            for name, value in numbers(line):
                if name != "update":
                    writer.add_scalar(name, value, line["update"])
        writer.close()


def inspect_log(set_name, manifest, records, episodes):
    """One set of one run as a log of inspect_ai."""
    from inspect_ai.log import EvalConfig, EvalDataset, EvalLog, EvalMetric, EvalResults, EvalSample, EvalScore, EvalSpec
    from inspect_ai.model import ModelOutput
    from inspect_ai.scorer import CORRECT, INCORRECT, Score

    value = {"right": CORRECT, "wrong": INCORRECT}
    samples = []
    for record in records:
        episode = episodes.get((record["set"], record["qa_id"]), {})
        verdict = value.get(record["verdict"])
        scores = {record["scorer"]: Score(value=verdict, answer=record["prediction"], explanation=record.get("reason"))}
        samples.append(
            EvalSample(
                id=record["qa_id"],
                epoch=1,
                input=episode.get("request", record["qa_id"]),
                target=record["gt"],
                output=ModelOutput.from_content(manifest["arm"], record["prediction"]),
                scores=scores if verdict else None,
                metadata={key: record[key] for key in record if key not in ("gt", "prediction")},
            )
        )
    judged = [record for record in records if record["verdict"] in value]
    right = sum(record["verdict"] == "right" for record in judged)
    made = datetime.datetime.fromtimestamp(manifest["started"], datetime.timezone.utc).isoformat()
    scorer = records[0]["scorer"]
    accuracy = {"accuracy": EvalMetric(name="accuracy", value=right / len(judged))} if judged else {}
    return EvalLog(
        status="success",
        eval=EvalSpec(
            created=made,
            task=set_name,
            model=f"iapo/{manifest['arm']}",
            dataset=EvalDataset(name=set_name, samples=len(records)),
            config=EvalConfig(epochs=1),
            metadata={"seed": manifest["seed"], "checkpoint": records[0]["checkpoint"], "profile": manifest["profile"]},
        ),
        results=EvalResults(
            total_samples=len(records),
            completed_samples=len(judged),
            scores=[EvalScore(name=scorer, scorer=scorer, scored_samples=len(judged), unscored_samples=len(records) - len(judged), metrics=accuracy)],
        ),
        samples=samples,
    )


def to_inspect(runs, out):
    """A log for each set, arm and seed."""
    from inspect_ai.log import write_eval_log

    place = out / "inspect"
    place.mkdir(parents=True, exist_ok=True)
    for folder, manifest in runs:
        records = lines(folder, "records.jsonl")
        episodes = {(own["set"], own["qa_id"]): own for own in lines(folder, "episodes.jsonl") if own["decoding"] == "greedy"}
        for set_name in dict.fromkeys(record["set"] for record in records):
            own = [record for record in records if record["set"] == set_name]
            log = inspect_log(set_name, manifest, own, episodes)
            write_eval_log(log, str(place / f"{set_name}_{manifest['arm']}_seed-{manifest['seed']}.eval"))


def export(run, out, only, arms=None):
    """Writes the forms that are asked for."""
    runs = folders(run, arms)
    out.mkdir(parents=True, exist_ok=True)
    for form in only:
        {"parquet": to_parquet, "tensorboard": to_tensorboard, "inspect": to_inspect}[form](runs, out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--only", default=",".join(FORMS), help="comma-separated: " + ", ".join(FORMS))
    parser.add_argument("--arms", help="comma-separated; all of the run if not given")
    given = parser.parse_args()
    wanted = given.only.split(",")
    unknown = [form for form in wanted if form not in FORMS]
    if unknown:
        parser.error(f"--only: {', '.join(unknown)} is none of {', '.join(FORMS)}")
    try:
        export(given.run, given.out, wanted, given.arms and given.arms.split(","))
    except ImportError as missing:
        sys.exit(f"{missing}: pip install -r results/requirements-export.txt")
