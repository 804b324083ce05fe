"""CLIP-LoRA against the numbers of the official implementation, and against merged weights."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from official import near_each, steps
from packaging.version import Version
from torch.func import functional_call

import coop
from coop.parts.official_checkpoints import load_official
from promptvision.backbones import load_clip
from promptvision.backbones.compute import Compute
from promptvision.engine.optim import build_optimizer, learning_rates, set_rate
from promptvision.errors import InputError
from promptvision.experiment.build import start_from

NAMES = ["cat", "golden_retriever", "snapdragon"]


def learned(golden, settings, expected, way="auto", **more):
    clip = load_clip(golden.root / f"coop/{settings['backbone']}.safetensors", compute=Compute(way))
    published = settings["settings"]
    options = dict(rank=published["r"], alpha=float(published["alpha"]), targets=published["params"])
    options |= dict(encoder=published["encoder"], logit_scale=float(settings["logit_scale"]), dropout=0.0)
    method = coop.build("clip_lora", clip, settings["classnames"], **options | more)
    params = {key.removeprefix("param."): value for key, value in expected.items() if key.startswith("param.")}
    assert set(method.learned()) == set(params)
    method.load_learned_state(params)
    return method


@pytest.mark.parametrize("way", ["plain", "auto"])
@pytest.mark.golden("coop/cliplora/*")
def test_logits_loss_and_gradients(case, way, golden, coop_inputs):
    settings, expected = golden(case)
    method = learned(golden, settings, expected, way=way)
    torch.testing.assert_close(method(coop_inputs["images"]), expected["logits"], atol=1e-4, rtol=0)
    torch.testing.assert_close(method.predictor()(coop_inputs["images"]), expected["logits"], atol=1e-4, rtol=0)
    for loss, found in steps(method, coop_inputs["images"], coop_inputs["labels"]):
        torch.testing.assert_close(loss, expected["loss"], atol=1e-4, rtol=0)
        given = {name: each for name, each in found.items() if f"grad.{name}" in expected}
        assert given.keys() == {name.removeprefix("grad.") for name in expected if name.startswith("grad.")}
        near_each(given, expected, "grad.", 1e-4)


@pytest.mark.parametrize("way", ["plain", "auto"])
@pytest.mark.golden("coop/cliplora/*")
def test_trajectory(case, way, golden, coop_inputs):
    """12 steps of AdamW by the published schedule: a cosine over all steps down to 1e-6."""
    settings, expected = golden(case)
    method = learned(golden, settings, expected, way=way)
    rates = learning_rates("cosine", 2e-4, len(expected["traj.lr"]), min_lr=1e-6)
    assert rates == pytest.approx(expected["traj.lr"].tolist())
    named = [(name, p) for name, p in method.named_parameters() if p.requires_grad]
    optimizer = build_optimizer("adamw", named, 2e-4, 1e-2)
    for step, rate in enumerate(rates):
        set_rate(optimizer, rate)
        loss = method.loss(coop_inputs["batch_images"][step % 3], coop_inputs["batch_labels"][step % 3])
        assert loss.item() == pytest.approx(expected["traj.loss"][step].item(), rel=1e-3)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    state = {f"traj.final.{name}": tensor for name, tensor in method.learned_state().items()}
    for name in [name for name in expected if name.startswith("traj.final.")]:
        torch.testing.assert_close(state[name], expected[name], rtol=1e-3, atol=1e-5)


@pytest.fixture
def clip():
    return load_clip("embedded")


def randomised(method):
    torch.manual_seed(1)
    for parameter in method.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    return method


def learnt(method):
    return [parameter for parameter in method.parameters() if parameter.requires_grad]


def merged(method, scaling):
    """The backbone's attention weights plus scaling B A, by name in the backbone."""
    state, found = method.learned_state(), {}
    for name, weight in method.backbone.named_parameters():
        block = name.removeprefix("image.model.").removeprefix("text.").rpartition(".attn.")[0]
        block = f"visual.{block}" if name.startswith("image.") else block
        layers = {"in_proj_weight": ("q_proj", "k_proj", "v_proj"), "out_proj.weight": ("proj",)}
        parts = layers.get(name.rpartition(".attn.")[2], ())
        changes = [f"{block}.attn.{part}.w_lora_" for part in parts]
        deltas = [scaling * state[c + "B"] @ state[c + "A"] if c + "A" in state else None for c in changes]
        if any(delta is not None for delta in deltas):
            rows = len(weight) // len(deltas)
            blank = torch.zeros(rows, weight.shape[1])
            found[name] = weight + torch.cat([blank if delta is None else delta for delta in deltas])
    return found


SETTINGS = {
    "everything": (dict(targets=("q", "k", "v", "o"), rank=3), 2 / 3**0.5),
    "linear": (dict(targets=("q", "v"), rank=4, scaling="linear"), 2 / 4),
    "some blocks": (dict(vision_layers=[2], text_layers=[0, 1]), 2**0.5),
    "vision": (dict(encoder="vision", targets=("o",)), 2**0.5),
    "text": (dict(encoder="text", targets=("k", "o")), 2**0.5),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_changes_equal_merged_weights(case, clip):
    options, scaling = SETTINGS[case]
    method = randomised(coop.build("clip_lora", clip, NAMES, alpha=2.0, **options)).eval()
    images, weights = torch.randn(2, 3, 32, 32), merged(method, scaling)
    assert weights and len({name.partition(".")[0] for name in weights}) == (1 if "encoder" in options else 2)

    def tower(name, *args):
        own = {k.removeprefix(f"{name}."): v for k, v in weights.items() if k.startswith(f"{name}.")}
        return functional_call(getattr(clip, name), own, args)

    text = tower("text", [f"a photo of a {name}." for name in ("cat", "golden retriever", "snapdragon")])
    expected = clip.logits(tower("image", images), text)
    plain = coop.build("zero_shot", clip, NAMES)(images)
    torch.testing.assert_close(method(images), expected, atol=1e-3, rtol=1e-4)
    assert not torch.allclose(plain, expected, atol=0.01)


def test_it_starts_as_zero_shot_clip_and_learns_in_both_towers(clip):
    method, images = coop.build("clip_lora", clip, NAMES), torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(method.eval()(images), coop.build("zero_shot", clip, NAMES)(images), atol=1e-3, rtol=0)
    method.train().loss(images, torch.tensor([0, 2])).backward()
    gradients = {name: p.grad for name, p in method.named_parameters() if p.requires_grad}
    assert all(gradients[name].any() == name.endswith("B") for name in gradients)
    assert all(parameter.grad is None for parameter in clip.parameters())
    assert method.learned_parameters() == sum(gradient.numel() for gradient in gradients.values())


def test_dropout_is_drawn_in_training_only_for_every_image_and_text(clip):
    method, images = randomised(coop.build("clip_lora", clip, NAMES, dropout=0.5)), torch.randn(1, 3, 32, 32)
    assert torch.equal(method.eval()(images), method(images))
    assert not torch.equal(method.train()(images), method(images))
    twins = method.image_features(images.expand(2, -1, -1, -1))
    assert not torch.equal(twins[0], twins[1])


@pytest.fixture(scope="module")
def double():
    return load_clip("embedded").double()


ROUNDING = 1e-12 if Version(torch.__version__) >= Version("2.5") else 1e-11
"""Largest relative difference in double precision; torch 2.4 sums in another order."""
WORDS = ["cat", "golden retriever", "hen-of-the-woods", "a", "Washington D.C."]


@settings(max_examples=30, deadline=None)
@given(
    names=st.lists(
        st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join), min_size=1, max_size=9, unique=True
    ),
    targets=st.lists(st.sampled_from("qkvo"), min_size=1, unique=True),
    text_layers=st.lists(st.integers(0, 1), unique=True),
    template=st.sampled_from(["{}", "a photo of a {}.", "{} and more"]),
)
def test_what_texts_share_is_computed_once(computed, double, names, targets, text_layers, template):
    """In double precision the fast way has the features and the gradients of the plain one."""
    options = dict(encoder="text", targets=targets, text_layers=text_layers, template=template, dropout=0.0)
    found = []
    for way in ("plain", "fast"):
        method = randomised(coop.build("clip_lora", computed(double, way=way), names, **options).double())
        features = method.text_features()
        weights = torch.linspace(-1, 1, features.numel(), dtype=features.dtype).view_as(features)
        found.append([features, *torch.autograd.grad((features * weights).sum(), learnt(method))])
    for plain, fast in zip(*found, strict=True):
        torch.testing.assert_close(fast, plain, atol=ROUNDING * plain.abs().max().item(), rtol=0)


def test_weights_that_move_are_seen_in_the_next_step(computed, clip):
    clips = [computed(clip, way=way) for way in ("plain", "fast")]
    ways = [randomised(coop.build("clip_lora", each, NAMES, dropout=0.0)) for each in clips]
    for _ in range(2):
        for method in ways:
            for parameter in learnt(method):
                parameter.data.add_(0.1)
        torch.testing.assert_close(*(method.text_features() for method in ways), atol=1e-5, rtol=1e-4)


def test_texts_share_nothing_where_dropout_draws(computed, clip):
    """Twins of a name have features of their own in training, and the same ones otherwise."""
    method = randomised(coop.build("clip_lora", clip, ["cat", "CAT"], dropout=0.5, encoder="text"))
    assert not torch.allclose(*method.text_features(), atol=1e-2)
    torch.testing.assert_close(*method.eval().text_features(), atol=1e-5, rtol=0)
    fast = coop.build("clip_lora", computed(clip, way="fast"), NAMES)
    fast.eval().text_features()
    with pytest.raises(InputError, match="without dropout; set COMPUTE.WAY"):
        fast.train().text_features()


def test_frozen_towers_are_told(clip):
    assert coop.build("clip_lora", clip, NAMES, encoder="text").frozen_images
    assert not coop.build("clip_lora", clip, NAMES).frozen_images
    vision = coop.build("clip_lora", clip, NAMES, encoder="vision")
    assert torch.equal(vision.text_features(), vision.text_features()) and not vision.text_features().requires_grad


def test_learned_tensors_go_round_and_serve_other_classes(clip):
    method, images = randomised(coop.build("clip_lora", clip, NAMES, dropout=0.0)), torch.randn(2, 3, 32, 32)
    again = coop.build("clip_lora", clip, NAMES, dropout=0.0)
    again.load_learned_state(method.learned_state())
    assert torch.equal(again(images), method(images))
    other = method.for_classes(["snapdragon", "bird", "cat"])
    torch.testing.assert_close(other(images)[:, [2, 0]], method(images)[:, [0, 2]])


def test_bf16_is_close_to_fp32(clip):
    method, images = randomised(coop.build("clip_lora", clip, NAMES, dropout=0.0)), torch.randn(2, 3, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        found = method(images)
    torch.testing.assert_close(found.float(), method(images), atol=1.0, rtol=0.05)


def official(method, **metadata):
    """As `save_lora` of the official code lays it out: text blocks first, then those of the image tower."""
    state, known = method.learned_state(), method.options
    blocks = {name.rpartition(".attn.")[0]: {} for name in sorted(state, key=lambda name: name.startswith("visual."))}
    for name, tensor in state.items():
        block, _, rest = name.rpartition(".attn.")
        layer, _, matrix = rest.partition(".")
        blocks[block].setdefault(layer, {})[matrix] = tensor
    metadata = (
        dict(r=known["rank"], alpha=1, encoder=known["encoder"], params=["q", "k", "v"], position="all") | metadata
    )
    return {"weights": {f"layer_{n}": block for n, block in enumerate(blocks.values())}, "metadata": metadata}


def test_official_files_are_read(clip, tmp_path):
    method, path = randomised(coop.build("clip_lora", clip, NAMES)), tmp_path / "lora_weights.pt"
    torch.save(official(method), path)
    fresh = coop.build("clip_lora", clip, NAMES)
    start_from(SimpleNamespace(METHOD=SimpleNamespace(WEIGHTS=str(path))), coop, fresh)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(fresh.eval()(images), method.eval()(images))


MISFITS = {
    "alpha": (dict(alpha=2), {}, "learned with alpha 2: set METHOD.OPTIONS.ALPHA"),
    "rank": (dict(r=4), {}, "learned with rank 4: set METHOD.OPTIONS.RANK"),
    "targets": (dict(params=["q", "v"]), {}, r"learned with targets \['q', 'v'\]: set METHOD.OPTIONS.TARGETS"),
    "encoder": (dict(encoder="text"), {}, "learned with encoder 'text'"),
    "position": (dict(position="up"), {}, "position is 'up': set METHOD.OPTIONS.TEXT_LAYERS"),
    "blocks": ({}, dict(vision_layers=[0]), r"changes \d+ blocks \(position 'all'\), this method \d+"),
    "scaling": ({}, dict(scaling="linear"), "set METHOD.OPTIONS.SCALING sqrt"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_official_files_of_other_settings_are_refused(case, clip, tmp_path):
    metadata, options, sentence = MISFITS[case]
    torch.save(official(coop.build("clip_lora", clip, NAMES), **metadata), tmp_path / "lora_weights.pt")
    with pytest.raises(InputError, match=f"lora_weights.pt does not fit: .*{sentence}"):
        load_official(tmp_path / "lora_weights.pt", coop.build("clip_lora", clip, NAMES, **options))


@pytest.mark.parametrize("content", [{"weights": 1, "metadata": {}}, {"weights": {}}, {"weights": {"layer_0": 3}}])
def test_other_layouts_and_methods_are_named(content, clip, tmp_path):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(InputError, match="w.pt is not laid out as CLIP-LoRA saves its layers"):
        load_official(tmp_path / "w.pt", coop.build("clip_lora", clip, NAMES))
    with pytest.raises(InputError, match="w.pt is a checkpoint of CLIP-LoRA: set METHOD.NAME clip_lora"):
        load_official(tmp_path / "w.pt", coop.build("coop", clip, NAMES, n_ctx=2))


BAD = {
    "target": (dict(targets=("q", "w")), "unknown target of LoRA 'w'; .*'?q"),
    "mlp": (dict(targets=("fc1",)), "unknown target of LoRA 'fc1'"),
    "no target": (dict(targets=()), "targets is empty; LoRA changes at least one of q, k, v, o"),
    "rank": (dict(rank=0), "rank is 0"),
    "dropout": (dict(dropout=1.0), "dropout is 1.0"),
    "encoder": (dict(encoder="visual"), "unknown encoder 'visual'"),
    "scaling": (dict(scaling="root"), "unknown scaling 'root'"),
    "block": (dict(vision_layers=[9]), "there is no block 9 for LoRA: this tower of 'embedded' has"),
    "template": (dict(template="a photo"), "has no {} where the class name goes"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_options(case, clip):
    options, sentence = BAD[case]
    with pytest.raises(InputError, match=sentence):
        coop.build("clip_lora", clip, NAMES, **options)


def test_a_resnet_has_a_text_tower_only(golden):
    clip = load_clip(golden.root / "coop/clip_rn_tiny.safetensors")
    with pytest.raises(InputError, match="has no blocks with attention for LoRA to change"):
        coop.build("clip_lora", clip, ["cat"])
    method = coop.build("clip_lora", clip, ["cat"], encoder="text")
    assert method(torch.randn(2, 3, 64, 64)).shape == (2, 1)
