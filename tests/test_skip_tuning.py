"""Skip Tuning against the numbers of its official code; its choice of classes, rates and frozen lower blocks."""

from pathlib import Path

import pytest
import torch
from official import near_each, steps

import coop
from coop.parts.official_checkpoints import load_official
from promptvision.backbones import load_clip
from promptvision.backbones.image import below, entered
from promptvision.config import load_config
from promptvision.engine.optim import build_optimizer, learning_rates, set_rate
from promptvision.engine.run_folder import RunFolder
from promptvision.errors import InputError
from promptvision.experiment.run import retest, run

ROOT = Path(__file__).parents[1]
FAMILIES = {"coop": coop}
NAMES = [f"class {n}" for n in range(12)]


@pytest.fixture
def learner(golden, computed):
    """`learner("coop/skiptuning/...")` gives (method of the case, its numbers, its settings)."""

    def load(case, way="auto", **mutation):
        settings, expected = golden(case)
        clip = computed(load_clip(golden.root / "coop/clip_vit_tiny.safetensors"), way=way)
        facts = settings["settings"]
        options = {name.lower(): facts[name] for name in ("START_LAYER", "TOP_RATIO", "MAX_TOP")}
        options |= {"decay": facts["LAMBDA"], "redraw": False, "keep_labels": False}
        rates = settings["trajectory"]
        options["image_rate"] = rates["lr_image"] / rates["lr_text"]
        options |= {"templates": settings["template"]} | mutation
        method = coop.build("skip_tuning", clip, settings["classnames"], **options)
        if "reserve_mask" in expected and not mutation:
            method.kept_ranks = lambda classes: expected["reserve_mask"].bool()
        return method.train(), expected, settings

    return load


def near(found, wanted, **tolerance):
    torch.testing.assert_close(found, wanted, **{"atol": 1e-4, "rtol": 0, **tolerance})


@pytest.mark.parametrize("way", ["plain", "fast"])
@pytest.mark.golden("coop/skiptuning/*")
def test_values_and_gradients(learner, golden, case, way):
    method, expected, settings = learner(case, way)
    images, labels = (golden("coop/inputs")[1][name] for name in ("images", "labels"))
    near(method.teacher.text_features(method.backbone), expected["class_prototypes"])
    tokens = below(method.backbone.image, images, settings["settings"]["START_LAYER"])
    near(tokens.transpose(0, 1), expected["image_features_medium"])
    text = method.text_encoder
    medium = text.embed(text.nodes[:2]).transpose(0, 1)
    near(medium, expected["text_features_medium"][: len(medium)])
    near(method.eval()(images), expected["logits_eval"])
    near(method.predictor()(images), expected["logits_eval"])
    kept = method.train().kept_classes(method.image_features(images), labels)
    assert torch.equal(kept, expected["kept_classes"])
    loss = method.loss(images, labels)
    rows = entered(method.backbone.image, images, method.frozen_blocks)
    assert torch.equal(method.loss(rows, labels), loss)
    for loss, found in steps(method, images, labels):
        assert loss.item() == pytest.approx(expected["loss"].item(), rel=1e-4)
        assert set(found) == set(settings["learned"])
        for name, gradient in found.items():
            assert gradient.norm().item() == pytest.approx(expected[f"grad_norm.{name}"].item(), rel=1e-3), name
        near_each({name: each for name, each in found.items() if f"grad.{name}" in expected}, expected, "grad.", 1e-4)


@pytest.mark.golden("coop/skiptuning/*")
def test_training(learner, golden, case):
    """Two rates, and a warm-up that is the same for both towers."""
    method, expected, settings = learner(case)
    inputs, facts = golden("coop/inputs")[1], settings["trajectory"]
    warmup = facts["warmup_epochs"]
    rates = learning_rates(
        "cosine", facts["lr_text"], facts["epochs"], warmup_epochs=warmup, warmup_lr=facts["warmup_lr"]
    )
    optimizer = build_optimizer(
        "sgd", method.named_parameters(), facts["lr_text"], 5e-4, 0.9, rate_factors=method.rate_factors
    )
    for step, wanted in enumerate(expected["traj.loss"]):
        set_rate(optimizer, rates[step // 3], alike=step // 3 < warmup)
        for group in optimizer.param_groups:
            side = "image" if group["name"].startswith("image_encoder") else "text"
            assert group["lr"] == pytest.approx(expected[f"traj.lr_{side}"][step].item(), rel=1e-9)
        loss = method.loss(inputs["batch_images"][step % 3], inputs["batch_labels"][step % 3])
        assert loss.item() == pytest.approx(wanted.item(), rel=1e-3), step
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    near(method.eval()(inputs["images"]), expected["traj.logits_eval_after"])


MUTATIONS = {
    "more classes": dict(top_ratio=0.8),
    "all classes": dict(top_ratio=1.0),
    "a number of classes": dict(top_ratio=7.0),
    "fewer at most": dict(max_top=4),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_another_rule_gives_other_numbers(learner, golden, mutation):
    method, expected, _ = learner("coop/skiptuning/start1_top05", **MUTATIONS[mutation])
    images, labels = (golden("coop/inputs")[1][name] for name in ("images", "labels"))
    loss = method.loss(images, labels)
    assert abs(loss.item() - expected["loss"].item()) > 1e-3 * expected["loss"].item()


def test_another_start_learns_other_tensors(learner):
    method, _, settings = learner("coop/skiptuning/start1_top05", start_layer=2)
    assert set(method.trained()) < set(settings["learned"])


@pytest.fixture(scope="module")
def clip():
    return load_clip("embedded")


def built(clip, classes=NAMES, **options):
    torch.manual_seed(0)
    return coop.build("skip_tuning", clip, classes, **options)


def test_ranks_are_drawn_in_each_step_or_once(clip):
    method = built(clip, top_ratio=0.25)
    drawn = torch.stack([method.kept_ranks(12) for _ in range(2000)]).float().mean(dim=0)
    assert drawn[:3].tolist() == [1, 1, 1] and drawn[3] == 1 and drawn[-1] == 0  # min-max: the ends are certain
    x = torch.linspace(0, 5, 9)
    density = torch.exp(-x / 0.3)
    near(drawn[3:], (density - density[-1]) / (density[0] - density[-1]), atol=0.05)
    once = built(clip, top_ratio=0.25, redraw=False)
    assert len({tuple(once.kept_ranks(12).tolist()) for _ in range(20)}) == 1
    torch.manual_seed(3)
    others = [coop.build("skip_tuning", clip, NAMES, redraw=False, decay=2.0).kept_ranks(12) for _ in range(8)]
    assert len({tuple(each.tolist()) for each in others}) > 1


@pytest.mark.parametrize("ratio, most, wanted", [(0.5, 50, 6), (0.5, 4, 4), (1.0, 4, 12), (7.2, 50, 8), (99.0, 50, 12)])
def test_numbers_of_classes_that_are_always_kept(clip, ratio, most, wanted):
    assert built(clip, top_ratio=ratio, max_top=most).always_kept(12) == wanted


def test_labels_are_never_lost_unless_the_official_way_is_asked_for(clip):
    images, labels = torch.randn(6, 3, 32, 32), torch.tensor([0, 2, 4, 6, 8, 10])
    for keep in (True, False):
        method = built(clip, max_top=2, keep_labels=keep)
        method.kept_ranks = lambda classes: torch.arange(classes) < 2
        kept = method.kept_classes(method.image_features(images), labels)
        assert set(kept.tolist()) <= set(labels.tolist()) and len(kept) == (6 if keep else 2)
        assert method.loss(images, labels).isfinite()


def test_a_stream_keeps_classes_of_its_task_alone(clip):
    method = built(clip, top_ratio=0.5)
    method.start_task(1, 2, [6, 7, 8, 9, 10, 11])
    kept = method.kept_classes(torch.randn(2, clip.image.feature_dim), torch.tensor([7, 9]))
    assert set(kept.tolist()) <= {6, 7, 8, 9, 10, 11} and {7, 9} <= set(kept.tolist())
    assert method.loss(torch.randn(2, 3, 32, 32), torch.tensor([7, 9])).isfinite()


def test_smoothing_and_weights_apply_to_the_kept_classes(clip):
    method = built(clip)
    images, labels = torch.randn(3, 3, 32, 32), torch.tensor([0, 1, 1])
    method.kept_classes = lambda features, labels: torch.tensor([0, 1, 5])
    logits = method(images)[:, [0, 1, 5]]
    method.label_smoothing, method.class_weights = 0.2, torch.arange(1.0, 13.0)
    each = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.2, reduction="none")
    near(method.loss(images, labels), (each * torch.tensor([1.0, 2.0, 2.0])).mean())


def test_the_backbone_stays_as_it_is_and_weights_are_rounded_if_asked(clip):
    before = {name: tensor.clone() for name, tensor in clip.state_dict().items()}
    method = built(clip, fp16_weights=True)
    images, labels = torch.randn(3, 3, 32, 32), torch.tensor([0, 1, 1])
    optimizer = torch.optim.SGD(method.trained().values(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        method.loss(images, labels).backward()
        assert all(torch.equal(p, p.half().float()) for p in method.trained().values())
        optimizer.step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in clip.state_dict().items())
    assert not any(name.startswith("backbone") for name in method.trained())
    near(method(images), method.predictor()(images), atol=1e-6)
    near(method.for_classes(NAMES[::-1])(images), method(images).flip(-1))


def test_an_official_checkpoint_loads(clip, tmp_path):
    """With the frozen parts of a whole model, or without."""
    method = built(clip)
    state = {name: torch.randn_like(value) for name, value in method.learned_state().items()}
    frozen = {f"image_encoder.{name}": value for name, value in clip.image.model.state_dict().items()}
    for whole in (frozen, {}):
        torch.save({"state_dict": {**whole, **state}, "epoch": 20}, tmp_path / "model.pth.tar-20")
        method.load_learned_state(load_official(tmp_path / "model.pth.tar-20", method))
        assert all(torch.equal(value, state[name]) for name, value in method.learned_state().items())


def test_a_run_and_its_new_classes(tmp_path):
    words = ["DATASET.SHOTS", 4, "OPTIM.EPOCHS", 1, "DATASET.CLASSES", "base", "OUTPUT_DIR", str(tmp_path / "out")]
    cfg = load_config(ROOT / "configs/coop/embedded_skip_tuning.yaml", words, FAMILIES)
    with RunFolder(cfg.OUTPUT_DIR) as folder:
        result = run(cfg, FAMILIES, folder, progress=False)
    again = load_config(tmp_path / "out/config.yaml", ["DATASET.CLASSES", "new"], FAMILIES)
    found = retest(again, FAMILIES, tmp_path / "out", progress=False)
    assert set(found["classes"]).isdisjoint(result["classes"]) and found["accuracy"] > 0


@pytest.mark.parametrize(
    "options, said",
    [
        (dict(start_layer=9), "start_layer is 9; the towers have"),
        (dict(start_layer=-1), "start_layer is -1"),
        (dict(top_ratio=0.0), "top_ratio is 0; it must be positive"),
        (dict(max_top=0), "max_top is 0; it must be positive"),
        (dict(decay=-1.0), "decay is -1; it must be positive"),
        (dict(image_rate=0.0), "image_rate is 0; it must be positive"),
        (dict(templates=["a {}.", "the {}."]), "takes one text for each class, not 2 texts"),
    ],
)
def test_wrong_options_are_named(clip, options, said):
    with pytest.raises(InputError, match=said):
        built(clip, **options)


def test_other_towers_are_refused(golden):
    clip = load_clip(golden.root / "coop/clip_rn_tiny.safetensors")
    with pytest.raises(InputError, match="is no CLIP of a ViT with a class token"):
        built(clip, ["cat", "dog"])
