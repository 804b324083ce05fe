"""The stable sort of prompt pools in ONNX, which torch's exporter lacks."""

from __future__ import annotations

from typing import Any

import torch
from onnxscript import opset18

OP: Any = opset18


def stable_sort(self: Any, stable: bool | None = None, dim: int = -1, descending: bool = False) -> Any:
    """Return sorted values and their indices: ONNX's TopK puts the lower index first among equals."""
    size = OP.Gather(OP.Shape(self), OP.Constant(value_ints=[dim]))
    return OP.TopK(self, size, axis=dim, largest=int(descending), sorted=1)


TABLE: dict[Any, Any] = {torch.ops.aten.sort.stable: stable_sort}
"""Operations of torch -> their ONNX."""
