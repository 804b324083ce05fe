"""CODA-Prompt against its formulas worked out one by one, what earlier tasks keep, and what a task starts from."""

import pytest
import torch
import torch.nn.functional as F

import vpt
from promptvision.backbones import load_clip
from promptvision.backbones.prefix import prefixed_features
from promptvision.engine.optim import build_optimizer
from promptvision.errors import InputError
from vpt.coda_prompt import orthogonal_rows

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


@pytest.mark.parametrize(("task", "count"), [(0, 2), (1, 4), (2, 6)])
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


def test_components_are_drawn_when_their_task_begins_and_again_alike(vit):
    """Seven for three tasks: two each, and the last takes no remainder."""
    torch.manual_seed(3)
    method, again = coda(vit), coda(vit)
    again.seed = method.seed
    for task in range(3):
        for each in (method, again):
            each.start_task(task, 3)
            with torch.no_grad():
                for name in ("components", "component_key", "attention"):
                    getattr(each, name)[:, each.own] *= 1.5  # as if trained
        assert [bool(rows.any()) for rows in method.component_key[0]] == [row < 2 * task + 2 for row in range(7)]
        if task == 1:
            again = coda(vit)  # resumed after the second task
            again.start_task(task, 3)
            again.seed = method.seed
            again.load_learned_state(method.learned_state())
    assert all(
        torch.equal(value, again.learned_state()[name])
        for name, value in method.learned_state().items()
        if "head" not in name
    )
    keys = method.component_key[0, :6]
    torch.testing.assert_close(keys @ keys.T, 2.25 * torch.eye(6), atol=1e-4, rtol=0)


def test_old_rows_that_are_not_orthogonal_are_projected_on_one_by_one():
    old = torch.tensor([[[2.0, 0.0, 0.0], [1.0, 1.0, 0.0]]])
    row = torch.randn(1, 3, generator=torch.Generator().manual_seed(5))[0]
    x, y, z = row.tolist()
    expected = F.normalize(torch.tensor([x - x - (x + y) / 2, y - (x + y) / 2, z]), dim=0)
    found = orthogonal_rows(old, 1, torch.Generator().manual_seed(5))
    torch.testing.assert_close(found[0, 0], expected)


def test_more_components_than_dimensions_are_unit_rows(vit):
    method = vpt.build("coda_prompt", vit, CLASSES, size=70, length=2, layers=(0,))
    torch.testing.assert_close(method.component_key.norm(dim=-1), torch.ones(1, 70))
    assert method.penalty().isfinite()


def test_no_penalty_no_term(vit, inputs):
    method = coda(vit, ortho=0.0)
    labels = inputs["labels"] % 6
    assert method.loss(inputs["images"], labels) == F.cross_entropy(method(inputs["images"]), labels)


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
