"""One run: from a config to a result."""

from promptvision.experiment.build import load_method
from promptvision.experiment.run import load_run, retest, run

__all__ = ["load_method", "load_run", "retest", "run"]
