"""Side-tuning against the official numbers, and its AlexNet against torchvision's."""

import pytest
import torch
from torch.nn import functional as F
from torchvision.models import alexnet

import vpt
from promptvision.backbones import load_vit
from promptvision.errors import InputError

CLASSES = [f"class {i}" for i in range(7)]


def loaded(vit, inputs, expected):
    method = vpt.build("side", vit, CLASSES).train()
    head = {f"head.last_layer.{part}": inputs[f"head.{part}"] for part in ("weight", "bias")}
    given = {name: expected[name] for name in method.learned() if name in expected}
    method.load_learned_state({**method.learned_state(), **head, **given})
    return method


def test_the_official_mixture(vit, inputs, golden):
    """The compact set begins behind AlexNet; the full one at the images."""
    _, expected = golden("vpt/side")
    method, whole = loaded(vit, inputs, expected), "side.features.0.weight" in expected
    side = method.projected(inputs["images"]) if whole else expected["side_projected"]
    torch.testing.assert_close(side, expected["side_projected"], atol=5e-5, rtol=0)
    fused = method.fuse(vit(inputs["images"]), side)
    torch.testing.assert_close(fused, expected["fused_feature"], atol=5e-5, rtol=0)
    logits = method.head(fused)
    torch.testing.assert_close(logits, expected["logits"], atol=5e-5, rtol=0)
    loss = F.cross_entropy(logits, inputs["labels"])
    torch.testing.assert_close(loss, expected["loss"], atol=1e-5, rtol=0)
    loss.backward()
    for name, parameter in method.named_parameters():
        if f"grad/{name}" in expected and parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, expected[f"grad/{name}"], atol=2e-5, rtol=1e-4, msg=name)


def test_the_side_network_is_torchvisions_alexnet(vit, tmp_path):
    torch.manual_seed(0)
    net = alexnet(weights=None).eval()
    torch.save(net.state_dict(), tmp_path / "alexnet.pth")
    method = vpt.build("side", vit, CLASSES, side_weights=str(tmp_path / "alexnet.pth")).train()
    method.prepare((), ())
    images = torch.randn(2, 3, 64, 64)
    expected = torch.flatten(net.avgpool(net.features(images)), 1) @ method.side_projection.weight.T
    torch.testing.assert_close(method.projected(images), expected)
    share = torch.sigmoid(torch.tensor(0.0))
    torch.testing.assert_close(method.features(images), share * vit(images) + (1 - share) * expected)
    assert {"side_alpha", "side.features.0.weight", "side_projection.weight"} < set(method.learned())


def test_small_images_are_enlarged_for_the_side_network():
    images = torch.randn(2, 3, 32, 32)
    for side_size, expected in ((0, 64), (100, 100)):
        method = vpt.build("side", load_vit("embedded"), ["a", "b"], side_size=side_size).eval()
        large = F.interpolate(images, (expected, expected), mode="bilinear")
        assert torch.equal(method.projected(images), method.projected(large))
        assert method(images).shape == (2, 2)
    with pytest.raises(InputError, match="side_size is 63"):
        vpt.build("side", load_vit("embedded"), ["a", "b"], side_size=63)


def test_large_enough_images_are_left_as_they_are(vit):
    method = vpt.build("side", vit, CLASSES)
    images = torch.randn(1, 3, 63, 70)
    assert torch.equal(method.projected(images), method.side_projection(method.side(images).flatten(1)))


def test_weights_that_cannot_be_had_are_one_sentence(vit, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="no weight file"):
        vpt.build("side", vit, CLASSES, side_weights="nowhere.pth").prepare((), ())
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="lacks 'features.0.bias'|has shape"):
        vpt.build("side", vit, CLASSES, side_weights=str(tmp_path / "other.pth")).prepare((), ())
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", offline)
    with pytest.raises(InputError, match="could not be downloaded.*SIDE_WEIGHTS path/to/alexnet.pth"):
        vpt.build("side", vit, CLASSES, side_weights="default").prepare((), ())


def offline(request):
    raise OSError("no network")
