"""The two sides as processes that do their work in turns, and the times of that."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent

# What holds every library to AVX2. llama.cpp has one set compiled in: it has a build of its own.
AVX2 = {
    "FUSED_OPS_SIMD": "avx2", "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2", "TORCHINDUCTOR_CPP_MARCH": "haswell",
}
LLAMA_AVX2 = Path(sys.prefix) / "avx2"


class Worker:
    """A process that does its work once for every line: `ours`, or a script of the other side."""

    def __init__(self, side, case, settings, options, threads=None):
        threads = threads or options.threads
        settings = dict(settings)
        checkpoint = settings.pop("checkpoint", options.checkpoint)
        program = [str(options.peer)] if side == "ours" else [sys.executable, str(HERE / side)]
        command = [*program, case, str(checkpoint), *(f"{key}={value}" for key, value in settings.items())]
        environment = dict(os.environ, RAYON_NUM_THREADS=str(threads), OMP_NUM_THREADS=str(threads),
                           CANDLE_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")
        # A current OpenBLAS or MKL chooses its own kernels.
        environment.pop("OPENBLAS_CORETYPE", None)
        if options.simd == "avx2":
            environment.update(AVX2)
            if side == "llama.py":
                environment["PYTHONPATH"] = str(LLAMA_AVX2)
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=self.log, text=True, env=environment)
        self.read()

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            raise SystemExit(f"{self.process.args} ended:\n{self.log.read()[-3000:]}")
        return json.loads(line)

    def run(self):
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self.read()

    def close(self):
        self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.log.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def alternate(case, ours, forms, options, repeats=None):
    """Times our side and every form of the other one in turns; the first turn warms up.

    `forms` has the script and the settings of each by its name. What is returned compares our side
    with the form whose median is least, and names the medians of all.
    """
    workers = {}
    try:
        workers["ours"] = Worker("ours", case, ours, options)
        for name, (script, settings) in forms.items():
            workers[name] = Worker(script, case, settings, options)
        reports = {name: [] for name in workers}
        for turn in range((repeats or options.repeats) + 1):
            for name, worker in workers.items():
                time.sleep(0.1)  # the threads of the one before go to sleep
                report = worker.run()
                if turn > 0:
                    reports[name].append(report)
    finally:
        for worker in workers.values():
            worker.close()
    return summary(reports)


def summary(reports):
    seconds = {name: [report["seconds"] for report in own] for name, own in reports.items()}
    medians = {name: statistics.median(own) for name, own in seconds.items()}
    best = min((name for name in medians if name != "ours"), key=medians.get)
    pairs = [theirs / ours for ours, theirs in zip(seconds["ours"], seconds[best])]
    return {
        "form": best, "ours": medians["ours"], "theirs": medians[best], "ratio": medians[best] / medians["ours"],
        "ratio_low": min(pairs), "ratio_high": max(pairs),
        "forms": {name: value for name, value in medians.items() if name != "ours"},
        "seconds": seconds,
    }, {name: own[-1] for name, own in reports.items()}
