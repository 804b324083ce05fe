"""`verify`: each check holds on what is right, differs on what was broken, and says what is not here."""

import json
import re
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torchvision.transforms import v2

import coop
import vpt
from promptvision.atomic import file_hash
from promptvision.backbones import load_clip, load_vit
from promptvision.backbones.fast_text import PackedPrompts
from promptvision.config import load_config
from promptvision.config.families import FAMILIES
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
from promptvision.verify import machine, weights
from promptvision.verify.check import ABSENT, DIFFERS, HOLDS, Answer, Check, judged
from promptvision.verify.published import COOP, Number, numbers_of, own_numbers, rows_of
from promptvision.verify.tokens import TOKENS, known_tokens
from promptvision.verify.ways import compare_ways

ROOT = Path(__file__).parents[1]
NAMES = ["cat", "golden retriever", "DC-9-30"]
SIZES = dict(
    embed_dim=32,
    vision_cfg=dict(image_size=32, patch_size=16, layers=2, width=64),
    text_cfg=dict(width=32, heads=2, layers=2),
)


@pytest.fixture(scope="module")
def tiny_file(tmp_path_factory):
    """A random CLIP of open_clip as a file that describes itself."""
    torch.manual_seed(0)
    model = open_clip.CLIP(**SIZES)
    file = tmp_path_factory.mktemp("tiny") / "tiny.safetensors"
    save_file(model.state_dict(), file, {"open_clip_config": json.dumps(SIZES)})
    return file


@pytest.fixture
def tiny_dtd(tmp_path):
    """Six noisy images in the layout of DTD, with a split file that lists each once."""
    lists = {"train": [], "val": [], "test": []}
    for number, (split, label) in enumerate((split, label) for split in lists for label in range(2)):
        path = f"{['banded', 'blotchy'][label]}/{number}.jpg"
        (tmp_path / "dtd/images" / path).parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 255, (90, 120 + number, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "dtd/images" / path)
        lists[split].append([path, label, path.partition("/")[0]])
    (tmp_path / "dtd/split_zhou_DescribableTextures.json").write_text(json.dumps(lists))
    return tmp_path


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
    assert lines[1] == f"Here: nope.pt; under {tmp_path}: no data set."
    assert re.match(r"6 checks, about a minute or two on \w+", lines[2])
    assert re.search(rf"data sets +files +not here +not under {tmp_path}: imagenet, caltech101, ", out)
    assert re.search(r"training +accuracy +not here +no published training", out)
    assert re.search(r"nope.pt +weights +not here +no weight file nope.pt", out)


def test_part_of_a_data_set_is_not_here(tool, tiny_dtd):
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


def test_known_tokens_are_those_of_the_official_code(golden):
    facts, tensors = golden("coop/coop/end_generic_ctx4")
    prompts = {
        f"X X X X {name.replace('_', ' ')}.": ids
        for name, ids in zip(facts["classnames"], tensors["tokenized_prompts"].tolist(), strict=True)
    }
    same = [text for text in TOKENS if text in prompts]
    assert len(same) == 3
    assert all([i for i in prompts[text] if i] == [49406, *TOKENS[text], 49407] for text in same)


def test_tokens():
    text = load_clip("embedded").text
    assert known_tokens(text).verdict == HOLDS
    text.tokenizer = SimpleTokenizer(clean="canonicalize")
    found = known_tokens(text)
    assert (
        found.verdict == DIFFERS
        and "'a photo of a cat.' has tokens [49406, 320, 1125, 539, 320, 2368, 49407]" in found.found
    )
    text.tokenizer = object()
    assert known_tokens(text).verdict == ABSENT


def test_a_file_is_compared_with_the_hash_that_its_address_states(tmp_path, monkeypatch):
    assert (
        weights.openai_files()["ViT-B-16.pt"][0].startswith("5806e77cd80f8b59")
        and weights.openai_files()["RN50.pt"][1] == "RN50"
    )
    (tmp_path / "ViT-B-16.pt").write_bytes(b"half a download")
    found = weights.check_hash(tmp_path / "ViT-B-16.pt")
    assert found.verdict == DIFFERS and "its address states 5806e77cd80f" in found.found
    (tmp_path / "mine.pt").write_bytes(b"mine")
    assert weights.check_hash(tmp_path / "mine.pt").verdict == ABSENT
    assert weights.published_name(str(tmp_path / "mine.pt"), tmp_path / "mine.pt") == str(tmp_path / "mine.pt")
    monkeypatch.setattr(weights, "openai_files", lambda: {"RN50.pt": (file_hash(tmp_path / "mine.pt"), "RN50")})
    assert weights.check_hash(tmp_path / "mine.pt").verdict == HOLDS
    assert weights.published_name(str(tmp_path / "mine.pt"), tmp_path / "mine.pt") == "RN50"


def test_a_file_of_the_hub_is_compared_with_the_hash_that_its_cache_states(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", tmp_path)
    assert weights.weight_file("ViT-B-16") is None
    place = tmp_path / "models--timm--vit_base_patch16_clip_224.openai"
    blob = place / "blobs" / "7a5b5a7a1f2e5d2b6b6e6b8d4ff3e2a9d2f3a3e4c2d1f0e9d8c7b6a5f4e3d2c1"
    blob.parent.mkdir(parents=True), (place / "snapshots/main").mkdir(parents=True)
    blob.write_bytes(b"weights")
    (place / "snapshots/main/open_clip_model.safetensors").symlink_to(blob)
    file = weights.weight_file("ViT-B-16")
    assert weights.check_hash(file).verdict == DIFFERS
    whole = blob.rename(blob.with_name(file_hash(blob)))
    file.unlink(), file.symlink_to(whole)
    assert weights.check_hash(weights.weight_file("ViT-B-16")).verdict == HOLDS


def test_names_and_files_of_clips_and_of_image_towers(tmp_path):
    (tmp_path / "vit.json").write_text("{}")
    clips = {"embedded": True, "ViT-B-16": True, "a/clip.pt": True, "vit_base_patch16_224": False, "a.npz": False}
    assert {name: weights.is_clip(name) for name in clips} == clips
    assert not weights.is_clip(str(tmp_path / "vit.safetensors")) and weights.weight_file("no_such_model") is None


def compared(method, tower, images):
    return compare_ways(method, tower, images, torch.arange(len(images)), "bf16")


def test_fast_and_plain_way_of_texts(tiny_file, monkeypatch):
    clip = load_clip(tiny_file)
    torch.manual_seed(0)
    method, features = coop.build("coop", clip, NAMES, n_ctx=4), torch.randn(3, 32)
    found = compared(method, clip.text, features)
    assert found.verdict == HOLDS and re.match(
        r"fp32: relative error \d.\de-0\d, plain .*; bf16: relative", found.found
    )
    known = PackedPrompts.forward
    monkeypatch.setattr(PackedPrompts, "forward", lambda *args: known(*args) * torch.linspace(1, 1.001, 32))
    assert compared(method, clip.text, features).verdict == DIFFERS


def test_fast_and_plain_way_of_images(vit, monkeypatch):
    method, images = vpt.build("prompt", vit, NAMES, num_tokens=3, deep=True), torch.randn(3, 3, 64, 64)
    assert compared(method, vit, images).verdict == HOLDS
    known = type(vit.view(0)).finish
    monkeypatch.setattr(type(vit.view(0)), "finish", lambda self, *args: known(self, *args) * 1.0001)
    found = compared(method, vit, images)
    assert found.verdict == DIFFERS and found.found.startswith("fp32")


def test_a_tower_without_a_fast_way_is_not_compared():
    tower = load_vit("resnet10t", "none")
    assert compare_ways(nn.Identity(), tower, torch.zeros(1), torch.zeros(1), "bf16").verdict == ABSENT


def test_known_view(monkeypatch):
    image = v2.functional.center_crop(v2.functional.resize(known_image(), 224, v2.InterpolationMode.BICUBIC), 224)
    assert np.array_equal(
        np.asarray(image), transforms.TEST["coop"]((224, 224))[1](transforms.TEST["coop"]((224, 224))[0](known_image()))
    )
    assert view_of_known_image() == KNOWN_VIEW
    monkeypatch.setitem(transforms.TEST, "coop", transforms.TEST["l2p"])
    assert view_of_known_image() != KNOWN_VIEW


def test_counts_picks_and_views_of_a_data_set(tiny_dtd, monkeypatch):
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
