"""Rank correlation of methods, embedded world against literature: python tools/rankings.py out --output out/rankings

Base to new: H of the means on the embedded datasets against the published H over 11 datasets. 16 shots: the same with
mean accuracies. Each over all methods, and over those that were not looked at when the embedded world was designed.
"""

import sys
from pathlib import Path

from promptvision.atomic import write_atomically
from promptvision.cli import one_sentence, say, tool_parser
from promptvision.errors import InputError
from promptvision.report.literature.rankings import load_ranking
from promptvision.report.tables.rankings import ranking_tables
from promptvision.report.tables.terminal import TerminalTable, wide_console
from promptvision.report.tables.writers import comma_separated, markdown


def arguments():
    parser = tool_parser(__doc__)
    parser.add_argument("folder", type=Path, metavar="RUNS_FOLDER", help="folder that holds the base-to-new runs")
    parser.add_argument("--few-shot", type=Path, metavar="FOLDER", help="folder that holds the few-shot runs")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="for rankings.csv, .md and .png")
    return parser.parse_args()


def main():
    args = arguments()
    rankings = [load_ranking(args.folder, "base_to_new")]
    rankings += [load_ranking(args.few_shot, "few_shot")] if args.few_shot else []
    tables = ranking_tables(rankings)
    wide_console().print(*map(TerminalTable, tables), sep="\n")
    write(rankings, tables, args.output)
    for sentence in (sentence for ranking in rankings for sentence in ranking.remarks):
        say(sentence, sys.stderr)


def write(rankings, tables, output):
    from promptvision.report.figures.scatter import rankings_figure  # matplotlib, which --help need not load
    from promptvision.report.figures.style import save

    try:
        output.mkdir(parents=True, exist_ok=True)
        write_atomically(output / "rankings.csv", comma_separated(tables).encode())
        write_atomically(output / "rankings.md", "\n".join(map(markdown, tables)).encode())
        save(rankings_figure(rankings), output / "rankings", (".png",))
    except OSError as error:
        raise InputError(f"{error.filename or output} cannot be written: {error.strerror}") from error


if __name__ == "__main__":
    with one_sentence():
        main()
