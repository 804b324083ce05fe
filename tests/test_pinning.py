"""A pinned method gives the numbers of an unpinned one, and looks views and constants up once."""

import copy
import logging
import pickle

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import coop
import vpt
from promptvision.backbones import blocks, fast_text_cache, load_clip, load_vit, pinning
from promptvision.engine.run_folder import RunFolder
from promptvision.engine.train import fit

NAMES = ["cat", "golden retriever", "DC-9-30"]
PINNED = {
    "coop": dict(n_ctx=4), "coop, front": dict(n_ctx=4, class_token_position="front"), "cocoop": {},
    "maple": dict(depth=2), "at_prompt": dict(host="maple", depth=2),
    "clip_lora": dict(dropout=0.0), "prompt_src": dict(depth_text=2, depth_vision=2),
}  # fmt: skip


def build(row="coop"):
    torch.manual_seed(0)
    return coop.build(row.partition(",")[0], load_clip("embedded"), NAMES, **PINNED[row]).train()


@pytest.fixture
def step():
    """`step(method)` gives its loss and gradient for a fixed batch."""
    images, labels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1])

    def run(method):
        learned = list(method.trained().values())
        loss = method.loss(images.to(next(method.parameters()).dtype), labels)
        return [loss, *torch.autograd.grad(loss, learned)]

    return run


def same(ours, theirs):
    return all(map(torch.equal, ours, theirs))


@pytest.fixture
def looked_up(monkeypatch):
    """Counts how often a block is taken apart, and constants are computed."""
    counts = {"views": 0, "constants": 0}
    of, view = fast_text_cache.Constants.of.__func__, blocks.view_block

    def counted_of(*args):
        counts["constants"] += 1
        return of(*args)

    def counted_view(block):
        counts["views"] += 1
        return view(block)

    monkeypatch.setattr(fast_text_cache.Constants, "of", classmethod(counted_of))
    monkeypatch.setattr(pinning, "view_block", counted_view)
    return counts


@pytest.mark.parametrize("row", PINNED)
def test_steps_of_a_pinned_method_are_equal_and_look_up_no_view(row, step, looked_up):
    method = build(row)
    expected = step(method)
    assert method.pin() is False
    looked_up["views"] = 0
    assert same(step(method), expected) and same(step(method), expected)
    assert method.pin() is False and same(step(method), expected)
    depth = sum(len(tower.blocks) for tower in (method.backbone.text, method.backbone.image))
    assert looked_up["views"] == depth  # those of the second pin
    method.pin(False)
    assert same(step(method), expected) and looked_up["views"] > depth


@pytest.mark.parametrize(
    "name, options",
    {"prompt": dict(deep=True), "vfpt": {}, "e2vpt": {}, "vqt": {}, "dual_prompt": {}, "lora": {}}.items(),
)
def test_image_towers_are_pinned_too(name, options, looked_up):
    torch.manual_seed(0)
    method = vpt.build(name, load_vit("embedded"), NAMES, **options).eval()
    images = torch.randn(2, 3, 32, 32)
    expected = method(images)
    method.pin()
    looked_up["views"] = 0
    assert torch.equal(method(images), expected) and not looked_up["views"]


class Operations(TorchDispatchMode):
    """The names of the operations inside a `with`."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("row", ["coop", "coop, front", "at_prompt", "clip_lora"])
def test_a_step_computes_no_masks_and_no_indices(row, step):
    method = build(row)
    method.pin()
    step(method)
    with Operations() as done:
        method.text_features()
    redone = {"ones", "tril", "arange", "clamp", "ge", "lt", "masked_fill_", "scalar_tensor"} & {*done.names}
    assert "addmm" in done.names and not redone  # a mask of booleans is converted with a scalar_tensor


@pytest.mark.slow
@pytest.mark.parametrize("row", sorted(PINNED.keys() - {"cocoop"}))
def test_the_loss_of_a_pinned_method_is_one_graph(row):
    torch._dynamo.reset()
    method, images, labels = build(row), torch.randn(2, 3, 32, 32), torch.tensor([0, 1])
    method.pin()
    expected = method.loss(images, labels)
    whole = torch.compile(method.loss, backend="eager", fullgraph=True)  # raises at a break
    torch.testing.assert_close(whole(images, labels), expected)


def test_precision_training_mode_and_hooks_are_noticed_while_pinned(step, looked_up):
    method = build()
    expected = step(method)
    method.pin()
    with torch.autocast("cpu", torch.bfloat16):
        rough, other = step(build()), step(method)
    assert same(rough, other) and not same(rough, expected) and same(step(method), expected)
    for change in (method.double, method.float):
        change()
        assert same(step(method), step(build().to(method.ctx.dtype)))
    before = looked_up["constants"]
    with torch.no_grad():
        assert torch.equal(method.eval()(torch.ones(1, 3, 32, 32)), build().eval()(torch.ones(1, 3, 32, 32)))
    assert same(step(method.train()), expected) and looked_up["constants"] == before + 1
    handle = method.backbone.text.blocks[0].register_forward_hook(lambda module, args, output: output * 2)
    assert not same(step(method), expected)
    handle.remove()
    assert same(step(method), expected)


@pytest.mark.parametrize("counted", [True, False])
def test_weights_that_change_while_pinned_are_noticed_at_the_next_pin(counted, step, caplog):
    method = build("coop, front")
    method.pin()
    before = step(method)
    weight = method.backbone.text.blocks[0].attn.in_proj_weight
    (weight if counted else weight.data).mul_(2)
    with caplog.at_level(logging.WARNING):
        assert method.pin() is True
    assert "changed while pinned" in caplog.text
    found = step(method)
    method.pin(False)
    assert same(found, step(method)) and not same(found, before)


def test_blocks_exchanged_while_pinned_are_noticed_at_the_next_pin(step):
    method = build("maple")
    method.pin()
    text = method.backbone.text
    text.blocks[0] = copy.deepcopy(text.blocks[0])
    assert method.pin() is True and method.pin() is False


def test_parts_exchanged_while_pinned_are_noticed_at_the_next_pin(step):
    method = build("coop, front")
    method.pin()
    before = step(method)
    block = method.backbone.text.blocks[0]
    block.mlp.gelu = torch.nn.GELU("tanh")
    assert method.pin() is True
    found = step(method)
    method.pin(False)
    assert same(found, step(method)) and not same(found, before)


def test_training_pins_before_every_epoch_and_unpins_at_its_end(tmp_path, looked_up):
    method, seen = build(), []
    batches = [(torch.randn(2, 3, 32, 32), torch.tensor([0, 1]))] * 3
    loader = type("Loader", (), {"__len__": lambda self: 3, "epoch": lambda self, epoch, start=0: iter(batches)})()

    def validate(epoch):
        seen.append((method.backbone.text.pinned, looked_up["views"]))
        return {}

    optimizer = torch.optim.SGD([method.ctx], 0.1)
    with RunFolder(tmp_path / "run") as folder:
        options = dict(seed=0, device=torch.device("cpu"), validate=validate, validate_every=1, progress=False)
        fit(method, loader, optimizer, [0.1, 0.1], folder, **options)
    depth = sum(len(tower.blocks) for tower in (method.backbone.text, method.backbone.image))
    assert seen[0][0] is seen[1][0] is not None and [views for _, views in seen] == [depth, 2 * depth]
    assert method.backbone.text.pinned is method.backbone.image.pinned is None and looked_up["constants"] == 1


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda method: pickle.loads(pickle.dumps(method))])
def test_the_copy_of_a_pinned_method_is_not_pinned(copied, step):
    method = build()
    method.pin()
    expected = step(method)
    other = copied(method)
    assert other.backbone.text.pinned is None and same(step(other), expected)
    other.backbone.text.blocks[0].attn.in_proj_weight.mul_(2)
    assert not same(step(other), expected) and same(step(method), expected)
