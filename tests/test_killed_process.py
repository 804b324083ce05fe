"""A training process that is killed and stopped, again and again, ends as one that was left alone."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from training import Batches, same, train, wait_for_rows

from promptvision.engine.checkpoint import load_checkpoint, save_learned

KILL, TERM, INT = signal.SIGKILL, signal.SIGTERM, signal.SIGINT


@pytest.mark.fault("files")
@pytest.mark.slow
def test_a_process_that_is_killed_and_stopped_again_and_again_ends_the_same(tmp_path):
    metrics, program = tmp_path / "parts" / "metrics.jsonl", [sys.executable, __file__, str(tmp_path / "parts")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(program, **pipes) as runner:
        for count, number, code in ((2, KILL, -9), (5, KILL, -9), (6, KILL, -9), (9, TERM, 143), (12, INT, 130)):
            print(file=runner.stdin, flush=True)
            child = int(runner.stdout.readline())
            wait_for_rows(metrics, count)
            os.kill(child, number)
            assert int(runner.stdout.readline()) == code
        codes, said = runner.communicate("\n")
    assert codes.split()[1] == "0"
    assert [line.partition(" in epoch")[0] for line in said.splitlines()] == ["Stopped", "Stopped"]
    method, rows, _ = train(tmp_path / "whole")
    save_learned(tmp_path / "whole.safetensors", method.learned_state(), {"classes": ["a", "b"]})
    assert (tmp_path / "parts.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    parts = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [{name: value for name, value in row.items() if name != "seconds"} for row in parts] == rows


class Validation:
    """Slow batches, each of which leaves a file in `folder` when it is at hand."""

    def __init__(self, folder):
        self.folder = folder

    def __iter__(self):
        for number, batch in enumerate(Batches().epoch(99)):
            (self.folder / f"batch{number}").touch()
            time.sleep(2.0)
            yield batch


@pytest.mark.fault("files")
@pytest.mark.parametrize(("number", "status"), [(TERM, 143), (INT, 130)])
def test_a_signal_to_a_process_that_validates_does_not_wait_for_the_rest(tmp_path, number, status):
    program = [sys.executable, __file__, str(tmp_path / "parts"), "validates"]
    with subprocess.Popen(program, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + 60
        while not (tmp_path / "batch0").exists():
            assert time.monotonic() < until and process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        said = process.communicate()[1]
    assert process.returncode == status and not (tmp_path / "batch2").exists(), said
    assert said == "Stopped in epoch 1 after batch 3; resume with --resume auto\n"
    assert load_checkpoint(tmp_path / "parts/last.ckpt")["position"][:2] == (1, 3)
    assert '"val"' not in (tmp_path / "parts/metrics.jsonl").read_text()
    same(train(tmp_path / "parts", resume=True), train(tmp_path / "whole"))


def show_warnings():
    console = logging.StreamHandler()
    console.setLevel(logging.WARNING)
    logging.getLogger("promptvision").addHandler(console)


def run_slowly(out):
    show_warnings()
    method, _, _ = train(out, resume=True, loader=Batches(lambda epoch, batch: time.sleep(0.05)))
    save_learned(out.with_suffix(".safetensors"), method.learned_state(), {"classes": ["a", "b"]})


if __name__ == "__main__":  # for each line of input: a run in a process of its own, its number, its exit status
    import torch.utils.tensorboard

    torch.set_num_threads(1)
    if "validates" in sys.argv:
        show_warnings()
        train(Path(sys.argv[1]), val=Validation(Path(sys.argv[1]).parent))
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            run_slowly(Path(sys.argv[1]))
            break
        os.write(1, f"{child}\n".encode())
        os.write(1, f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n".encode())
