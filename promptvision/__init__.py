"""Everything that the method families `vpt` and `coop` share: backbones, data, training, configs, reports."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from promptvision.deploy.classifier import Classifier

__version__ = "0.2.0"


def load(run: str | Path, *, device: str = "", trust: bool = False) -> Classifier:
    """Return the classifier of a run folder, see `promptvision.deploy.classifier.load`."""
    from promptvision.deploy import classifier

    return classifier.load(run, device=device, trust=trust)
