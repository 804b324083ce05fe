"""The promises of every method: its options are recorded, and what it learns does not depend on `requires_grad`."""

import copy
import pickle

import pytest
import torch
from torch import nn

import coop
import vpt
from promptvision.backbones import load_clip, load_vit
from promptvision.config.methods import MethodTable
from promptvision.errors import InputError
from promptvision.method import Method

NAMES = ["cat", "dog", "old_house"]
EVERY = [("coop", name) for name in coop.METHODS] + [("vpt", name) for name in vpt.METHODS]
OPTIONS = {"prompt_kd": {"teacher": "embedded"}, "prompt_ablations": {"also": "bias"}}
OPTIONS |= {"mmrl": {"fuse": False}, "mmrl_pp": {"fuse": False}}  # else new classes have a rule of their own


@pytest.fixture
def build(swin):
    """`build("coop", "tcp", NAMES, weight=2.0)` gives a method on a fresh backbone."""

    def on_its_backbone(family, name, classes=NAMES, **options):
        if family == "coop":
            return coop.build(name, load_clip("embedded"), classes, **OPTIONS.get(name, {}), **options)
        backbone = swin if name == "swin_prompt" else load_vit("embedded")
        return vpt.build(name, backbone, classes, **OPTIONS.get(name, {}), **options)

    return on_its_backbone


@pytest.mark.parametrize("family, name", EVERY)
def test_what_is_learned_does_not_depend_on_requires_grad(family, name, build):
    method = build(family, name)
    trained = {key: parameter for key, parameter in method.named_parameters() if parameter.requires_grad}
    learned, state, count = method.learned(), method.learned_state(), method.learned_parameters()
    assert list(method.trained()) == list(trained)
    method.requires_grad_(False)
    assert method.learned() == learned and method.learned_parameters() == count
    assert list(method.trained()) == list(trained)
    found = method.learned_state()
    assert found.keys() == state.keys() and all(torch.equal(found[key], state[key]) for key in state)
    method.load_learned_state({key: tensor + 1 for key, tensor in state.items()})
    assert all(torch.equal(tensor, state[key] + 1) for key, tensor in method.learned_state().items())


@pytest.mark.parametrize("name", coop.METHODS)
def test_a_frozen_method_names_new_classes_if_it_does_at_all(name, build):
    method, images = build("coop", name).eval(), torch.randn(2, 3, 32, 32)
    method.requires_grad_(False)
    if not method.new_classes:
        with pytest.raises(InputError, match="is tied to the classes it was trained on"):
            method.for_classes(["bird", "cat"])
        return
    other = method.for_classes(["bird", "cat"]).eval()
    assert other.classes == ["bird", "cat"] and other.options == method.options
    assert other.trained_classes == NAMES and other.trained_labels == [-1, 0] and method.trained_labels == [0, 1, 2]
    assert other.for_classes(NAMES[::-1]).trained_labels == [2, 1, 0]
    assert all(parameter.requires_grad for parameter in other.trained().values())
    if name not in ("tpt", "dept"):  # contexts tuned among the classes; a head that knows those of the training alone
        torch.testing.assert_close(other(images)[:, 1], method(images)[:, 0], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("family, name", EVERY)
def test_options_are_recorded_and_copied(family, name, build):
    method = build(family, name)
    defaults = {"coop": coop, "vpt": vpt}[family].options(name)
    assert method.options == {key.lower(): value for key, value in defaults.items()} | OPTIONS.get(name, {})
    assert copy.deepcopy(method).options == method.options


def test_a_method_is_pickled_with_its_options_and_what_it_thawed():
    method = vpt.build("prompt_ablations", load_vit("embedded"), NAMES, num_tokens=3, also="cls")
    other = pickle.loads(pickle.dumps(method))
    assert other.options == method.options and other.learned() == method.learned()
    assert "class_embedding" in other.learned() and other.options["num_tokens"] == 3


class Scaled(Method):
    """Its one option comes by its name, and so may what is no option."""

    def __init__(self, backbone, classes, known=None, *, by_hand: bool = False):
        super().__init__(backbone, classes)
        self.scale = nn.Parameter(torch.ones(1))
        if by_hand:
            self.backbone.bias.requires_grad_(True)


def test_only_options_are_recorded():
    assert Scaled(backbone=nn.Linear(2, 2), classes=["a"], known=1, by_hand=True).options == {"by_hand": True}
    assert Scaled(nn.Linear(2, 2), ["a"], 1).options == {"by_hand": False}


class Rows(Method):
    """One learned row for each class of training."""

    new_classes = True

    def __init__(self, backbone, classes, *, dim=2):
        super().__init__(backbone, classes)
        self.rows = nn.Parameter(torch.arange(float(len(self.trained_classes)))[:, None].repeat(1, dim))


def test_rows_of_trained_classes_travel_with_other_classes():
    method = Rows(nn.Linear(2, 2), ["a", "b", "c"], dim=4)
    method.rows.data += 1
    other = method.for_classes(["d", "c"]).for_classes(["b", "e", "a", "f"])
    assert torch.equal(other.rows, method.rows) and other.trained_labels == [1, -1, 0, -1]
    with pytest.raises(InputError, match=r"'rows' has shape \(2, 4\), this method needs \(3, 4\)"):
        other.load_learned_state({"rows": method.rows.detach()[:2]})


def test_parts_of_the_backbone_that_would_train_unsaved_are_refused():
    table = MethodTable("own", {"mine": f"{__name__}:Scaled"})
    with pytest.raises(InputError, match="mine trains 'bias' of the backbone without saving it; .* Method.thaw"):
        table.build("mine", nn.Linear(2, 2), ["a"], {"by_hand": True})
    method = table.build("mine", nn.Linear(2, 2), ["a"], {})
    method.thaw([method.backbone.weight])
    assert method.learned() == ["scale", "weight"] and method.backbone.weight.requires_grad
