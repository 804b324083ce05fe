"""Class names as raw datasets write them, and the names that CoOp made of them: pure functions and a table.

The rules are those of CoOp's `datasets/*.py` (arXiv:2109.01134), whose split files already hold the resulting names.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence

from promptvision.data.card import Card
from promptvision.errors import unknown

RULES: dict[str, Callable[[str], str]] = {
    "": lambda raw: raw,
    # Stanford Cars: "Audi TTS Coupe 2012" -> "2012 Audi TTS Coupe"
    "year_first": lambda raw: " ".join([*raw.split(" ")[-1:], *raw.split(" ")[:-1]]),
    # SUN397: "/i/ice_skating_rink/outdoor" -> "outdoor ice_skating_rink"
    "reversed_path": lambda raw: " ".join(reversed(raw.strip("/").split("/")[1:])),
    # UCF101: "ApplyEyeMakeup" -> "Apply_Eye_Makeup"
    "split_capitals": lambda raw: "_".join(re.findall("[A-Z][^A-Z]*", raw)),
    # Oxford-IIIT Pets: "Abyssinian_100" -> "abyssinian"
    "file_stem": lambda raw: raw.rpartition("_")[0].lower(),
    # Dassl's Office-Home: "Alarm_Clock" -> "alarm_clock"
    "lower": str.lower,
}
"""Value of a card's `name_rule` -> how a raw class becomes a name."""


def class_name(card: Card, raw: str) -> str | None:
    """Return the name of a class that the raw data call `raw`, by the card's renames and rule; None if left out."""
    if raw in card.ignored:
        return None
    if card.name_rule not in RULES:
        raise unknown(f"name rule of dataset {card.name!r}", card.name_rule, RULES)
    return card.renames.get(raw) or RULES[card.name_rule](raw)


def tell_apart(names: Sequence[str]) -> list[str]:
    """Return the names with " (2)", " (3)" ... after those that occurred before: no two classes may share a name."""
    seen: Counter[str] = Counter()
    apart: list[str] = []
    for name in names:
        seen[name] += 1
        apart.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return apart
