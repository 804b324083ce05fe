"""CLIP methods against the numbers of the official implementations: values, gradients, training trajectories."""

import pytest
import torch
from official import steps

import coop
from coop.zero_shot import ENSEMBLES
from promptvision.backbones import load_clip
from promptvision.engine.optim import build_optimizer, learning_rates
from promptvision.errors import InputError


@pytest.fixture(scope="module")
def clips(golden):
    return {name: load_clip(golden.root / f"coop/{name}.safetensors") for name in ("clip_vit_tiny", "clip_rn_tiny")}


@pytest.fixture(scope="module")
def inputs(golden):
    return golden("coop/inputs")


def learned_coop(clip, inputs, settings, tensors):
    options = {name: settings[name] for name in ("n_ctx", "csc", "class_token_position", "ctx_init")}
    method = coop.build("coop", clip, inputs[0]["classnames"], **options)
    if settings["ctx_init"]:
        assert torch.equal(method.ctx, tensors["ctx"])
    method.load_learned_state({"ctx": tensors["ctx"]})
    return method


@pytest.mark.parametrize("way", ["plain", "fast"])
@pytest.mark.golden("coop/coop/*")
def test_coop_logits_loss_and_gradient(case, way, golden, clips, inputs, computed):
    settings, expected = golden(case)
    method = learned_coop(computed(clips[settings["backbone"]], way=way), inputs, settings, expected)
    images, labels = inputs[1]["images"], inputs[1]["labels"]
    torch.testing.assert_close(method(images), expected["logits"], atol=1e-4, rtol=0)
    torch.testing.assert_close(method.predictor()(images), expected["logits"], atol=1e-4, rtol=0)
    torch.testing.assert_close(method.text_features(), expected["text_features_raw"], atol=1e-4, rtol=0)
    scale = expected["grad_ctx"].abs().max().item()
    for loss, found in steps(method, images, labels):
        torch.testing.assert_close(loss, expected["loss"], atol=1e-4, rtol=0)
        torch.testing.assert_close(found["ctx"], expected["grad_ctx"], atol=1e-4 * scale, rtol=0)


@pytest.mark.parametrize("way", ["plain", "fast"])
def test_coop_trajectories(way, golden, clips, inputs, computed):
    names = sorted(path.stem for path in golden.root.glob("coop/coop/*.json"))
    cases = [golden(f"coop/coop/{name}") for name in names]
    trained = [(settings, expected) for settings, expected in cases if "traj.loss" in expected]
    assert len(trained) >= 4
    for settings, expected in trained:
        method = learned_coop(computed(clips[settings["backbone"]], way=way), inputs, settings, expected)
        replay(method, inputs[1], expected)
        torch.testing.assert_close(method.ctx.data, expected["traj.ctx_final"], rtol=1e-3, atol=1e-4)


def replay(method, batches, expected):
    """Ten epochs of three batches by the official schedule; every loss and rate must agree on the way."""
    rates = learning_rates("cosine", 0.002, 10, warmup_epochs=1)
    optimizer = build_optimizer("sgd", method.named_parameters(), 0.002, 5e-4, 0.9, method.no_decay)
    for step in range(30):
        optimizer.param_groups[0]["lr"] = rates[step // 3]
        assert rates[step // 3] == pytest.approx(expected["traj.lr"][step].item())
        loss = method.loss(batches["batch_images"][step % 3], batches["batch_labels"][step % 3])
        assert loss.item() == pytest.approx(expected["traj.loss"][step].item(), rel=1e-3)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("backbone, prefix", [("clip_vit_tiny", ""), ("clip_rn_tiny", "rn.")])
@pytest.mark.parametrize("ensemble", ["single", "ensemble"])
def test_zero_shot(backbone, prefix, ensemble, golden, clips, inputs):
    settings, expected = golden("coop/zeroshot")
    names = [name for name in settings["CUSTOM_TEMPLATES"] if f"{prefix}{ensemble}.{name}.logits" in expected]
    assert names or prefix
    for name in names:
        own = [] if ensemble == "ensemble" and name == "ImageNet" else [settings["CUSTOM_TEMPLATES"][name]]
        select = "select" if ensemble == "ensemble" else ""
        method = coop.build("zero_shot", clips[backbone], inputs[0]["classnames"], templates=own, ensemble=select)
        key = f"{prefix}{ensemble}.{name}"
        torch.testing.assert_close(method.features, expected[f"{key}.text_features"], atol=1e-5, rtol=0)
        torch.testing.assert_close(method(inputs[1]["images"]), expected[f"{key}.logits"], atol=1e-4, rtol=0)


def test_template_lists_are_the_official_ones(golden):
    settings, _ = golden("coop/zeroshot")
    assert ENSEMBLES["select"] == settings["IMAGENET_TEMPLATES_SELECT"]
    assert ENSEMBLES["imagenet"] == settings["IMAGENET_TEMPLATES"]


@pytest.mark.parametrize("position", ["end", "middle", "front"])
@pytest.mark.parametrize("n_ctx", [1, 5])
def test_prompt_layout(position, n_ctx, clips):
    """Every token of a prompt, read off its embedding: SOS, then contexts and name in the order asked for."""
    clip = clips["clip_vit_tiny"]
    method = coop.build("coop", clip, ["cat", "golden_retriever"], n_ctx=n_ctx, class_token_position=position)
    prompts = method.encoder.prompts(method.backbone.text, method.ctx[None])
    for row, name in zip(prompts, ["cat", "golden retriever"], strict=True):
        ids = clip.text.tokenize([f"{name}."])[0]
        word = list(clip.text.embed(ids)[1 : 1 + clip.text.count(name)])
        half = {"end": n_ctx, "middle": n_ctx // 2, "front": 0}[position]
        wanted = torch.stack([*method.ctx[:half], *word, *method.ctx[half:], clip.text.embed(ids)[1 + len(word)]])
        assert torch.equal(row[1 : 1 + len(wanted)], wanted)


def test_new_classes_get_the_same_contexts(clips, inputs):
    method = coop.build("coop", clips["clip_vit_tiny"], ["cat", "dog"], n_ctx=4)
    other = method.for_classes(["dog", "bird", "cat"])
    images = inputs[1]["images"]
    assert other.classes == ["dog", "bird", "cat"]
    torch.testing.assert_close(other(images)[:, [2, 0]], method(images))


def test_class_specific_contexts_refuse_new_classes(clips):
    method = coop.build("coop", clips["clip_vit_tiny"], ["cat", "dog"], n_ctx=4, csc=True)
    assert method.learned_state()["ctx"].shape == (2, 4, 128)
    assert not torch.equal(method.ctx[0], method.ctx[1])
    with pytest.raises(InputError, match="class-specific contexts"):
        method.for_classes(["bird"])


def test_class_specific_contexts_from_words_start_equal(clips):
    method = coop.build("coop", clips["clip_vit_tiny"], ["cat", "dog"], csc=True, ctx_init="a photo of a")
    assert method.ctx.shape == (2, 4, 128) and torch.equal(method.ctx[0], method.ctx[1])


BAD = {
    "method": (dict(name="cooop"), "unknown coop method 'cooop'; did you mean 'coop'"),
    "option": (dict(name="coop", nctx=4), "unknown option of coop 'nctx'; did you mean 'n_ctx'"),
    "position": (dict(name="coop", class_token_position="midle"), "did you mean 'middle'"),
    "no contexts": (dict(name="coop", n_ctx=0), "n_ctx is 0"),
    "too long": (dict(name="coop", n_ctx=76), "takes 75 between start and end"),
    "template": (dict(name="zero_shot", templates=["a photo."]), "'a photo.' has no {}"),
    "ensemble": (dict(name="zero_shot", ensemble="imgenet"), "did you mean 'imagenet'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments(case, clips):
    options, sentence = BAD[case]
    with pytest.raises(InputError, match=sentence):
        coop.build(options.pop("name"), clips["clip_vit_tiny"], ["cat", "dog"], **options)


def test_no_classes_and_wrong_backbone(clips):
    with pytest.raises(InputError, match="no classes"):
        coop.build("coop", clips["clip_vit_tiny"], [])
    with pytest.raises(InputError, match="need a CLIP .*not a Conv2d"):
        coop.build("coop", torch.nn.Conv2d(3, 3, 1), ["cat"])
