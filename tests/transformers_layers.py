"""Models of transformers with random weights, whose own layers the tests call: sizes, and a comparison of gradients."""

import pytest
import torch
from packaging.version import Version

hf = pytest.importorskip("transformers", reason="transformers is missing: pip install 'promptvision[hf]'")
if Version(hf.__version__) < Version("5.24"):
    pytest.skip("these tests call the layers of transformers 5.24 by name", allow_module_level=True)

SIZES = dict(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=8
)


def randomized(model):
    """A model in eval mode whose biases, norms and scales are random too."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def compare(found, expected, learned):
    """Features and gradients of what a method learns are equal, and all of it has a gradient."""
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    weights = torch.randn_like(expected)
    one, other = (torch.autograd.grad((each * weights).sum(), learned) for each in (found, expected))
    assert all(each.abs().sum() > 0 for each in other)
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
