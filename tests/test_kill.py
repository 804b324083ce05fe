"""Runs that are killed and resumed end as if nothing had happened; `tools/bench.py kill` runs this for longer."""

import json
import runpy
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "tools/bench"
sys.path.append(str(BENCH))
KILL = runpy.run_path(str(BENCH / "bench_kill.py"))
sys.path.remove(str(BENCH))


@pytest.fixture(scope="module")
def attempts():
    with KILL["Attempts"]() as started:
        yield started


@pytest.mark.fault("files")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "variant"),
    [
        ("coop", "cached"),
        ("cocoop", "plain"),
        ("prompt", "workers"),
        ("maple", "workers"),
        ("clip_lora", "plain"),
        ("tip_adapter_f", "cached"),
        ("l2p", "plain"),
    ],
)
def test_killed_twice_and_the_same_in_the_end(method, variant, attempts):
    hits, runs, different = KILL["kill_test"](attempts, method, 2, seed=1, variants=[variant])
    assert len(hits) == 2 and runs >= 1 and different == []


def test_a_difference_is_seen(tmp_path):
    """The comparison itself: one changed value in any of the files counts."""
    row, result = {"step": 0, "loss": 1.0, "seconds": 2.0}, {"accuracy": 50.0, "seconds": 1.0}
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text(json.dumps(row | {"seconds": len(name)}) + "\n")
        (tmp_path / name / "result.json").write_text(json.dumps(result | {"seconds": 7.0 if name == "a" else 8.0}))
        for file in ("learned.safetensors", "best.safetensors"):
            (tmp_path / name / file).write_bytes(b"1")
    outcome = KILL["outcome"]
    assert outcome(tmp_path / "a") == outcome(tmp_path / "b")
    for file, content in (
        ("metrics.jsonl", json.dumps(row | {"loss": 1.0000001}) + "\n"),
        ("result.json", json.dumps(result | {"accuracy": 50.1})),
        ("learned.safetensors", "2"),
        ("best.safetensors", "2"),
    ):
        before = (tmp_path / "b" / file).read_text()
        (tmp_path / "b" / file).write_text(content)
        assert outcome(tmp_path / "a") != outcome(tmp_path / "b"), file
        (tmp_path / "b" / file).write_text(before)
