"""Data cards as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.markup import escape
from rich.table import Table


def cards_table(rows: Sequence[tuple[Any, str]]) -> Table:
    """One row per (card, whether its data are here)."""
    table = Table()
    table.add_column("name", no_wrap=True)
    table.add_column("data set")
    table.add_column("protocols")
    table.add_column("classes", justify="right")
    table.add_column("here", no_wrap=True)
    for card, here in rows:
        protocols, classes = ", ".join(card.protocols), "" if card.classes is None else f"{card.classes:,}"
        table.add_row(card.name, escape(card.title), protocols, classes, here)
    return table


def card_table(card: Any, here: str) -> Table:
    """Every fact of one card that it has, and whether its data are here."""
    table = Table(title=escape(f"{card.name}: {card.title}"), title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    facts = {**asdict(card), **card.options, "here": here}
    for key in ("name", "title", "options"):
        del facts[key]
    for key, fact in facts.items():
        if fact not in (None, "", [], {}):
            table.add_row(key, escape(_text(fact)))
    return table


def _text(fact: Any) -> str:
    if isinstance(fact, dict):
        return "\n".join(f"{key}: {_text(value)}".replace("\n", " ") for key, value in fact.items())
    if isinstance(fact, list):
        lines = [_text(each).replace("\n", " ") for each in fact]
        return "\n".join(lines) if any(len(line) > 40 for line in lines) else ", ".join(lines)
    return str(fact)
