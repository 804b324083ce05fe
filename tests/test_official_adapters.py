"""MMA++ against the numbers of its official code: values, gradients, training, predictions of the trained weights."""

import json
from pathlib import Path

import pytest
import torch
from official import gradients, near, near_each, start_of, trained_at

import coop
from promptvision.backbones import load_clip
from promptvision.backbones.image import entered
from promptvision.config import load_config
from promptvision.config.families import FAMILIES
from promptvision.errors import InputError


def built(facts, clip, folder):
    """The method of a case, with its texts in a file."""
    own = facts["settings"]
    options = dict(dim=own["ADAPTER_DIM"], train_scale=own["ADAPTER_TRAIN_SCALE"], test_scale=own["ADAPTER_TEST_SCALE"])
    options |= dict(weight=own["ADAPTER_TRAIN_SCALE_REG"], dropout=own["ADAPTER_DROP"])
    options |= dict(layers=list(range(own["ADAPTER_START"] - 1, own["ADAPTER_END"])))
    if own["INPUT_PROMPTS"] != "hc":
        texts = dict(zip(facts["classnames"], facts["texts"], strict=True))
        (folder / "texts.json").write_text(json.dumps(texts))
        options["texts"] = str(folder / "texts.json")
    return coop.build("mma_pp", clip, facts["classnames"], **options)


@pytest.mark.parametrize("way", ["plain", "fast"])
@pytest.mark.golden("coop/mmapp/*")
def test_mma_pp(golden, clip, coop_inputs, case, way, computed, tmp_path):
    facts, expected = golden(case)
    method = built(facts, computed(clip, way=way), tmp_path)
    method.load_learned_state(start_of(expected))
    draws = iter(zip(expected["text_index"].long(), expected["scale_factor"], strict=True))
    method.draw = lambda: next(draws)
    check_values(method, expected, coop_inputs["images"], coop_inputs["labels"])
    trained_at(method, expected, coop_inputs, "sgd", expected["traj.lr"].tolist(), rel=1e-4, abs=1e-4)
    near(method(coop_inputs["images"]), expected["traj.test_logits"])
    near(torch.nn.functional.normalize(method.text_features(), dim=-1), expected["traj.test_text_features"])


def check_values(method, expected, images, labels):
    logits, total = [], method.total
    method.total = lambda step: logits.append(step.logits) or total(step)
    loss = method.loss(images, labels)
    method.total = total
    near(logits[0], expected["logits"])
    near(loss, expected["loss"])
    loss.backward()
    near_each(gradients(method), expected, "grad.", 1e-4)


NAMES = ["cat", "golden_retriever", "Washington D.C."]
TEXTS = {
    "cat": "a cat",
    "golden_retriever": ["a dog of gold", "the retriever"],
    "Washington D.C.": ["a town", "b", "c d"],
}


@pytest.fixture
def texts(tmp_path):
    (tmp_path / "own.json").write_text(json.dumps({**TEXTS, "bird": ["a bird", "one more bird"]}))
    return str(tmp_path / "own.json")


@pytest.fixture(scope="module")
def batch(coop_inputs):
    return coop_inputs["images"][:4], torch.tensor([0, 1, 2, 1])


@pytest.fixture(scope="module")
def double(golden):
    return load_clip(golden.root / "coop/clip_vit_tiny.safetensors").double()


def small(texts, clip, **options):
    torch.manual_seed(5)
    return coop.build("mma_pp", clip, NAMES, texts=texts, dim=4, train_scale=0.3, test_scale=0.2, **options)


@pytest.mark.parametrize("layers", [(), (0, 2), (2,)])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_both_ways_are_equal_in_double_precision(texts, batch, double, computed, layers, dropout):
    """Dropout draws nothing in a prediction."""
    found = []
    for way in ("plain", "fast"):
        method = small(texts, computed(double, way=way), layers=list(layers), dropout=dropout).double().eval()
        torch.manual_seed(1)
        loss = method.loss(batch[0].double(), batch[1])
        gradients = torch.autograd.grad(loss, list(method.trained().values()))
        found.append([method(batch[0].double()), loss, *gradients])
    for ours, wanted in zip(*found, strict=True):
        torch.testing.assert_close(ours, wanted, atol=1e-12 * wanted.abs().max().item(), rtol=0)


def test_with_dropout_texts_are_filled_up_but_lower_blocks_stay_known(texts, double, computed):
    """Without active dropout the filled texts have the features of the packed ones."""
    method = small(texts, computed(double, way="fast"), dropout=0.5).double()
    which, packed = torch.tensor([0, 2, 5, 3]), None
    for train in (False, True):
        method.train(train)
        for part in method.adapter_learner.modules():
            if isinstance(part, torch.nn.Dropout):
                part.forward = lambda x: x
        found = method._texts(which, 0.3)
        packed = found if packed is None else packed
    torch.testing.assert_close(found, packed, atol=1e-12, rtol=1e-12)
    assert method.adapter_learner.draws


def test_a_step_draws_one_of_each_class_and_a_part_of_the_scale(texts, clip):
    method = small(texts, clip)
    draws = [method.draw() for _ in range(60)]
    assert [{int(each[0][place]) for each in draws} for place in range(3)] == [{0}, {0, 1}, {0, 1, 2}]
    assert all(0 <= each[1] < 1 for each in draws) and len({each[1].item() for each in draws}) > 50


def test_rows_of_what_enters_stand_for_images_in_a_step(texts, batch, clip):
    method = small(texts, clip, dropout=0.0)
    rows, losses = entered(method.backbone.image, batch[0], method.frozen_blocks), []
    for images in (batch[0], rows):
        torch.manual_seed(1)
        losses.append(method.loss(images, batch[1]))
    assert method.frozen_blocks == 1 and torch.equal(*losses)


def test_new_classes_need_texts_of_their_own(texts, batch, clip):
    method = small(texts, clip, dropout=0.0)
    other = method.for_classes(["bird", "cat"])
    torch.testing.assert_close(other(batch[0])[:, 1], method(batch[0])[:, 0], atol=1e-4, rtol=1e-4)
    with pytest.raises(InputError, match="has no text for class 'dog'"):
        method.for_classes(["dog"])


@pytest.mark.parametrize(
    ("said", "options"), {"dim is 0": dict(dim=0), "unknown ensemble ''": dict(ensemble="")}.items()
)
def test_wrong_options_are_named(said, options, clip):
    with pytest.raises(InputError, match=said):
        coop.build("mma_pp", clip, NAMES, **options)


def test_the_presets():
    """Rate, epochs, weight, scale of tests, dropout."""
    found = {}
    for name in ("", "_texts", "_cross_datasets"):
        path = Path(__file__).parents[1] / f"configs/coop/vit_b16_mma_pp{name}.yaml"
        cfg = load_config(path, ["DATASET.NAME", "dtd"], FAMILIES)
        options, optim = cfg.METHOD.OPTIONS, cfg.OPTIM
        assert (optim.NAME, optim.WARMUP_EPOCHS, optim.BATCH_SIZE, options.DIM) == ("sgd", 0, 16, 32)
        assert list(range(4, 12)) == options.LAYERS and options.TRAIN_SCALE == 0.01
        found[name] = (optim.LR, optim.EPOCHS, options.WEIGHT, options.TEST_SCALE, options.DROPOUT)
    assert found == {
        "": (0.3, 50, 2.5, 0.0065, 0.2),
        "_texts": (0.2, 50, 2.5, 0.0065, 0.1),
        "_cross_datasets": (0.3, 15, 1.0, 0.005, 0.1),
    }
