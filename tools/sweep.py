"""A whole table: python tools/sweep.py --config configs/benchmarks/embedded_vit.yaml --output out/vpt

Finished runs are kept, a stopped run goes on where it was, and a run that fails is tried once more and stops no other.
"""

from contextlib import closing, nullcontext
from pathlib import Path

from rich.live import Live

from promptvision.atomic import write_json
from promptvision.cli import one_sentence, tool_parser
from promptvision.config.families import FAMILIES
from promptvision.engine.run_folder import LOG, log_to_terminal
from promptvision.errors import InputError
from promptvision.report.report import load_report
from promptvision.report.tables.terminal import terminal_report, wide_console
from promptvision.sweep.benchmark import load_benchmark
from promptvision.sweep.jobs import done, plan
from promptvision.sweep.local import do_here, do_in_workers
from promptvision.sweep.progress import Board


def arguments():
    parser = tool_parser(__doc__, overrides="keys to override in every run")
    parser.add_argument(
        "--config", "--benchmark", required=True, type=Path, help="YAML file with RUNS, GRID, SEEDS and EVAL"
    )
    parser.add_argument("--output", required=True, type=Path, help="folder for the runs and table.json")
    parser.add_argument("--only", default="", help="run only the cells whose name holds this")
    parser.add_argument("--dry-run", action="store_true", help="show what is done and what would be, and run nothing")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at once, each in a process")
    parser.add_argument("--ray", metavar="ADDRESS", help="run on a Ray cluster: auto, HOST:PORT, or local")
    parser.add_argument("--gpus", type=float, default=0.0, help="GPUs, or the share of one, of each run on the cluster")
    args = parser.parse_args()
    if args.jobs < 1:
        parser.error("--jobs takes a number from 1 on")
    return args


def main():
    args = arguments()
    benchmark = load_benchmark(args.config)
    jobs = plan(benchmark, args.output, args.overrides, FAMILIES, args.only)
    if not jobs:
        raise InputError(f"--only {args.only}: no cell of {args.config} has that in its name")
    board = Board(jobs, [done(job) for job in jobs], args.jobs)
    console = wide_console()
    if args.dry_run:
        console.print(board.table(), board.line(), f"{sum(job.runs for job in jobs)} runs and tests in all")
        return
    try:
        failures = work_off(board, console, args.jobs, args.ray, args.gpus)
    finally:
        results = by_cell(board)
        if results:
            write_json(args.output / "table.json", results)
    if results:
        report = load_report(args.output)
        console.print(terminal_report(report.tables, report.remarks))
    if failures:
        count = sum(job.runs for job in jobs)
        raise InputError("; ".join([f"{len(failures)} of {count} runs failed", *failures]))


def work_off(board, console, at_once, ray=None, gpus=0.0):
    """Do what is not done, and show how far it is; the sentences of what failed for good."""
    todo = [number for number, outcome in enumerate(board.outcomes) if outcome is None]
    live = Live(board, console=console, refresh_per_second=2) if console.is_terminal else nullcontext()
    if not console.is_terminal:
        log_to_terminal()
        LOG.setLevel("INFO")
    jobs = [board.jobs[number] for number in todo]
    events = start(jobs, at_once, ray, gpus, progress=not console.is_terminal)
    with live, closing(events):
        for event in events:
            board.note(event._replace(number=todo[event.number]))
            tell(board, todo[event.number], event)
    return [sentence for outcome in board.outcomes for sentence in outcome.failures]


def start(jobs, at_once, ray, gpus, progress):
    """The events of doing these jobs here, in workers, or on a cluster."""
    if ray is not None:
        from promptvision.sweep.ray_cluster import do_on_cluster  # an extra, and seconds to import

        return do_on_cluster(jobs, FAMILIES, ray, gpus)
    return do_in_workers(jobs, FAMILIES, at_once) if at_once > 1 else do_here(jobs, FAMILIES, progress=progress)


def tell(board, number, event):
    """One line of log for an event."""
    title = board.jobs[number].title
    if event.outcome is None:
        LOG.info("begun: %s", title)
        return
    for sentence in event.outcome.failures:
        LOG.warning("failed%s: %s", ", to be tried again" if event.again else "", sentence)
    LOG.info("ended: %s; %s", title, board.line())


def by_cell(board):
    """{cell: results} of what has ended, in the order of the plan."""
    results = {}
    for job, outcome in zip(board.jobs, board.outcomes, strict=True):
        if outcome and outcome.results:
            results.setdefault(job.name, []).extend(outcome.results)
    return results


if __name__ == "__main__":
    with one_sentence():
        main()
