"""The main job on the embedded data, then the benchmark of every method: python tools/demo.py --output out/demo

Finished runs are kept: a demo that was stopped goes on where it was. After each part the page of all so far is written.
"""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

from sweep import by_cell, work_off

from promptvision.cli import one_sentence, tool_parser
from promptvision.config.families import FAMILIES
from promptvision.errors import InputError
from promptvision.report.figures.draw import draw_all
from promptvision.report.figures.few_shot import few_shot_curve
from promptvision.report.page.html import write_page
from promptvision.report.report import load_report
from promptvision.report.tables.terminal import terminal_report, wide_console
from promptvision.sweep.benchmark import load_benchmark
from promptvision.sweep.jobs import done, plan
from promptvision.sweep.progress import Board

BENCHMARK = Path(__file__).resolve().parents[1] / "configs/benchmarks/embedded.yaml"
SHOTS = (1, 2, 4, 8, 16)
COOP = {shots: f"few_shot: CoOp, world_backgrounds, {shots}" for shots in SHOTS}
ZERO_SHOT = "few_shot: zero-shot, world_backgrounds"
MAIN = (ZERO_SHOT, *COOP.values(), "vit: linear", "vit: VPT-deep")
"""The cells of the main job."""
MOST_AT_ONCE = 8


def arguments():
    parser = tool_parser(__doc__, overrides="keys to override in every run")
    parser.add_argument("--output", type=Path, default=Path("out/demo"), help="folder for runs, curve and page")
    cores = min(os.cpu_count() or 1, MOST_AT_ONCE)
    parser.add_argument("--jobs", type=int, default=cores, metavar="N", help="runs at once, each on one core")
    parser.add_argument("--main-only", action="store_true", help="stop after the main job")
    return parser.parse_args()


def main():
    args, console = arguments(), wide_console()
    jobs = plan(load_benchmark(BENCHMARK), args.output, args.overrides, FAMILIES)
    show_main(console, run(console, "main job", [job for job in jobs if job.name in MAIN], args.jobs), args.output)
    tell_page(console, args.output)
    for part in () if args.main_only else dict.fromkeys(job.part for job in jobs):
        run(console, part.replace("_", " "), [job for job in jobs if job.part == part], args.jobs)
        tell_page(console, args.output)


def run(console, what, jobs, at_once):
    """{cell: results} of these jobs, of which only those are run that are not done."""
    console.print(f"[bold]{what}[/bold], {len(jobs)} runs")
    board = Board(jobs, [done(job) for job in jobs], at_once)
    failures = work_off(board, console, at_once)
    if failures:
        raise InputError("; ".join(failures))
    return by_cell(board)


def tell_page(console, folder):
    """Write the page of all that has been run so far, and say where."""
    page, report = folder / "report.html", load_report(folder)
    with TemporaryDirectory() as here:
        write_page(report, draw_all(report, here, (".svg",)), page)
    console.print(f"page: {page}", highlight=False)


def show_main(console, results, output):
    """The tables and the main job's few-shot curve."""
    report = load_report(output)
    console.print(terminal_report(report.tables, report.remarks))
    curve = {shots: [result["accuracy"] for result in results[name]] for shots, name in COOP.items()}
    level = {"zero-shot CLIP": results[ZERO_SHOT][0]["accuracy"]}
    drawn = few_shot_curve({"CoOp, M = 16": curve}, level, "Backgrounds of the embedded world", output / "few_shot")
    console.print(f"few-shot curve: {' '.join(map(str, drawn))}", highlight=False)


if __name__ == "__main__":
    with one_sentence():
        main()
