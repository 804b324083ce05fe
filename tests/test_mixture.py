"""A linear head on a learned mixture of the features after all blocks (ELMo, arXiv:1802.05365)."""

from pathlib import Path

import pytest
import torch
from official_vit import CLASSES, TOWERS

import vpt
from promptvision.backbones import load_vit
from promptvision.backbones.image import layer_features
from promptvision.config import load_config
from promptvision.config.families import FAMILIES
from promptvision.engine.run_folder import RunFolder
from promptvision.errors import InputError
from promptvision.experiment.run import run

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("kind", TOWERS)
def test_the_formula(kind):
    """Every block's tokens, pooled as the last, weighted by a softmax and scaled."""
    tower = TOWERS[kind]()
    method = vpt.build("linear", tower, CLASSES, mixture=True).double()
    method.load_learned_state({**method.learned_state(), "mixture_scale": torch.tensor(1.7, dtype=torch.double)})
    method.mixture_weights.data.normal_()
    images = torch.randn(2, 3, 32, 32).double()
    tokens, weights, wanted = tower.enter(tower.embed(images)), method.mixture_weights.exp(), 0.0
    for index, block in enumerate(tower.blocks):
        tokens = block(tokens)
        wanted = wanted + 1.7 * weights[index] / weights.sum() * tower.pool(tokens)
    torch.testing.assert_close(method.features(images), wanted, atol=1e-12, rtol=0)


def test_all_weight_on_the_last_block_is_the_linear_head(vit, inputs):
    torch.manual_seed(0)
    method = vpt.build("linear", vit, CLASSES, mixture=True)
    method.mixture_weights.data[-1] = 50.0
    other = vpt.build("linear", vit, CLASSES)
    other.load_learned_state({name: tensor for name, tensor in method.learned_state().items() if "head" in name})
    torch.testing.assert_close(method(inputs["images"]), other(inputs["images"]))


def test_kept_rows_give_the_same_bits_and_the_mixture_learns(vit, inputs):
    method, found = vpt.build("linear", vit, CLASSES, mixture=True), []
    for given in (inputs["images"], layer_features(vit, inputs["images"])):
        method.zero_grad()
        loss = method.loss(given, inputs["labels"])
        loss.backward()
        found.append([loss.detach(), *(parameter.grad.clone() for parameter in method.trained().values())])
    assert all(map(torch.equal, *found))
    assert method.mixture_weights.grad.any() and method.mixture_scale.grad.any()
    assert method.learned_parameters() == vpt.build("linear", vit, CLASSES).learned_parameters() + 5


def test_a_run_keeps_the_features_of_all_blocks_apart_from_others(tmp_path):
    found = {}
    for mixture, again in ((False, False), (True, False), (True, True)):
        path = tmp_path / f"{mixture}{again}"
        words = ["DATASET.NAME", "digits", "DATASET.SHOTS", "1", "OPTIM.EPOCHS", "1", "OUTPUT_DIR", str(path)]
        words += ["CACHE_DIR", str(tmp_path / "cache"), "METHOD.OPTIONS.MIXTURE", str(mixture)]
        with RunFolder(path) as folder:
            cfg = load_config(ROOT / "configs/vpt/embedded_linear.yaml", words, FAMILIES)
            found[mixture, again] = run(cfg, FAMILIES, folder, progress=False)
    sources = [(result["train_features"], result["test_features"]) for result in found.values()]
    assert sources == [("computed", "computed"), ("computed", "computed"), ("cache", "cache")]
    assert found[True, False]["accuracy"] == found[True, True]["accuracy"]


def test_a_network_without_blocks_has_nothing_to_mix():
    with pytest.raises(InputError, match="'resnet18' has no transformer blocks to mix; set mixture to false"):
        vpt.build("linear", load_vit("resnet18", pretrained="none"), CLASSES, mixture=True)
