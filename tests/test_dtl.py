"""DTL and DTL+ against the numbers of their official code, and which blocks their gradients pass."""

import pytest
import torch
from official_vit import CLASSES, TOWERS

import vpt
from promptvision.backbones import load_vit
from promptvision.errors import InputError


def options_of(facts):
    """Our options of a golden case."""
    return {
        "rank": facts["rank"],
        "beta": facts["beta"],
        "kernel": facts["kernel"],
        "first": facts["added_after_blocks"][0],
    }


def test_every_case_of_the_official_code(vit, golden_cases, check_official):
    for facts, expected in golden_cases("vpt/dtl").values():
        check_official(vpt.build("dtl", vit, CLASSES, **options_of(facts)), facts, expected)


@pytest.mark.parametrize("change", [dict(beta=1.0), dict(first=1), dict(first=3)])
def test_every_choice_changes_the_numbers(vit, inputs, golden_cases, change):
    (facts, expected) = next(case for case in golden_cases("vpt/dtl").values() if case[0]["kernel"] == 3)
    method = vpt.build("dtl", vit, CLASSES, **options_of(facts) | change)
    method.load_learned_state({name: expected[name] for name in facts["trainable"]})
    assert (method(inputs["images"]) - expected["logits"]).abs().max() > 1e-3


@pytest.mark.parametrize("kernel", [0, 3, 4])
@pytest.mark.parametrize("kind", TOWERS)
def test_the_formula_on_other_towers(kind, kernel):
    """Written out block by block, with every window of the convolution."""
    tower = TOWERS[kind]()
    method = vpt.build("dtl", tower, CLASSES, kernel=kernel, rank=3).double()
    for change in method.lora_dict.values():
        change.lora_B.data.normal_()
    images, prefix, side = torch.randn(2, 3, 32, 32).double(), tower.prefix, 0.0

    def moved(side):
        gated = side / (1 + torch.exp(-100 * side))
        if not kernel:
            return gated
        size = int((gated.shape[1] - prefix) ** 0.5)
        grid = gated[:, prefix:].unflatten(1, (size, size))
        left, right = (kernel - 1) // 2, kernel // 2
        wide = torch.nn.functional.pad(grid, (0, 0, left, right, left, right))
        weight = method.lora_fusion.weight[:, 0]
        found = sum(weight[:, i, j] * wide[:, i : i + size, j : j + size] for i in range(kernel) for j in range(kernel))
        return torch.cat([gated[:, :prefix], found.flatten(1, 2)], dim=1)

    tokens = tower.enter(tower.embed(images))
    for index, block in enumerate(tower.blocks):
        own = method.lora_dict[str(index)]
        side = side + tokens @ own.lora_A.T @ own.lora_B.T
        tokens = block(tokens)
        tokens = tokens + moved(side) if index >= tower.depth // 2 else tokens
    wanted = tower.project(tower.normalize(tokens[:, prefix:].mean(dim=1)))
    torch.testing.assert_close(method.features(images), wanted, atol=1e-10, rtol=0)


def test_at_the_start_nothing_is_added_and_all_but_a_can_learn(vit, inputs):
    method = vpt.build("dtl", vit, CLASSES, kernel=3)
    feature = vit.normalize(vit.run(vit.embed(inputs["images"]))[:, 1:].mean(dim=1))
    torch.testing.assert_close(method.features(inputs["images"]), feature)
    method.loss(inputs["images"], inputs["labels"]).backward()
    assert all(change.lora_B.grad.any() for change in method.lora_dict.values())


def test_official_names_of_the_head_load(vit):
    method = vpt.build("dtl", vit, CLASSES)
    state = {name.replace("head.last_layer.", "head."): tensor + 1 for name, tensor in method.learned_state().items()}
    method.load_learned_state(state)
    assert torch.equal(method.head.last_layer.weight, state["head.weight"])


class Backwards:
    """The blocks whose outputs get a gradient within a `with`."""

    def __init__(self, tower):
        self.found = set()
        for index, block in enumerate(tower.blocks):
            block.register_forward_hook(lambda *call, index=index: self.watch(index, call[-1]))

    def watch(self, index, output):
        if output.requires_grad:
            output.register_hook(lambda _: self.found.add(index))


@pytest.mark.parametrize("kernel", [0, 3])
def test_nothing_is_propagated_through_the_blocks_before_the_first_addition(kernel):
    tower = TOWERS["class token"]()
    seen = Backwards(tower)
    method = vpt.build("dtl", tower, CLASSES, first=1, kernel=kernel)
    method.loss(torch.randn(2, 3, 32, 32), torch.tensor([0, 1])).backward()
    assert seen.found == {2}
    assert method.lora_dict["0"].lora_B.grad.any()


@pytest.mark.parametrize(("kernel", "extra"), [(0, 0), (5, 25 * 768)])
def test_learned_parameters_on_vit_b16(kernel, extra):
    """2 L r D, and k^2 D of the convolution."""
    with torch.device("meta"):
        method = vpt.build("dtl", load_vit("vit_base_patch16_224", "none"), CLASSES, kernel=kernel)
    assert method.learned_parameters() - 769 * 7 == 36_864 + extra


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (dict(first=4), "first is 4; backbone 'backbone' has blocks 0 to 3"),
        (dict(rank=0), "rank is 0, kernel 0; take 1 or more, and 0 or more"),
    ],
)
def test_bad_options(vit, options, told):
    with pytest.raises(InputError, match=told):
        vpt.build("dtl", vit, CLASSES, **options)


def test_a_network_without_tokens_is_refused_by_name():
    with pytest.raises(InputError, match="'resnet18' has no tokens"):
        vpt.build("dtl", load_vit("resnet18", pretrained="none"), CLASSES)
