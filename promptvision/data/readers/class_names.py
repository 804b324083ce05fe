"""How raw data sets write their classes, and the names that CoOp made of them: pure functions and a table.

The rules are those of CoOp's `datasets/*.py` (arXiv:2109.01134), whose split files already hold the resulting names.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence

from promptvision.data.card import Card
from promptvision.errors import unknown


def as_written(raw: str) -> str:
    """No change."""
    return raw


def year_first(raw: str) -> str:
    """ "Audi TTS Coupe 2012" -> "2012 Audi TTS Coupe" (Stanford Cars)."""
    words = raw.split(" ")
    return " ".join([words[-1], *words[:-1]])


def reversed_path(raw: str) -> str:
    """ "/i/ice_skating_rink/outdoor" -> "outdoor ice_skating_rink" (SUN397): the letter goes, the rest turns round."""
    return " ".join(reversed(raw.strip("/").split("/")[1:]))


def split_capitals(raw: str) -> str:
    """ "ApplyEyeMakeup" -> "Apply_Eye_Makeup" (UCF101): a word begins at each capital."""
    return "_".join(re.findall("[A-Z][^A-Z]*", raw))


def file_stem(raw: str) -> str:
    """ "Abyssinian_100" -> "abyssinian" (Oxford-IIIT Pets): without the number, in lower case."""
    return raw.rpartition("_")[0].lower()


def lower(raw: str) -> str:
    """ "Alarm_Clock" -> "alarm_clock" (Dassl's Office-Home)."""
    return raw.lower()


RULES: dict[str, Callable[[str], str]] = {
    "": as_written,
    "year_first": year_first,
    "reversed_path": reversed_path,
    "split_capitals": split_capitals,
    "file_stem": file_stem,
    "lower": lower,
}


def class_name(card: Card, raw: str) -> str | None:
    """The name of a class that the raw data call `raw`, by the card's renames and rule; None if it is left out."""
    if raw in card.ignored:
        return None
    if card.name_rule not in RULES:
        raise unknown(f"name rule of data set {card.name!r}", card.name_rule, RULES)
    return card.renames.get(raw) or RULES[card.name_rule](raw)


def tell_apart(names: Sequence[str]) -> list[str]:
    """The names, with " (2)", " (3)" ... behind those that have occurred before: no two classes may share a name."""
    seen: Counter[str] = Counter()
    told: list[str] = []
    for name in names:
        seen[name] += 1
        told.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return told
