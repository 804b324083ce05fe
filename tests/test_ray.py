"""A sweep on a Ray cluster of several nodes, one of which dies while it works: nothing is lost, nothing differs."""

import json
import logging
from pathlib import Path

import pytest
import torch
import yaml
from ray.cluster_utils import Cluster
from safetensors.torch import load_file

import coop
import vpt
from promptvision.errors import InputError
from promptvision.sweep.benchmark import load_cells
from promptvision.sweep.jobs import do, done, plan
from promptvision.sweep.ray_cluster import do_on_cluster

ROOT = Path(__file__).parents[1]
FAMILIES = {"vpt": vpt, "coop": coop}


@pytest.fixture
def jobs(tmp_path):
    def make(output):
        row = {"CONFIG": str(ROOT / "configs/coop/embedded.yaml"), "METHOD.OPTIONS.N_CTX": 4}
        broken = {**row, "DATASET.NAME": "dtd", "DATASET.ROOT": str(tmp_path / "nothing")}
        path = tmp_path / "b.yaml"
        path.write_text(yaml.safe_dump({"RUNS": {"CoOp": row, "broken": broken}, "SEEDS": [1, 2, 3]}))
        words = ["DATASET.SHOTS", 2, "OPTIM.EPOCHS", 10, "CACHE_DIR", ""]
        found = plan(load_cells(path), tmp_path / output, words, FAMILIES)
        return [job for job in found if job.name == "CoOp" or job.cfg.SEED == 1]

    return make


@pytest.fixture
def cluster():
    """A head that takes no work, and two nodes of one core each."""
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    yield nodes
    nodes.shutdown()
    logging.getLogger("promptvision").handlers[:] = []


@pytest.mark.slow
def test_a_node_that_is_killed_loses_nothing(jobs, cluster):
    planned = jobs("cluster")
    doomed = cluster.add_node(num_cpus=1)
    events = []
    for event in do_on_cluster(planned, FAMILIES, cluster.address):
        events.append(event)
        finished = [each for each in events if each.outcome and not each.outcome.failures]
        if len(finished) == 1 and doomed:
            cluster.add_node(num_cpus=1)
            cluster.remove_node(doomed, allow_graceful=False)
            doomed = None
    assert doomed is None
    failures = [each for each in events if each.outcome and each.outcome.failures]
    assert [each.again for each in failures] == [True, False] and "broken, seed 1" in failures[0].outcome.failures[0]
    learned = [job for job in planned if job.name == "CoOp"]
    assert [done(job).results[0]["seed"] for job in learned] == [1, 2, 3]
    here = [job for job in jobs("here") if job.name == "CoOp"]
    for job, twin in zip(learned[1:], here[1:], strict=True):  # one of these was at work on the node that died
        assert not do(twin, FAMILIES).failures
        one, other = (load_file(Path(each.cfg.OUTPUT_DIR) / "learned.safetensors") for each in (job, twin))
        assert all(torch.equal(one[name], other[name]) for name in one)
        steps = [json.loads(line)["step"] for line in (Path(job.cfg.OUTPUT_DIR) / "metrics.jsonl").open()]
        assert steps == list(range(10))


def test_no_cluster_is_one_sentence(jobs):
    with pytest.raises(InputError, match="--ray 127.0.0.1:1: no Ray cluster answers there"):
        next(do_on_cluster(jobs("out"), FAMILIES, "127.0.0.1:1"))
