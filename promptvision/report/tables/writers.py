"""A table as text: one writer per format."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table as RichTable
from rich.text import Text

from promptvision.report.tables.table import Column, Entry, Table, one_line

STYLES = {"best": "bold", "level": "dim", "within": "green", "outside": "red", "unjudged": "dim"}
LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "→": r"$\to$"}
LATEX |= {character: "\\" + character for character in "&%$#_{}"}


class TerminalTable:
    """A table for rich: one too wide for the terminal is broken into several that repeat the rows' names."""

    def __init__(self, table: Table) -> None:
        self.table = table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        parts = list(self._parts(options.max_width))
        for number, columns in enumerate(parts):
            yield self._part(columns, one_line(self.table.title) + (" (continued)" if number else ""))
        yield from (Text(line, style="dim") for line in _below(self.table))
        yield Text("")

    def _parts(self, width: int) -> Iterator[list[int]]:
        """The numbers of the columns of each part."""
        rows = [[column.name for column in self.table.columns], *([e.text for e in row] for row in self.table.rows)]
        widths = [2 + max(map(len, column)) for column in zip(*rows, strict=True)]
        head = [number for number, column in enumerate(self.table.columns) if column.head]
        part: list[int] = []
        for number, column in enumerate(self.table.columns):
            if column.head:
                continue
            if part and sum(widths[each] for each in [*head, *part, number]) > width - 1:
                yield [*head, *part]
                part = []
            part.append(number)
        yield [*head, *part]

    def _part(self, columns: Sequence[int], title: str) -> RichTable:
        made = RichTable(
            title=Text(title, style="bold"), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
        )
        for number in columns:
            column = self.table.columns[number]
            justify = "right" if column.number else "left"
            made.add_column(Text(one_line(column.name)), justify=justify, no_wrap=column.number)  # type: ignore[arg-type]
        for row in self.table.rows:
            entries = [row[number] for number in columns]
            made.add_row(*(Text(one_line(entry.text), style=STYLES.get(entry.mark, "")) for entry in entries))
        return made


def _below(table: Table) -> list[str]:
    """What stands under a table: what it is about, and its notes."""
    return [
        *([table.about] if table.about else []),
        *(f"[{n}] {one_line(text)}" for n, text in enumerate(table.notes, 1)),
    ]


def markdown(table: Table) -> str:
    """GitHub's Markdown, the best of a column in bold."""
    lines = [f"### {_markdown(table.title)}", "", _line(_markdown(column.name) for column in table.columns)]
    lines.append(_line("---:" if column.number else "---" for column in table.columns))
    lines += [_line(_markdown(entry.text, entry.mark == "best") for entry in row) for row in table.rows]
    return "\n".join([*lines, "", *(f"{_markdown(line)}  " for line in _below(table)), ""])


def _line(cells: Iterator[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown(text: str, bold: bool = False) -> str:
    """Nothing in it is taken for a mark, a tag or an end of the cell."""
    escaped = re.sub(r"([\\`*_|<>\[\]~&$])", r"\\\1", one_line(text))
    return f"**{escaped}**" if bold and escaped else escaped


def latex(table: Table) -> str:
    """A booktabs table, the best of a column in bold; it needs \\usepackage{booktabs}."""
    align = "".join("r" if column.number else "l" for column in table.columns)
    lines = [r"\begin{table}", rf"\caption{{{_latex(table.title)}}}", rf"\begin{{tabular}}{{{align}}}", r"\toprule"]
    lines += [_row(_latex(column.name) for column in table.columns), r"\midrule"]
    lines += [_row(_latex(entry.text, entry.mark == "best") for entry in row) for row in table.rows]
    lines += [r"\bottomrule", r"\end{tabular}"]
    return "\n".join([*lines, *(rf"\par\footnotesize {_latex(line)}" for line in _below(table)), r"\end{table}", ""])


def _row(cells: Iterator[str]) -> str:
    return rf"{' & '.join(cells)} \\"


def _latex(text: str, bold: bool = False) -> str:
    escaped = "".join(LATEX.get(character, character) for character in one_line(text))
    escaped = f"{{}}{escaped}" if escaped.startswith("[") else escaped  # after \\ it would be an option
    return rf"\textbf{{{escaped}}}" if bold and escaped else escaped


def comma_separated(tables: Sequence[Table]) -> str:
    """All tables as CSV, one below the other with a line between: full precision, the intervals in columns of their
    own; text that a spreadsheet would take for a formula starts with an apostrophe."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    for number, table in enumerate(tables):
        if number:
            writer.writerow([])
        names = [name for column in table.columns for name in _names(column)]
        writer.writerow(["table", *map(_harmless, names)])
        for row in table.rows:
            pairs = zip(table.columns, row, strict=True)
            writer.writerow([table.title, *(value for column, entry in pairs for value in _values(column, entry))])
    return file.getvalue()


def _names(column: Column) -> list[str]:
    return [column.name, f"{column.name} ±"] if column.score else [column.name]


def _values(column: Column, entry: Entry) -> list[str]:
    number = entry.value if column.number else None
    shown = _harmless(entry.text) if number is None else f"{number:.6g}"
    return [shown, "" if entry.half is None else f"{entry.half:.4g}"] if column.score else [shown]


def _harmless(text: str) -> str:
    text = one_line(text)
    return f"'{text}" if text.lstrip()[:1] in {"=", "+", "-", "@"} and not _is_number(text) else text


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?[\d.,]+", text) is not None
