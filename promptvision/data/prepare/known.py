"""Facts that are known of a dataset before it is there: counts, few-shot images, and the views of its images."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from PIL import Image
from torchvision import transforms

from promptvision.data.card import Card
from promptvision.data.images import Images
from promptvision.data.prepare.findings import wrong_counts
from promptvision.data.readers import read
from promptvision.data.splits import few_shot, subset_hash
from promptvision.data.transforms import BICUBIC, test_transform

SIZE, MEAN, STD = 224, OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
"""The input of OpenAI's CLIPs."""
KNOWN_VIEW = "df14e0ca2d9adc85cc0a272bee31f0248f308d9563153f6a78505f96c4bb1d2d"
"""SHA-256 of the pixels of CLIP's view of `known_image`."""


def miscounted(card: Card, root: str) -> list[str]:
    """Return a sentence for each number of images or classes, of the card or of its domains, that differs from it."""
    faults = []
    for domain in card.domains or [""]:
        images = read(card, root, domain)
        counts = card.domains[domain].get("counts", {}) if domain else card.counts
        lists = {"train": images.train, "val": images.val, "test": images.test}
        faults += [f"{domain}: {each}" if domain else each for each in wrong_counts(lists, counts, card.classes)]
    return faults


def fingerprints(name: str) -> list[dict[str, str]]:
    """Return what is known of the published few-shot images of a card: shots, seed, and a SHA-256 of each list."""
    with open(Path(__file__).with_name("few_shot_fingerprints.tsv"), encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file, delimiter="\t") if row["dataset"] == name]


def wrong_picks(images: Images, known: Sequence[Mapping[str, str]]) -> list[str]:
    """Return a sentence for each list of few-shot images, of `fingerprints`, that is another one here."""
    faults = []
    for row in known:
        picked = few_shot(images.train, images.val, int(row["shots"]), int(row["seed"]))
        for split, items in zip(("train", "val"), picked, strict=True):
            ours, theirs = subset_hash(items), row[f"sha256_{split}"]
            if ours != theirs:
                where = f"{row['shots']} shots, seed {row['seed']}, {split}"
                faults.append(f"{where}: fingerprint {ours[:12]}..., published {theirs[:12]}...")
    return faults


def wrong_views(images: Images, count: int) -> list[str]:
    """Return a sentence for each of `count` test images whose view is not that of CLIP's own transform, bit for bit."""
    ours, faults = test_transform("coop", SIZE, MEAN, STD), []
    steps = [transforms.Resize(SIZE, BICUBIC), transforms.CenterCrop(SIZE), transforms.ToTensor()]
    theirs = transforms.Compose([*steps, transforms.Normalize(MEAN, STD)])
    for path, _, _ in images.test[:: max(1, len(images.test) // count)][:count]:
        image = images.open(path)
        if not torch.equal(ours(image), theirs(image)):
            faults.append(f"{path}: the view differs from that of CLIP's own transform")
    return faults


def known_image() -> Image.Image:
    """Return an image of 333 x 180 pixels, the same everywhere."""
    y, x, channel = np.mgrid[:180, :333, :3]
    return Image.fromarray(((x * x // 7 + y * (5 + 3 * channel)) % 256).astype(np.uint8))


def view_of_known_image() -> str:
    """Return the SHA-256 of the pixels of CLIP's view of `known_image`."""
    pixels = test_transform("coop", SIZE, MEAN, STD).pixels(known_image())
    return hashlib.sha256(pixels.numpy().tobytes()).hexdigest()
