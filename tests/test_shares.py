"""Two processes that train together each encode their share of the classes: losses and gradients are those of one."""

import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing

import coop
from promptvision.backbones import load_clip
from promptvision.backbones.classes import shares
from promptvision.backbones.classes.shares import Gathered, shared
from promptvision.backbones.compute import Compute
from promptvision.engine.distributed import sum_gradients, total

NAMES = [f"{colour} {thing}" for colour in ("big red", "small blue", "green", "grey") for thing in (
    "cat", "dog", "car", "tree", "boat", "house", "lamp", "chair", "shoe", "book", "bird", "fish", "golden retriever",
)]  # fmt: skip
SHARED = {
    "coop": dict(n_ctx=4), "coop, class-specific": dict(n_ctx=4, csc=True),
    "coop, front": dict(n_ctx=4, class_token_position="front"), "coop, plain": dict(n_ctx=4),
    "coop, chunks": dict(n_ctx=4), "maple": dict(depth=2), "kg_coop": {}, "tcp": {},
}  # fmt: skip
APART = {"cocoop": {}}
COMPUTE = {"coop, plain": Compute("plain", 20), "coop, chunks": Compute("fast", 20)}
IMAGES = 5


def built(row):
    torch.manual_seed(0)
    method = coop.build(row.partition(",")[0], load_clip("embedded"), NAMES, **(SHARED | APART)[row]).train()
    method.backbone.compute = COMPUTE.get(row, Compute())
    return method


def gradients(method, images, labels):
    """Return the loss and the gradients of a step that the processes share."""
    learned, device = list(method.trained().values()), torch.device("cpu")
    count = total(len(labels), device)
    loss = method.loss(images, labels) * (len(labels) / count)
    loss.backward()
    sum_gradients(learned)
    return [torch.tensor(total(loss.item(), device)), *(each.grad for each in learned)]


def work(rank, file, answers):
    """Do the work of one process; the first also evaluates alone."""
    shares.LEAST = 1  # so that few classes are worth it
    torch.set_num_threads(1)
    torch.manual_seed(1)
    images, labels = torch.randn(IMAGES, 3, 32, 32), torch.arange(IMAGES) * 10
    expected = {row: gradients(built(row), images, labels) for row in SHARED | APART}
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    calls, forward = [], Gathered.forward
    Gathered.forward = staticmethod(lambda *args: calls.append(args) or forward(*args))
    own = slice(0, 2) if rank == 0 else slice(2, IMAGES)
    for row, wanted in expected.items():
        method, before = built(row), len(calls)
        found = gradients(method, images[own], labels[own])
        worst = max(
            (ours - theirs).abs().max() / theirs.abs().max() for ours, theirs in zip(found, wanted, strict=True)
        )
        if rank == 0:
            with torch.no_grad():
                method.eval().predictor()(images)
                shared(method.text_features if row in SHARED else lambda: torch.zeros(1))
        answers.put((rank, row, worst.item(), len(calls) - before))
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """{(rank, row): (largest relative difference, gathered features)}."""
    queue = multiprocessing.get_context("spawn").Queue()
    file = tmp_path_factory.mktemp("shares") / "store"
    workers = multiprocessing.spawn(work, (file, queue), nprocs=2, join=False)
    found = [queue.get(timeout=120) for _ in range(2 * len(SHARED | APART))]
    workers.join()
    return {(rank, row): rest for rank, row, *rest in found}


@pytest.mark.slow
@pytest.mark.parametrize("row", SHARED | APART)
def test_two_processes_learn_what_one_does(answers, row):
    for rank in (0, 1):
        worst, gathered = answers[rank, row]
        assert worst < 1e-5 and gathered == (1 if row in SHARED else 0)


def test_one_process_shares_nothing():
    features = torch.zeros(2, 3)
    assert shared(lambda: features) is features
