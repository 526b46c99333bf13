"""What every process of the other side says and reads: one JSON line for each run of the work."""

import contextlib
import json
import os
import sys
import time

# Tokens that are never generated.
VISION_IDS = ["image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id", "vision_token_id"]


def main(cases):
    """Runs the case of the command line: CASE CHECKPOINT [KEY=VALUE ...]."""
    global OUT
    # What libraries print must not reach the protocol.
    OUT = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    case, checkpoint, *rest = sys.argv[1:]
    cases[case](checkpoint, dict(argument.split("=", 1) for argument in rest))


def serve(case, work):
    """Answers every line of stdin with one run of `work`."""
    with contextlib.redirect_stdout(sys.stderr):
        work()  # lazy initialisation and compilation are not timed
    say({"ready": case})
    for _ in sys.stdin:
        with contextlib.redirect_stdout(sys.stderr):
            start = time.perf_counter()
            report = work()
            report["seconds"] = time.perf_counter() - start
        say(report)


def say(value):
    print(json.dumps(value), file=OUT, flush=True)


def word(row, column):
    """A token of the words, the same on both sides."""
    return 1 + (row * 7919 + column * 104_729 + row * column) % 140


def vision_ids(config):
    """The ids among VISION_IDS that a config.json has."""
    return [config[name] for name in VISION_IDS if config.get(name) is not None]
