"""Which images a configured run sees: validation modes, long tails, domains; and tables of runs that saw others."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import coop
import vpt
from promptvision.config import load_config
from promptvision.data.cards import load_card
from promptvision.data.domains import read_domains
from promptvision.data.long_tail import class_sizes, long_tailed
from promptvision.data.splits import cross_validation, few_shot, held_out, subset_hash
from promptvision.errors import InputError
from promptvision.experiment.data import load_data

ROOT = Path(__file__).parents[1]
FAMILIES = {"vpt": vpt, "coop": coop}
COOP = ROOT / "configs/coop/embedded.yaml"
DOMAINS = """
title: own
source: me
licence: none
where: draw it
reader: class_folders
template: "a photo of a {}."
folders: [own]
domains:
  art: {parts: {train: art}}
  photo: {parts: {train: photo}}
  clip: {parts: {train: clip}}
  apart: {parts: {train: apart/train, test: apart/test}}
"""


def load(*overrides):
    return load_data(load_config(COOP, ["DATASET.NAME", "digits", *overrides], FAMILIES))


def draw(folder, count, shade=100):
    """`count` images whose pixels differ."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 100, (8, 8, 3)) + shade
        Image.fromarray(pixels.astype("uint8")).save(folder / f"{number}.png")


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A card with domains of class folders, and its root: ten images of two classes each, `clip` lacks one."""
    root = tmp_path_factory.mktemp("own")
    for place in ("art", "photo", "apart/train", "apart/test"):
        for name in ("cat", "dog"):
            draw(root / "own" / place / name, 10)
    draw(root / "own/clip/dog", 10)
    (root / "card.yaml").write_text(DOMAINS)
    return root


@pytest.fixture
def domains(own):
    return lambda *words: read_domains(load_card(str(own / "card.yaml")), own, *words)


def test_sizes_of_the_published_long_tails():
    """CIFAR-10-LT as in Cao et al. 2019 (LDAM), imbalance 100 and 10."""
    assert class_sizes(5000, 10, 100) == [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    assert class_sizes(5000, 10, 10, "step") == [5000] * 5 + [500] * 5
    assert class_sizes(16, 3, 16) == [16, 4, 1] and class_sizes(16, 1, 4) == [16] == class_sizes(16, 1, 4, "step")
    assert class_sizes(4, 3, 100) == [4, 1, 1] and class_sizes(9, 5, 3, "step") == [9, 9, 3, 3, 3]


@pytest.mark.parametrize(
    ("words", "sentence"), [((4, 3, 0.5), "at least 1, not 0.5"), ((4, 3, 2, "stair"), "one of: exponential, step")]
)
def test_bad_long_tails(words, sentence):
    with pytest.raises(InputError, match=sentence):
        class_sizes(*words)


def items_of(counts):
    return [(f"{label}/{n}", label, f"class {label}") for label, count in enumerate(counts) for n in range(count)]


@given(st.lists(st.integers(0, 20), min_size=1, max_size=8), st.floats(1, 50), st.integers(0, 5))
def test_a_long_tail_keeps_what_a_shorter_one_keeps_less_of(counts, imbalance, seed):
    items, classes = items_of(counts), len(counts)
    kept = long_tailed(items, classes, imbalance, seed)
    sizes = class_sizes(max(counts), classes, imbalance)
    assert Counter(label for _, label, _ in kept) == Counter(
        {label: min(count, size) for label, (count, size) in enumerate(zip(counts, sizes, strict=True)) if count}
    )
    assert set(kept) <= set(long_tailed(items, classes, max(1, imbalance / 2), seed))
    assert kept == [item for item in items if item in set(kept)]


def test_long_tails_follow_the_seed():
    items = items_of([20] * 4)
    assert long_tailed(items, 4, 10, 1) == long_tailed(items, 4, 10, 1) != long_tailed(items, 4, 10, 2)
    assert long_tailed(items, 4, 1, 1) == items


def test_a_run_trains_on_a_long_tail_of_the_same_picks():
    even, tail = (load("DATASET.SHOTS", "8", "DATASET.IMBALANCE", imbalance) for imbalance in ("1", "8"))
    counts = Counter(label for _, label, _ in tail.images.train)
    assert [counts[label] for label in range(10)] == class_sizes(8, 10, 8)
    assert set(tail.images.train) < set(even.images.train) and tail.images.val == even.images.val
    base = load("DATASET.SHOTS", "8", "DATASET.IMBALANCE", "8", "DATASET.CLASSES", "base").images.train
    assert Counter(label for _, label, _ in base)[4] == 1


def test_held_out_images_are_none_of_the_picked():
    items = items_of([10, 3, 2])
    picked, _ = few_shot(items, [], 2, 1)
    train, val = held_out(items, picked, 2, 1)
    assert train == picked and not set(train) & set(val)
    assert Counter(label for _, label, _ in val) == {0: 2, 1: 1}
    assert Counter(label for _, label, _ in held_out(items, picked, 8, 1, 6)[1]) == {0: 6, 1: 1}
    train, val = held_out(items, items, 0, 1)
    assert sorted(train + val) == sorted(items) and len(val) == 2 + 1


def test_seeds_are_the_folds_of_a_cross_validation():
    items = items_of([7, 5, 2, 1])
    folds = [cross_validation(items, 3, seed) for seed in (1, 2, 3)]
    assert all(sorted(train + val) == sorted(items) for train, val in folds)
    held = [item for _, val in folds for item in val]
    assert sorted(held) == sorted(items)[:-1], "each image is held out once, but the only one of its class never"
    assert max(len(val) for _, val in folds) - min(len(val) for _, val in folds) <= 1
    assert all({label for _, label, _ in train} == {0, 1, 2, 3} for train, _ in folds)
    assert cross_validation(items, 3, 1) == folds[0] != cross_validation(items, 3, 4), "the next seeds divide anew"


def test_a_run_trains_and_validates_on_a_fold():
    images = load("DATASET.SHOTS", "0", "DATASET.FOLDS", "5", "SEED", "2").images
    whole = load("DATASET.SHOTS", "0").images
    assert sorted(images.train + images.val) == sorted(whole.train + whole.val) and images.test == whole.test
    few = load("DATASET.SHOTS", "3", "DATASET.FOLDS", "5", "SEED", "2").images
    assert few.val == images.val and len(few.train) == 30 and set(few.train) < set(images.train)


def test_a_run_says_how_many_images_it_uses(caplog):
    caplog.set_level("INFO")
    used, found = load("DATASET.SHOTS", "3", "DATASET.FOLDS", "5").images.counts, load().found
    said = [" ".join(f"{count} {split}," for split, count in each.items() if count)[:-1] for each in (used, found)]
    assert f"Images used: {said[0]} of {said[1]} (DATASET.SHOTS 3; 0 takes all)" in caplog.text


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["DATASET.FOLDS", "1"], "FOLDS 1 would train on nothing: take 2"),
        (["DATASET.FOLDS", "3", "DATASET.TRAIN", "train+val"], "leave DATASET.TRAIN and DATASET.VALIDATION"),
        (["DATASET.FOLDS", "3", "DATASET.VALIDATION", "none"], "leave DATASET.TRAIN and DATASET.VALIDATION"),
    ],
)
def test_folds_that_cannot_be(words, sentence):
    with pytest.raises(InputError, match=sentence):
        load(*words)


def test_validation_images():
    own, none, apart, test = (
        load("DATASET.SHOTS", "8", "DATASET.VALIDATION", mode).images for mode in ("own", "none", "held_out", "test")
    )
    assert own.train == none.train == apart.train == test.train
    whole = load("DATASET.SHOTS", "8", "DATASET.VALIDATION", "all").images
    assert whole.train == own.train and whole.val == load("DATASET.SHOTS", "0").images.val and len(whole.val) > 40
    assert len(own.val) == 40 and none.val == [] and test.val == test.test == own.test
    assert len(apart.val) == 40 and not set(apart.val) & {*own.val, *own.train, *own.test}
    everything = load("DATASET.SHOTS", "0").images.train
    apart = load("DATASET.SHOTS", "0", "DATASET.VALIDATION", "held_out").images
    assert sorted(apart.train + apart.val) == sorted(everything) and 0 < len(apart.val) < len(apart.train) / 3
    both = load("DATASET.SHOTS", "0", "DATASET.VALIDATION", "held_out", "DATASET.TRAIN", "train+val").images
    assert sorted(both.train) == sorted(everything)


@pytest.mark.parametrize(
    ("mode", "shots", "most", "each"), [("own", 8, 16, 8), ("held_out", 8, 6, 6), ("own", 2, 16, 2)]
)
def test_validation_images_can_be_as_many_as_shots(mode, shots, most, each):
    words = "DATASET.SHOTS", str(shots), "DATASET.VALIDATION", mode
    few, more = (load(*words, *extra).images for extra in ((), ("DATASET.VALIDATION_SHOTS", str(most))))
    assert few.train == more.train and len(few.val) == 10 * min(shots, 4) and len(more.val) == 10 * each


@pytest.mark.parametrize("mode", ["test", "none"])
def test_nobody_trains_on_test_images(mode):
    with pytest.raises(InputError, match=f"train.val with DATASET.VALIDATION {mode} would train on"):
        load("DATASET.VALIDATION", mode, "DATASET.TRAIN", "train+val")


def test_clip_loras_picks_by_name():
    theirs, ours = load("DATASET.SHOTS", "4", "DATASET.FEW_SHOT", "clip_lora"), load("DATASET.SHOTS", "4")
    assert subset_hash(theirs.images.train) != subset_hash(ours.images.train)
    every = load("DATASET.SHOTS", "0").images
    assert (theirs.images.train, theirs.images.val) == few_shot(every.train, every.val, 4, 1, "clip_lora")


def test_a_run_without_validation_images_says_how_to_get_some(tool, tmp_path):
    words = ["DATASET.VALIDATION", "none", "TRAIN.EVAL_EVERY", "1", "TRAIN.KEEP", "best", "OUTPUT_DIR", tmp_path]
    status, _, err = tool("train", "--config", COOP, "DATASET.NAME", "digits", *words)
    assert status == 2 and "no val images; DATASET.VALIDATION held_out takes some" in err


def test_a_target_without_lists_is_unlabelled_and_tested_as_published(domains):
    found = domains("art", "photo")
    assert {path.split("/")[0] for path, _, _ in found.train} == {"art"} and len(found.train) == 20
    assert found.unlabelled == found.test and {path.split("/")[0] for path, _, _ in found.test} == {"photo"}
    assert found.classes == ["cat", "dog"] and found.val == []
    assert found.open(found.train[0][0]).size == found.open(found.test[0][0]).size == (8, 8)


def test_a_share_of_the_target_is_held_out_for_the_test(domains):
    found, again = domains("art", "photo", 0.3), domains("art", "photo", 0.3)
    assert len(found.test) == 6 and len(found.unlabelled) == 14 and not set(found.test) & set(found.unlabelled)
    assert (found.train, found.unlabelled, found.test) == (again.train, again.unlabelled, again.test)
    with pytest.raises(InputError, match="'apart' has its own test images, which are held out already"):
        domains("art", "apart", 0.3)


def test_a_target_with_lists_is_tested_on_its_own(domains):
    found = domains("art,photo", "apart")
    assert {path.split("/")[0] for path, _, _ in found.train} == {"art", "photo"} and len(found.train) == 40
    assert all(path.startswith("apart/train/") for path, _, _ in found.unlabelled)
    assert all(path.startswith("apart/test/") for path, _, _ in found.test)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("art", "clip"), "the source 'art' has the class 'cat', which the target lacks"),
        (("clip", "art"), "the target 'art' has the class 'cat', which the source lacks"),
        (("art", "art"), "'art' share images: tests would be on training images"),
        (("", "art"), "domains disagree|share images"),
        (("art", "photos"), "did you mean 'photo'"),
        (("art, ,foto", "photo"), "did you mean 'photo'"),
    ],
)
def test_domains_that_do_not_fit(domains, words, sentence):
    with pytest.raises(InputError, match=sentence):
        domains(*words)


def test_a_source_needs_training_images():
    with pytest.raises(InputError, match="the source 'second' has no training images: it can only be a target"):
        read_domains(load_card("world_domains"), "", "second", "sketch")


def test_domains_of_a_run(own):
    words = ["DATASET.NAME", str(own / "card.yaml"), "DATASET.ROOT", str(own), "DATASET.SHOTS", "2"]
    data = load(*words, "DATASET.SOURCE", "art", "DATASET.TARGET", "photo", "DATASET.CLASSES", "new")
    assert data.classes == ["dog"]
    assert [len(part) for part in (data.images.train, data.images.test, data.images.unlabelled)] == [2, 10, 10]
    assert {label for _, label, _ in data.images.unlabelled} == {0}
    data = load(*words, "DATASET.SOURCE", "art", "DATASET.TARGET", "photo", "DATASET.VALIDATION", "test")
    assert data.images.val == data.images.test
    with pytest.raises(InputError, match="HELD_OUT splits a target domain: name it in DATASET.TARGET"):
        load("DATASET.HELD_OUT", "0.3")


def test_a_target_with_fewer_classes_is_named_by_its_own(tool, tmp_path):
    """As ImageNet-A and -R, 200 of the 1000 classes: prompts are made of the target's classes alone."""
    for name, shade in (("blue", 10), ("green", 60), ("red", 150)):
        draw(tmp_path / "source" / name, 8, shade)
        if name != "green":
            draw(tmp_path / "target" / name, 8, shade)
    words = ["DATASET.NAME", "folder", "OPTIM.EPOCHS", "1", "DATASET.SHOTS", "2", "OUTPUT_DIR", tmp_path / "run"]
    assert tool("train", "--config", COOP, *words, "DATASET.ROOT", tmp_path / "source")[0] == 0
    status, _, err = tool("eval", "--run", tmp_path / "run", "DATASET.ROOT", tmp_path / "target")
    assert status == 0, err
    first, found = (json.loads((tmp_path / "run" / name).read_text()) for name in RESULTS)
    assert first["classes"] == ["blue", "green", "red"] and found["classes"] == ["blue", "red"]
    assert len(found["per_class"]) == 2 and found["n"] < first["n"]


RESULTS = ("result.json", "eval-folder-all-test.json")


def test_targets_are_evaluated_into_their_own_files(tool, own, tmp_path):
    words = ["DATASET.NAME", own / "card.yaml", "DATASET.ROOT", own, "DATASET.SOURCE", "art", "DATASET.TARGET", "photo"]
    status, _, err = tool("train", "--config", COOP, *words, "OPTIM.EPOCHS", "1", "OUTPUT_DIR", tmp_path)
    assert status == 0, err
    assert tool("eval", "--run", tmp_path, "DATASET.TARGET", "apart")[0] == 0
    result, found = (
        json.loads((tmp_path / f"{name}.json").read_text()) for name in ("result", "eval-card-apart-all-test")
    )
    assert result["protocol"]["TARGET"] == "photo" and found["protocol"]["TARGET"] == "apart"
    assert result["test_hash"] != found["test_hash"] and result["pictures"]["unlabelled"] == 20
