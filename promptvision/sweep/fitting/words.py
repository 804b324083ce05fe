"""A fit in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from promptvision.errors import counted
from promptvision.sweep.fitting.cases import Case
from promptvision.sweep.fitting.clock import in_words
from promptvision.sweep.fitting.curve import Point, twice_as_many
from promptvision.sweep.fitting.score import Score, Tried, equals_of
from promptvision.sweep.fitting.task import HeldOut


@dataclass(frozen=True)
class Fitted:
    """The findings of a fit: the candidates, the best of them with the result of its last run, and the learning curve
    of the candidate `curve_of`."""

    tried: Sequence[Tried]
    best: Tried
    case: Case | None
    result: dict[str, Any]
    curve: Sequence[Point]
    curve_of: str


def of_images(found: Mapping[str, int], classes: int, held_out: HeldOut) -> str:
    """Return how many images there are in each split, and how some of them are held out."""
    learn, test = found["train"] + found["val"], found["test"]
    size = f"{counted(learn, 'image')} of {counted(classes, 'class')} to learn from, {test:,} for the test"
    if held_out.folds:
        how = f"few: a cross-validation of {held_out.folds} folds holds each out once"
    else:
        how = f"{found['val']:,} of them are held out to choose by"
    few = f"; to keep the time, {held_out.shots} of each class train" if held_out.shots else ""
    return f"{size}; {how}{few}"


def of_score(score: Score) -> str:
    """Return `91.7 ± 2.5 %`."""
    return f"{score.accuracy:.1f} ± {score.error:.1f} %"


def of_variant(variant: Mapping[str, Any]) -> str:
    """Return `alpha 1, beta 5.5`."""
    return ", ".join(f"{key.rpartition('.')[2].lower()} {value:g}" for key, value in variant.items())


def of_candidate(tried: Tried) -> str:
    """Return a line about a candidate."""
    parts = [of_score(tried.score), of_variant(tried.variant), in_words(tried.seconds)] if tried.score else []
    return f"{tried.candidate.name}: {', '.join(part for part in [*parts, tried.note] if part)}"


def summary(fitted: Fitted) -> list[str]:
    """Return what was chosen and why, how good it is, and what more images would bring, in sentences."""
    return [
        _choice(fitted.best, fitted.tried, fitted.result),
        *([_case(fitted.case)] if fitted.case else []),
        _test(fitted.best, fitted.result),
        *([_curve(fitted.curve, fitted.curve_of)] if len(fitted.curve) > 1 else []),
    ]


def _choice(best: Tried, tried: Sequence[Tried], result: Mapping[str, Any]) -> str:
    assert best.score
    settings = f" ({of_variant(best.variant)})" if best.variant else ""
    text = (
        f"Chosen: {best.candidate.name}{settings}, right for {of_score(best.score)} of "
        f"{counted(best.score.images, 'held-out image')}: {best.candidate.why}."
    )
    if best.candidate.templates:
        text += f" Its texts: {' + '.join(repr(each) for each in result['templates'])}."
    if others := equals_of(best, tried):
        names = ", ".join(f"{each.candidate.name} ({each.score.accuracy:.1f})" for each in others if each.score)
        text += f" {names} {'is' if len(others) == 1 else 'are'} within its standard error."
    return text


def _case(case: Case) -> str:
    amount = "many" if case.many else "few"
    near = "near to" if case.near else "far from"
    head = {
        ("few", "near"): "a head on the fixed features, or learned words, is the usual choice",
        ("few", "far"): "the first blocks stay, and the last ones learn",
        ("many", "near"): "all weights may learn, from the pretrained ones on",
        ("many", "far"): "training from scratch is worth a try",
    }[case.name]
    return (
        f"The images are {amount} ({case.per_class:.0f} per class) and {near} what the backbone was pretrained on: "
        f"without training it reaches {100 * case.reached:.0f} % of what a linear classifier gains over chance, and "
        f"cosines within a class are {case.apart:.2f} above those between classes. For such images {head}."
    )


def _test(best: Tried, result: Mapping[str, Any]) -> str:
    learned, found = result["pictures"]["train"], result["pictures_found"]
    everything = found["train"] + found["val"]
    images = f"{learned:,} of {everything:,} images" if learned < everything else f"all {everything:,} of these images"
    how = "learned from" if best.candidate.learns else "chose its texts on"
    return (
        f"In the end it {how} {images}, and is right for {result['accuracy']:.1f} % of the "
        f"{counted(result['n'], 'test image')}, which had no say in anything."
    )


def _curve(points: Sequence[Point], name: str) -> str:
    values = ", ".join(f"{each.images} -> {each.score.accuracy:.1f} %" for each in points)
    last, more = points[-1].images, twice_as_many(points)
    says = "more images like these would bring little that these held-out images could show"
    if more is not None:
        says = f"{2 * last} instead of {last} would bring about {more:.0f} %, if the error goes on to fall as it did"
    return f"Images per class and accuracy of {name}: {values}; {says}."
