"""Leaving out images that cannot be read, before anything is trained or tested on them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image
from rich.progress import track
from torch.utils.data import DataLoader, Dataset

from promptvision.data.decode import BadImage
from promptvision.data.images import Images

Open = Callable[[str], Image.Image]
LOG = logging.getLogger(__name__)
CHUNK = 32
"""Images that a worker looks at in one go."""
LISTS = ("train", "val", "test", "unlabelled")


@dataclass(frozen=True)
class Faults(Dataset):
    """What is wrong with the image at each path; empty if it can be read."""

    paths: Sequence[str]
    open: Open

    def __getitem__(self, index: int) -> str:
        try:
            self.open(self.paths[index])
        except BadImage as error:
            return str(error)
        return ""


def _look(paths: Sequence[str], open_image: Open, workers: int, progress: bool) -> Iterable[list[str]]:
    """What is wrong with each image, in order, some at a time."""
    own = torch.Generator()  # else DataLoader draws from the global generator
    loader = DataLoader(
        Faults(paths, open_image),
        batch_size=CHUNK,
        sampler=range(len(paths)),
        num_workers=workers,
        collate_fn=list,
        generator=own,
    )
    return track(loader, "looking for bad images", transient=True, disable=not progress)


def leave_out_bad(images: Images, workers: int = 0, *, progress: bool = False) -> tuple[Images, list[str]]:
    """The lists without the images that cannot be read, and one sentence for each of these.

    All images of all lists are decoded once, by `workers` processes: a run, its resumption and its evaluation leave
    out the same ones. Those in memory are whole. Nothing takes the place of what is left out, so a class may have
    fewer images than shots, and the other picks stay as they are.
    """
    if images.root is None:
        return images, []
    paths = list(dict.fromkeys(path for name in LISTS for path, _, _ in getattr(images, name)))
    looked = [fault for faults in _look(paths, images.open, workers, progress) for fault in faults]
    faults = {path: fault for path, fault in zip(paths, looked, strict=True) if fault}
    for fault in faults.values():
        LOG.warning("left out: %s", fault)
    train, val, test, unlabelled = ([item for item in getattr(images, name) if item[0] not in faults] for name in LISTS)
    return replace(images, train=train, val=val, test=test, unlabelled=unlabelled), list(faults.values())
