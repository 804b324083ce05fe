"""Run a whole table: python tools/sweep.py --config configs/benchmarks/embedded_vit.yaml --output out/vpt

Finished runs are kept, stopped runs resume, and a failed run is tried once more and stops no other.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

from promptvision.atomic import write_json
from promptvision.cli import gpu_count, one_sentence, positive, tool_parser
from promptvision.config.docs import often_set
from promptvision.config.families import FAMILIES
from promptvision.engine.progress import log_to_terminal
from promptvision.errors import InputError, counted
from promptvision.report.report import load_report
from promptvision.report.tables.terminal import result_tables, terminal_report, wide_console
from promptvision.report.write import write_files
from promptvision.sweep.benchmark import load_cells
from promptvision.sweep.estimate import estimate
from promptvision.sweep.jobs import CONDITION, PLACED, done, plan, refuse_others
from promptvision.sweep.progress import Board
from promptvision.sweep.run import work_off


def arguments():
    parser = tool_parser(__doc__, overrides="keys to override in every run")
    parser.epilog = often_set(PLACED)
    parser.add_argument(
        "--config", "--benchmark", required=True, type=Path, help="YAML file with RUNS, GRID, SEEDS and EVAL"
    )
    parser.add_argument("--output", required=True, type=Path, help="folder for the runs and table.json")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="WORD",
        help="KEY=VALUE, RUN=NAME, or (part of) a name",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace runs with other settings in their folders")
    parser.add_argument("--dry-run", action="store_true", help="show what is done and what would be, and run nothing")
    parser.add_argument(
        "--estimate",
        action="store_true",
        help="print what the table will take, from a few steps",
    )
    parser.add_argument("--jobs", type=positive, default=1, metavar="N", help="runs at once, each in a process")
    parser.add_argument(
        "--stack", type=positive, default=1, metavar="N", help="train up to N runs as one, where they can"
    )
    parser.add_argument("--ray", metavar="ADDRESS", help="run on a Ray cluster: auto, HOST:PORT, or local")
    parser.add_argument(
        "--gpus", type=gpu_count, default=0.0, help="GPUs, or the share of one, of each run on the cluster"
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the report's page after each part")
    args = parser.parse_args()
    if args.gpus and args.ray is None:
        raise InputError("--gpus is for a cluster: name it by --ray")
    if args.stack > 1 and args.ray is not None:
        raise InputError("--stack trains runs together on this machine: leave out --ray, whose runs are apart")
    if args.only and (word := next(filter(CONDITION.match, args.overrides[::2]), None)):
        raise InputError(f"each --only takes one word: --only {args.only[-1]} --only {word}")
    if args.overwrite and args.ray is not None:
        raise InputError("--overwrite cannot replace the runs of a cluster: choose another --output")
    return args


def main():
    args, console = arguments(), wide_console()
    jobs = plan(load_cells(args.config), args.output, args.overrides, FAMILIES, args.only)
    if not jobs:
        raise InputError(f"--only {' --only '.join(args.only)}: no cell of {args.config} is that")
    jobs = [replace(job, overwrite=args.overwrite) for job in jobs]
    refuse_others(jobs)
    board = Board(jobs, [done(job) for job in jobs], args.jobs)
    if args.dry_run:
        console.print(
            board.table(), board.line(), f"{all_runs(board, 'run or test', 'runs and tests')} in all", sep="\n"
        )
    elif args.estimate:
        print_estimate(board, args.jobs, console)
    else:
        run(board, args, console)


def all_runs(board, *words):
    """Return `9 runs`: all that the table asks for, done or not."""
    return counted(sum(job.runs for job in board.jobs), *words)


def print_estimate(board, at_once, console):
    """Print what the jobs that are left will take; raise InputError for those that cannot run."""
    log_to_terminal()
    left = [job for job, outcome in zip(board.jobs, board.outcomes, strict=True) if outcome is None]
    found = estimate(left, FAMILIES)
    for sentence in found.sentences(at_once):
        console.print(sentence, highlight=False)
    if found.failures:
        raise InputError("; ".join([f"{counted(len(found.failures), 'kind')} cannot run", *found.failures]))


def run(board, args, console):
    """Do the jobs that are left; write table.json, even if stopped, and print the report."""
    after = partial(write_page, args, console) if args.html else None
    sentences = []
    try:
        failures = work_off(board, FAMILIES, console, ray=args.ray, gpus=args.gpus, stack=args.stack, part_done=after)
    finally:
        results = board.results()
        try:
            if results:
                write_json(args.output / "table.json", results)
        except InputError as error:
            sentences.append(str(error))
    if results and on_disk(args.output):
        report = load_report(args.output)
        console.print(terminal_report(report.tables, report.remarks))
    for title, result in board.unwritten():
        console.print(result_tables(result, title))
    if results and args.html and not sentences:
        write_page(args, console)
    if failures:
        sentences += [f"{len(failures)} of {all_runs(board, 'run')} failed", *failures]
    if sentences:
        raise InputError("; ".join(sentences))


def on_disk(output):
    """Return whether a run has left its result."""
    return any(path.is_file() for path in output.rglob("result.json"))


def write_page(args, console):
    """Write the report's page, once a run has left its result."""
    if on_disk(args.output):
        write_files(load_report(args.output), None, args.html)
        console.print(f"page: {args.html}")


if __name__ == "__main__":
    with one_sentence():
        main()
