"""Linear probe and Tip-Adapter: their formulas worked out apart, and what validation random_images decide."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_info, threadpool_limits

import coop
import vpt
from coop.linear_probe import regression, search_c
from coop.tip_adapter import search
from promptvision.backbones import load_clip
from promptvision.config import load_config
from promptvision.engine.checkpoint import load_learned
from promptvision.engine.run_folder import RunFolder
from promptvision.errors import InputError
from promptvision.experiment.run import retest, run

ROOT = Path(__file__).parents[1]
FAMILIES = {"coop": coop, "vpt": vpt}
CLASSES = ["cat", "dog", "bird"]


@pytest.fixture(scope="module")
def clip(golden):
    return load_clip(golden.root / "coop/clip_vit_tiny.safetensors")


def random_images(per_class, seed=0, spread=1.0, classes=3):
    """Features (N, 64) around one centre per class, in two batches, and labels."""
    centres = torch.randn(classes, 64, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(classes).repeat(per_class)
    noise = torch.randn(len(labels), 64, generator=torch.Generator().manual_seed(seed))
    features = centres[labels] + spread * noise
    return [(features[:4], labels[:4]), (features[4:], labels[4:])]


def joined(batches):
    return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])


def test_search_for_c_without_a_difference():
    """All equal: the coarse grid's largest, 10^6, then the left end, 10^5, which never moves."""
    asked = []
    assert search_c(lambda c: asked.append(c) or 0.5) == pytest.approx(1e5)
    assert asked[:7] == [1e6, 1e4, 1e2, 1.0, 1e-2, 1e-4, 1e-6]
    assert asked[7:13] == pytest.approx([1e5, 1e7, 1e5, 1e6, 1e5, 10**5.5])
    assert len(asked) == 7 + 2 * 8


@pytest.mark.parametrize("peak", [-6.3, -4.0, -1.2, 0.4, 2.37, 5.9])
def test_search_for_c_comes_near_a_single_peak(peak):
    assert math.log10(search_c(lambda c: -abs(math.log10(c) - peak))) == pytest.approx(peak, abs=0.3)


def test_search_for_c_finds_the_better_c_where_it_matters(clip):
    """Few noisy images in many dimensions: hardly any penalty (large C) and hardly any weight (small C) are worse."""
    train, val = random_images(5, seed=1, spread=4.0), random_images(200, seed=2, spread=4.0)

    def accuracy(c):
        method = coop.build("linear_probe", clip, CLASSES, c=c)
        method.prepare(train, val)
        return (method(joined(val)[0]).argmax(1) == joined(val)[1]).float().mean().item()

    assert accuracy(0.0) >= max(accuracy(c) for c in (1e6, 1e4, 1e2, 1.0, 1e-2, 1e-4, 1e-6)) > accuracy(1e6)


@pytest.mark.parametrize("count", [2, 3])
def test_linear_probe_is_the_optimum_of_logistic_regression(count, clip):
    """At the optimum, W = C * sum (one-hot - p) x^T, and the residuals of each class sum to 0."""
    train, c = random_images(8, spread=3.0, classes=count), 0.05
    method = coop.build("linear_probe", clip, CLASSES[:count], c=c)
    method.prepare(train, [])
    features, labels = (tensor.numpy() for tensor in joined(train))
    logits = method(torch.from_numpy(features)).double().numpy()
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    residual = np.eye(count)[labels] - probabilities
    weight = c * residual.T @ features
    if count == 2:  # one row for the difference: its penalty is that of both halves twice over
        weight = weight / 2
    np.testing.assert_allclose(method.weight.numpy(), weight, atol=2e-4)
    np.testing.assert_allclose(residual.sum(0), 0, atol=2e-3)
    theirs = LogisticRegression(C=c, max_iter=1000).fit(features, labels).predict_proba(features)
    np.testing.assert_allclose(probabilities, theirs, atol=1e-3)


def test_a_small_linear_probe_is_fitted_on_one_core(clip, monkeypatch):
    counts = set()

    def watched(*args):
        counts.update(each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas")
        return regression(*args)

    monkeypatch.setattr("coop.linear_probe.regression", watched)
    with threadpool_limits(2, "blas"):
        coop.build("linear_probe", clip, CLASSES, c=1.0).prepare(random_images(4), [])
    assert counts == {1}


def test_linear_probe_state(clip):
    train = random_images(4)
    method = coop.build("linear_probe", clip, CLASSES, c=1.0)
    method.prepare(train, [])
    assert method.learned() == ["weight", "bias"]
    again = coop.build("linear_probe", clip, CLASSES)
    again.load_learned_state(method.learned_state())
    assert torch.equal(again(joined(train)[0]), method(joined(train)[0]))
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(method(images), method(clip.image(images)))
    with pytest.raises(InputError, match="tied to the classes"):
        method.for_classes(["bird"])


def test_linear_probe_refusals(clip):
    train = random_images(4)
    with pytest.raises(InputError, match="needs validation images"):
        coop.build("linear_probe", clip, CLASSES).prepare(train, [])
    with pytest.raises(InputError, match="class 'snake' has no training image"):
        coop.build("linear_probe", clip, [*CLASSES, "snake"], c=1.0).prepare(train, [])
    with pytest.raises(InputError, match="c is -1"):
        coop.build("linear_probe", clip, CLASSES, c=-1.0)
    with pytest.raises(InputError, match="two classes or more"):
        coop.build("linear_probe", clip, ["cat"])


def tip_logits(zero_shot, queries, keys, labels, alpha, beta):
    """Tip-Adapter's logits image by image, in plain numpy."""
    logits = zero_shot.copy()
    for row, query in enumerate(queries):
        for key, label in zip(keys, labels, strict=True):
            cosine = query @ key / np.linalg.norm(query) / np.linalg.norm(key)
            logits[row, label] += alpha * np.exp(-beta * (1 - cosine))
    return logits


@pytest.mark.parametrize("name", ["tip_adapter", "tip_adapter_f"])
def test_tip_adapter_formula(name, clip):
    train, queries = random_images(3), torch.randn(5, 64)
    method = coop.build(name, clip, CLASSES, alpha=0.7, beta=2.5, search=())
    zero_shot = coop.build("zero_shot", clip, CLASSES)(queries).detach().double().numpy()
    np.testing.assert_allclose(method(queries).detach().numpy(), zero_shot, atol=1e-5)  # nothing cached yet
    method.prepare(train, [])
    method.finish(train, [])
    keys, labels = joined(train)
    wanted = tip_logits(zero_shot, queries.double().numpy(), keys.double().numpy(), labels.numpy(), 0.7, 2.5)
    np.testing.assert_allclose(method(queries).detach().numpy(), wanted, atol=1e-4)


def test_tip_adapter_search_tries_the_published_grid():
    """Against a loop over all 200 x 20 pairs; the first of the best is taken, smallest beta first."""
    generator = torch.Generator().manual_seed(3)
    zero_shot, affinity = torch.randn(30, 3, generator=generator), torch.rand(30, 12, generator=generator) * 2 - 1
    labels, values = torch.randint(3, (30,), generator=generator), torch.eye(3)[torch.arange(12) % 3]
    best = (-1.0, 0.0, 0.0)
    for i in range(200):
        for j in range(20):
            beta, alpha = i * (7 - 0.1) / 200 + 0.1, j * (3 - 0.1) / 20 + 0.1
            votes = np.exp(-beta * (1 - affinity.numpy())) @ values.numpy()
            right = ((zero_shot.numpy() + alpha * votes).argmax(1) == labels.numpy()).mean()
            best = max(best, (right, alpha, beta), key=lambda entry: entry[0])
    assert search(zero_shot, affinity, values, labels, (7.0, 3.0)) == pytest.approx(best[1:])


def test_tip_adapter_chooses_alpha_and_beta_on_validation_images(clip):
    train, val = random_images(4), random_images(20, seed=5)
    method = coop.build("tip_adapter", clip, CLASSES, alpha=0.0)
    method.prepare(train, val)
    before = method(joined(val)[0]).argmax(1)
    method.finish(train, val)
    after = method(joined(val)[0]).argmax(1)
    labels = joined(val)[1]
    assert (after == labels).sum() > (before == labels).sum()
    assert 0.1 <= method.alpha < 3 and 0.1 <= method.beta < 7
    with pytest.raises(InputError, match="needs validation images"):
        method.finish(train, [])


@pytest.mark.parametrize("name, learns", [("tip_adapter", set()), ("tip_adapter_f", {"keys"})])
def test_tip_adapter_state(name, learns, clip):
    train = random_images(4)
    method = coop.build(name, clip, CLASSES, alpha=2.0, search=())
    method.prepare(train, [])
    assert {key for key, parameter in method.named_parameters() if parameter.requires_grad} == learns
    assert set(method.learned()) == {"keys", "values", "alpha", "beta"}
    again = coop.build(name, clip, CLASSES)
    again.load_learned_state(method.learned_state())
    queries = torch.randn(5, 64)
    assert torch.equal(again(queries), method(queries)) and again.alpha == 2
    with pytest.raises(InputError, match="tied to the classes"):
        method.for_classes(["bird"])
    with pytest.raises(InputError, match="'keys' has shape"):
        again.load_learned_state(method.learned_state() | {"keys": torch.zeros(4, 7)})


def test_tip_adapter_f_learns_its_keys(clip):
    train, (queries, labels) = random_images(2), joined(random_images(10, seed=7))
    method = coop.build("tip_adapter_f", clip, CLASSES, alpha=10.0, beta=5.0, search=())
    method.prepare(train, [])
    optimizer = torch.optim.AdamW([method.keys], lr=0.01, eps=1e-4)
    losses = []
    for _ in range(20):
        loss = method.loss(queries, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    torch.testing.assert_close(method.values, F.one_hot(joined(train)[1], 3).float())


@pytest.mark.parametrize("ends", [[7.0], [7.0, 0.1], [1.0, 2.0, 3.0]])
def test_tip_adapter_refuses_other_ends(ends, clip):
    with pytest.raises(InputError, match="upper ends of beta and alpha"):
        coop.build("tip_adapter", clip, CLASSES, search=ends)


@pytest.mark.parametrize("name", ["linear_probe", "tip_adapter", "tip_adapter_f"])
def test_a_run_and_its_evaluation_anew_agree(name, tmp_path):
    """Through configs, data and run folder; two epochs where there are any."""
    words = ["DATASET.NAME", "world_land", "DATASET.SHOTS", 2, "OPTIM.EPOCHS", 2, "OUTPUT_DIR", str(tmp_path)]
    cfg = load_config(ROOT / f"configs/coop/embedded_{name}.yaml", words, FAMILIES)
    with RunFolder(tmp_path) as folder:
        result = run(cfg, FAMILIES, folder, progress=False)
    assert result["accuracy"] > 50
    assert json.loads((tmp_path / "result.json").read_text())["method"] == name
    again = retest(load_config(tmp_path / "config.yaml", [], FAMILIES), FAMILIES, tmp_path, progress=False)
    assert again["accuracy"] == result["accuracy"]


def keys_of(tmp_path, name, *overrides):
    """Return the keys that a run of Tip-Adapter fills its cache with."""
    words = ["DATASET.NAME", "world_shapes", "DATASET.SHOTS", 1, "CACHE_DIR", str(tmp_path / "cache")]
    words += ["OUTPUT_DIR", str(tmp_path / name), *overrides]
    cfg = load_config(ROOT / "configs/coop/embedded_tip_adapter.yaml", words, FAMILIES)
    with RunFolder(cfg.OUTPUT_DIR) as folder:
        run(cfg, FAMILIES, folder, progress=False)
    return load_learned(tmp_path / name / "learned.safetensors")[0]["keys"]


def test_keys_of_augmented_views(tmp_path):
    """Views of a recipe that draws nothing are the image itself; drawn ones are others, near it, cached or not."""
    plain = keys_of(tmp_path, "plain")
    views = ["METHOD.OPTIONS.VIEWS", 3, "INPUT.TRAIN"]
    torch.testing.assert_close(keys_of(tmp_path, "fixed", *views, "center"), plain, atol=1e-5, rtol=0)
    drawn = keys_of(tmp_path, "drawn", *views, "tip_adapter")
    assert drawn.shape == plain.shape and not torch.allclose(drawn, plain, atol=0.01)
    assert ((drawn @ plain.T).argmax(dim=1) == torch.arange(len(plain))).float().mean() > 0.8
    again = keys_of(tmp_path, "again", *views, "tip_adapter", "CACHE_DIR", "")
    torch.testing.assert_close(again, drawn, atol=1e-5, rtol=0)


@pytest.mark.parametrize("options", [{"views": -1}, {"logit_scale": -1.0}])
def test_tip_adapter_refuses_negative_numbers(options, clip):
    with pytest.raises(InputError, match=f"{next(iter(options))} is -1; it takes a positive number, or 0"):
        coop.build("tip_adapter", clip, CLASSES, **options)
