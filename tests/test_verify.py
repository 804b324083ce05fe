"""`verify`: each check of a machine and a dataset holds on what is right and differs on what was broken."""

import json
import re
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

import coop
import vpt
from promptvision.config import load_config
from promptvision.data import transforms
from promptvision.data.cards import load_card
from promptvision.data.prepare.known import (
    KNOWN_VIEW,
    known_image,
    miscounted,
    view_of_known_image,
    wrong_picks,
    wrong_views,
)
from promptvision.data.readers import read
from promptvision.data.splits import few_shot, subset_hash
from promptvision.verify import machine
from promptvision.verify.check import ABSENT, DIFFERS, HOLDS, Answer, Check, judged
from promptvision.verify.published import COOP, Number, numbers_of, own_numbers, rows_of
from promptvision.verify.tokens import TOKENS

ROOT = Path(__file__).parents[1]
FAMILIES = {"vpt": vpt, "coop": coop}


def test_an_error_is_a_row_and_the_next_check_follows(tool, tiny_file, tiny_dtd):
    def fails():
        raise ZeroDivisionError("division\nby zero")

    row = Check("a", "b", fails).row()
    assert row == {"of": "a", "check": "b", "verdict": DIFFERS, "found": "ZeroDivisionError: division by zero"}
    assert judged(["one", "two"], "fine") == Answer(DIFFERS, "one (and 1 more)")
    next(tiny_dtd.rglob("4.jpg")).write_bytes(b"no image")
    status, out, err = tool("verify", "--root", tiny_dtd, "--backbone", tiny_file, "nope.pt", "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    found = {(Path(row["of"]).name, row["check"]): row for row in rows}
    assert status == 1 and found["dtd", "views"]["verdict"] == DIFFERS
    assert "4.jpg" in found["dtd", "views"]["found"] and "\n" not in found["dtd", "views"]["found"]
    assert "train has 2 images, the card says 2,820 (and 3 more)" in found["dtd", "counts"]["found"]
    assert "fingerprint" in found["dtd", "few-shot images"]["found"]
    verdicts = {check: row["verdict"] for (of, check), row in found.items() if of == tiny_file.name}
    wanted = dict.fromkeys(("tokens", "fast way, texts", "fast way, images"), HOLDS)
    assert verdicts == {**wanted, "weights": ABSENT, "accuracy": ABSENT}
    assert found["nope.pt", "weights"]["verdict"] == ABSENT and "nope.pt" in found["nope.pt", "weights"]["found"]
    assert {row["verdict"] for row in rows if row["of"] == "installation"} == {HOLDS}


def test_the_table_says_first_what_is_needed_and_what_is_here(tool, tmp_path):
    status, out, _ = tool("verify", "--root", tmp_path, "--backbone", "nope.pt", "--train")
    lines = out.splitlines()
    assert status == 0 and lines[0].startswith("Needs weights") and "RN50" in lines[0]
    assert lines[1] == f"Here: nope.pt; under {tmp_path}: no dataset."
    assert re.match(r"6 checks, about a minute or two on \w+", lines[2])
    assert re.search(rf"datasets +files +not here +not under {tmp_path}: imagenet, caltech101, ", out)
    assert re.search(r"training +accuracy +not here +no published training", out)
    assert re.search(r"nope.pt +weights +not here +no weight file nope.pt", out)


def test_part_of_a_dataset_is_not_here(tool, tiny_dtd):
    (tiny_dtd / "dtd/split_zhou_DescribableTextures.json").unlink()
    status, out, _ = tool("verify", "--root", tiny_dtd, "--backbone", "nope.pt")
    assert status == 0 and re.search(r"dtd +files +not here +missing: dtd/split_zhou_DescribableTextures.json", out)


def test_packages_and_arithmetic(monkeypatch):
    assert machine.packages().verdict == HOLDS
    monkeypatch.setattr(machine, "requires", lambda name: ["numpy>=999", "no_such_package", "other; extra == 'hf'"])
    found = machine.packages()
    assert found.verdict == DIFFERS and "promptvision requires >=999 (and 1 more)" in found.found
    assert machine.arithmetic(torch.device("cpu")).verdict == HOLDS
    monkeypatch.setattr(torch.Tensor, "float", lambda self: self.half().to(torch.float32))  # as TF32 rounds
    found = machine.arithmetic(torch.device("cpu"))
    assert found.verdict == DIFFERS and "relative error of 3e-04" in found.found


def test_known_view(monkeypatch):
    image = v2.functional.center_crop(v2.functional.resize(known_image(), 224, v2.InterpolationMode.BICUBIC), 224)
    assert np.array_equal(
        np.asarray(image), transforms.TEST["coop"]((224, 224))[1](transforms.TEST["coop"]((224, 224))[0](known_image()))
    )
    assert view_of_known_image() == KNOWN_VIEW
    monkeypatch.setitem(transforms.TEST, "coop", transforms.TEST["l2p"])
    assert view_of_known_image() != KNOWN_VIEW


def test_counts_picks_and_views_of_a_dataset(tiny_dtd, monkeypatch):
    card, images = load_card("dtd"), read(load_card("dtd"), tiny_dtd)
    fine = replace(card, counts={"train": 2, "val": 2, "test": 2}, classes=2)
    assert miscounted(fine, str(tiny_dtd)) == [] and len(miscounted(card, str(tiny_dtd))) == 4
    train, val = few_shot(images.train, images.val, 1, 3)
    known = {"shots": "1", "seed": "3", "sha256_train": subset_hash(train), "sha256_val": subset_hash(val)}
    assert wrong_picks(images, [known]) == []
    swapped = replace(images, train=images.train[::-1])
    (fault,) = wrong_picks(swapped, [known])
    assert fault.startswith("1 shots, seed 3, train: fingerprint ")
    assert wrong_views(images, 8) == []
    monkeypatch.setitem(transforms.TEST, "coop", transforms.TEST["l2p"])
    assert len(wrong_views(images, 8)) == 2


def test_published_numbers_are_those_of_the_papers():
    def values(backbone, dataset):
        numbers = numbers_of(backbone, backbone, load_card(dataset), "")
        return {(number.what, number.value) for number in numbers}

    probe, training = ("linear probe, 16 shots", "63.97"), ("CoOp, 1 shot", "44.39")
    assert values("RN50", "dtd") == {("zero-shot", "42.32"), probe, training}
    assert values("ViT-B-16", "dtd") == {("zero-shot, base classes", "53.24"), ("zero-shot, new classes", "59.9")}
    assert ("zero-shot", "73.96") in values("ViT-B-16", "imagenet_r") and values("embedded", "dtd") == set()
    assert not rows_of("coop/zero_shot", {"ENSEMBLE": ""}, "RN50", "eurosat")[1:]  # Tip-Adapter's templates differ


def test_a_training_is_the_published_one():
    (training,) = (number for number in numbers_of("RN50", "RN50", load_card("dtd"), "") if number.trains)
    words = [word for pair in training.words.items() for word in pair]
    cfg = load_config(training.config, words, FAMILIES)
    assert COOP.items() <= dict(cfg.METHOD.OPTIONS).items() and cfg.DATASET.SHOTS == 1 and cfg.OPTIM.EPOCHS == 50
    assert (cfg.OPTIM.LR, cfg.OPTIM.BATCH_SIZE, cfg.BACKBONE.PRETRAINED) == (0.002, 32, "openai")


def test_a_number_is_repeated(tiny_dtd):
    words = {"BACKBONE.NAME": "embedded", "DATASET.NAME": "dtd", "DATASET.ROOT": str(tiny_dtd), "TRAIN.DEVICE": "cpu"}
    words |= {"DATASET.CLASSES": "base", "CACHE_DIR": ""}
    found = Number("zero-shot", "coop/embedded_zero_shot.yaml", words, "50.0", "nobody", 0.1, 1).repeat(FAMILIES)
    assert found == Answer(DIFFERS, "100.00; nobody: 50.0")  # one image of one class


def test_a_number_is_compared_with_ours():
    one, three = (
        Number("", "", {}, "60.0", "a paper", within, 1, seeds) for within, seeds in ((0.1, (1,)), (0, (1, 2, 3)))
    )

    def verdicts(number, *accuracies, **facts):
        facts = {"dataset": "dtd", "class_subset": "all", "n": 1692, **facts}
        return number.compare({seed: {**facts, "accuracy": a} for seed, a in enumerate(accuracies, 1)}).verdict

    assert [verdicts(one, accuracy) for accuracy in (59.8, 59.9, 60.1, 60.2)] == [DIFFERS, HOLDS, HOLDS, DIFFERS]
    assert verdicts(one, 60.0, n=1691) == ABSENT and verdicts(one, 60.0, n=800, class_subset="base") == HOLDS
    assert verdicts(three, 58.0, 60.0, 61.0) == HOLDS and verdicts(three, 58.0, 58.1, 58.2) == DIFFERS


def test_the_docs_show_every_check():
    page = (ROOT / "docs/verify.md").read_text(encoding="utf-8")
    tool = runpy.run_path(str(ROOT / "tools/verify.py"))
    checks = [*tool["of_machine"](), *tool["of_backbone"]("embedded")]
    questions = [(check.of, check.question) for check in checks]
    questions += [("embedded", f"{n.what}, world_textures") for n in own_numbers()]
    questions += [("caltech101", question) for question in ("counts", "few-shot images", "views")]
    shown = re.findall(r"^ (\S+) +(\S.*?) {2,}(holds|differs|not here) ", page, re.M)
    assert set(questions) <= {(of, question) for of, question, _ in shown} and len(checks) == 7
    assert f"{len(TOKENS)} known strings" in page and all(f": {n.value}" in page for n in own_numbers())


def test_own_numbers_are_those_of_the_docs():
    rows = (ROOT / "docs/embedded_world.md").read_text(encoding="utf-8")
    (row,) = re.findall(r"^\| `world_textures` \| 28.7 \|.*\|.*\|.*\|.*\|$", rows, re.M)
    assert all(number.value in row for number in own_numbers())


@pytest.mark.slow
def test_own_numbers_hold():
    assert {number.repeat(FAMILIES).verdict for number in own_numbers()} == {HOLDS}
