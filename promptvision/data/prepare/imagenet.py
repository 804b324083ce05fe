"""ImageNet from its official archives to CoOp's layout, by torchvision's own code, which checks their MD5 sums."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from promptvision.errors import InputError


def unpack_imagenet(top: Path) -> int:
    """`images/train` and `images/val` below a folder that holds the three archives of ILSVRC2012; how many were made.

    A part that is there is left alone. Each appears under its name when it is whole. InputError if an archive that
    is needed is missing or damaged.
    """
    from torchvision.datasets import imagenet as official  # seconds to import

    parts = {"train": official.parse_train_archive, "val": official.parse_val_archive}
    wanted = {part: parse for part, parse in parts.items() if not (top / "images" / part).exists()}
    try:
        for part, parse in wanted.items():
            stage = top / f".unpacking-{part}"
            shutil.rmtree(stage, ignore_errors=True)
            if part == "val":
                official.parse_devkit_archive(str(top))  # which class each of the flat validation images is
            parse(str(top), folder=stage.name)
            (top / "images").mkdir(exist_ok=True)
            os.replace(stage, top / "images" / part)
    except RuntimeError as error:
        raise InputError(" ".join(str(error).split())) from None
    except OSError as error:
        raise InputError(f"ImageNet cannot be unpacked in {top}: {error.strerror or error}") from None
    return len(wanted)
