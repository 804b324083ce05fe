"""Frozen weights held in 16 bits: the bits that autocast gives, and float32 wherever autocast does not reach."""

import weakref

import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import coop
import vpt
from promptvision.backbones import load_clip
from promptvision.backbones.compute import Compute
from promptvision.backbones.fingerprint import fingerprint
from promptvision.config import load_config
from promptvision.engine.run_folder import RunFolder
from promptvision.errors import InputError
from promptvision.experiment import experiment
from promptvision.experiment.half_precision import hold, hold_frozen
from promptvision.experiment.predict import Predictor
from promptvision.experiment.run import load_run, retest, run
from promptvision.method import Method
from promptvision.sweep.shared_backbone import sharing

FAMILIES = {"vpt": vpt, "coop": coop}
NAMES = ["cat", "golden retriever", "DC-9-30"]
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
SMALL = dict(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=0)
TOWERS = {
    "vit": lambda: VisionTransformer(**SMALL),
    "swin": lambda: SwinTransformer(32, 2, num_classes=0, embed_dim=16, depths=(1, 1), num_heads=(2, 2), window_size=4),
}  # fmt: skip
CLIPS = {
    "coop": {}, "cocoop": {}, "maple": {}, "clip_lora": {}, "kg_coop": {}, "tcp": {}, "prompt_kd": {}, "plot": {},
    "prompt_src": dict(teacher_templates=["a photo of a {}."]), "clap": {}, "mmrl": {}, "mmrl_pp": {}, "mma_pp": {},
    "skip_tuning": {}, "co_prompt": {}, "two_stage": {}, "dept": dict(host="maple"), "at_prompt": dict(host="cocoop"),
}  # fmt: skip
VPTS = {
    "vit prompt": dict(deep=True), "vit full": {}, "vit partial": {}, "vit bias": {}, "vit lora": {}, "vit l2p": {},
    "vit convpass": {}, "embedded convpass": {}, "vit repadapter": {}, "embedded repadapter": {},
    "vit adapter": dict(learned_scale=True), "vit below": {}, "vit pad": {}, "swin swin_prompt": {},
    "vit vfpt": dict(project=8, dropout=0.2), "vit e2vpt": {}, "vit vqt": dict(dropout=0.2), "vit dtl": dict(kernel=3),
    "embedded prompt": dict(deep=True), "embedded adapter": dict(learned_scale=True), "embedded partial": {},
}  # fmt: skip


def clip_method(name, way="auto"):
    torch.manual_seed(1)
    return coop.build(name, load_clip("embedded", compute=Compute(way)), NAMES, **CLIPS.get(name, {}))


def vpt_method(row):
    torch.manual_seed(1)
    tower, _, name = row.partition(" ")
    return vpt.build(name, vpt.load_backbone(TOWERS[tower]() if tower in TOWERS else tower), NAMES, **VPTS[row])


def held(method, precision):
    for each in method.to_half(True):
        hold(each, HALVES[precision])
    return method


def numbers(method, precision):
    """Loss and gradients of a training step, and logits of a test, under autocast."""
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    method.train()
    torch.manual_seed(3)
    with torch.autocast("cpu", HALVES[precision]):
        loss = method.loss(images, torch.tensor([0, 1, 2]), *[images.flip(3)] * method.wants_second_view)
    loss.backward()
    method.eval()
    with torch.no_grad(), torch.autocast("cpu", HALVES[precision]):
        logits = method.predictor()(images)
    gradients = {name: parameter.grad for name, parameter in method.named_parameters() if parameter.grad is not None}
    return {"loss": loss.detach(), "logits": logits, **gradients}


def same(ours, theirs):
    assert ours.keys() == theirs.keys() and len(ours) > 0
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


@pytest.mark.parametrize("name", ["gda", "lp_plus_plus", "clap"])
def test_heads_on_features_are_computed_in_float32(name):
    """The same features give the same bits, among training classes and new ones, whatever precision the towers have."""
    draws = torch.Generator().manual_seed(4)
    labels = torch.arange(12) % 3
    features = torch.randn(3, 128, generator=draws)[labels] + torch.randn(12, 128, generator=draws)

    def fitted(half):
        method = clip_method(name)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            method.prepare([(features, labels)], [(features.flip(0), labels.flip(0))])
        tested = [method] + ([method.for_classes(["hen", "cat"])] if name == "gda" else [])
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            found = {str(each.classes): each.predictor()(features) for each in tested}
            found |= {"loss": method.loss(features, labels)} if name == "clap" else {}
        if name == "clap":
            found["gradient"] = torch.autograd.grad(found["loss"], method.prototypes)[0]
        return dict(method.named_buffers()) | found

    same(fitted(True), fitted(False))


def kinds(module):
    return {parameter.dtype for parameter in module.parameters()}


BOTH = pytest.mark.parametrize("precision", ["bf16", pytest.param("fp16", marks=pytest.mark.slow)])


@BOTH
@pytest.mark.parametrize("way", ["plain", "auto"])
@pytest.mark.parametrize("name", CLIPS)
def test_a_clip_method_gives_the_same_bits(name, way, precision):
    method = held(clip_method(name, way), precision)
    assert all(
        kinds(tower) == {torch.float32, HALVES[precision]} for tower in (method.backbone.image, method.backbone.text)
    )
    same(numbers(method, precision), numbers(clip_method(name, way), precision))


@BOTH
@pytest.mark.parametrize("row", VPTS)
def test_a_visual_method_gives_the_same_bits(row, precision):
    same(numbers(held(vpt_method(row), precision), precision), numbers(vpt_method(row), precision))


@pytest.mark.parametrize("row", ["vit full", "vit partial", "vit bias", "vit cls", "embedded partial", "vit below"])
def test_what_learns_stays_in_float32(row):
    VPTS.setdefault(row, {})
    method = held(vpt_method(row), "bf16")
    assert {parameter.dtype for parameter in method.trained().values()} == {torch.float32}
    assert {tensor.dtype for tensor in method.learned_state().values()} == {torch.float32}


def test_norms_embeddings_and_temperature_stay_in_float32():
    clip = held(clip_method("coop"), "bf16").backbone
    half = {name for name, parameter in clip.named_parameters() if parameter.dtype == torch.bfloat16}
    assert {"image.model.conv1.weight", "image.model.proj", "text.projection"} <= half
    assert all(clip.get_parameter(f"text.transformer.resblocks.0.{name}").dtype == torch.bfloat16 for name in (
        "attn.in_proj_weight", "attn.out_proj.weight", "attn.out_proj.bias", "mlp.c_fc.weight", "mlp.c_fc.bias",
    ))  # fmt: skip
    assert not [name for name in half if "ln_" in name or "embedding" in name or "logit_scale" in name]


def test_float32_weights_are_given_up():
    method = vpt_method("vit prompt")
    tensor = method.backbone.model.blocks[0].mlp.fc1.weight.data
    storage = weakref.ref(tensor.untyped_storage())
    del tensor
    held(method, "bf16")
    assert storage() is None


def test_frozen_image_features_on_a_cpu_do_not_take_torchs_native_attention():
    (clip, held_clip), images = (load_clip("embedded") for _ in range(2)), torch.randn(2, 3, 32, 32)
    hold(coop.build("zero_shot", held_clip, NAMES), torch.bfloat16)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(held_clip.image(images), clip.image(images))


def test_a_weight_that_an_embedding_shares_is_kept():
    method = clip_method("coop")
    tower = method.backbone.image
    tower.model.proj = tower.model.positional_embedding
    hold(method, torch.bfloat16)
    assert tower.model.positional_embedding.dtype == torch.float32


class Own(Method):
    """A method of the user's, which leaves autocast."""

    def __init__(self, backbone, classes):
        super().__init__(backbone, classes)
        self.head = nn.Linear(backbone.feature_dim, len(classes))

    def forward(self, images):
        with torch.autocast("cpu", enabled=False):
            return self.head(self.backbone(images.float()))


class OwnBlock(nn.Module):
    """A part of a backbone of the user's, which reads a weight."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(32, 32)

    def forward(self, tokens):
        return self.layer(tokens) * self.layer.weight.norm()


def config(tmp_path, *words):
    (tmp_path / "empty.yaml").write_text("")
    return load_config(tmp_path / "empty.yaml", [*words, "OUTPUT_DIR", str(tmp_path / "out")], FAMILIES)


def test_code_that_may_read_weights_otherwise_keeps_them(tmp_path):
    method = Own(vpt.load_backbone(TOWERS["vit"]()), NAMES)
    vpt_config = config(tmp_path, "METHOD.FAMILY", "vpt", "METHOD.NAME", "linear", "TRAIN.PRECISION", "bf16")
    hold_frozen(vpt_config, method, training=True)
    assert kinds(method) == {torch.float32}
    tower = TOWERS["vit"]()
    tower.blocks[1] = OwnBlock()
    for model in (tower, timm.create_model("convit_tiny", num_classes=0)):
        assert kinds(held(vpt.build("linear", model, NAMES), "bf16")) == {torch.float32}


WORLD = ["DATASET.NAME", "world_backgrounds", "DATASET.SHOTS", 1, "TEST.SPLIT", "val", "TRAIN.THREADS", 1]
SHORT = ["OPTIM.EPOCHS", 2, "OPTIM.BATCH_SIZE", 4]
RUNS = {
    "CoOp": ["METHOD.OPTIONS.N_CTX", 2, "TRAIN.VIEWS", 1],
    "KgCoOp": ["METHOD.NAME", "kg_coop"],
    "VPT": ["METHOD.FAMILY", "vpt", "METHOD.NAME", "prompt", "METHOD.OPTIONS.NUM_TOKENS", 2],
    "Tip-Adapter": ["METHOD.NAME", "tip_adapter", "METHOD.OPTIONS.SEARCH", []],
}


@pytest.fixture
def go(tmp_path):
    """`go(folder, *overrides)` makes a run in a folder of the test, with a cache in it."""

    def call(name, *overrides, families=FAMILIES, resume=False):
        words = [*WORLD, *SHORT, "CACHE_DIR", str(tmp_path / name / "cache"), *overrides]
        cfg = config(tmp_path, *words, "OUTPUT_DIR", str(tmp_path / name))
        with RunFolder(tmp_path / name, resume=resume) as folder:
            result = run(cfg, families, folder, progress=False)
        return cfg, result, load_file(tmp_path / name / "learned.safetensors")

    return call


def scores(result):
    return {key: result[key] for key in ("accuracy", "per_class", "ece", "loss", "learned_parameters", "test_hash")}


def cached(tmp_path, name):
    return sorted(file.name for file in (tmp_path / name / "cache").rglob("*.safetensors"))


@pytest.mark.parametrize("row", RUNS)
def test_a_run_ends_as_with_autocast_alone(row, go, tmp_path, monkeypatch):
    words = [*RUNS[row], "TRAIN.PRECISION", "bf16"]
    cfg, ours, learned = go("ours", *words)
    again = retest(cfg, FAMILIES, tmp_path / "ours", progress=False)
    images = torch.randn(2, 3, 32, 32)
    method = load_run(cfg, FAMILIES, tmp_path / "ours")
    assert kinds(method) == {torch.float32}
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = method.eval().predictor()(images)
        assert torch.equal(Predictor(cfg, method).predict(images), logits) and torch.bfloat16 in kinds(method)
    monkeypatch.setattr(experiment, "hold_frozen", lambda *args, **options: None)
    _, theirs, theirs_learned = go("theirs", *words)
    assert scores(ours) == scores(theirs) and again["per_class"] == ours["per_class"]
    same(learned, theirs_learned)
    assert cached(tmp_path, "ours") == cached(tmp_path, "theirs")
    assert bool(cached(tmp_path, "ours")) == (row != "VPT")


def test_a_resumed_run_ends_the_same(go, tmp_path, monkeypatch):
    words = [*RUNS["VPT"], "TRAIN.PRECISION", "fp16"]
    _, _, whole = go("whole", *words)

    def stop(method, epoch):
        raise InputError("enough")

    monkeypatch.setattr(Method, "end_epoch", lambda self, epoch, epochs: epoch and stop(self, epoch))
    with pytest.raises(InputError, match="enough"):
        go("part", *words)
    monkeypatch.undo()
    assert (tmp_path / "part" / "last.ckpt").exists()
    same(go("part", *words, resume=True)[2], whole)


def test_the_next_run_of_a_sweep_gets_float32_weights(go):
    families = sharing(FAMILIES)
    shared = [
        go(name, *RUNS["VPT"], "TRAIN.PRECISION", name, families=families)[2] for name in ("bf16", "fp32", "fp16")
    ]
    alone = [go(f"{name} alone", *RUNS["VPT"], "TRAIN.PRECISION", name)[2] for name in ("bf16", "fp32", "fp16")]
    for ours, theirs in zip(shared, alone, strict=True):
        same(ours, theirs)
    assert kinds(families["vpt"]._backbone) == {torch.float32}


def test_the_identity_of_cached_features_is_that_of_the_float32_weights(tmp_path):
    words = ["TRAIN.PRECISION", "bf16", "CACHE_DIR", str(tmp_path / "cache")]
    cfg = config(tmp_path, *WORLD, *SHORT, *words)
    with RunFolder(tmp_path / "out") as folder:
        built = experiment.build(cfg, FAMILIES, folder, False)
    assert kinds(built.method.backbone) == {torch.float32, torch.bfloat16}
    assert built.cache.identity == fingerprint(load_clip("embedded").image)
