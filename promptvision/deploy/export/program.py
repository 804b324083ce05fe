"""A classifier as a program of torch.export or ONNX, with a dynamic batch.

What does not depend on images is a constant in it: text features are folded in, and changes of weights into these. The
forward passes read the number of images as `shape[0]`, which stays symbolic; `len()` would fix it.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from promptvision.errors import InputError

EXAMPLES = 3
"""Images that a program is traced with; any number but 1, which would be taken for a constant."""


class Program(nn.Module):
    """The logits (B, C) of images; the tensors that `predict` reads are no parameters of it but constants."""

    def __init__(self, predict: Callable[[Tensor], Tensor]):
        super().__init__()
        self.predict = predict

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, C) of normalised images (B, 3, H, W)."""
        return self.predict(images)


def traced(predict: Callable[[Tensor], Tensor], size: tuple[int, int], method: str) -> Any:
    """Return the ExportedProgram of a predictor for images (height, width); InputError if torch cannot trace it."""
    images = torch.zeros(EXAMPLES, 3, *size)
    batch = {"images": {0: torch.export.Dim("batch", min=1)}}
    try:
        with torch.no_grad(), _quiet():
            return torch.export.export(Program(predict), (images,), dynamic_shapes=batch, strict=False)
    except RuntimeError as error:  # of all kinds of torch.export
        raise InputError(
            f"{method} cannot be exported: what it computes depends on the number of images or on their content in a "
            "way that a program cannot hold; use promptvision.load"
        ) from error


def write_pt2(program: Any, path: Path, facts: dict[str, Any]) -> None:
    """Write a program as `torch.export.load` reads it, with its preprocessing as the extra file of that name."""
    with _quiet():
        torch.export.save(program, path, extra_files={"preprocessing.json": json.dumps(facts)})


def write_onnx(program: Any, path: Path, facts: dict[str, Any], method: str) -> None:
    """Write a program as ONNX, with its preprocessing in the metadata."""
    from promptvision.deploy.export.onnx_sort import TABLE

    try:
        with _quiet():
            made = torch.onnx.export(
                program,
                (),
                input_names=["images"],
                output_names=["logits"],
                dynamo=True,
                verbose=False,
                custom_translation_table=TABLE,
            )
    except RuntimeError as error:
        raise InputError(f"{method} has an operation that ONNX lacks: export it --to pt2") from error
    assert made is not None
    made.model.metadata_props["promptvision"] = json.dumps(facts)
    with _quiet():
        made.save(path)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the messages of torch.export and ONNX off the terminal."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
