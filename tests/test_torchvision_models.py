"""Models of torchvision as towers: torchvision's own features, and prompts, LoRA and learned borders on them."""

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torchvision.models import ConvNeXt, MobileNetV3, ResNet, SwinTransformer, VisionTransformer
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.mobilenetv3 import InvertedResidualConfig
from torchvision.models.resnet import BasicBlock, Bottleneck

import vpt
from promptvision.backbones import load_vit
from promptvision.errors import InputError

STAGES = [CNBlockConfig(8, 16, 1), CNBlockConfig(16, 24, 1), CNBlockConfig(24, 32, 2), CNBlockConfig(32, None, 1)]
MODELS = {
    "vit": (lambda: VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=5), "heads"),
    "swin": (lambda: SwinTransformer([4, 4], 16, [2, 1], [2, 4], [4, 4], num_classes=5), "head"),
    "convnext": (lambda: ConvNeXt(STAGES, num_classes=5), "classifier"),
    "resnet": (lambda: ResNet(BasicBlock, [1, 2, 1, 1], num_classes=5), "fc"),
    "resnext": (lambda: ResNet(Bottleneck, [1, 1, 1, 1], num_classes=5, groups=4, width_per_group=8), "fc"),
}


def model_of(kind):
    """A model with random weights and running statistics."""
    torch.manual_seed(0)
    model = MODELS[kind][0]().eval()
    for tensor in (*model.parameters(), *(each for each in model.buffers() if each.is_floating_point())):
        tensor.data.add_(0.05 * torch.rand_like(tensor))
    return model


@pytest.mark.parametrize("kind", MODELS)
def test_features_are_what_enters_torchvisions_classifier(kind):
    model, classifier = model_of(kind), MODELS[kind][1]
    tower = load_vit(model)
    images = torch.randn(2, 3, tower.image_size, tower.image_size)
    last = [*getattr(model, classifier).modules()][-1]
    nn.init.normal_(last.weight)
    torch.testing.assert_close(last(tower(images)), model(images), atol=1e-5, rtol=1e-5)
    assert tower.feature_dim == last.in_features and not any(each.requires_grad for each in tower.parameters())
    assert isinstance(getattr(*tower.stem), nn.Conv2d)


def test_swins_windows_take_prompts():
    tower = load_vit(model_of("swin"))
    method = vpt.build("swin_prompt", tower, ["a", "b"])
    assert method(torch.randn(1, 3, 224, 224)).shape == (1, 2)


def test_deep_prompts_are_those_of_torchvisions_own_layers():
    model = model_of("vit")
    method, images = (
        vpt.build("prompt", load_vit(model), ["a", "b"], num_tokens=3, deep=True),
        torch.randn(2, 3, 32, 32),
    )
    layers = method.prompts(2)
    tokens = torch.cat([model.class_token.expand(2, -1, -1), model._process_input(images)], dim=1)
    tokens = tokens + model.encoder.pos_embedding
    for layer, prompts in zip(model.encoder.layers, layers, strict=True):
        tokens = layer(torch.cat([tokens[:, :1], prompts.expand(2, -1, -1), tokens[:, -16:]], dim=1))
    expected = model.encoder.ln(tokens)[:, 0]
    compare(method, method.features(images), expected, list(method.parameters()))


def compare(method, found, expected, learned):
    """Features and gradients of what a method learns are equal."""
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    weights = torch.randn_like(expected)
    learned = [each for each in learned if each.requires_grad]
    pairs = [torch.autograd.grad((each * weights).sum(), learned, allow_unused=True) for each in (found, expected)]
    assert sum(each is not None for each in pairs[1]) >= 2
    for one, other in zip(*pairs, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_lora_changes_torchvisions_weights():
    model = model_of("vit")
    method, images = vpt.build("lora", load_vit(model), ["a", "b"], rank=2), torch.randn(2, 3, 32, 32)
    weights = {}
    for index, block in enumerate(method.blocks):
        for change in block.values():
            nn.init.normal_(change.lora_B, std=0.1)
        name = f"encoder.layers.encoder_layer_{index}.self_attention.in_proj_weight"
        query, value = block["q"].product(), block["v"].product()
        weights[name] = model.get_parameter(name).detach() + torch.cat([query, torch.zeros_like(query), value])
    model.heads = nn.Identity()
    expected = functional_call(model.train(), weights, (images,))  # in eval mode torch's fused code knows no gradient
    compare(method, method.features(images), expected, list(method.blocks.parameters()))


def test_other_models_give_features_and_a_learned_border():
    blocks = [InvertedResidualConfig(16, 3, 16, 16, True, "RE", 2, 1, 1.0)]
    tower = load_vit(MobileNetV3(blocks, 32, num_classes=7), image_size=64)
    assert tower.feature_dim == 7 and tower.image_size == 64 and tower.depth == 0
    method = vpt.build("pad", tower, ["a", "b"])
    method(torch.randn(2, 3, 64, 64)).sum().backward()
    assert any(each.grad is not None and each.grad.abs().sum() > 0 for each in method.parameters())
    with pytest.raises(InputError, match="backbone 'MobileNetV3' has no tokens to put prompts among; choose a ViT"):
        vpt.build("prompt", tower, ["a", "b"])


class Shrink(nn.Module):
    """The mean colour of each of `parts` strips."""

    def __init__(self, parts, output=lambda features: features):
        super().__init__()
        self.parts, self.output = parts, output

    def forward(self, images):
        return self.output(images.unflatten(2, (self.parts, -1)).mean(dim=(3, 4)).flatten(1))


def test_a_plain_module_is_asked_for_its_features():
    tower, images, labels = load_vit(Shrink(4), image_size=64), torch.randn(3, 3, 64, 64), torch.tensor([0, 1, 1])
    assert tower.feature_dim == 12 and tower.image_size == 64 and load_vit(Shrink(2)).image_size == 224
    for name in ("linear", "knn", "pad", "side"):
        method = vpt.build(name, tower, ["a", "b"])
        if name == "knn":
            method.prepare([(images, labels)], [])
        assert method(images).shape == (3, 2)
    with pytest.raises(InputError, match="'Shrink' has no weights to fine-tune: choose a method that learns a head"):
        vpt.build("full", tower, ["a", "b"])


@pytest.mark.parametrize(
    ("module", "sentence"),
    [
        (Shrink(4, lambda features: [features]), r"Shrink maps two images to a list, not to features \(2, E\)"),
        (Shrink(4, lambda features: features[:, None]), r"Shrink maps two images to \(2, 1, 12\), not to features"),
        (Shrink(3), "Shrink on images of 224 pixels .INPUT.SIZE. raised RuntimeError"),
    ],
)
def test_a_module_without_features_is_refused_in_one_sentence(module, sentence):
    with pytest.raises(InputError, match=sentence) as error:
        load_vit(module)
    assert "\n" not in str(error.value)


def test_options_without_counterpart_give_features_only():
    torch.manual_seed(0)
    tower = load_vit(VisionTransformer(32, 8, 1, 2, 32, 64, num_classes=5, representation_size=16))
    assert tower.feature_dim == 5 and tower.depth == 0
    with pytest.raises(InputError, match="is a VisionTransformer with options that have no counterpart in timm"):
        vpt.build("prompt", tower, ["a", "b"])
