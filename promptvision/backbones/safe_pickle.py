"""The pickles in torch's archives, read as tensors and plain values: no code in a file is ever run."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FREE = 1 << 26
"""Bytes that any archive may unpack to."""
STORAGES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class Inert:
    """An object of any class that a file names: it accepts every call, does nothing, and has the saved attributes."""

    def __new__(cls, *args: Any, **options: Any) -> Inert:
        return super().__new__(cls)

    def __init__(self, *args: Any, **options: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update({name: value for name, value in state.items() if isinstance(name, str)})

    def __call__(self, *args: Any, **options: Any) -> Inert:
        return Inert()

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def _ignore(self, *args: Any, **options: Any) -> None:
        pass

    append = extend = add = update = _ignore


def check_entries(archive: zipfile.ZipFile, path: Path) -> None:
    """Raise BadZipFile for an archive that would take far more memory than its file: weights hardly compress."""
    size, unpacked = path.stat().st_size, sum(entry.file_size for entry in archive.infolist())
    if unpacked > max(FREE, 10 * size):
        raise zipfile.BadZipFile(f"its {size:,} bytes would unpack to {unpacked:,}")


def check_tensor(tensor: Tensor) -> Tensor:
    """Return the tensor; UnpicklingError if it has more elements than were stored, as with a stride of 0."""
    held = tensor.untyped_storage().nbytes() if tensor.layout == torch.strided and not tensor.is_meta else 0
    if tensor.numel() * tensor.element_size() > held:
        raise pickle.UnpicklingError(f"a tensor {tuple(tensor.shape)} is larger than what the file stores of it")
    return tensor


def is_torchscript(path: Path) -> bool:
    """Return whether a file is an archive of scripted code, as OpenAI's CLIPs are."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("constants.pkl") for name in archive.namelist())


def read_inert(path: Path, scripted: bool = False) -> Any:
    """Read what `torch.save` wrote, with `Inert` for every object that is neither a tensor nor plain.

    For checkpoints that also pickle optimisers, schedulers or settings. `scripted`: a TorchScript archive, whose
    modules become `Inert`, and which is refused if it holds anything else. Raises BadZipFile for files of torch < 1.6.
    """
    with zipfile.ZipFile(path) as archive:
        pickles = [name for name in archive.namelist() if name == "data.pkl" or name.endswith("/data.pkl")]
        if not pickles:
            raise zipfile.BadZipFile("it is a zip file, but not one that torch wrote")
        check_entries(archive, path)
        return _Reader(archive, pickles[0].removesuffix("data.pkl"), scripted).load()


class _Reader(pickle._Unpickler):
    """An unpickler that builds tensors, dicts and `Inert` objects only.

    It is the one in Python: that in C reserves as much memory as a number in the file says (LONG_BINPUT).
    """

    def __init__(self, archive: zipfile.ZipFile, root: str, scripted: bool):
        super().__init__(archive.open(f"{root}data.pkl"))
        self.archive, self.root, self.scripted = archive, root, scripted
        self.storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, size, stride, *_: check_tensor(storage.as_strided(size, stride, offset))
        if (module, name) == ("torch._utils", "_rebuild_parameter") or self.scripted and module == "torch.jit._pickle":
            return lambda value, *_: value
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if self.scripted and not module.startswith("__torch__"):
            raise pickle.UnpicklingError(f"it wants {module}.{name}, which no weight file needs")
        return Inert

    def persistent_load(self, pid: tuple[Any, ...]) -> Tensor:
        _, dtype, key, _, count = pid
        if key not in self.storages:
            content = bytearray(self.archive.read(f"{self.root}data/{key}")) if count else bytearray()
            self.storages[key] = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
        return self.storages[key]
