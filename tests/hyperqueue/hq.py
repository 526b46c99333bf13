"""Stands in for `hq submit`: a real HyperQueue server with two workers, by the package of PyPI.

The package brings server and workers but no `hq`. What `iapo study --engine hq` says is taken word
for word: a task per line of the file, the same command, environment and exit code. The process of the
cell named by HQ_KILL, if any, is killed once while it trains.

    python3 -m venv .venv/hyperqueue
    .venv/hyperqueue/bin/pip install hyperqueue==0.27.0
"""

import json
import os
import pathlib
import signal
import sys
import tempfile
import time

from hyperqueue import Job, LocalCluster
from hyperqueue.cluster import WorkerConfig


def after(words, option):
    """The words that follow an option."""
    return [words[i + 1] for i, word in enumerate(words) if word == option]


def kill(cell, folder):
    """Kills the process of a cell once it has saved a state."""
    deadline = time.monotonic() + 120
    while not list(folder.glob("state/step-*")) and time.monotonic() < deadline:
        time.sleep(0.002)
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if "--job" in words and cell in words[words.index("--job") + 1]:
            os.kill(int(process.name), signal.SIGKILL)
            return


def main():
    words = sys.argv[1:]
    split = words.index("--")
    options, command = words[:split], words[split + 1 :]
    if options[0] != "submit" or "--wait" not in options:
        sys.exit(f"expected submit and --wait, found {options}")
    file = pathlib.Path(after(options, "--each-line")[0])
    environment = dict(word.split("=", 1) for word in after(options, "--env"))
    cell = os.environ.get("HQ_KILL")
    if cell:
        part, label, arm, seed = cell.split("/")
        folder = file.parent / part / label / arm / f"seed-{seed}"
        # A process of its own, since the package may hold the interpreter.
        if os.fork() == 0:
            kill(cell, folder)
            os._exit(0)
    with tempfile.TemporaryDirectory() as scratch, LocalCluster() as cluster:
        for _ in range(2):
            cluster.start_worker(WorkerConfig(cores=1))
        job = Job()
        for number, line in enumerate(file.read_text().splitlines()):
            job.program(
                command,
                env={**environment, "HQ_ENTRY": line},
                stdout=f"{scratch}/{number}.out",
                stderr=f"{scratch}/{number}.err",
                name=json.loads(line)["cell"],
            )
        client = cluster.client()
        submitted = client.submit(job)
        if client.wait_for_jobs([submitted], raise_on_error=False):
            return
        for task, failure in client.get_failed_tasks(submitted).items():
            print(f"task {task}: {failure.error}", file=sys.stderr)
    sys.exit(1)


main()
