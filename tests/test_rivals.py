"""Methods that tune parts of the network: learned tensors, gradients and heads against the official code."""

import copy
import math
import re

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.models.convnext import ConvNeXt
from timm.models.resnet import BasicBlock, ResNet
from timm.models.swin_transformer import SwinTransformer
from torch import nn

import vpt
from promptvision.backbones import load_clip, load_vit
from promptvision.engine.optim import build_optimizer
from promptvision.errors import InputError
from promptvision.learned import learned_name
from vpt.parts.heads import Head

CLASSES = [f"class {i}" for i in range(7)]


def tiny_resnet():
    return load_vit(ResNet(BasicBlock, (1, 1, 1, 1), num_classes=0, channels=(8, 16, 32, 64)))


def tiny_convnext():
    return load_vit(ConvNeXt(depths=(1, 1, 1, 1), dims=(8, 16, 32, 64), num_classes=0))


def tiny_swin():
    swin = SwinTransformer(
        img_size=32, patch_size=4, window_size=4, embed_dim=16, depths=(1, 2), num_heads=(2, 4), num_classes=0
    )
    return load_vit(swin)


def tiny_vit(golden):
    return load_vit(golden.root / "vpt/backbone.safetensors")


def embedded():
    return load_vit("embedded")


def parsed(name, official_type):
    """A row of transfer_types.json, such as "prompt+bias_deep_p5_proj16", as our method and options."""
    if "below" in name:
        return "below", {"num_tokens": int(re.search(r"p(\d+)$", name)[1])}
    method, options = official_type(name.partition("_")[0])
    keys = {
        r"_p(\d+)": "num_tokens",
        r"proj(\d+)": "project",
        r"MLP_NUM(\d+)": "hidden_layers",
        r"_r(\d+)": "reduction",
    }
    numbers = {key: int(found[1]) for rule, key in keys.items() if (found := re.search(rule, name))}
    if options.get("frozen"):
        numbers.pop("project", None)  # refused: a frozen projection would be a fixed matrix on fixed prompts
    return method, {**options, **numbers, **({"deep": True} if "deep" in name else {})}


def thawed(method):
    return {learned_name(name): p.numel() for name, p in method.named_parameters() if p.requires_grad}


def total(method):
    """The official count: parameters, and prompts that are frozen."""
    prompts = sum(buffer.numel() for name, buffer in method.named_buffers() if "prompt" in name)
    return sum(parameter.numel() for parameter in method.parameters()) + prompts


def test_learned_tensors_of_every_official_type(golden, official_type):
    rows = golden("vpt/transfer_types")[0]["tiny"]
    assert len(rows) >= 25
    for name, row in rows.items():
        method_name, options = parsed(name, official_type)
        method = vpt.build(method_name, tiny_vit(golden), CLASSES, **options)
        expected = row.get("numel") or dict.fromkeys(row["trainable"])
        assert thawed(method).keys() == set(row["trainable"]), name
        assert all(thawed(method)[key] == count for key, count in expected.items() if count is not None), name
        assert sum(thawed(method).values()) == row["trainable_count"], name
        if "total_count" in row and not ("noupdate" in name and "proj" in name):
            assert total(method) == row["total_count"], name


def test_counts_of_a_vit_b16_with_a_hundred_classes(golden, official_type):
    rows = golden("vpt/transfer_types")[0]["vit_b16_224_100classes_counts"]
    classes = [str(index) for index in range(100)]
    with torch.device("meta"):
        for name, row in rows.items():
            backbone = timm.create_model("vit_base_patch16_224", pretrained=False, num_classes=0)
            method_name, options = parsed(name, official_type)
            method = vpt.build(method_name, backbone, classes, **options)
            found = {"trainable": sum(thawed(method).values()), "total": total(method)}
            assert found == row, name


def test_gradients_of_every_official_type(golden, golden_cases, inputs, official_type):
    cases = golden_cases("vpt/transfer_grads")
    assert len(cases) >= 9
    for name, (_, expected) in cases.items():
        method_name, options = official_type(name.partition("_")[0])
        if method_name in ("prompt", "prompt_ablations"):
            prompts = expected["prompt_embeddings"]
            options = {**options, "num_tokens": prompts.shape[1], "deep": "deep_prompt_embeddings" in expected}
        method = vpt.build(method_name, tiny_vit(golden), CLASSES, **options)
        state = {f"head.last_layer.{part}": inputs[f"head.{part}"] for part in ("weight", "bias")}
        state |= {key: value for key, value in expected.items() if key in method.learned()}
        method.load_learned_state({**method.learned_state(), **state})
        method.train(not name.endswith("eval_mode"))
        torch.testing.assert_close(method(inputs["images"]), expected["logits"], atol=5e-5, rtol=0, msg=name)
        loss = method.loss(inputs["images"], inputs["labels"])
        torch.testing.assert_close(loss, expected["loss"], atol=1e-5, rtol=0)
        loss.backward()
        found = {f"grad/{learned_name(key)}": p.grad for key, p in method.named_parameters() if p.grad is not None}
        for key in (key for key in expected if key.startswith("grad/")):
            torch.testing.assert_close(found[key], expected[key], atol=2e-5, rtol=1e-4, msg=f"{name} {key}")


def test_mlp_heads(golden, golden_cases):
    shared = golden("vpt/mlp_head")[1]
    cases = {name: case for name, case in golden_cases("vpt/mlp_head").items() if name.startswith("mlp")}
    for name, (settings, expected) in cases.items():
        part = "train_nodropout_grad/head."
        count = settings.get("MLP_NUM", int(name.removeprefix("mlp")))
        head = Head(64, 7, "published", count, dropout=0.0)
        head.load_state_dict({k.removeprefix("head."): v for k, v in expected.items() if k.startswith("head.")})
        torch.testing.assert_close(head.eval()(shared["features"]), expected["eval_logits"], atol=5e-5, rtol=0)
        features = shared["features"].clone().requires_grad_()
        logits = head.train()(features)
        loss = F.cross_entropy(logits, shared["labels"])
        loss.backward()
        torch.testing.assert_close(logits, expected["train_nodropout_logits"], atol=5e-5, rtol=0)
        torch.testing.assert_close(loss, expected["train_nodropout_loss"], atol=1e-5, rtol=0)
        gradients = {f"{part}{key}": parameter.grad for key, parameter in head.named_parameters()}
        gradients["train_nodropout_grad/features"] = features.grad
        buffers = {f"after_train_step_buffers/head.{key}": value for key, value in head.named_buffers()}
        for key, value in {**gradients, **buffers}.items():
            torch.testing.assert_close(value, expected[key], atol=2e-5, rtol=1e-4, msg=f"{name} {key}")


def test_an_mlp_head_starts_drops_and_refuses_as_it_says(vit):
    torch.manual_seed(0)
    method = vpt.build("linear", vit, CLASSES, hidden_layers=2, head_dropout=0.5, head_init="published")
    assert method.head.projection[0].weight.std().item() == pytest.approx(math.sqrt(2 / 64), rel=0.05)
    assert torch.equal(method.head.last_layer.bias, torch.full((7,), -math.log(99)))
    features = torch.randn(8, 64)
    assert torch.equal(method.eval()(features), method(features))
    assert not torch.equal(method.train()(features), method(features))
    with pytest.raises(InputError, match="cannot train on a single image"):
        method(features[:1])
    with pytest.raises(InputError, match="hidden_layers is -1, head_dropout 0.1; take 0 or more"):
        vpt.build("linear", vit, CLASSES, hidden_layers=-1)


def test_running_statistics_of_an_mlp_head_are_learned(vit, inputs):
    method = vpt.build("linear", vit, CLASSES, hidden_layers=1).train()
    method.loss(inputs["images"], inputs["labels"])
    again = vpt.build("linear", vit, CLASSES, hidden_layers=1)
    again.load_learned_state(method.learned_state())
    assert torch.equal(again.eval()(inputs["images"]), method.eval()(inputs["images"]))


@pytest.mark.parametrize("make", [tiny_resnet, tiny_convnext, tiny_swin, embedded])
@pytest.mark.parametrize("name", ["partial", "bias", "full"])
def test_other_backbones_learn_and_come_back(name, make):
    torch.manual_seed(0)
    tower = make()
    method, again = (vpt.build(name, copy.deepcopy(tower), CLASSES).train() for _ in range(2))
    size = 32 if tower.image_size == 32 else 64
    images, labels = torch.randn(4, 3, size, size), torch.arange(4)
    before = method.learned_state()
    optimizer = build_optimizer("sgd", method.named_parameters(), 0.1, 0.01)
    method.loss(images, labels).backward()
    optimizer.step()
    after = method.learned_state()
    moved = {key for key in after if not torch.equal(after[key], before[key])}
    assert len(moved) > 2
    if name == "bias":
        assert all("bias" in key for key in after if key != "head.last_layer.weight")
    again.load_learned_state(after)
    assert torch.equal(again.eval()(images), method.eval()(images))


def test_full_fine_tuning_learns_the_statistics_of_batch_norms_and_others_leave_them():
    torch.manual_seed(0)
    tower = tiny_resnet()
    images, labels = torch.randn(4, 3, 64, 64), torch.arange(4)
    for name, expected in (("full", True), ("partial", False), ("bias", False)):
        method = vpt.build(name, tower, CLASSES).train()
        assert ("layer4.0.bn1.running_mean" in method.learned()) == expected
        before = tower.model.layer4[0].bn1.running_mean.clone()
        method.loss(images, labels)
        assert torch.equal(tower.model.layer4[0].bn1.running_mean, before) != expected


def test_full_leaves_out_what_the_feature_does_not_depend_on():
    """The embedded tower stops before CLIP's projection; a timm model may still carry its classifier."""
    assert "proj" not in vpt.build("full", embedded(), CLASSES).learned()
    resnet = ResNet(BasicBlock, (1, 1, 1, 1), num_classes=9, channels=(8, 8, 8, 8))
    assert "fc.weight" not in vpt.build("full", resnet, CLASSES).learned()


def test_dropout_of_full_fine_tuning_is_that_of_the_official_trunk(golden, inputs):
    """timm's own dropouts, set to 0.1 on embeddings and MLPs, draw the same masks."""
    theirs = tiny_vit(golden)
    for name, module in theirs.named_modules():
        if isinstance(module, nn.Dropout) and re.search(r"pos_drop|mlp\.drop[12]", name):
            module.p = 0.1
    method = vpt.build("full", tiny_vit(golden), CLASSES, dropout=0.1)
    torch.manual_seed(0)
    expected = theirs.train()(inputs["images"])
    torch.manual_seed(0)
    torch.testing.assert_close(method.train().features(inputs["images"]), expected)
    assert not torch.equal(expected, inputs["cls_feature"])
    torch.testing.assert_close(method.eval().features(inputs["images"]), inputs["cls_feature"], atol=5e-5, rtol=0)


def test_dropout_needs_transformer_blocks():
    assert vpt.build("full", embedded(), ["a", "b"], dropout=0.1).train()(torch.randn(2, 3, 32, 32)).shape == (2, 2)
    with pytest.raises(InputError, match="no transformer blocks for dropout"):
        vpt.build("full", tiny_resnet(), CLASSES, dropout=0.1)
    with pytest.raises(InputError, match="dropout is 1.0"):
        vpt.build("full", embedded(), CLASSES, dropout=1.0)


@pytest.mark.parametrize("make", [tiny_resnet, tiny_convnext, tiny_swin, embedded])
def test_from_scratch_leaves_no_pretrained_value_and_repeats(make):
    tower = make()
    for parameter in tower.parameters():
        nn.init.constant_(parameter, 0.123)
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(vpt.build("full", copy.deepcopy(tower), CLASSES, from_scratch=True).learned_state())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert not any((value == 0.123).any() for value in states[0].values())
    assert all(value.float().isfinite().all() for value in states[0].values())


def test_a_vit_from_scratch_starts_as_timm_starts_it(golden):
    torch.manual_seed(0)
    model = vpt.build("full", tiny_vit(golden), CLASSES, from_scratch=True).backbone.model
    assert model.blocks[1].mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert model.pos_embed.std().item() == pytest.approx(0.02, rel=0.1)
    assert model.cls_token.abs().max() < 1e-4
    assert torch.equal(model.norm.weight, torch.ones(64)) and not model.blocks[1].mlp.fc1.bias.any()


def test_the_last_blocks_can_start_anew(golden, inputs):
    pretrained = tiny_vit(golden)
    method = vpt.build("partial", tiny_vit(golden), CLASSES, blocks=2, reinit=True)
    changed = {
        name.removeprefix("model.")
        for (name, value), own in zip(pretrained.named_parameters(), method.backbone.parameters(), strict=True)
        if not torch.equal(value, own)
    }
    assert changed == {name for name in method.learned() if not name.startswith("head.")}
    assert {name.split(".")[1] for name in changed if name.startswith("blocks")} == {"2", "3"}


def test_what_cannot_be_tuned_is_refused(vit):
    with pytest.raises(InputError, match="blocks is 5; backbone .* has 4 blocks"):
        vpt.build("partial", vit, CLASSES, blocks=5)
    with pytest.raises(InputError, match="neither blocks nor stages"):
        vpt.build("partial", Flat(), CLASSES)
    with pytest.raises(InputError, match="does not define how 'scale' starts"):
        vpt.build("full", Flat(), CLASSES, from_scratch=True)
    with pytest.raises(InputError, match="no class token"):
        vpt.build("cls", tiny_swin(), CLASSES)


class Flat(nn.Module):
    """A backbone without parts."""

    num_features = 4

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))

    def forward_features(self, images):
        return images.flatten(1)[:, :4] * self.scale

    def forward_head(self, features, pre_logits):
        return features


def test_partial_of_no_block_is_the_head_and_the_norm(vit):
    assert vpt.build("partial", vit, CLASSES, blocks=0).learned()[:2] == ["norm.weight", "norm.bias"]


def test_rivals_work_on_the_tower_of_a_clip_with_its_projection():
    tower = load_clip("embedded").image
    for name in ("partial", "bias", "cls", "full"):
        method = vpt.build(name, tower, ["a", "b"]).train()
        method.loss(torch.randn(2, 3, 32, 32), torch.tensor([0, 1])).backward()
        assert all(p.grad is not None for p in method.parameters() if p.requires_grad), name
