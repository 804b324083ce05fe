"""Commands that compute nothing import no heavy library: the tests look at sys.modules, not at the clock."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "torchvision", "timm", "open_clip", "sklearn", "torchmetrics", "scipy", "pandas", "matplotlib"}
HEAVY |= {"transformers", "optuna", "ray"}
COOP = str(ROOT / "configs/coop/embedded.yaml")
DEVELOPERS = ("bench", "docs", "pretrain")
CODE = """
import runpy, sys
tool, *sys.argv[1:] = sys.argv[1:]
sys.argv[0] = tool
try:
    runpy.run_path(tool, run_name="__main__")
finally:
    print("modules:", *sys.modules)
"""


def call(tool, *words, cwd=ROOT):
    """Return exit status, output, and the heavy libraries that a tool imported."""
    command = [sys.executable, "-c", CODE, str(ROOT / "tools" / f"{tool}.py"), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)
    said, _, modules = done.stdout.rpartition("modules:")
    return done.returncode, said + done.stderr, HEAVY & set(modules.split())


@pytest.mark.parametrize("tool", [path.stem for path in (ROOT / "tools").glob("*.py") if path.stem not in DEVELOPERS])
def test_help(tool):
    status, said, heavy = call(tool, "--help")
    assert (status, heavy) == (0, set()) and said.startswith("usage: ")


@pytest.mark.parametrize("words", [["methods"], ["help", "keys"], ["help", "OPTIM.LR"]])
def test_keys_and_methods(words):
    status, said, heavy = call(*words)
    assert (status, heavy) == (0, set()) and said


def test_what_a_sweep_would_run(tmp_path):
    words = ["--config", "benchmarks/embedded.yaml", "--output", tmp_path, "--only", "few_shot: CoOp", "--dry-run"]
    status, said, heavy = call("sweep", *words, cwd=tmp_path)
    assert (status, heavy) == (0, set()) and "runs and tests in all" in said


def test_the_list_of_datasets():
    status, said, heavy = call("data", "list")
    assert (status, heavy) == (0, set()) and "world_backgrounds" in said


def test_a_report_in_the_terminal(tmp_path, write_run_in):
    for seed in (1, 2):
        write_run_in(tmp_path, f"dtd/seed{seed}", seed=seed)
    status, said, heavy = call("report", tmp_path)
    assert (status, heavy) == (0, set()) and "CoOp" in said


MISTAKES = {
    "key": (["--config", COOP, "OPTIM.LRR", "1"], "did you mean OPTIM.LR?"),
    "value": (["--config", COOP, "OPTIM.LR", "fast"], "OPTIM.LR takes a number"),
    "method": (["--config", COOP, "METHOD.NAME", "cop"], "did you mean 'coop'?"),
    "option": (["--config", COOP, "METHOD.OPTIONS.NCTX", "1"], "did you mean 'N_CTX'?"),
    "config": (["--config", COOP.replace("embedded", "embeded")], "did you mean"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_config(mistake):
    words, sentence = MISTAKES[mistake]
    status, said, heavy = call("train", *words)
    assert (status, heavy) == (2, set()) and sentence in said


def test_interrupted_while_torch_is_imported(tmp_path):
    """A torch of its own, whose import sends Ctrl-C."""
    (tmp_path / "torch.py").write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n")
    words = [ROOT / "tools/train.py", "--config", COOP, "OUTPUT_DIR", tmp_path / "run"]
    ctrl_c = "signal.signal(signal.SIGINT, signal.default_int_handler)"  # which a job in the background ignores
    code = f"import signal, sys; {ctrl_c}; sys.path.insert(0, {str(tmp_path)!r})\n{CODE}"
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
    assert not (tmp_path / "run").exists()
