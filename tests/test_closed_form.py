"""SimpleCIL, APER and RanPAC against the numbers of RanPAC's code, their formulas, and what a task may change."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F

import vpt
from promptvision.errors import InputError
from vpt.ran_pac import RIDGES

CLASSES = [f"class {label}" for label in range(10)]
ADAPTER = dict(parallel=True, bottleneck=4)


@pytest.fixture(scope="module")
def tasks(l2p):
    """[(images, labels)] of two tasks, classes 0 to 4 and 5 to 9."""
    images, labels = l2p[1]["engine/train_images"], l2p[1]["engine/train_labels"]
    return [tuple(each[2 * task : 2 * task + 2].flatten(0, 1) for each in (images, labels)) for task in range(2)]


@pytest.fixture(scope="module")
def cases(golden_cases):
    return golden_cases("vpt/ranpac")


def test_class_means_of_the_official_code(vit, l2p, tasks, cases):
    method, expected = vpt.build("simple_cil", vit, CLASSES), cases["ncm"][1]
    for task, (images, labels) in enumerate(tasks):
        method.start_task(task, 2)
        method.finish([(images[:7], labels[:7]), (images[7:], labels[7:])], ())
        known = slice(5 * task + 5)
        means, logits = expected[f"task{task}/fc.weight"], expected[f"task{task}/logits"]
        torch.testing.assert_close(method.prototypes[known], means, atol=5e-6, rtol=0)
        torch.testing.assert_close(method(l2p[1]["images"])[:, known], logits, atol=2e-6, rtol=0)


def test_random_projections_of_the_official_code(vit, l2p, tasks, cases, monkeypatch):
    """From the official features: without a projection, lambda of 1e-4 leaves little but rounding of an inverse."""
    found = {name: case for name, case in cases.items() if case[0]["use_RP"]}
    assert found
    for name, (facts, expected) in found.items():
        method = vpt.build("ran_pac", vit, CLASSES, host="none", projection=facts["M"])
        method.W_rand = expected.get("W_rand", method.W_rand)
        for task in range(2):
            method.start_task(task, 2)
            features = expected["features_of_train"][2 * task : 2 * task + 2].flatten(0, 1)
            assert chosen(method, features, tasks[task][1]) == facts["ridge_per_task"][task]
            monkeypatch.setattr(torch, "randperm", lambda count, generator: torch.arange(count))  # their order
            method.fit(features, tasks[task][1])
            method.task_of[tasks[task][1]] = task
            known, near = slice(5 * task + 5), dict(atol=2e-6, rtol=0, msg=name)
            torch.testing.assert_close(method.weight[known], expected[f"task{task}/fc.weight"], **near)
            for part in ("G", "Q"):
                wanted = expected.get(f"task{task}/{part}", getattr(method, part))
                torch.testing.assert_close(getattr(method, part), wanted, atol=1e-5, rtol=1e-6)
            logits = method(l2p[1]["images"])[:, known]
            torch.testing.assert_close(logits, expected[f"task{task}/logits"], atol=2e-5, rtol=0)


def chosen(method, features, labels):
    """Lambda by the formula: of the head of the first four fifths, with the least squared error on the others."""
    hidden, targets = method.hidden(features), F.one_hot(labels, 10).float()
    cut = int(0.8 * len(labels))
    first, errors = hidden[:cut], []
    for ridge in RIDGES:
        head = torch.linalg.solve(first.T @ first + ridge * torch.eye(first.shape[1]), first.T @ targets[:cut])
        errors.append((hidden[cut:] @ head - targets[cut:]).square().mean().item())
    return RIDGES[errors.index(min(errors))]


def test_tasks_add_up_to_the_head_of_all_images(vit, monkeypatch):
    """Two tasks are the ridge regression of all their images."""
    monkeypatch.setattr("vpt.ran_pac.RIDGES", [1.0])
    features, labels = torch.randn(40, 64), torch.arange(40) // 4
    for projection in (0, 30):
        method = vpt.build("ran_pac", vit, CLASSES, host="none", projection=projection)
        for task, part in enumerate((slice(24), slice(24, 40))):
            method.start_task(task, 2)
            method.finish([(features[part], labels[part])], ())
        hidden = (features @ method.W_rand).relu() if projection else features
        gram = hidden.T @ hidden + torch.eye(hidden.shape[1])
        expected = torch.linalg.solve(gram, hidden.T @ F.one_hot(labels, 10).float()).T
        torch.testing.assert_close(method.weight, expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(method(features), hidden @ expected.T, atol=1e-3, rtol=1e-4)
        method.start_task(0, 2)  # a new stream starts from nothing
        method.finish([(features[:24], labels[:24])], ())
        assert not method.weight[6:].any()


def test_lambda_is_not_chosen_on_the_last_classes_of_a_sorted_list(vit, monkeypatch):
    """Forty images of class 0, then twenty of class 1: the last fifth would hold one class alone."""
    labels, seen = torch.tensor([0] * 40 + [1] * 20), []
    features = torch.randn(60, 64) + 3 * F.one_hot(labels, 64)
    one_hot = F.one_hot
    monkeypatch.setattr(F, "one_hot", lambda labels, classes: seen.append(labels) or one_hot(labels, classes))
    method = vpt.build("ran_pac", vit, CLASSES, host="none", projection=0)
    for _ in range(2):
        method.fit(features, labels)
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[0].sort().values, labels)
    assert 0 < seen[0][-12:].sum() < 12


def test_lambda_follows_the_size_of_the_features(vit):
    """For features 1000 times as large, or as small, lambda is a million times so: the powers of ten reach that far."""
    torch.manual_seed(0)
    features, labels, heads = torch.randn(60, 64) + 3 * F.one_hot(torch.arange(60) % 10, 64), torch.arange(60) % 10, []
    for size in (1e-3, 1.0, 1e3):
        torch.manual_seed(0)  # the order of the images
        method = vpt.build("ran_pac", vit, CLASSES, host="none", projection=0)
        method.fit(size * features, labels)
        heads.append(size * method.weight)
    torch.testing.assert_close(heads[0], heads[1], atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(heads[2], heads[1], atol=1e-5, rtol=1e-3)


def test_the_projection_is_normal_and_drawn_by_the_seed(vit):
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(vpt.build("ran_pac", vit, CLASSES, host="none", projection=2000).W_rand)
    assert torch.equal(drawn[0], drawn[1]) and not torch.allclose(drawn[0], drawn[2], atol=0.1)
    assert drawn[0].mean().abs() < 0.02 and drawn[0].std().item() == pytest.approx(1, abs=0.02)
    assert drawn[0].abs().max() > 3.5  # no uniform draw


def test_features_that_no_inverse_tells_apart_leave_a_finite_head(vit):
    """Rounding makes G + lambda singular for small lambda where two features are the same."""
    features = torch.randn(40, 64)
    features[:, 1] = features[:, 0]
    method = vpt.build("ran_pac", vit, CLASSES, host="none", projection=0)
    method.finish([(100 * features, torch.arange(40) % 10)], ())
    assert method.weight.isfinite().all()


def test_the_pretrained_and_the_adapted_feature_are_joined(vit, tasks):
    images, labels = tasks[0]
    method, plain = (vpt.build(name, vit, CLASSES, **how) for name, how in (("aper", ADAPTER), ("simple_cil", {})))
    for block in method.blocks:
        torch.nn.init.normal_(block.adapter_upsample.weight)
    for each in (method, plain):
        each.eval().finish([(images, labels)], ())
    torch.testing.assert_close(method.prototypes[:, :64], plain.prototypes)
    adapted = vpt.build("adapter", vit, CLASSES, **ADAPTER)
    adapted.blocks = method.blocks
    for label in range(5):
        mean = adapted.features(images[labels == label]).mean(dim=0)
        torch.testing.assert_close(method.prototypes[label, 64:], mean, atol=1e-5, rtol=1e-5)
    joined = torch.cat([vit(images), adapted.features(images)], dim=1)
    expected = F.normalize(joined, dim=1) @ F.normalize(method.prototypes, dim=1).T
    torch.testing.assert_close(method(images), expected)


@pytest.mark.parametrize("host", ["adapter", "prompt", "lora", "ssf"])
@pytest.mark.parametrize("name", ["aper", "ran_pac"])
def test_the_first_task_alone_tunes_the_host(name, host, vit, tasks):
    method = vpt.build(name, vit, CLASSES, host=host, **({"projection": 200} if name == "ran_pac" else {}))
    method.start_task(0, 2, range(5))
    method.train().loss(*tasks[0]).backward()
    moved = {key for key, parameter in method.named_parameters() if parameter.grad is not None}
    assert {"head.weight", "head.scale"} < moved and not any(key.startswith("backbone.") for key in moved)
    images = tasks[0][0]
    assert torch.equal(method(images), method.head(method.features(images)))
    assert torch.equal(method.eval()(images), method.head(method.features(images)))  # as validations see it
    assert moved - {"head.weight", "head.scale"} == set(method.learned()) & moved
    assert not [key for key in method.learned() if "head" in key]
    method.finish([tasks[0]], ())
    before = method.eval().learned_state()
    method.start_task(1, 2, range(5, 10))
    assert not [key for key, parameter in method.named_parameters() if parameter.requires_grad]
    method.finish([tasks[1]], ())
    changed = [key for key, value in method.learned_state().items() if not torch.equal(value, before[key])]
    assert sorted(changed) == sorted(["prototypes" if name == "aper" else "weight", "task_of"])
    assert (method(tasks[1][0]).argmax(dim=1) == tasks[1][1]).float().mean() > 0.5


def test_what_a_host_is_tuned_with(vit, tasks):
    cosine = vpt.build("aper", vit, CLASSES)
    features = cosine.features(tasks[0][0])
    expected = 2 * F.normalize(features, dim=1) @ F.normalize(cosine.head.weight, dim=1).T
    with torch.no_grad():
        cosine.head.scale.fill_(2.0)
    torch.testing.assert_close(cosine.head(features), expected)
    assert vpt.build("aper", vit, CLASSES, head_init="published").head.last_layer.bias[0] < -4
    assert vpt.build("adapter", vit, CLASSES).head.last_layer.bias[0] == 0


@pytest.mark.parametrize("case", ["aper", "ran_pac", "ran_pac, none", "simple_cil"])
def test_copies_and_states_know_what_was_fitted(case, vit, tasks):
    name, _, host = case.partition(", ")
    options = ({"host": host} if host else {}) | ({"projection": 30} if name == "ran_pac" else {})
    torch.manual_seed(5)
    method = vpt.build(name, vit, CLASSES, **options)
    method.eval().finish([tasks[0]], ())
    torch.manual_seed(5)  # which a run sets before it builds
    again = vpt.build(name, vit, CLASSES, **options).eval()
    again.load_learned_state(method.learned_state())
    again.load_training_state(method.training_state())
    for other in (again, copy.deepcopy(method), pickle.loads(pickle.dumps(method))):
        assert torch.equal(other(tasks[1][0]), method(tasks[1][0]))
        other.start_task(1, 2)
        other.finish([tasks[1]], ())
    method.start_task(1, 2)
    method.finish([tasks[1]], ())
    assert torch.equal(again(tasks[1][0]), method(tasks[1][0]))


def test_learned_parameters_are_those_of_the_formulas(vit):
    """L (2 D d + d + D) for AdaptFormer, and a row for each class; the projection is drawn, not learned."""
    adapter = 4 * (2 * 64 * 4 + 4 + 64)
    found = {
        name: vpt.build(name, vit, CLASSES, **options).learned_parameters()
        for name, options in (("simple_cil", {}), ("aper", ADAPTER), ("ran_pac", {**ADAPTER, "projection": 500}))
    }
    assert found == {"simple_cil": 640, "aper": adapter + 10 * 128, "ran_pac": adapter + 10 * 500}


def test_cosines_and_heads_are_computed_in_full_precision(vit, tasks):
    """Under autocast only the tower has 16 bits: cosines of near classes would be equal in them."""
    for name, options in (("simple_cil", {}), ("ran_pac", {"host": "none", "projection": 50})):
        method, features = vpt.build(name, vit, CLASSES, **options), vit(tasks[0][0])
        method.finish([(features, tasks[0][1])], ())
        plain = method(features)
        with torch.autocast("cpu", torch.bfloat16):
            method.finish([(features, tasks[0][1])], ())
            assert torch.equal(method(features), plain)


def test_means_of_features_in_16_bits_are_not_rounded(vit, tasks):
    images, labels = tasks[0]
    method, features = vpt.build("simple_cil", vit, CLASSES), vit(images).bfloat16()
    method.finish([(features, labels)], ())
    for label in range(5):
        mean = features[labels == label].float().mean(dim=0)
        torch.testing.assert_close(method.prototypes[label], mean, atol=1e-6, rtol=0)


def test_bad_options_and_missing_images_are_refused(vit):
    with pytest.raises(InputError, match="unknown host of aper 'prompts'; did you mean 'prompt'"):
        vpt.build("aper", vit, CLASSES, host="prompts")
    with pytest.raises(InputError, match="unknown host of aper 'full'; one of: adapter, lora, prompt, ssf"):
        vpt.build("aper", vit, CLASSES, host="full")
    with pytest.raises(InputError, match="unknown host of aper 'none'"):
        vpt.build("aper", vit, CLASSES, host="none")
    with pytest.raises(InputError, match="projection is -1"):
        vpt.build("ran_pac", vit, CLASSES, projection=-1)
    with pytest.raises(InputError, match="did you mean 'published'"):
        vpt.build("ran_pac", vit, CLASSES, projection=9, head_init="publishd")
    for name in ("simple_cil", "ran_pac"):
        method = vpt.build(name, vit, CLASSES, **({"host": "none", "projection": 9} if name == "ran_pac" else {}))
        with pytest.raises(InputError, match="no training images yet"):
            method(torch.randn(1, 64))
        with pytest.raises(InputError, match="there are none"):
            method.finish((), ())
    with pytest.raises(InputError, match="a task needs two or more"):
        method.finish([(torch.randn(1, 64), torch.tensor([0]))], ())
