"""Examples that need a checkpoint or a cluster, with a stand-in for it; test_readme_commands runs the others."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import coop
from promptvision.backbones import load_clip

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def shell(tmp_path):
    """`shell(script, *words, srun="exec", ...)` runs a script where commands of these names are one line of bash.

    It gives the exit status and all output. `record` is a line that writes a call to the file calls.txt.
    """

    def call(script, *words, env=(), **commands):
        places = tmp_path / "bin"
        places.mkdir(exist_ok=True)
        for name, line in commands.items():
            (places / name).write_text(f"#!/bin/bash\n{line}\n")
            (places / name).chmod(0o755)
        path = f"{places}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", EXAMPLES / script, *map(str, words)],
            env={**os.environ, "PATH": path, **dict(env)}, cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    return call


RECORD = 'echo "$(basename $0)" "$@" >> calls.txt'
JOB = {
    "SLURM_ARRAY_TASK_ID": "2",
    "SLURM_ARRAY_JOB_ID": "7",
    "SLURM_CPUS_PER_TASK": "0",
    "CONFIG": "coop/embedded.yaml",
}


@pytest.mark.slow
def test_a_job_of_an_array_trains_its_seed(shell, tmp_path):
    command = f'shift; exec {sys.executable} -m promptvision "$@"'
    words = ["DATASET.SHOTS", 1, "OPTIM.EPOCHS", 1]
    status, said = shell("slurm.sh", *words, env=JOB, srun=command, scontrol=RECORD)
    assert status == 0 and (tmp_path / "out/slurm/seed2/result.json").exists(), said
    assert not (tmp_path / "calls.txt").exists(), "a finished job is not queued again"


@pytest.mark.parametrize(("ended", "queued"), [(143, True), (2, False)])
def test_a_job_that_was_stopped_is_queued_again(shell, tmp_path, ended, queued):
    status, _ = shell("slurm.sh", env=JOB, srun=f"exit {ended}", scontrol=RECORD)
    assert status == ended and (tmp_path / "calls.txt").exists() == queued
    assert not queued or (tmp_path / "calls.txt").read_text() == "scontrol requeue 7_2\n"


def test_a_cluster_is_started_used_and_stopped(shell, tmp_path):
    words = ["examples/benchmark.yaml", "out/table", "worker1", "worker2"]
    status, said = shell("ray_cluster.sh", *words, ray=RECORD, ssh=RECORD, promptvision=RECORD)
    calls = (tmp_path / "calls.txt").read_text().splitlines()
    assert status == 0, said
    assert [call.split()[:3] for call in calls] == [
        ["ray", "start", "--head"],
        ["ssh", "worker1", "ray"],
        ["ssh", "worker2", "ray"],
        ["promptvision", "sweep", "--config"],
        ["ray", "stop"],
    ]
    assert calls[3].endswith("--config examples/benchmark.yaml --output out/table --ray auto --gpus 0")


@pytest.mark.parametrize("csc", [False, True])
def test_an_official_checkpoint_classifies_an_image(tool, tmp_path, csc):
    """The words on the command line are those of the example, the file as the official code writes it."""
    assert tool("../examples/draw_images", tmp_path / "shapes")[0] == 0
    clip, classes = load_clip("embedded"), ["disc", "square"]
    model = coop.build("coop", clip, classes, n_ctx=4, csc=csc)
    torch.save({"state_dict": {"ctx": model.ctx.detach().half()}, "epoch": 50}, tmp_path / "model.pth.tar-50")
    words = [tmp_path / "model.pth.tar-50", tmp_path / "shapes/images/disc_00.png", "--backbone", "embedded"]
    status, out, err = tool("../examples/official_checkpoint", *words, "--classes", *classes)
    assert status == 0 and out.startswith(f"{words[1]}: ") and out.count("%") == 1, err
