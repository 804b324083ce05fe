"""What every reader returns: three lists of labelled pictures and a way to open one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

Item = tuple[str, int, str]
"""(path, label, class name). The path is whatever `Pictures.open` understands: a file, or a key in memory."""


@dataclass(frozen=True)
class Pictures:
    """A data set: lists in the order of its split file, and `open(path)` to an RGB PIL picture."""

    train: list[Item]
    val: list[Item]
    test: list[Item]
    open: Callable[[str], Image.Image]

    @property
    def classes(self) -> list[str]:
        """Class names in the order of their labels, over all three lists."""
        names = {label: name for items in (self.train, self.val, self.test) for _, label, name in items}
        return [names[label] for label in sorted(names)]
