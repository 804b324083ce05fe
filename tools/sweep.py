"""A whole table: python tools/sweep.py --benchmark configs/benchmarks/vpt_embedded.yaml --output out/vpt

Finished runs are kept, a stopped run goes on where it was, and a run that fails does not stop the others.
"""

import argparse
from pathlib import Path

from families import FAMILIES
from rich.console import Console

from promptvision.benchmark import file_name, load_benchmark
from promptvision.config import load_config
from promptvision.engine.checkpoint import write_json
from promptvision.engine.log import LOG, log_to_terminal
from promptvision.errors import InputError, one_sentence
from promptvision.report.tables import seeds_table
from promptvision.report.transfer import transfer_table
from promptvision.runs import once, retest_once

WIDE = 200
"""Columns of a table that goes to a file, where no terminal sets a width."""


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmark", required=True, type=Path, help="YAML file with RUNS, GRID, SEEDS and EVAL")
    parser.add_argument("--output", required=True, type=Path, help="folder for the runs and table.json")
    parser.add_argument("--only", default="", help="run only the cells whose name holds this")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="what to set differently in every run")
    return parser.parse_args()


def main():
    args = arguments()
    benchmark = load_benchmark(args.benchmark)
    plan = list(plan_runs(benchmark, args))
    if not plan:
        raise InputError(f"--only {args.only}: no cell of {args.benchmark} has that in its name")
    log_to_terminal()
    results, failures = run_all(plan)
    if results:
        write_json(args.output / "table.json", results)
        table = transfer_table if benchmark.evals else seeds_table
        console = Console() if Console().is_terminal else Console(width=WIDE)
        console.print(table(results, str(args.benchmark)))
    if failures:
        count = len(plan) * (1 + len(benchmark.evals))
        raise InputError("; ".join([f"{len(failures)} of {count} runs failed", *failures]))


def plan_runs(benchmark, args):
    """(name of the cell, config, {place: config of a further test}) of every run."""
    for cell in benchmark.cells():
        for seed in benchmark.seeds if args.only in cell.name else ():
            evals = {place: configure(cell, seed, args, changes) for place, changes in benchmark.evals.items()}
            yield cell.name, configure(cell, seed, args), evals


def configure(cell, seed, args, changes=()):
    words = [word for pair in cell.overrides.items() for word in pair]
    more = [word for pair in dict(changes).items() for word in pair]
    place = ["SEED", seed, "OUTPUT_DIR", str(cell.folder(args.output, seed))]
    return load_config(cell.config, [*words, *args.overrides, *more, *place], FAMILIES)


def run_all(plan):
    """({cell: results}, a sentence for each failure); with EVAL each result holds its `evals`, {place: result}."""
    results, failures = {}, []
    for number, (name, cfg, evals) in enumerate(plan, 1):
        LOG.info("run %d of %d: %s, seed %d", number, len(plan), name, cfg.SEED)
        try:
            result = once(cfg, FAMILIES)
        except InputError as error:
            failures.append(f"{name}, seed {cfg.SEED}: {error}")
            continue
        if evals:
            result["evals"], failed = test_again(cfg.OUTPUT_DIR, evals)
            failures += [f"{name}, seed {cfg.SEED}, {error}" for error in failed]
        results.setdefault(name, []).append(result)
    return results, failures


def test_again(folder, evals):
    """({place: result}, a sentence for each failure)"""
    results, failures = {}, []
    for place, cfg in evals.items():
        try:
            results[place] = retest_once(cfg, FAMILIES, folder, file_name(place))
        except InputError as error:
            failures.append(f"{place}: {error}")
    return results, failures


if __name__ == "__main__":
    with one_sentence():
        main()
