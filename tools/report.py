"""Everything below a folder as tables, figures and a page: python tools/report.py out --html out/report.html

Mean and deviation over seeds, averages as the papers take them, and a comparison with the published numbers.
"""

import sys
from argparse import BooleanOptionalAction
from pathlib import Path

from promptvision.cli import one_sentence, say, tool_parser
from promptvision.errors import counted, one_line
from promptvision.report.report import load_report
from promptvision.report.tables.terminal import TerminalTable, wide_console
from promptvision.report.tables.writers import comma_separated, latex, markdown
from promptvision.report.write import write_files


def arguments():
    parser = tool_parser(__doc__)
    parser.add_argument("folder", type=Path, metavar="OUTPUT_DIR", help="folder that holds run folders, at any depth")
    formats = ("terminal", "markdown", "latex", "csv")
    parser.add_argument("--format", choices=formats, default="terminal", help="how the tables are printed")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page that needs no network")
    parser.add_argument("--figures", type=Path, metavar="DIR", help="write every figure as .png and .svg")
    parser.add_argument("--published", action=BooleanOptionalAction, default=True, help="compare with the literature")
    parser.add_argument("--reference", type=Path, metavar="FILE", help="compare with the numbers of a CSV of your own")
    return parser.parse_args()


def main():
    args = arguments()
    report = load_report(args.folder, literature=args.published, reference=args.reference)
    if args.format == "terminal":
        wide_console().print(*map(TerminalTable, report.tables), sep="\n")
    elif args.format == "csv":
        sys.stdout.write(comma_separated(report.tables))
    else:
        sys.stdout.write("\n".join(map({"markdown": markdown, "latex": latex}[args.format], report.tables)))
    said = list(report.remarks)
    if args.figures or args.html:
        files = write_files(report, args.figures, args.html)
        said += (
            [f"{counted(len(files) // 2, 'figure')}, each as .png and .svg, in {args.figures}"] if args.figures else []
        )
        said += [f"page: {args.html}"] if args.html else []
    for sentence in said:
        say(one_line(sentence), sys.stderr)


if __name__ == "__main__":
    with one_sentence():
        main()
