"""Checks of the packages and of the device."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, requires, version

import torch
from packaging.requirements import Requirement

from promptvision.engine.environment import facts
from promptvision.verify.check import ABSENT, Answer, judged

EXACT = 1e-5
"""Relative error of a product in float32; TF32 has about a hundred times more."""


def packages() -> Answer:
    """Compare the installed packages with those that promptvision requires."""
    try:
        wanted = [Requirement(each) for each in requires("promptvision") or ()]
    except PackageNotFoundError:
        return Answer(ABSENT, "promptvision is not installed, so that no package says what it requires: pip install .")
    wanted = [each for each in wanted if each.marker is None or each.marker.evaluate({"extra": ""})]
    found = {each.name: _installed(each.name) for each in wanted}
    faults = [
        f"{each.name} is {found[each.name] or 'missing'}, promptvision requires {each.specifier}"
        for each in wanted
        if not found[each.name] or not each.specifier.contains(found[each.name], prereleases=True)
    ]
    shown = ("torch", "torchvision", "timm", "open_clip_torch", "numpy", "pillow")
    return judged(faults, ", ".join(f"{name} {found.get(name)}" for name in shown))


def _installed(name: str) -> str:
    """Return the version of a package, "" if it is missing."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def arithmetic(device: torch.device) -> Answer:
    """Compare a product of the device in float32 with float64 on the CPU."""
    left, right = torch.randn(2, 256, 256, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    product = (left.float().to(device) @ right.float().to(device)).double().cpu()
    error = float((product - left @ right).norm() / (left @ right).norm())
    known = facts(device)
    cuda = f", CUDA {known['cuda']}" if known["cuda"] else ""
    fault = f"a product in float32 has a relative error of {error:.0e}: TF32 may be on"
    fine = f"{known['device']}, computes on {device}{cuda}, {known['threads']} threads of torch, error {error:.0e}"
    return judged([fault] if not error < EXACT else [], fine)
