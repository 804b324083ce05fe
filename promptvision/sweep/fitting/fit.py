"""From images to a classifier: encode, try candidates, choose on held-out images, learn from all, test."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from promptvision.errors import InputError, counted, shown
from promptvision.experiment.data import Data, load_data
from promptvision.experiment.loaders import Setup
from promptvision.sweep.completed import once
from promptvision.sweep.fitting.candidates import Candidate, candidates
from promptvision.sweep.fitting.cases import Case, contrast
from promptvision.sweep.fitting.clock import Clock
from promptvision.sweep.fitting.curve import cheapest_good, learning_curve
from promptvision.sweep.fitting.pool import encode, seconds_to_encode, setup_of, text_features
from promptvision.sweep.fitting.record import Record
from promptvision.sweep.fitting.score import Tried, best_of
from promptvision.sweep.fitting.study import Study
from promptvision.sweep.fitting.task import HeldOut, Task, hold_out
from promptvision.sweep.fitting.templates import all_templates
from promptvision.sweep.fitting.words import Fitted, of_candidate, of_images
from promptvision.sweep.method_trials import load_all
from promptvision.sweep.shared_backbone import sharing

Tell = Callable[[str], None]
TO_ENCODE = 0.5
"""Share of the time that encoding the images may take."""
TO_READ = 0.1
"""Share of the time that encoding the templates may take."""
UNTRAINED, LINEAR = ("zero-shot", "k-NN"), ("linear probe", "linear")
"""Candidates whose accuracies say whether the images are near to the pretraining."""


def fit(task: Task, clock: Clock, tell: Tell) -> Fitted:
    """Try what suits the images and the backbone in the time given, choose on held-out images, and learn from all."""
    record = Record(task.output, {"seed": task.seed, **task.settings})
    study, table = prepare(task, clock, tell, record)
    tried = list[Tried]()
    for candidate in table:
        case = case_of(study, tried)
        if candidate.case and (not case or candidate.case != case.name):
            here = f"these are {' and '.join(case.name)}" if case else "which is not known of these"
            found = Tried(candidate, {}, note=f"not tried: for images that are {' and '.join(candidate.case)}; {here}")
        else:
            tell(f"{candidate.name} ...")
            found = study.attempt(candidate, anyway=not any(each.score for each in tried))
        tried.append(timed(record, found))
        tell(of_candidate(tried[-1]))
    case, best = case_of(study, tried), best_of(tried)
    if best is None:
        raise InputError("; ".join(f"{each.candidate.name}: {each.note}" for each in tried))
    tell(f"{best.candidate.name} learns from all images but those of the test ...")
    cfg = study.job(best.candidate, study.task.final(best.candidate, best.variant)).cfg
    result = once(cfg, study.shared, cfg.OUTPUT_DIR, overwrite=True, progress=False)
    record.note("chosen", best.candidate.name)
    good = cheapest_good(best, tried)
    curve = learning_curve(study, good) if good else []
    return Fitted(tried, best, case, result, curve, good.candidate.name if good else "")


def prepare(task: Task, clock: Clock, tell: Tell, record: Record) -> tuple[Study, list[Candidate]]:
    """Load the backbone, decide how images are held out, encode images and templates; return what is to be tried."""
    shared = sharing(task.families)
    name, pretrained = (str(task.settings[f"BACKBONE.{key}"]) for key in ("NAME", "PRETRAINED"))
    backbones: dict[str, Any] = load_all(shared, name, pretrained, 0)
    family, method = ("coop", "zero_shot") if "coop" in backbones else ("vpt", "linear")
    own = {"METHOD.FAMILY": family, "METHOD.NAME": method, "DATASET.TRAIN": "train+val"}
    cfg = task.config(own, HeldOut().size)
    data = load_data(cfg)
    check(data)
    setup = setup_of(cfg, shared, data)
    seconds = record.get("seconds_per_image") or seconds_to_encode(setup)
    record.note("seconds_per_image", seconds)
    held_out = held_out_of(data, clock, seconds, record)
    tell(of_images(data.found, len(data.classes), held_out))
    if held_out.shots:
        cfg = task.config(own, held_out.size, {"DATASET.VALIDATION": "all"})
        setup = setup_of(cfg, shared, load_data(cfg))
    study = Study(
        replace(task, held_out=held_out),
        clock,
        encode(setup, seconds),
        shared,
        per_class=held_out.shots or max(1, round(trained_on(data, held_out) / len(data.classes))),
        images=sum(data.found.values()),
        encoded={family},
        spare=seconds * data.found["test"] if held_out.shots else 0.0,
    )
    if family == "coop":
        read_templates(study, setup, record)
    return study, candidates("clip" if family == "coop" else "vit", name == "embedded", backbones["vpt"].depth)


def held_out_of(data: Data, clock: Clock, seconds: float, record: Record) -> HeldOut:
    """Return how images are held out: as decided at an earlier start, unless that had no time for all of them."""
    known = HeldOut(**(record.get("held_out") or {"shots": 1}))
    if known.shots:
        labels = Counter(label for _, label, _ in data.images.train)
        counts = data.found["val"], data.found["test"]
        known = hold_out([*labels.values()], *counts, seconds, TO_ENCODE * clock.limit)
    record.note("held_out", {"folds": known.folds, "shots": known.shots})
    return known


def trained_on(data: Data, held_out: HeldOut) -> float:
    """Return how many images train a run that takes all images that are not held out."""
    folds = held_out.folds
    return len(data.images.train) * (folds - 1) / folds if folds else data.found["train"]


def check(data: Data) -> None:
    """Raise InputError for images that no classifier can be learned from."""
    name = data.card.title.lower()
    if len(data.classes) < 2:
        raise InputError(
            f"there is one class only, {shown(data.classes[0])!r}: a classifier tells two or more apart, each in a "
            "folder or with a label of its own"
        )
    present = {label for _, label, _ in data.images.train}
    if not present:
        raise InputError(f"{name} has {counted(len(data.images.test), 'test image')} only, and none to learn from")
    if absent := [shown(each) for label, each in enumerate(data.classes) if label not in present]:
        raise InputError(f"class {absent[0]!r} has no training image: add some, or take its test images away")


def read_templates(study: Study, setup: Setup, record: Record) -> None:
    """Encode the class names in as many templates as a part of the time allows."""
    templates, started = all_templates(), time.monotonic()
    text_features(setup, study.shared, templates[:1])
    each = time.monotonic() - started
    count = record.get("templates") or max(1, min(len(templates), int(TO_READ * study.clock.limit / each)))
    record.note("templates", count)
    study.templates, study.texts = templates[:count], text_features(setup, study.shared, templates[:count])
    clip: Any = setup.method.backbone
    study.scale = float(clip.logit_scale.exp())


def case_of(study: Study, tried: Sequence[Tried]) -> Case | None:
    """Return the case of transfer, None before the candidates that decide it were tried."""
    scores = {each.candidate.name: each.score.accuracy for each in tried if each.score}
    untrained, linear = ([scores[name] for name in names if name in scores] for names in (UNTRAINED, LINEAR))
    if not untrained or not linear:
        return None
    labels = study.pool.labels
    classes = len(labels.unique())
    return Case(len(labels) / classes, classes, max(untrained), linear[0], contrast(study.pool.features, labels))


def timed(record: Record, tried: Tried) -> Tried:
    """Return what was tried with the seconds that it took in all starts of this fit, which are kept."""
    known = record.get("seconds") or {}
    seconds = known.get(tried.candidate.name, 0.0) + tried.seconds
    record.note("seconds", {**known, tried.candidate.name: seconds})
    return replace(tried, seconds=seconds)
