"""CODA-Prompt against its formulas worked out one by one, and what earlier tasks keep."""

import pytest
import torch
import torch.nn.functional as F

import vpt
from promptvision.backbones import load_clip
from promptvision.backbones.prefix import prefixed_features
from promptvision.engine.optim import build_optimizer
from promptvision.errors import InputError

CLASSES = [f"class {label}" for label in range(6)]


def coda(vit, **options):
    return vpt.build("coda_prompt", vit, CLASSES, **{"size": 7, "length": 4, "ortho": 0.5} | options)


def weighted_by_hand(method, query, layer, count):
    """sum_m cos(q * A_m, K_m) P_m over the first `count` components."""
    total = torch.zeros(4, 64)
    for m in range(count):
        a, k = query * method.attention[layer, m], method.component_key[layer, m]
        total = total + (a @ k / (a.norm() * k.norm())) * method.components[layer, m]
    return total


@pytest.mark.parametrize(("task", "count"), [(0, 2), (1, 4), (2, 7)])
def test_equals_the_formula_image_by_image(task, count, vit, inputs):
    method = coda(vit)
    method.start_task(task, 3)
    for image, query in zip(inputs["images"], inputs["cls_feature"], strict=True):
        prompts = [weighted_by_hand(method, query, layer, count) for layer in range(4)]
        feature = prefixed_features(vit, image[None], [(prompt[:2], prompt[2:]) for prompt in prompts])
        torch.testing.assert_close(method.features(image[None]), feature, atol=2e-5, rtol=0)


def test_numbers_worked_by_hand():
    """q = (1, 0): weights 1 and 0.6 by two keys, so the prompt is P_1 + 0.6 P_2."""
    tower = load_clip("embedded").image
    method = vpt.build("coda_prompt", tower, ["a", "b"], size=2, length=2, layers=(0,))
    wide = torch.zeros(tower.width)
    with torch.no_grad():
        method.attention.fill_(1.0)
        method.component_key.zero_()
        method.component_key[0, 0, 0] = 5.0
        method.component_key[0, 1, :2] = torch.tensor([3.0, 4.0])
        method.components[0, 0].fill_(1.0)
        method.components[0, 1].fill_(10.0)
    wide[0] = 1.0
    torch.testing.assert_close(method.prompts(wide[None]), torch.full((1, 1, 2, tower.width), 7.0))


def test_the_penalty_of_rows_worked_by_hand(vit):
    """[[1, 0], [1, 1]]: B B^T - 1 = [[0, 1], [1, 1]], mean square 3 / 4; the start has none."""
    method = vpt.build("coda_prompt", vit, CLASSES, size=2, length=2, layers=(0,))
    assert method.penalty().item() == pytest.approx(0, abs=1e-8)
    with torch.no_grad():
        method.component_key.zero_()
        method.component_key[0, :, 0] = method.component_key[0, 1, 1] = 1.0
    assert method.penalty().item() == pytest.approx(0.75)


def test_the_loss_adds_the_penalty_of_what_is_in_use(vit, inputs):
    method = coda(vit)
    assert method.penalty().item() == pytest.approx(0, abs=1e-8)
    with torch.no_grad():
        method.component_key[0, 1] = method.component_key[0, 0]
    expected = 2 / 49  # two off-diagonal ones among 7 x 7 entries, at one layer
    assert method.penalty().item() == pytest.approx(expected, rel=1e-4)
    labels = inputs["labels"] % 6
    plain = F.cross_entropy(method(inputs["images"]), labels)
    torch.testing.assert_close(method.loss(inputs["images"], labels), plain + 0.5 * expected, atol=1e-5, rtol=0)


def test_components_of_earlier_and_later_tasks_do_not_move(vit, inputs):
    method = coda(vit).train()
    before = method.learned_state()
    method.start_task(1, 3, labels=(2, 3))
    optimizer = build_optimizer("adam", method.named_parameters(), 0.01, 0.1, no_decay=method.no_decay)
    for _ in range(2):
        optimizer.zero_grad()
        method.loss(inputs["images"], inputs["labels"] % 2 + 2).backward()
        optimizer.step()
    after = method.learned_state()
    for name in ("components", "component_key", "attention"):
        moved = (after[name] != before[name]).flatten(2).any(dim=2).any(dim=0)
        assert moved.tolist() == [False, False, True, True, False, False, False], name


def test_earlier_components_change_what_a_image_gets(vit, inputs):
    method = coda(vit)
    method.start_task(1, 3)
    before = method(inputs["images"])
    with torch.no_grad():
        method.components[:, 4:] += 1
    assert torch.equal(method(inputs["images"]), before)
    with torch.no_grad():
        method.components[:, 0] += 1
    assert not torch.allclose(method(inputs["images"]), before, atol=1e-4)


def test_bad_options(vit):
    with pytest.raises(InputError, match="an even length"):
        coda(vit, length=3)
    with pytest.raises(InputError, match="layers names block 9; backbone 'backbone' has blocks 0 to 3"):
        coda(vit, layers=(0, 9))
    with pytest.raises(InputError, match="size is 7, but the stream has 8 tasks"):
        coda(vit).start_task(0, 8)
