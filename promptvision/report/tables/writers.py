"""A table as text: Markdown, LaTeX, CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence

from promptvision.errors import one_line, without_formula
from promptvision.report.tables.table import Table

LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "→": r"$\to$"}
LATEX |= {character: "\\" + character for character in "&%$#_{}"}


def text_below(table: Table) -> list[str]:
    """Return the lines under a table: its explanation and its notes."""
    notes = [f"[{number}] {one_line(text)}" for number, text in enumerate(table.notes, 1)]
    return [table.about, *notes] if table.about else notes


def markdown(table: Table) -> str:
    """Write a table in GitHub's Markdown, the best of a column in bold."""
    head = [escaped_markdown(column.name) for column in table.columns]
    align = ["---:" if column.number else "---" for column in table.columns]
    rows = [[escaped_markdown(entry.text, entry.mark == "best") for entry in row] for row in table.rows]
    lines = [f"| {' | '.join(row)} |" for row in [head, align, *rows]]
    below = [f"{escaped_markdown(line)}  " for line in text_below(table)]
    return "\n".join([f"### {escaped_markdown(table.title)}", "", *lines, "", *below, ""])


def escaped_markdown(text: str, bold: bool = False) -> str:
    """Escape what Markdown would take for a mark, a tag or the end of a cell."""
    escaped = re.sub(r"([\\`*_|<>\[\]~&$])", r"\\\1", one_line(text))
    return f"**{escaped}**" if bold and escaped else escaped


def latex(table: Table) -> str:
    """Write a booktabs table, the best of a column in bold; it needs \\usepackage{booktabs}."""
    align = "".join("r" if column.number else "l" for column in table.columns)
    head = [_escaped_latex(column.name) for column in table.columns]
    rows = [[_escaped_latex(entry.text, entry.mark == "best") for entry in row] for row in table.rows]
    lines = [
        r"\begin{table}",
        rf"\caption{{{_escaped_latex(table.title)}}}",
        rf"\begin{{tabular}}{{{align}}}",
        r"\toprule",
    ]
    lines += [rf"{' & '.join(head)} \\", r"\midrule", *(rf"{' & '.join(row)} \\" for row in rows)]
    lines += [r"\bottomrule", r"\end{tabular}"]
    below = [rf"\par\footnotesize {_escaped_latex(line)}" for line in text_below(table)]
    return "\n".join([*lines, *below, r"\end{table}", ""])


def _escaped_latex(text: str, bold: bool = False) -> str:
    """Escape LaTeX's special characters."""
    escaped = "".join(LATEX.get(character, character) for character in one_line(text))
    escaped = f"{{}}{escaped}" if escaped.startswith(("[", "*")) else escaped  # after \\ an option or a star
    return rf"\textbf{{{escaped}}}" if bold and escaped else escaped


def comma_separated(tables: Sequence[Table]) -> str:
    """Write all tables as CSV with an empty line between them: numbers in full precision, and for each score its sample
    deviation and half of its 95 % interval in columns of their own."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    for number, table in enumerate(tables):
        if number:
            writer.writerow([])
        names = [(column.name, f"{column.name} deviation", f"{column.name} 95 % ±") for column in table.columns]
        heads = [
            name for column, each in zip(table.columns, names, strict=True) for name in each[: 3 if column.score else 1]
        ]
        writer.writerow(["table", *map(without_formula, heads)])
        for row in table.rows:
            values: list[str] = []
            for column, entry in zip(table.columns, row, strict=True):
                known = column.number and entry.value is not None
                values.append(f"{entry.value:.6g}" if known else without_formula(entry.text))
                spread = [entry.score.deviation, entry.score.half] if entry.score else [None, None]
                values += ["" if each is None else f"{each:.4g}" for each in spread] if column.score else []
            writer.writerow([without_formula(table.title), *values])
    return file.getvalue()
