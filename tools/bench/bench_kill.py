"""Compare runs that are killed at random moments and resumed with undisturbed runs, bit for bit.

Every attempt is `tools/train.py --resume auto` on the embedded world, ended by SIGKILL: at a random time from its start
on, a moment after a random row of metrics.jsonl, or as soon as it writes a file. All but every tenth are forked from a
process that has imported everything, which saves the seconds that imports take.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from itertools import cycle
from pathlib import Path

from promptvision.cli import positive

ROOT = Path(__file__).parents[2]
METHODS = {
    "coop": "coop/embedded.yaml",
    "cocoop": "coop/embedded_cocoop.yaml",
    "maple": "coop/embedded_maple.yaml",
    "clip_lora": "coop/embedded_clip_lora.yaml",
    "tip_adapter_f": "coop/embedded_tip_adapter_f.yaml",
    "prompt": "vpt/embedded.yaml",
    "l2p": "vpt/embedded_l2p.yaml",
}
"""Configs of the runs; that of l2p is a stream of tasks."""
SMALL = {
    "DATASET.CLASSES": "base",
    "DATASET.SHOTS": "2",
    "OPTIM.EPOCHS": "6",
    "OPTIM.BATCH_SIZE": "3",
    "OPTIM.WARMUP_EPOCHS": "1",
    "TEST.SPLIT": "val",
    "TRAIN.EVAL_EVERY": "2",
    "TRAIN.KEEP": "best",
    "TRAIN.CHECKPOINT_EVERY": "2",
    "OUTPUT_DIR": "run",
}
STREAM = {
    "DATASET.CLASSES": "all",
    "OPTIM.EPOCHS": "3",
    "OPTIM.WARMUP_EPOCHS": "0",
    "TEST.SPLIT": "test",
    "TRAIN.KEEP": "last",
    "CONTINUAL.TASKS": "3",
}
OTHER = {"clip_lora": {"OPTIM.ITERATIONS": "36", "OPTIM.WARMUP_EPOCHS": "0"}, "l2p": STREAM}
"""Settings of single methods in place of those in SMALL."""
VARIANTS = {
    "workers": {"TRAIN.WORKERS": "2", "TRAIN.CHECKPOINT_SECONDS": "0.05", "CACHE_DIR": ""},
    "cached": {"TRAIN.CACHE": "all", "TRAIN.CHECKPOINT_SECONDS": "0", "CACHE_DIR": "cache"},
    "plain": {"TRAIN.CHECKPOINT_SECONDS": "0.05", "CACHE_DIR": ""},
}
"""Variants of a run, taken in turn: processes that read, features from files, checkpoints within an epoch."""
KILLS = 6
"""Most kills that one run takes before it may end."""
OWN = {"seconds", "seconds_per_task", "preparation_seconds", "peak_memory_bytes", "train_features", "test_features"}
"""Keys of result.json that differ between equal runs: times, memory, and whether features came from a file."""
COLUMNS = ("method", "kills", "runs", "before training", "in training", "writing a file", "after training", "different")


def add_options(parser):
    parser.add_argument("--times", type=positive, default=10, help="kills of the runs of each method")
    parser.add_argument("--method", nargs="+", choices=tuple(METHODS), default=["coop"], help="methods of the runs")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments at which runs are killed")


class Attempts:
    """Starts `tools/train.py` again and again, from one process that has imported it; use it in a `with` statement."""

    def __enter__(self):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.server = subprocess.Popen([sys.executable, __file__], **pipes)
        self.count = 0
        return self

    def __exit__(self, *error):
        self.server.communicate()

    def start(self, folder, words):
        """Start a process in `folder`; return its number, and a function that waits for its exit status."""
        self.count += 1
        command = [str(ROOT / "tools/train.py"), *words]
        if self.count % 10 == 0:
            with (folder / "said.txt").open("a") as said:
                child = subprocess.Popen([sys.executable, *command], cwd=folder, stdout=said, stderr=said)
            return child.pid, child.wait
        print(json.dumps([str(folder), command]), file=self.server.stdin, flush=True)
        return int(self.server.stdout.readline()), self._wait

    def _wait(self):
        print(file=self.server.stdin, flush=True)
        return int(self.server.stdout.readline())


def serve():
    """Start a child for a line of input and say its number; wait for it at the next line, and say its exit status."""
    sys.path.insert(0, str(ROOT / "tools"))
    import tensorboard.compat.proto.event_pb2  # noqa: F401 - imported ahead, as is all that follows
    import torch
    import train

    import promptvision.experiment.run
    import promptvision.report.tables.terminal  # noqa: F401
    from promptvision.cli import one_sentence
    from promptvision.config.families import FAMILIES

    for name in METHODS:
        family = next(family for family in FAMILIES.values() if name in family.METHODS)
        family.METHODS[name]
    torch.set_num_threads(1)
    for line in sys.stdin:
        folder, sys.argv = json.loads(line)
        child = os.fork()
        if child == 0:
            os.chdir(folder)
            said = os.open("said.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(said, 1), os.dup2(said, 2), os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            with one_sentence():
                train.main()
            return
        os.write(1, f"{child}\n".encode())
        sys.stdin.readline()
        os.write(1, f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n".encode())


def words_of(method, variant):
    """Return the command line of a run."""
    settings = {**SMALL, **OTHER.get(method, {}), **VARIANTS[variant]}
    words = [word for setting in settings.items() for word in setting]
    return ["--config", str(ROOT / "configs" / METHODS[method]), "--resume", "auto", *words]


def left_alone(attempts, folder, words):
    """Return the seconds of a run that nobody disturbs."""
    folder.mkdir(parents=True)
    began = time.monotonic()
    finish(*attempts.start(folder, words), folder)
    return time.monotonic() - began


def finish(number, wait, folder):
    status = wait()
    if status:
        raise SystemExit(f"a run ended with {status}: {(folder / 'said.txt').read_text()[-2000:]}")


def disturbed(attempts, folder, words, kills, seconds, chance):
    """Kill the run up to `kills` times, then let it finish; return where each kill hit."""
    folder.mkdir(parents=True)
    hits = []
    while len(hits) < kills:
        before = half_written(folder / "run")
        due = moment(folder / "run", before, seconds, chance)
        number, wait = attempts.start(folder, words)
        while not due() and alive(number):
            time.sleep(0.0005)
        hit = phase(folder / "run", before)
        os.kill(number, signal.SIGKILL)
        status = wait()
        if status != -signal.SIGKILL:
            finish(number, lambda status=status: status, folder)
            return hits
        hits.append(hit)
    finish(*attempts.start(folder, words), folder)
    return hits


def alive(number):
    """Return whether a process still runs; a finished one is a zombie until it is waited for."""
    return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def moment(run, before, seconds, chance):
    """Return a function that tells when to kill."""
    kind, until = chance.random(), time.monotonic() + chance.random() * seconds
    if kind < 0.25:
        return lambda: time.monotonic() > until
    if kind < 0.5:
        return lambda: bool(half_written(run) - before)
    rows, more = count(run), chance.randint(1, 4)
    pause = chance.random() * 0.1

    def after_row():
        if not rows < count(run) >= rows + more:
            return False
        time.sleep(pause)
        return True

    return after_row


def count(run):
    """Return the rows in metrics.jsonl, of all tasks together."""
    return sum(path.read_bytes().count(b"\n") for path in run.rglob("metrics.jsonl"))


def half_written(run):
    """Return the files that are to replace others when they are whole."""
    return {path for path in run.rglob(".*") if path.name != ".lock"}


def phase(run, before):
    """Return the phase of a run, from its files and those that existed `before` this attempt."""
    if half_written(run) - before:
        return "writing a file"
    if (run / "learned.safetensors").exists():
        return "after training"
    return "in training" if count(run) else "before training"


def outcome(run):
    """Return all that a run has computed: the contents of its files by their place, those of its tasks included."""
    found = {path: path.read_bytes() for path in run.rglob("*.safetensors")}
    for path in (*run.rglob("metrics.jsonl"), *run.rglob("result.json")):
        rows = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
        found[path] = [{key: value for key, value in json.loads(row).items() if key not in OWN} for row in rows]
    return {path.relative_to(run).as_posix(): content for path, content in found.items()}


def kill_test(attempts, method, times, seed=0, variants=tuple(VARIANTS), more=()):
    """Return where the kills hit, the number of runs, and the differences: "1 (plain): learned", ..."""
    chance, order, alone = random.Random(f"{seed}/{method}"), cycle(variants), {}
    hits, different, runs = [], [], 0
    with tempfile.TemporaryDirectory() as scratch:
        while len(hits) < times:
            variant, runs = next(order), runs + 1
            words = [*words_of(method, variant), *more]
            if variant not in alone:
                seconds = left_alone(attempts, Path(scratch, variant), words)
                alone[variant] = seconds, outcome(Path(scratch, variant, "run"))
            seconds, expected = alone[variant]
            here = Path(scratch, f"{runs}")
            hits += disturbed(attempts, here, words, min(KILLS, times - len(hits)), seconds, chance)
            found = outcome(here / "run")
            different += [f"{runs} ({variant}): {name}" for name in expected if found.get(name) != expected[name]]
            print(f"{method}: {len(hits)} kills, {runs} runs, different: {different or 'nothing'}", file=sys.stderr)
    return hits, runs, different


def rows(args):
    """Yield one row per method."""
    with Attempts() as attempts:
        for method in args.method:
            hits, runs, different = kill_test(attempts, method, args.times, args.seed)
            places = [f"{hits.count(name)}" for name in COLUMNS[3:7]]
            yield method, f"{len(hits)}", f"{runs}", *places, "; ".join(different) or "nothing"


if __name__ == "__main__":
    serve()
