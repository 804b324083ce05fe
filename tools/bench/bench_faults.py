"""bench.py faults: run the tests marked `fault`, each an attack or a fault that was tried, and count those that hold.

A test with an attack in it is marked `@pytest.mark.fault(kind)`; each set of its parameters counts as one. pytest names
those that do not hold.
"""

import os
from pathlib import Path

import pytest

from promptvision.cli import natural

TESTS = os.path.relpath(Path(__file__).parents[2] / "tests")
COLUMNS = ("kind", "tried", "held", "not possible here")


class Outcomes:
    """A plugin of pytest that keeps the outcome of each test with a kind of fault; a failure at its end counts too."""

    def __init__(self):
        self.found = {}

    def pytest_runtest_logreport(self, report):
        """Keep the outcome of a test's preparation, call or end."""
        for kind in (value for name, value in report.user_properties if name == "fault"):
            if report.outcome != "passed" or report.when == "call":
                self.found[kind, report.nodeid] = report.outcome


def add_options(parser):
    parser.add_argument("--workers", type=natural, default=0, help="processes that run tests (pytest-xdist)")
    parser.add_argument("--tests", nargs="+", default=[TESTS], help="files of tests")


def rows(args):
    """Yield one row per kind, and one for all."""
    outcomes = Outcomes()
    status = pytest.main(["-q", "-m", "fault", "-n", f"{args.workers}", *args.tests], [outcomes])
    if status > pytest.ExitCode.TESTS_FAILED:
        raise SystemExit(int(status))
    kinds = sorted({kind for kind, _ in outcomes.found})
    for name, chosen in (*((kind, {kind}) for kind in kinds), ("all", set(kinds))):
        found = [outcome for (kind, _), outcome in outcomes.found.items() if kind in chosen]
        skipped = found.count("skipped")
        yield name, f"{len(found) - skipped}", f"{found.count('passed')}", f"{skipped}"
