"""The published picks, bit for bit, and the rules behind them."""

import hashlib
import json
import os
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptvision.data.cards import load_card
from promptvision.data.splits import (
    class_subset,
    few_shot,
    read_and_split,
    short_classes,
    split_trainval,
    subset_classes,
    subset_hash,
)
from promptvision.errors import InputError

FINGERPRINTS = Path(__file__).parents[1] / "promptvision/data/prepare/few_shot_fingerprints.tsv"
SPLITS = Path(os.environ.get("PROMPTVISION_SPLITS", "no such folder"))


@pytest.fixture(scope="module")
def protocol(golden):
    def load(name):
        return json.loads((golden.root / f"coop/protocol/{name}.json").read_text())

    return load


@pytest.fixture(scope="module")
def synthetic(protocol):
    return protocol("split_zhou_Synthetic")


@pytest.fixture(scope="module")
def classes(synthetic):
    names = {label: name for _, label, name in synthetic["train"]}
    return [names[label] for label in range(len(names))]


def parse(key):
    """{"seed": 1, "shots": 16} of "seed1.shots16"."""
    seed, shots = key.split(".")[:2]
    return {"seed": int(seed.removeprefix("seed")), "shots": int(shots.removeprefix("shots"))}


def paths(items):
    return [path for path, _, _ in items]


def test_few_shot_picks_what_coop_picks(protocol, synthetic):
    for key, expected in protocol("fewshot")["fewshot"].items():
        train, val = few_shot(synthetic["train"], synthetic["val"], **parse(key))
        assert paths(train) == expected["train"], key
        assert paths(val) == expected["val"], key


def test_few_shot_picks_what_clip_lora_picks(protocol, synthetic):
    for key, expected in protocol("fewshot_cliplora")["fewshot"].items():
        train, val = few_shot(synthetic["train"], synthetic["val"], **parse(key), order="clip_lora")
        assert paths(train) == expected["train"], key
        assert paths(val) == expected["val"], key


def test_class_subsets_follow_the_picks_for_all_classes(protocol, synthetic, classes):
    for key, expected in protocol("fewshot")["subsample"].items():
        which = key.rsplit(".", 1)[1]
        train, val = few_shot(synthetic["train"], synthetic["val"], **parse(key))
        for part, items in (("train", train), ("val", val), ("test", synthetic["test"])):
            found = [list(item) for item in class_subset(items, which, classes)]
            assert found == expected[part], (key, part)
        assert subset_classes(classes, which) == expected["classnames"]


def sources():
    """Datasets whose split file is at hand in the folder PROMPTVISION_SPLITS; and always the synthetic one."""
    published = {line.split("\t")[0] for line in FINGERPRINTS.read_text().splitlines()[1:]}
    at_hand = {name for name in published if (SPLITS / load_card(name).options["split"]).is_file()}
    return ["synthetic", *sorted(at_hand)]


@pytest.fixture(params=sources())
def fingerprinted(request, protocol, synthetic):
    """A split file, and rows (shots, seed, hash of train, hash of val) that its picks must have."""
    if request.param == "synthetic":
        labels = {path: label for part in synthetic.values() for path, label, _ in part}

        def digest(picked):
            return hashlib.sha256("\n".join(f"{path}\t{labels[path]}" for path in picked).encode()).hexdigest()

        picks = [(parse(key), picked) for key, picked in protocol("fewshot")["fewshot"].items()]
        return synthetic, [(p["shots"], p["seed"], digest(e["train"]), digest(e["val"])) for p, e in picks]
    rows = [line.split("\t") for line in FINGERPRINTS.read_text().splitlines()]
    rows = [(int(row[1]), int(row[2]), *row[5:]) for row in rows if row[0] == request.param]
    return json.loads((SPLITS / load_card(request.param).options["split"]).read_text()), rows


def test_fingerprints_of_the_published_picks(fingerprinted):
    split, rows = fingerprinted
    assert len(rows) >= 15
    for shots, seed, train_hash, val_hash in rows:
        train, val = few_shot(split["train"], split["val"], shots, seed)
        assert (subset_hash(train), subset_hash(val)) == (train_hash, val_hash), (shots, seed)


def test_a_hash_sees_order_paths_and_labels():
    items = [("a/1.jpg", 0, "a"), ("b/é.jpg", 1, "b")]
    assert subset_hash(items) == hashlib.sha256("a/1.jpg\t0\nb/é.jpg\t1".encode()).hexdigest()
    assert len({subset_hash(items), subset_hash(items[::-1]), subset_hash([("a/1.jpg", 1, "a"), items[1]])}) == 3
    assert subset_hash([("a/1.jpg", 0, "renamed"), items[1]]) == subset_hash(items)


@pytest.mark.parametrize("shots", [0, -1])
def test_below_one_shot_everything_is_kept(synthetic, shots):
    assert few_shot(synthetic["train"], synthetic["val"], shots, 1) == (synthetic["train"], synthetic["val"])


def test_a_small_class_gives_all_it_has_without_drawing():
    small, large = [(f"s{n}", 5, "small") for n in range(3)], [(f"l{n}", 2, "large") for n in range(9)]
    train, _ = few_shot(small + large, [], 4, 1)
    assert train == small + random.Random(1).sample(large, 4)
    assert short_classes(small + large, 4) == {"small": 3}
    assert short_classes(small + large, 3) == {}


def test_clip_lora_repeats_the_images_of_a_small_class():
    small, large = [(f"s{n}", 0, "small") for n in range(3)], [(f"l{n}", 1, "large") for n in range(9)]
    train, val = few_shot(small + large, small, 8, 1, "clip_lora")
    assert len(train) == 16 and set(train[:8]) <= set(small) and len(set(train[8:])) == 8
    assert len(val) == 4 and set(val) <= set(small)


def test_an_unknown_few_shot_order_is_named(synthetic):
    with pytest.raises(InputError, match="few-shot order 'clip-lora'; did you mean 'clip_lora'"):
        few_shot(synthetic["train"], synthetic["val"], 1, 1, "clip-lora")


def test_the_global_generator_is_left_alone(synthetic):
    random.seed(0)
    before = random.getstate()
    few_shot(synthetic["train"], synthetic["val"], 4, 1)
    split_trainval(synthetic["train"], 1)
    read_and_split({"a": ["1", "2", "3"]}, 1)
    assert random.getstate() == before


def test_split_trainval(protocol):
    splits = protocol("splits")
    for key, expected in splits["split_trainval"].items():
        train, val = split_trainval(splits["trainval_input"], int(key.removeprefix("seed")), expected["p_val"])
        assert paths(train) == expected["train"]
        assert paths(val) == expected["val"]


def test_read_and_split(protocol):
    splits = protocol("splits")
    for key, expected in splits["read_and_split_data"].items():
        folders = splits["directory_listing_sorted"].items()
        listing = {folder: [f"{folder}/{name}" for name in names] for folder, names in folders}
        given = {
            {"p_trn": "p_train", "new_cnames": "renames"}.get(name, name): value
            for name, value in expected["args"].items()
        }
        parts = read_and_split(listing, int(key.rsplit("seed", 1)[1]), **given)
        for part, items in zip(("train", "val", "test"), parts, strict=True):
            assert [list(item) for item in items] == expected[part], (key, part)


@pytest.mark.parametrize(
    ("images", "sizes"),
    [(1, (1, 0, 0)), (2, (1, 0, 1)), (3, (1, 1, 1)), (4, (2, 1, 1)), (5, (2, 1, 2)), (10, (5, 2, 3))],
)
def test_the_smallest_classes_are_still_split(images, sizes):
    parts = read_and_split({"a": [str(n) for n in range(images)]}, 1)
    assert tuple(len(part) for part in parts) == sizes


items_of_random_classes = st.lists(st.integers(0, 6), min_size=1, max_size=60).map(
    lambda labels: [(f"{n}.jpg", label, f"class {label}") for n, label in enumerate(labels)]
)


@given(items_of_random_classes, st.integers(1, 20), st.integers(0, 9))
def test_few_shot_takes_min_of_shots_and_what_there_is(items, shots, seed):
    train, val = few_shot(items, items, shots, seed)
    for label in {label for _, label, _ in items}:
        there = sum(item[1] == label for item in items)
        assert sum(item[1] == label for item in train) == min(shots, there)
        assert sum(item[1] == label for item in val) == min(shots, 4, there)
    assert len(set(train)) == len(train)
    assert set(train) <= set(items)


@given(st.integers(2, 40))
def test_base_and_new_part_the_classes(n):
    names = [f"class {label}" for label in range(n)]
    items = [(f"{label}.jpg", label, name) for label, name in enumerate(names)]
    base, new = class_subset(items, "base", names), class_subset(items, "new", names)
    assert len(base) == -(-n // 2)
    assert paths(base) + paths(new) == paths(items)
    assert [label for _, label, _ in new] == list(range(len(new)))
    assert [name for _, _, name in new] == subset_classes(names, "new")


def test_unknown_and_empty_class_subsets_are_named():
    with pytest.raises(InputError, match="class subset 'bas'; did you mean 'base'"):
        subset_classes(["a", "b"], "bas")
    with pytest.raises(InputError, match="class subset 'new' of 1 class is empty"):
        class_subset([("1.jpg", 0, "a")], "new", ["a"])
