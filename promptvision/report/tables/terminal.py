"""Tables for a terminal: a report's, a run's, a stream's, a search's, predictions and data cards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.segment import Segment
from rich.table import Table as RichTable
from rich.text import Text

from promptvision.errors import as_called, counted, one_line, shown, visible
from promptvision.report.comparable import selected_on_test
from promptvision.report.kinds import MEASURES
from promptvision.report.names import matrix_rows, task_names
from promptvision.report.tables.table import Table
from promptvision.report.tables.writers import text_below

STYLES = {"best": "bold", "level": "dim", "within": "green", "outside": "red", "unjudged": "dim"}
WIDE = 200
"""Columns of a table that goes to a file, where no terminal sets a width."""
SCORES = {"accuracy": "accuracy", "per_class_mean": "per class", "macro_f1": "macro F1", "ece": "ECE"}
"""Keys of result.json in per cent -> their names in a table."""


class PlainConsole(Console):
    """A console for which text is text: no markup, no names of emoji, no control characters."""

    def __init__(self, **options: Any):
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:  # type: ignore[override]
        """Return a string, which is a single line, as rich's text."""
        return super().render_str(visible(text), **options)

    def render(self, renderable: Any, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """Yield the pieces to print; those of a Text may hold line feeds."""
        for piece in super().render(renderable, options):
            yield piece if piece.control else piece._replace(text=visible(piece.text, lines=True))


def wide_console() -> Console:
    """Return a console for tables: as wide as the terminal, or WIDE if the output goes elsewhere."""
    console = PlainConsole()
    return console if console.is_terminal else PlainConsole(width=WIDE)


@dataclass(frozen=True)
class TerminalTable:
    """A table for rich: one too wide for the terminal is broken into several that repeat the rows' names."""

    table: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for number, columns in enumerate(self.parts(options.max_width)):
            title = Text(one_line(self.table.title) + (" (continued)" if number else ""), style="bold")
            made = RichTable(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
            for column in (self.table.columns[each] for each in columns):
                name, justify = Text(one_line(column.name)), "right" if column.number else "left"
                made.add_column(name, justify=justify, no_wrap=column.number)  # type: ignore[arg-type]
            for row in self.table.rows:
                entries = [row[each] for each in columns]
                made.add_row(*(Text(one_line(entry.text), style=STYLES.get(entry.mark, "")) for entry in entries))
            yield made
        yield from (Text(line, style="dim") for line in text_below(self.table))
        yield Text("")

    def parts(self, width: int) -> Iterator[list[int]]:
        """Yield the numbers of the columns that fit side by side, each time with those that name the rows."""
        rows = [[column.name for column in self.table.columns], *([e.text for e in row] for row in self.table.rows)]
        widths = [2 + max(map(len, column)) for column in zip(*rows, strict=True)]
        head = [number for number, column in enumerate(self.table.columns) if column.head]
        part: list[int] = []
        for number in (number for number, column in enumerate(self.table.columns) if not column.head):
            if part and sum(widths[each] for each in [*head, *part, number]) > width - 1:
                yield [*head, *part]
                part = []
            part.append(number)
        yield [*head, *part]


def terminal_report(tables: Sequence[Table], remarks: Sequence[str]) -> Group:
    """Return the tables of a report with its remarks below."""
    return Group(*map(TerminalTable, tables), *(Text(one_line(sentence), style="dim") for sentence in remarks))


def result_tables(result: Mapping[str, Any], title: str = "") -> Group:
    """Return the tables of a result, of a run or of a stream of tasks; none for a single task of a stream."""
    if "matrix" in result:
        return Group(matrix_table(result, title), measures_table(result))
    return Group(*([run_table(result, title), worst_classes(result)] if "accuracy" in result else []))


def run_table(result: Mapping[str, Any], title: str = "") -> RichTable:
    """Return the scores of one run in per cent, its learned parameters and seconds of training."""
    facts = {name: f"{result[key]:.2f}" for key, name in SCORES.items() if result[key] is not None}
    facts[f"{result['split']} images"] = f"{result['n']:,}"
    if selected_on_test(result):
        facts["selected on"] = "its test images"
    return _facts_table(facts, result, title)


def worst_classes(result: Mapping[str, Any], most: int = 5) -> RichTable:
    """Return the classes with the lowest accuracy."""
    table = RichTable(title="hardest classes", title_justify="left")
    table.add_column("class")
    table.add_column("accuracy", justify="right")
    seen = [(a, name) for name, a in zip(result["classes"], result["per_class"], strict=True) if a is not None]
    for accuracy, name in sorted(seen)[:most]:
        table.add_row(name, f"{accuracy:.2f}")
    return table


def matrix_table(result: Mapping[str, Any], title: str = "") -> RichTable:
    """Return the accuracy on each task of a stream after each task; a joint run has one row, after all of them."""
    names = task_names(result)
    table = RichTable(title=title, title_justify="left")
    table.add_column("after learning")
    for name in names:
        table.add_column(name, justify="right")
    for label, row in zip(matrix_rows(result), result["matrix"], strict=True):
        table.add_row(label, *(f"{accuracy:.2f}" for accuracy in row))
    return table


def measures_table(result: Mapping[str, Any]) -> RichTable:
    """Return the measures of a stream in per cent, its learned parameters and seconds of training."""
    facts = {name: f"{result[key]:.2f}" for key, name in MEASURES.items() if result.get(key) is not None}
    for name, accuracy in result.get("average_accuracy_by_choice", {}).items():
        unit = "image" if name == "picture" else name
        facts[f"average accuracy, prompts chosen per {unit}"] = f"{accuracy:.2f}"
    return _facts_table(facts, result)


def _facts_table(facts: Mapping[str, str], result: Mapping[str, Any], title: str = "") -> RichTable:
    """Return a line for each fact, and for the learned parameters and the seconds of training of a result."""
    table = RichTable(title=title, title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    seconds = {"seconds of training": f"{result['seconds']:.1f}"} if "seconds" in result else {}
    for row in {**facts, "learned parameters": f"{result['learned_parameters']:,}", **seconds}.items():
        table.add_row(*row)
    return table


def search_table(rows: Sequence[Mapping[str, Any]], chosen: Mapping[str, Any]) -> RichTable:
    """Return one line per {"setting", "accuracy", "pruned"} of a search, the best first, the chosen one in bold."""
    table = RichTable(title="validation accuracy", title_justify="left")
    for key in chosen:
        table.add_column(key.rpartition(".")[2], justify="right")
    table.add_column("accuracy", justify="right")
    for row in sorted(rows, key=lambda row: -1.0 if row["accuracy"] is None else row["accuracy"], reverse=True):
        outcome = f"pruned after {counted(row['pruned'], 'epoch')}" if row["pruned"] else "diverged"
        outcome = outcome if row["accuracy"] is None else f"{row['accuracy']:.2f}"
        style = "bold" if row["setting"] == chosen else None
        table.add_row(*(f"{value:g}" for value in row["setting"].values()), outcome, style=style)
    return table


def predictions_table(rows: Sequence[Mapping[str, Any]]) -> RichTable:
    """Return one row per image with its most likely classes and their probabilities."""
    table = RichTable()
    table.add_column("image")
    table.add_column("most likely")
    for row in rows:
        guesses = [f"{guess['class']} {100 * guess['probability']:.1f} %" for guess in row["top"]]
        unsure = "unsure: " if row.get("label", guesses[0]) == "unsure" else ""
        table.add_row(Text(shown(row["picture"])), Text(shown(unsure + ", ".join(guesses))))
    return table


def cards_table(rows: Sequence[tuple[Any, str]]) -> RichTable:
    """Return one row per (card, which of its files exist); below 120 columns, one line each, without protocols."""
    narrow = Console().width < 120
    table = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)) if narrow else RichTable()
    table.add_column("name", no_wrap=True)
    table.add_column("dataset", no_wrap=narrow, max_width=28 if narrow else None)
    if not narrow:
        table.add_column("protocols")
    table.add_column("classes", justify="right", no_wrap=narrow)
    table.add_column("here", no_wrap=True)
    for card, here in rows:
        protocols, classes = ", ".join(card.protocols), "" if card.classes is None else f"{card.classes:,}"
        table.add_row(card.name, card.title, *([] if narrow else [protocols]), classes, here)
    if narrow:
        table.caption = as_called("protocols: in 120 columns, or `python tools/data.py show NAME`")
    return table


def card_table(card: Any, here: str) -> RichTable:
    """Return every known fact of one card, and which of its files exist."""
    table = RichTable(title=f"{card.name}: {card.title}", title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    facts = {**asdict(card), **card.options, "here": here}
    for key in ("name", "title", "options"):
        del facts[key]
    for key, fact in facts.items():
        if fact not in (None, "", [], {}):
            table.add_row(key, Text(as_called(fact_text(fact))))
    return table


def fact_text(fact: Any) -> str:
    """Return a fact as text: mappings and long lists on a line per entry."""
    if isinstance(fact, dict):
        return "\n".join(f"{key}: {fact_text(value)}".replace("\n", " ") for key, value in fact.items())
    if isinstance(fact, list):
        lines = [fact_text(each).replace("\n", " ") for each in fact]
        return "\n".join(lines) if any(len(line) > 40 for line in lines) else ", ".join(lines)
    return str(fact)
