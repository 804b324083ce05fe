"""The main job on embedded data, in three minutes: python tools/demo.py --output out/demo

Few-shot curves of zero-shot CLIP, a linear probe, CoOp and CoCoOp, and the accuracy of a linear head and VPT-deep on
the location of an object, with three seeds each: tables, figures and a page. Finished runs are kept; `make benchmark`
continues in the same folder.
"""

from dataclasses import replace
from pathlib import Path

from promptvision.cli import one_sentence, positive, tool_parser
from promptvision.config.families import FAMILIES
from promptvision.errors import InputError
from promptvision.report.report import load_report
from promptvision.report.tables.terminal import result_tables, terminal_report, wide_console
from promptvision.report.write import write_files
from promptvision.sweep.benchmark import load_cells
from promptvision.sweep.jobs import done, plan, refuse_others
from promptvision.sweep.progress import Board
from promptvision.sweep.run import work_off

TASK = "world_textures"
CURVES = [f"few_shot: {name}, {TASK}, {n}" for name in ("linear probe", "CoOp", "CoCoOp") for n in (1, 2, 4, 8, 16)]
MAIN = (f"few_shot: zero-shot, {TASK}", *CURVES, "vit: linear", "vit: VPT-deep")
"""Cells of the benchmark that are the main job."""
STACK = 15
"""Runs of a curve that train together."""


def arguments():
    parser = tool_parser(__doc__, overrides="keys to override in every run")
    parser.add_argument("--output", type=Path, default=Path("out/demo"), help="folder for runs, figures and page")
    parser.add_argument("--jobs", type=positive, default=1, metavar="N", help="runs at once, each on one core")
    parser.add_argument("--overwrite", action="store_true", help="replace runs with other settings in their folders")
    return parser.parse_args()


def main():
    args, console = arguments(), wide_console()
    cells = load_cells("benchmarks/embedded.yaml")
    jobs = plan(cells, args.output, args.overrides, FAMILIES, MAIN)
    jobs = [replace(job, overwrite=args.overwrite) for job in jobs]
    refuse_others(jobs)
    board = Board(jobs, [done(job) for job in jobs], args.jobs)
    failures = work_off(board, FAMILIES, console, stack=STACK)
    for title, result in board.unwritten():
        console.print(result_tables(result, title))
    if failures:
        raise InputError("; ".join(failures))
    report, page = load_report(args.output), args.output / "report.html"
    files = write_files(report, args.output / "figures", page)
    curves = [path for path in files if path.name == f"few-shot_{TASK}.png"]
    console.print(terminal_report(report.tables, report.remarks))
    for line in (*(f"few-shot curve: {path}" for path in curves), f"page: {page}"):
        console.print(line)
    console.print("`make benchmark` runs the other tables")


if __name__ == "__main__":
    with one_sentence():
        main()
