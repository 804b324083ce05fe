"""ImageNet from its official archives to CoOp's layout, by torchvision's code, which checks their MD5 sums."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from promptvision.atomic import refuse_damaged


def unpack_imagenet(top: Path) -> int:
    """Unpack the three archives of ILSVRC2012 to `images/train` and `images/val`; return how many of these are new.

    A split that exists is left alone. Each appears under its name when it is whole. InputError if an archive that is
    needed is missing or damaged.
    """
    from torchvision.datasets import imagenet as official  # seconds to import

    splits = {"train": official.parse_train_archive, "val": official.parse_val_archive}
    wanted = {split: parse for split, parse in splits.items() if not (top / "images" / split).exists()}
    with refuse_damaged(f"ImageNet cannot be unpacked in {top}"):
        for split, parse in wanted.items():
            stage = top / f".unpacking-{split}"
            shutil.rmtree(stage, ignore_errors=True)
            if split == "val":
                official.parse_devkit_archive(str(top))  # the classes of the validation images
            parse(str(top), folder=stage.name)
            (top / "images").mkdir(exist_ok=True)
            os.replace(stage, top / "images" / split)
    return len(wanted)
