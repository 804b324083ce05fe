"""IVLP, MaPLe and PromptSRC as methods: what they learn, other classes, official checkpoints, objectives, bad input."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

import coop
from coop.parts.objective import FeatureMethod
from coop.parts.official_checkpoints import load_official
from coop.parts.teacher import Teacher
from promptvision.backbones import load_clip
from promptvision.errors import InputError

NAMES = ["cat", "golden_retriever", "Washington D.C."]
CASES = {
    "ivlp": dict(n_ctx_text=3, n_ctx_vision=2, depth_text=2, depth_vision=4),
    "language": dict(depth_text=2, depth_vision=0),
    "maple": dict(n_ctx=3, depth=2),
    "prompt_src": dict(depth_text=2, depth_vision=2),
}
EVERY = pytest.mark.parametrize("case", CASES)


@pytest.fixture(scope="module")
def clip():
    return load_clip("embedded")


@pytest.fixture(scope="module")
def batch():
    generator = torch.Generator().manual_seed(2)
    return torch.randn(4, 3, 32, 32, generator=generator), torch.tensor([0, 1, 2, 1])


def build(case, clip, classes=NAMES, **options):
    torch.manual_seed(5)
    name = "ivlp" if case == "language" else case
    return coop.build(name, clip, classes, **{**CASES[case], **options})


@EVERY
def test_only_declared_tensors_move(case, clip, batch):
    method = build(case, clip)
    before = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    method.loss(*batch).backward()
    for parameter in method.parameters():
        if parameter.requires_grad:
            assert parameter.grad.abs().max() > 0
            parameter.data.sub_(parameter.grad)
    moved = {name for name, tensor in method.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == set(method.learned()) == set(method.learned_state())
    assert all(parameter.grad is None for parameter in clip.parameters())


@EVERY
def test_learned_tensors_and_their_official_names(case, clip, batch):
    width, seen = clip.text.width, clip.image.width
    layer = "transformer.resblocks.{}.VPT_shallow"
    text = {"prompt_learner.ctx": (3, width), f"text_encoder.{layer.format(1)}": (3, width)}
    vision = {"image_encoder.VPT": (2, seen), **{f"image_encoder.{layer.format(i)}": (2, seen) for i in (1, 2, 3)}}
    linear = {".weight": (seen, width), ".bias": (seen,)}
    coupled = {"prompt_learner.ctx": (3, width), "prompt_learner.compound_prompts_text.0": (3, width)}
    coupled |= {f"prompt_learner.proj{end}": shape for end, shape in linear.items()}
    coupled |= {f"prompt_learner.compound_prompt_projections.0{end}": shape for end, shape in linear.items()}
    expected = {
        "ivlp": text | vision,
        "language": {name: (2, width) for name in text},
        "maple": coupled,
        "prompt_src": {name: (4, width) for name in text} | {name: (4, seen) for name in list(vision)[:2]},
    }[case]
    method = build(case, clip)
    assert {name: tuple(tensor.shape) for name, tensor in method.learned_state().items()} == expected
    other = build(case, clip)
    for parameter in other.parameters():
        if parameter.requires_grad:
            parameter.data.add_(1)
    other.load_learned_state(method.learned_state())
    assert torch.equal(other(batch[0]), method(batch[0]))


@EVERY
def test_new_classes_get_the_same_prompts(case, clip, batch):
    method = build(case, clip)
    other = method.for_classes(["dog", "Washington D.C.", "cat", "old_house"])
    assert other.classes[0] == "dog" and other.options == method.options
    torch.testing.assert_close(other(batch[0])[:, [2, 1]], method(batch[0])[:, [0, 2]])
    other.loss(batch[0], batch[1]).backward()


@EVERY
@pytest.mark.parametrize("way, chunk", [("plain", 0), ("plain", 2), ("fast", 1)])
def test_ways_and_chunks_change_nothing(case, way, chunk, clip, batch, computed):
    results = []
    for settings in ({}, dict(way=way, chunk=chunk)):
        method = build(case, computed(clip, **settings), [*NAMES, "dog", "old_house"])
        method.loss(*batch).backward()
        results.append({name: method.get_parameter(name).grad for name in method.learned()})
    for name, gradient in results[0].items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(results[1][name], gradient, atol=1e-4 * scale, rtol=0, msg=name)


@EVERY
def test_one_class_can_be_named(case, clip, batch):
    """It is not trained (`fit`), but it is encoded, alone, as among others."""
    method = build(case, clip)
    torch.testing.assert_close(method.for_classes(["cat"])(batch[0]), method(batch[0])[:, :1])


def test_language_alone_leaves_images_to_the_frozen_tower(clip, batch):
    method = build("language", clip)
    assert method.frozen_images and not build("ivlp", clip).frozen_images
    torch.testing.assert_close(method(clip.image(batch[0])), method(batch[0]))


def test_maple_is_ivlp_with_coupled_prompts(clip, batch):
    """Deep prompts of both towers, the visual ones W t + b, worked out here."""
    maple = build("maple", clip)
    state = {name.removeprefix("prompt_learner."): tensor for name, tensor in maple.learned_state().items()}
    ivlp = build("ivlp", clip, n_ctx_text=3, n_ctx_vision=3, depth_text=2, depth_vision=2)
    deep, there = state["compound_prompts_text.0"], "transformer.resblocks.1.VPT_shallow"
    made = {
        "prompt_learner.ctx": state["ctx"],
        f"text_encoder.{there}": deep,
        "image_encoder.VPT": state["ctx"] @ state["proj.weight"].T + state["proj.bias"],
        f"image_encoder.{there}": deep @ state["compound_prompt_projections.0.weight"].T
        + state["compound_prompt_projections.0.bias"],
    }
    ivlp.load_learned_state(made)
    torch.testing.assert_close(maple(batch[0]), ivlp(batch[0]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("case", ["ivlp", "maple", "prompt_src"])
def test_contexts_start_at_the_leading_words(case, clip):
    """The words beyond them stay; with more contexts than words all start as noise."""
    count = {"ivlp": "n_ctx_text", "maple": "n_ctx", "prompt_src": "n_ctx_text"}[case]
    words = clip.text.embed(clip.text.tokenize(["a photo of a"]))[0, 1:5]
    for n_ctx in (2, 4):
        assert torch.equal(build(case, clip, **{count: n_ctx}).prompt_learner.ctx, words[:n_ctx])
    prompts = build(case, clip, **{count: 2}).encoder.prompts(clip.text, torch.zeros(1, 2, clip.text.width))[:, 1:5]
    assert torch.equal(prompts, torch.cat([torch.zeros_like(words[:2]), words[2:]]).expand(3, -1, -1))
    noise = build(case, clip, **{count: 40}).prompt_learner.ctx
    assert noise.shape[0] == 40 and noise.std().item() == pytest.approx(0.02, rel=0.1)
    assert build(case, clip, **{count: 2}, ctx_init="").prompt_learner.ctx.std() < 0.03


def saved(path, method, clip, **more):
    """As Dassl saves IVLP, MaPLe and PromptSRC: the whole model in half precision, a zero-shot tower too."""
    state = {name: tensor.half() for name, tensor in method.learned_state().items()}
    state |= {"prompt_learner.token_prefix": torch.zeros(3, 1, 8), "prompt_learner.token_suffix": torch.zeros(3, 60, 8)}
    state |= {f"image_encoder.{name}": tensor for name, tensor in list(clip.image.model.state_dict().items())[:3]}
    state |= {f"text_encoder.{name}": tensor for name, tensor in clip.text.transformer.state_dict().items()}
    state |= {"prompt_learner.ZS_image_encoder.conv1.weight": torch.zeros(3), "logit_scale": clip.logit_scale, **more}
    torch.save({"state_dict": state, "epoch": 5, "optimizer": None, "val_result": None}, path)
    return path


@EVERY
def test_official_checkpoints_hold_the_whole_model(case, clip, batch, tmp_path):
    method = build(case, clip)
    for parameter in method.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.1)
    read = load_official(saved(tmp_path / "model.pth.tar-5", method, clip))
    assert {name: tensor.dtype for name, tensor in read.items()} == dict.fromkeys(method.learned(), torch.float32)
    other = build(case, clip)
    other.load_learned_state(read)
    torch.testing.assert_close(other(batch[0]), method(batch[0]), atol=0.05, rtol=1e-2)


def test_official_visual_prompts_alone(clip, tmp_path):
    method = coop.build("vpt", clip, NAMES, n_ctx=2, depth=3)
    read = load_official(saved(tmp_path / "model.pth.tar-5", method, clip))
    method.load_learned_state(read)
    assert len(read) == 3


def test_checkpoints_of_other_sizes_are_named(clip, tmp_path):
    path = saved(tmp_path / "model.pth.tar-5", build("ivlp", clip), clip)
    with pytest.raises(InputError, match="'prompt_learner.ctx' has shape .3, 128., this method needs .2, 128."):
        build("ivlp", clip, n_ctx_text=2).load_learned_state(load_official(path))
    with pytest.raises(InputError, match="lacks 'prompt_learner.proj.weight'"):
        build("maple", clip).load_learned_state(load_official(path))


class Bare(FeatureMethod):
    """Text features to be learned."""

    def __init__(self, backbone, classes):
        super().__init__(backbone, classes)
        self.features = torch.nn.Parameter(torch.ones(len(classes), backbone.image.feature_dim))

    def text_features(self):
        return self.features


def test_terms_are_added_with_their_weights(clip, batch):
    """A user's own term beside the task's loss; one of weight 0 is never computed."""
    method = Bare(clip, NAMES)
    logits = method(batch[0])
    task = F.cross_entropy(logits, batch[1])
    torch.testing.assert_close(method.loss(*batch), task)
    method.terms["logits"] = (0.5, lambda step: step.logits.square().mean())
    method.terms["norm"] = (2.0, lambda step: step.text_features.norm())
    method.terms["never"] = (0, lambda step: 1 / 0)
    expected = task + 0.5 * logits.square().mean() + 2 * method.features.norm()
    torch.testing.assert_close(method.loss(*batch), expected)


def test_what_terms_share_is_computed_once(clip, batch):
    method, calls = build("prompt_src", clip), []
    found = method.teacher.image_features
    method.teacher.image_features = lambda *args: calls.append(1) or found(*args)
    method.loss(*batch)
    assert calls == [1]
    calls.clear()
    coop.build("prompt_src", clip, NAMES, image_weight=0, logits_weight=0).loss(*batch)
    assert not calls


def test_the_terms_of_prompt_src_by_hand(clip):
    """Two images, three classes, features of unit length; the teacher as given here."""
    method = build("prompt_src", clip)
    text, image = torch.randn(3, 64), torch.randn(2, 64)
    teacher_text, teacher_image = F.normalize(torch.randn(3, 64), dim=-1), F.normalize(torch.randn(2, 64), dim=-1)
    method.teacher = SimpleNamespace(
        text_features=lambda clip: teacher_text, image_features=lambda clip, images: teacher_image
    )
    logits = torch.tensor([[1.0, 2.0, 3.0], [0.5, 0.5, -1.0]])
    step = SimpleNamespace(
        images=None, text_features=text, image_features=image, logits=logits, once=lambda name, make: make()
    )
    norm = text / text.norm(dim=-1, keepdim=True)
    assert method.text_term(step).item() == pytest.approx((norm - teacher_text).abs().sum().item() / 192, rel=1e-5)
    norm = image / image.norm(dim=-1, keepdim=True)
    assert method.image_term(step).item() == pytest.approx((norm - teacher_image).abs().sum().item() / 128, rel=1e-5)
    theirs = (clip.logit_scale.exp() * teacher_image @ teacher_text.T).softmax(-1)
    ours, total = logits.softmax(-1), 0.0
    for row in range(2):
        for column in range(3):
            p, q = theirs[row, column].item(), ours[row, column].item()
            total += p * (math.log(p) - math.log(q)) if p > 0 else 0.0
    assert method.logits_term(step).item() == pytest.approx(total / 6, rel=1e-4)


def test_a_teacher_is_asked_late_and_once(clip):
    texts = []
    other = SimpleNamespace(text=lambda rows: texts.append(len(rows)) or clip.text(rows), logit_scale=clip.logit_scale)
    teacher = Teacher(NAMES, ["a photo of a {}.", "a {}"], each_normalized=False)
    assert not texts
    found = teacher.text_features(other)
    assert teacher.text_features(other) is found and texts == [6]
    raw = torch.stack([clip.text([f"a photo of a {name}.", f"a {name}"]).mean(0) for name in ("cat",)])
    torch.testing.assert_close(found[:1], F.normalize(raw, dim=-1))
    each = Teacher(NAMES, ["a photo of a {}.", "a {}"]).text_features(clip)
    torch.testing.assert_close(
        each, coop.build("zero_shot", clip, NAMES, templates=["a photo of a {}.", "a {}"]).features
    )


BAD = {
    "text too deep": ("ivlp", dict(depth_text=4), "depth_text is 4; the text tower has 3 blocks, and 1 is shallow"),
    "no text": ("ivlp", dict(depth_text=0), "depth_text is 0; for visual prompts alone take METHOD.NAME vpt"),
    "image too deep": ("ivlp", dict(depth_vision=5), "depth_vision is 5; backbone 'embedded' has 4 blocks, and 1 is"),
    "negative": ("ivlp", dict(depth_vision=-1), "depth_vision is -1; backbone 'embedded' has"),
    "no contexts": ("ivlp", dict(n_ctx_text=0), "n_ctx is 0; a prompt needs at least one context vector"),
    "no visual": ("ivlp", dict(n_ctx_vision=0), "n_ctx is 0; there must be at least one visual prompt"),
    "maple too deep": ("maple", dict(depth=9), "depth is 9; backbone 'embedded' has 4 blocks"),
    "maple text too deep": ("maple", dict(depth=4), "depth is 4; the text tower has 3 blocks"),
    "maple without": ("maple", dict(depth=0), "depth is 0; backbone"),
    "too long": ("maple", dict(n_ctx=75), "75 context vectors and the longest class name"),
    "std": ("prompt_src", dict(gpa_std=0.0), "must be positive"),
    "weight": ("prompt_src", dict(text_weight=-1.0), "text_weight is -1.0; the weight of a term cannot be negative"),
    "template": ("prompt_src", dict(teacher_templates=["a photo"]), "'a photo' has no {} where the class name goes"),
    "option": ("ivlp", dict(depth=2), "unknown option of ivlp 'depth'; did you mean 'depth_text'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_options_are_one_sentence(name, clip):
    method, options, sentence = BAD[name]
    with pytest.raises(InputError, match=sentence) as error:
        coop.build(method, clip, NAMES, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("method", ["ivlp", "maple", "prompt_src", "vpt"])
def test_a_resnet_takes_no_visual_prompts(method, golden):
    resnet = load_clip(golden.root / "coop/clip_rn_tiny.safetensors")
    with pytest.raises(InputError, match="has no tokens to put prompts among; choose a ViT"):
        coop.build(method, resnet, NAMES)


def test_a_resnet_takes_language_prompts(golden):
    resnet = load_clip(golden.root / "coop/clip_rn_tiny.safetensors")
    method = build("language", resnet)
    method.loss(torch.randn(2, 3, 64, 64), torch.tensor([0, 2])).backward()
    assert all(method.get_parameter(name).grad.abs().max() > 0 for name in method.learned())
