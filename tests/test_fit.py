"""The rules of `promptvision fit`: how images are held out, templates, the cases of transfer, the choice, the time."""

import math
from unittest.mock import MagicMock

import pytest
import torch
import torch.nn.functional as F

from promptvision.config.families import FAMILIES
from promptvision.errors import InputError
from promptvision.experiment.data import load_data
from promptvision.sweep.fitting import study as module
from promptvision.sweep.fitting.candidates import Candidate, candidates
from promptvision.sweep.fitting.cases import APART, Case, contrast
from promptvision.sweep.fitting.clock import Clock, in_words
from promptvision.sweep.fitting.curve import Point, cheapest_good, twice_as_many
from promptvision.sweep.fitting.pool import Pool, encode, setup_of
from promptvision.sweep.fitting.record import Record
from promptvision.sweep.fitting.score import Score, Tried, best_of, equals_of, score_of
from promptvision.sweep.fitting.study import RESERVE, Study
from promptvision.sweep.fitting.task import HeldOut, Task, hold_out
from promptvision.sweep.fitting.templates import all_templates, choose_templates
from promptvision.sweep.jobs import Job


@pytest.mark.parametrize(
    ("counts", "val", "expected"),
    [
        ([12, 12], 5, HeldOut(5, 0)),  # few in all
        ([19] * 30, 100, HeldOut(5, 0)),  # few per class
        ([100, 100], 40, HeldOut(0, 0)),
        ([400, 100], 0, HeldOut(5, 0)),  # nothing to validate on
        ([2, 1, 1], 0, HeldOut(2, 0)),
        ([3, 1], 0, HeldOut(3, 0)),
    ],
)
def test_few_images_are_held_out_in_folds(counts, val, expected):
    assert hold_out(counts, val, 10, each=0.001, seconds=60) == expected


def test_many_images_are_cut_to_the_time():
    held_out = hold_out([1000] * 4, 400, 600, each=0.1, seconds=300)
    assert held_out == HeldOut(0, (3000 - 400 - 600) // 4)
    assert held_out.settings == {
        "DATASET.VALIDATION": "all",
        "DATASET.SHOTS": 500,
        "TRAIN.CACHE": "auto",
        "TEST.SPLIT": "val",
    }
    with pytest.raises(InputError, match=r"8 minutes to encode 4,600 images here; give --minutes 31"):
        hold_out([1000] * 4, 400, 600, each=0.1, seconds=100)


def test_no_image_to_hold_out():
    with pytest.raises(InputError, match="beside those of the test each class has one; give each class at least three"):
        hold_out([1, 1, 1], 0, 3, each=0.001, seconds=60)


def test_seeds_of_folds_differ_from_seed_to_seed():
    assert HeldOut(5).seeds(1) == [1, 2, 3, 4, 5] and HeldOut(5).seeds(2) == [6, 7, 8, 9, 10]
    assert HeldOut().seeds(3) == [3]


def some_images(classes=3, each=8, noise=0.0):
    centres = F.normalize(torch.eye(classes, 16), dim=-1)
    labels = torch.arange(classes).repeat_interleave(each)
    return centres[labels] + noise * torch.randn(len(labels), 16, generator=torch.Generator().manual_seed(1)), labels


def test_templates_are_chosen_greedily_on_training_images():
    """The first knows classes 0 and 1 only, the second class 2 only, the third none: the first two are chosen."""
    features, labels = some_images()
    known, other = torch.eye(3, 16), torch.eye(16)[10]
    unknown = other - 0.1 * known
    texts = torch.stack(
        [
            torch.stack([known[0], known[1], unknown[2]]),
            torch.stack([unknown[0], unknown[1], known[2]]),
            unknown,
        ]
    )
    assert choose_templates(features, labels, F.normalize(texts, dim=-1), scale=10.0) == [0, 1]
    assert choose_templates(features, labels, F.normalize(texts, dim=-1), scale=10.0, most=1) == [0]


def test_shipped_templates_name_the_class_once():
    templates = all_templates()
    assert len(templates) > 30 and len({*templates}) == len(templates)
    assert all(template.count("{}") == 1 for template in templates) and templates[0] == "a photo of a {}."


@pytest.mark.parametrize(
    ("per_class", "untrained", "linear", "apart", "name"),
    [
        (10, 80, 90, 0.4, ("few", "near")),
        (10, 40, 90, 0.4, ("few", "far")),
        (10, 80, 90, 0.01, ("few", "far")),  # features that do not tell the classes apart
        (99.9, 80, 90, 0.4, ("few", "near")),
        (100, 80, 90, 0.4, ("many", "near")),
        (500, 30, 90, 0.4, ("many", "far")),
        (10, 20, 20, 0.4, ("few", "far")),  # a linear classifier at chance
    ],
)
def test_cases_of_transfer(per_class, untrained, linear, apart, name):
    assert Case(per_class, 5, untrained, linear, apart).name == name


def test_contrast_of_features():
    features, labels = some_images(noise=0.05)
    apart, mixed = contrast(features, labels), contrast(features, labels.roll(4))
    assert apart > 0.9 and mixed < 0.5 * apart
    uneven = torch.cat([torch.arange(8)] * 30 + [torch.arange(8, 24)])
    assert contrast(features[uneven], labels[uneven]) > 0.9, "one large class hides no other"
    generator = torch.Generator().manual_seed(0)
    assert abs(contrast(torch.randn(300, 16, generator=generator), torch.arange(300) % 3)) < 0.02


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "near"), [("world_land", True), ("world_kinds", True), ("world_location", False), ("digits", True)]
)
def test_features_tell_the_classes_of_near_tasks_apart(task, near, tmp_path):
    """docs/fit.md has these and others."""
    settings = {"METHOD.NAME": "zero_shot", "DATASET.NAME": task, "DATASET.SHOTS": 16, "BACKBONE.NAME": "embedded"}
    cfg = Task(settings, tmp_path, FAMILIES).config()
    pool = encode(setup_of(cfg, FAMILIES, load_data(cfg)), 0.0)
    assert (contrast(pool.features, pool.labels) >= APART) is near


def tried(name, accuracy, error=2.0, **options):
    score = Score(accuracy, error, 100) if accuracy is not None else None
    settings = {"METHOD.NAME": "zero_shot" if name == "zero-shot" else name}
    return Tried(Candidate(name, settings, **options), {}, score)


def test_the_best_is_chosen_and_among_equals_the_cheapest():
    found = [tried("zero-shot", 88.0), tried("a", 90.0), tried("b", None), tried("c", 90.0), tried("d", 87.9)]
    assert best_of(found) is found[1] and best_of([found[2]]) is None
    assert [each.candidate.name for each in equals_of(found[1], found)] == ["zero-shot", "c"]
    assert cheapest_good(found[1], found) is found[1], "zero-shot learns nothing from more images"


def test_a_score_of_folds_counts_images():
    score = score_of([{"accuracy": 100.0, "n": 6}, {"accuracy": 50.0, "n": 2}])
    assert (score.accuracy, score.images) == (87.5, 8)
    assert score.error == pytest.approx(100 * math.sqrt(0.75 * 0.25 / 12))
    assert score_of([{"accuracy": 100.0, "n": 20}]).error > 4, "20 of 20 are not certainty"


def test_the_error_falls_on_as_it_did():
    points = [Point(3, Score(60, 2, 100)), Point(6, Score(80, 2, 100)), Point(12, Score(90, 2, 100))]
    assert twice_as_many(points) == pytest.approx(95)
    assert twice_as_many([points[0], points[2]]) == pytest.approx(95), "a power of their number"
    assert twice_as_many([points[1], Point(12, Score(81, 2, 100))]) is None, "within its error"
    assert twice_as_many(points[:1]) is None and twice_as_many([points[0], Point(6, Score(100, 2, 9))]) is None


@pytest.mark.parametrize(("kind", "embedded"), [("clip", True), ("clip", False), ("vit", True), ("vit", False)])
def test_every_candidate_makes_configs(kind, embedded, tmp_path):
    task = Task({"BACKBONE.NAME": "embedded"}, tmp_path, FAMILIES, held_out=HeldOut(5))
    table = candidates(kind, embedded, 4)
    assert len(table) >= 7 and not any(each.why.endswith(".") for each in table)
    places = set()
    for candidate in table:
        for variant in candidate.variants():
            runs = task.runs(candidate, variant)
            assert [cfg.SEED for cfg in runs] == [1, 2, 3, 4, 5] and runs[0].DATASET.FOLDS == 5
            assert runs[0].OUTPUT_DIR not in places and task.runs(candidate, variant, 2)[0].DATASET.SHOTS == 2
            places.add(runs[0].OUTPUT_DIR)
            final = task.final(candidate, variant)
            assert (final.DATASET.TRAIN, final.DATASET.FOLDS, final.TEST.SPLIT) == ("train+val", 0, "test")


def test_blocks_are_those_of_the_backbone():
    blocks = {each.name: each.grid for each in candidates("vit", True, 4)}["last blocks"]["METHOD.OPTIONS.BLOCKS"]
    assert blocks == [1, 2] and "last blocks" not in [each.name for each in candidates("vit", True, 1)]


class Stopped(Clock):
    """A clock on which so many seconds are left."""

    def __init__(self, seconds):
        super().__init__(1)
        self.seconds = seconds

    def left(self):
        return self.seconds


@pytest.mark.parametrize(
    ("name", "measured", "left", "expected"),
    [
        ("coop", 2.0, 5 * 2 + RESERVE * 2 + 1, 1),
        ("coop", 2.0, 5 * 2 + RESERVE * 2 - 1, 0),
        ("coop", 2.0, 15 * 2 + RESERVE * 2 + 1, 3),
        ("full", None, 10.0, 0),  # 40 images, 50 epochs, 0.1 s each: not even timed
    ],
)
def test_a_candidate_that_takes_longer_than_is_left_is_not_started(
    name, measured, left, expected, tmp_path, monkeypatch
):
    monkeypatch.setattr(module, "measure_part", lambda cfg, families: measured)
    monkeypatch.setattr(module, "total", lambda costs: (costs[0][0], 0, 0))
    task = Task({"BACKBONE.NAME": "embedded"}, tmp_path, FAMILIES, held_out=HeldOut(5))
    pool = Pool({}, torch.zeros(40, 2), torch.zeros(40, dtype=torch.long), seconds=0.1)
    study = Study(task, Stopped(left), pool, FAMILIES, 8, 60, {"coop"})
    monkeypatch.setattr(module, "setup_of", MagicMock())
    candidate = Candidate("x", {"METHOD.FAMILY": "coop" if name == "coop" else "vpt", "METHOD.NAME": name})
    count, note = study.in_time([[Job("x", cfg) for cfg in task.runs(candidate, {})]] * 3)
    assert count == expected and f"with {in_words(left)} left" in note


def test_time_in_words():
    assert [in_words(each) for each in (0.2, 1.4, 59, 150, 9000)] == [
        "1 second", "1 second", "59 seconds", "2 minutes", "2.5 hours"
    ]  # fmt: skip


def test_a_record_is_of_one_fit(tmp_path):
    Record(tmp_path / "new", {"seed": 1}).note("templates", 3)
    assert Record(tmp_path / "new", {"seed": 1}).get("templates") == 3
    with pytest.raises(InputError, match="holds another fit: seed was 1, here it is 2; choose another --output"):
        Record(tmp_path / "new", {"seed": 2})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").touch()
    with pytest.raises(InputError, match="holds thesis.tex, which no fit wrote; choose another --output"):
        Record(tmp_path / "mine", {"seed": 1})
