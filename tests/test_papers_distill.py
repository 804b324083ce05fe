"""TCP and PromptKD: against computations of their own, in both ways; teachers that fit and teachers that do not."""

import json
import logging

import pytest
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import save_file

import coop
from coop.prompt_kd import divergence
from promptvision.backbones import load_clip
from promptvision.config import load_config
from promptvision.engine.optim import build_optimizer
from promptvision.engine.run_folder import RunFolder
from promptvision.errors import InputError
from promptvision.experiment.run import load_run, run
from promptvision.method import Method

NAMES = ["cat", "golden_retriever", "old house"]


@pytest.fixture(scope="module")
def clip():
    return load_clip("embedded")


@pytest.fixture(scope="module")
def tiny(golden):
    return load_clip(golden.root / "coop/clip_vit_tiny.safetensors").double()


@pytest.fixture
def batch():
    torch.manual_seed(0)
    return torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 1])


# TCP


def tcp(clip, **options):
    torch.manual_seed(1)
    method = coop.build("tcp", clip, NAMES, n_ctx=3, **options).to(clip.logit_scale.dtype)
    method.ctx.data.mul_(30)
    return method


def tcp_by_hand(method, layer):
    """One class at a time: its whole prompt through every block, M tokens behind the start replaced before `layer`."""
    clip, found = method.backbone, []
    for name in NAMES:
        words = name.replace("_", " ")
        known = F.normalize(clip.text([f"a photo of a {words}."]), dim=-1)[0]
        hidden = method.meta_net.linear1.weight @ known + method.meta_net.linear1.bias
        hidden = hidden * torch.sigmoid(1.702 * hidden)
        own = (method.meta_net.linear2.weight @ hidden + method.meta_net.linear2.bias).reshape(3, -1)
        ids = clip.text.tokenize([f"X X X {words}."])
        tokens = clip.text.embed(ids)
        tokens = torch.cat([tokens[:, :1], method.ctx[None], tokens[:, 4:]], dim=1) + clip.text.positional_embedding
        for index, block in enumerate(clip.text.blocks):
            if index == layer:
                tokens = torch.cat([tokens[:, :1], own[None], tokens[:, 4:]], dim=1)
            tokens = block(tokens, attn_mask=clip.text.mask)
        found.append(clip.text.project(tokens[0, clip.text.eot(ids)[0]]))
    return torch.stack(found)


@pytest.mark.parametrize("way", ["plain", "fast"])
@pytest.mark.parametrize("from_end", [1, 2])
def test_class_prompts_enter_at_one_block(tiny, golden, computed, way, from_end):
    layer = len(tiny.text.blocks) - from_end
    method = tcp(computed(tiny, way=way), layer=layer, weight=3.0)
    features = tcp_by_hand(method, layer)
    torch.testing.assert_close(method.text_features(), features)
    images, labels = (
        golden("coop/inputs")[1]["images"].double(),
        torch.arange(8)[: len(golden("coop/inputs")[1]["images"])] % 3,
    )
    unit = F.normalize(features, dim=-1)
    zero_shot = coop.build("zero_shot", tiny, NAMES).features
    pull = 2 * (1 - (unit * zero_shot).sum(-1)).mean()
    logits = tiny.logit_scale.exp() * F.normalize(tiny.image(images), dim=-1) @ unit.T
    wanted = F.cross_entropy(logits, labels) + 3.0 * pull
    loss = method.loss(images, labels)
    torch.testing.assert_close(loss, wanted)
    learned = [method.get_parameter(name) for name in method.learned()]
    both = [torch.autograd.grad(value, learned) for value in (loss, wanted)]
    for ours, theirs in zip(*both, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert all(gradient.abs().max() > 0 for gradient in both[0])


def test_tcp_names_new_classes_and_travels(clip, batch, computed):
    method = tcp(clip, layer=1)
    assert method.learned() == [
        "ctx", "meta_net.linear1.weight", "meta_net.linear1.bias", "meta_net.linear2.weight", "meta_net.linear2.bias",
    ]  # fmt: skip
    other = method.for_classes(["dog", NAMES[1]])
    torch.testing.assert_close(other(batch[0])[:, 1], method(batch[0])[:, 1], atol=1e-4, rtol=1e-4)
    chunked = coop.build("tcp", computed(clip, chunk=1), NAMES, n_ctx=3, layer=1)
    chunked.load_learned_state(method.learned_state())
    torch.testing.assert_close(chunked(batch[0]), method(batch[0]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("layer", [-1, 3, 8])
def test_a_block_that_is_not_there(clip, layer):
    with pytest.raises(InputError, match=f"layer is {layer}; the text tower has 3 blocks, so it can be 1 to 2"):
        coop.build("tcp", clip, NAMES, layer=layer)


# PromptKD


def kd(clip, **options):
    torch.manual_seed(2)
    return coop.build("prompt_kd", clip, NAMES, **{"teacher": "embedded", "depth": 2, **options})


def test_divergence_worked_out_by_hand():
    """Teacher (1/2, 1/2), student (3/4, 1/4): 1/2 log(2/3) + 1/2 log 2 = 1/2 log(4/3)."""
    student, teacher = torch.tensor([[3.0, 1.0]]).log(), torch.tensor([[1.0, 1.0]])
    assert divergence(student, teacher, 1.0).item() == pytest.approx(0.5 * torch.tensor(4 / 3).log().item(), rel=1e-5)
    warm = divergence(2 * student, 2 * teacher, 2.0)
    assert warm.item() == pytest.approx(4 * 0.5 * torch.tensor(4 / 3).log().item(), rel=1e-5)
    assert divergence(teacher, teacher, 3.0).item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("way", ["plain", "fast"])
def test_the_student_is_measured_by_the_teachers_predictions(clip, batch, computed, way):
    images, labels = batch
    template = "a drawing of a {}."
    method = kd(computed(clip, way=way), temperature=2.0, weight=5.0, templates=[template]).eval()
    zero_shot = coop.build("zero_shot", clip, NAMES, templates=[template])
    visual = coop.build("vpt", computed(clip, way="plain"), NAMES, n_ctx=4, depth=2)
    visual.load_learned_state({k: v for k, v in method.learned_state().items() if k.startswith("image_encoder")})
    found = F.normalize(method.VPT_image_trans(visual.image_features(images)), dim=-1)
    logits = clip.logit_scale.exp() * found @ zero_shot.features.T
    torch.testing.assert_close(method(images), logits, atol=1e-4, rtol=1e-4)
    p, q = (zero_shot(images) / 2).softmax(-1), (logits / 2).softmax(-1)
    wanted = 5.0 * 4.0 * (p * (p / q).log()).sum(-1).mean()
    torch.testing.assert_close(method.loss(images, labels), wanted, atol=1e-4, rtol=1e-3)
    assert torch.equal(method.loss(images, labels), method.loss(images, labels.flip(0))), "labels are not looked at"


def test_only_student_and_projector_learn(clip, batch):
    method = kd(clip)
    before = {key: tensor.clone() for key, tensor in method.state_dict().items()}
    teacher = {key: tensor.clone() for key, tensor in method.teacher.state_dict().items()}
    optimizer = build_optimizer("sgd", method.named_parameters(), 0.01, 0.0)
    first = method.loss(*batch)
    first.backward()
    optimizer.step()
    moved = {key for key, tensor in method.state_dict().items() if not torch.equal(tensor, before[key])}
    assert moved == set(method.learned()) and {key.partition(".")[0] for key in moved} == {
        "image_encoder",
        "VPT_image_trans",
    }
    assert all(torch.equal(tensor, teacher[key]) for key, tensor in method.teacher.state_dict().items())
    assert method.loss(*batch) < first
    other = kd(clip)
    other.load_learned_state(method.learned_state())
    assert torch.equal(other.eval()(batch[0]), method.eval()(batch[0]))


def test_the_student_alone_is_its_own_teacher(clip, batch):
    method = coop.build("prompt_kd", clip, NAMES)
    torch.testing.assert_close(method.teacher(batch[0]), coop.build("zero_shot", clip, NAMES)(batch[0]))
    assert coop.build("tcp", clip, NAMES).layer == 2, "two thirds of three blocks"


def test_new_classes_by_the_teachers_texts(clip, batch):
    method = kd(clip, templates=["a drawing of a {}."]).eval()
    other = method.for_classes(["dog", NAMES[2]]).eval()
    torch.testing.assert_close(other(batch[0])[:, 1], method(batch[0])[:, 2])
    assert other.double().teacher.backbone.logit_scale.dtype == torch.float64, "the teacher goes where the student goes"


@pytest.fixture(scope="module")
def teacher_run(tmp_path_factory):
    """A CoOp trained for a moment on the world's backgrounds."""
    folder = tmp_path_factory.mktemp("teacher") / "run"
    (folder.parent / "c.yaml").write_text("")
    words = ["DATASET.SHOTS", 1, "OPTIM.EPOCHS", 2, "OUTPUT_DIR", str(folder), "CACHE_DIR", "", "TEST.SPLIT", "val"]
    families = {"coop": coop}
    cfg = load_config(folder.parent / "c.yaml", words, families)
    with RunFolder(cfg.OUTPUT_DIR) as opened:
        run(cfg, families, opened, progress=False)
    return folder, load_run(cfg, families, folder)


def test_a_run_as_the_teacher(clip, batch, teacher_run, caplog, monkeypatch):
    folder, teacher = teacher_run
    monkeypatch.setattr(logging.getLogger("promptvision"), "propagate", True)
    method = coop.build("prompt_kd", clip, teacher.classes, teacher=str(folder), depth=2)
    torch.testing.assert_close(method.teacher(batch[0]), teacher(batch[0]))
    torch.testing.assert_close(method.vectors, teacher.text_features().detach())
    with caplog.at_level("INFO", "promptvision"):
        named = coop.build("prompt_kd", clip, NAMES, teacher=str(folder), depth=2)
    assert "The teacher was trained on" in caplog.text and "naming these 3" in caplog.text
    torch.testing.assert_close(named.vectors, teacher.for_classes(NAMES).text_features().detach())


def test_a_run_as_the_teacher_that_cannot_name_the_classes(clip, teacher_run, tmp_path):
    config = yaml.safe_load((teacher_run[0] / "config.yaml").read_text())
    config["METHOD"]["OPTIONS"]["CSC"] = True
    own = coop.build("coop", clip, NAMES[::-1], csc=True)
    facts = {"family": "coop", "classes": json.dumps(NAMES[::-1]), "config": yaml.safe_dump(config)}
    save_file(own.learned_state(), tmp_path / "learned.safetensors", facts)
    said = r"was trained on 3 classes, not these 3 \(its class 0 is 'old house', here 'cat'\), and class-specific"
    with pytest.raises(InputError, match=said):
        coop.build("prompt_kd", clip, NAMES, teacher=str(tmp_path), depth=2)


def test_teachers_that_do_not_fit(clip, tmp_path, golden):
    with pytest.raises(InputError, match="unknown CLIP backbone 'ViT-L-41'; did you mean 'ViT-L-1"):
        kd(clip, teacher="ViT-L-41")
    with pytest.raises(InputError, match="holds no learned.safetensors"):
        kd(clip, teacher=str(tmp_path))
    with pytest.raises(InputError, match="takes images of image size"):
        kd(clip, teacher=str(golden.root / "coop/clip_vit_tiny.safetensors"))
    save_file({"x": torch.zeros(1)}, tmp_path / "learned.safetensors", {"family": "vpt", "classes": json.dumps(NAMES)})
    with pytest.raises(InputError, match="is no run of a coop method"):
        kd(clip, teacher=str(tmp_path))
    with pytest.raises(InputError, match="one feature for each class, which Featureless has not"):
        coop.METHODS["prompt_kd"](clip, NAMES, Featureless(clip, NAMES), depth=2)


@pytest.mark.parametrize("config", ["bomb", "METHOD: {", "METHOD: 3", ""])
def test_a_teacher_that_does_not_tell_what_it_is(config, clip, tmp_path, yaml_bomb, little_memory):
    facts = {"family": "coop", "classes": json.dumps(NAMES), "template": "{}"}
    facts["config"] = yaml_bomb if config == "bomb" else config
    save_file({"x": torch.zeros(1)}, tmp_path / "learned.safetensors", facts)
    with pytest.raises(InputError, match=f"{tmp_path.name}: learned.safetensors does not say how it was trained"):
        kd(clip, teacher=str(tmp_path))


class Featureless(Method):
    pass


def test_refusals(clip, batch):
    with pytest.raises(InputError, match="temperature is 0"):
        kd(clip, temperature=0.0)
    with pytest.raises(InputError, match="depth is 9"):
        kd(clip, depth=9)
    with pytest.raises(InputError, match="BATCH_SIZE must be 2 or more"):
        kd(clip).loss(batch[0][:1], batch[1][:1])
