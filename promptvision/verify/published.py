"""Published accuracies that can be repeated here, and the runs that repeat them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

from promptvision.config import load_config
from promptvision.data.card import Card
from promptvision.data.cards import load_card
from promptvision.engine.run_folder import RunFolder
from promptvision.experiment.build import Families
from promptvision.experiment.run import run
from promptvision.report.literature.compare import published
from promptvision.report.literature.counterparts import TOP1, rules
from promptvision.report.scores import over_seeds
from promptvision.verify.check import ABSENT, DIFFERS, HOLDS, Answer
from promptvision.verify.weights import is_clip

COOP = {"N_CTX": 16, "CSC": False, "CLASS_TOKEN_POSITION": "end", "CTX_INIT": ""}
PROBE = 2.0
"""Points by which a linear probe may differ: the published one draws its images by another rule."""
ROUNDING = 0.005
"""Half of the last place that papers print."""
OURS = "no published number; docs/embedded_world.md"
CLASSES = {"all": "all", "source": "all", "target": "all", "base": "base", "new": "new"}
"""Split of a published row -> DATASET.CLASSES."""


@dataclass(frozen=True)
class Number:
    """An accuracy of a paper, and the config with its words that repeats it.

    `within`: points by which ours may differ; 0 for half of the 95 % interval over seeds. `images`: images that are
    encoded for it; `trains`: whether steps of training are.
    """

    what: str
    config: str
    words: Mapping[str, Any]
    value: str
    paper: str
    within: float
    images: int
    seeds: Sequence[int] = (1,)
    trains: bool = False

    def repeat(self, families: Families) -> Answer:
        """Run every seed in a folder that does not stay, and compare the accuracy with the published one."""
        results = {}
        with TemporaryDirectory() as place:
            for seed in self.seeds:
                words = {**self.words, "SEED": seed, "OUTPUT_DIR": str(Path(place, str(seed)))}
                cfg = load_config(self.config, [word for pair in words.items() for word in pair], families)
                with RunFolder(cfg.OUTPUT_DIR) as folder:
                    results[seed] = run(cfg, families, folder)
        return self.compare(results)

    def compare(self, results: Mapping[int, Mapping[str, Any]]) -> Answer:
        """Compare the mean accuracy of {seed: result} with the published one."""
        first, score = results[self.seeds[0]], over_seeds({seed: each["accuracy"] for seed, each in results.items()})
        wanted = rules()["tests"].get(first["dataset"])
        if wanted and first["class_subset"] == "all" and first["n"] != wanted:
            return Answer(ABSENT, f"{score}, not comparable: {first['n']:,} test images, published on {wanted:,}")
        allowed = (self.within or score.half or 0.0) + ROUNDING
        near = abs(fmean(score.values.values()) - float(self.value)) <= allowed
        return Answer(HOLDS if near else DIFFERS, f"{score}; {self.paper}: {self.value}")


def numbers_of(published_as: str, name: str, card: Card, root: str) -> list[Number]:
    """Return the published numbers of a backbone on the dataset of a card, which `name` (BACKBONE.NAME) repeats."""
    words = {"BACKBONE.NAME": name, "DATASET.NAME": card.name, "DATASET.ROOT": root}
    test, classes, found = card.counts.get("test", 0), card.classes or 0, []
    for row in rows_of("coop/zero_shot", {"ENSEMBLE": ""}, published_as, card.name):
        part = CLASSES[row["split"]]
        own, what = {**words, "DATASET.CLASSES": part}, "zero-shot" if part == "all" else f"zero-shot, {part} classes"
        images = test if part == "all" else test // 2
        found.append(Number(what, "coop/rn50_zero_shot.yaml", own, row["value"], row["paper"], 0.1, images))
    for row in rows_of("coop/linear_probe", {}, published_as, card.name):
        if row["shots"] == "16" and row["split"] != "target":
            images = test + 20 * classes
            probe = ("linear probe, 16 shots", "coop/rn50_linear_probe.yaml", words)
            found.append(Number(*probe, row["value"], row["paper"], PROBE, images))
    for row in rows_of("coop/coop", COOP, published_as, card.name):
        if row["shots"] == "1":
            training = ("CoOp, 1 shot", "coop/rn50_ep50.yaml", {**words, "DATASET.SHOTS": 1})
            images, seeds = test + 3 * 50 * classes, (1, 2, 3)
            found.append(Number(*training, row["value"], row["paper"], 0.0, images, seeds, trains=True))
    return found


def own_numbers() -> list[Number]:
    """Return numbers of the embedded weights, measured earlier, in place of published ones."""
    task, card = {"DATASET.NAME": "world_textures"}, load_card("world_textures")
    test, train = card.counts["test"], {**task, "DATASET.SHOTS": 16}
    return [
        Number("zero-shot", "coop/embedded_zero_shot.yaml", task, "28.7", OURS, 0.1, test),
        Number("CoOp, 16 shots", "coop/embedded.yaml", train, "49.6", OURS, 0.0, test, (1, 2, 3), True),
    ]


def clips() -> list[str]:
    """Return the names of the CLIPs that have published numbers."""
    return [name for names in rules()["backbones"].values() for name in names if is_clip(name)]


def cards() -> dict[str, str]:
    """Return {card: name in papers} of the datasets on which CLIPs have published numbers."""
    return next(found for kinds, found in rules()["datasets"].items() if "few_shot" in kinds.split())


def rows_of(method: str, options: Mapping[str, Any], backbone: str, dataset: str) -> list[Mapping[str, str]]:
    """Return the published rows of our method with exactly these options, on a backbone and the dataset of a card.

    Only accuracies that were checked against their source; a repeated number once.
    """
    wanted = {
        rule["published"]
        for rule in rules()["methods"]
        if rule["ours"] == method and rule.get("options", {}) == options and "in" not in rule
    }
    found = dict[tuple[str, str, str], Mapping[str, str]]()
    for row in published():
        same = row["method"] in wanted and row["confidence"] == "checked" and row["metric"] == TOP1
        same = same and backbone in rules()["backbones"].get(row["backbone"], ())
        if same and row["dataset"] == cards().get(dataset) and row["split"] in CLASSES:
            found.setdefault((row["shots"], CLASSES[row["split"]], row["value"]), row)
    return list(found.values())
