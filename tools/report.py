"""Report all runs below a folder as tables, figures and a page: python tools/report.py out --html out/report.html

Mean and deviation over seeds, averages as in the papers, and a comparison with the published numbers.
"""

import sys
from argparse import BooleanOptionalAction
from pathlib import Path

from promptvision.cli import add_trust, one_sentence, say, tool_parser
from promptvision.errors import InputError, counted, one_line
from promptvision.report.report import load_report
from promptvision.report.tables.terminal import TerminalTable, wide_console
from promptvision.report.tables.writers import comma_separated, latex, markdown
from promptvision.report.write import write_files


def arguments():
    parser = tool_parser(__doc__)
    parser.add_argument(
        "folder", nargs="?", type=Path, metavar="OUTPUT_DIR", help="folder that holds run folders, at any depth"
    )
    parser.add_argument("--run", type=Path, metavar="RUN", help="write the page of one run: RUN/run.html, or --html")
    formats = ("terminal", "markdown", "latex", "csv")
    parser.add_argument("--format", choices=formats, default="terminal", help="how the tables are printed")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page that needs no network")
    parser.add_argument("--figures", type=Path, metavar="DIR", help="write every figure as .png and .svg")
    parser.add_argument("--published", action=BooleanOptionalAction, default=True, help="compare with the literature")
    parser.add_argument("--reference", type=Path, metavar="FILE", help="compare with the numbers of a CSV of your own")
    add_trust(parser)
    args = parser.parse_args()
    if (args.folder is None) == (args.run is None):
        raise InputError("name OUTPUT_DIR, the folder of the runs, or one run by --run")
    if args.run and (args.figures or args.reference):
        raise InputError("--run writes the page of one run: leave out --figures and --reference")
    return args


def main():
    args = arguments()
    if args.run:
        write_page_of_run(args.run, args.html or args.run / "run.html", args.trust)
        return
    report = load_report(args.folder, literature=args.published, reference=args.reference)
    if args.format == "terminal":
        wide_console().print(*map(TerminalTable, report.tables), sep="\n")
    elif args.format == "csv":
        sys.stdout.write(comma_separated(report.tables))
    else:
        sys.stdout.write("\n".join(map({"markdown": markdown, "latex": latex}[args.format], report.tables)))
    said = list(report.remarks)
    if args.figures or args.html:
        files = write_files(report, args.figures, args.html, samples(report) if args.html else {})
        if args.figures:
            said.append(f"{counted(len(files) // 2, 'figure')}, each as .png and .svg, in {args.figures}")
        if args.html:
            said.append(f"page: {args.html}")
    for sentence in said:
        say(one_line(sentence), sys.stderr)


def samples(report):
    """Return a few test images of each dataset; torch is imported for runs that have predictions of them."""
    if not any((run.folder / "predictions.csv").is_file() for run in report.runs):
        return {}
    from promptvision.deploy.thumbnails import sample_images

    return sample_images(report.runs)


def write_page_of_run(folder, file, trust):
    """Write the page of one run, which is loaded again for its images and features."""
    from promptvision.config.families import FAMILIES
    from promptvision.deploy.run_page import write_page_of
    from promptvision.engine.progress import log_to_terminal

    log_to_terminal()
    write_page_of(folder, file, FAMILIES, trust=trust)
    say(f"page: {file}")


if __name__ == "__main__":
    with one_sentence():
        main()
