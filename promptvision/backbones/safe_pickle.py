"""Reading the pickles within torch's archives: tensors and plain values come out, no code in a file is ever run."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

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
    """Stands for any object whose class a file names: it takes whatever it is given and does nothing with it.

    Its attributes are what was saved.
    """

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


def is_torchscript(path: Path) -> bool:
    """Whether a file is an archive of scripted code, as OpenAI's CLIPs are."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("constants.pkl") for name in archive.namelist())


def read_torchscript(path: Path) -> Any:
    """The module that a TorchScript archive holds, its submodules as `Inert`; what no weight file needs is refused."""
    return _read(path, _Scripted)


def read_inert(path: Path) -> Any:
    """What `torch.save` wrote, with `Inert` for every object that is neither a tensor nor plain.

    For checkpoints that also pickle optimisers, schedulers or settings. Raises BadZipFile for files of torch < 1.6.
    """
    return _read(path, _Tolerant)


def _read(path: Path, reader: type[_Reader]) -> Any:
    with zipfile.ZipFile(path) as archive:
        pickles = [name for name in archive.namelist() if name == "data.pkl" or name.endswith("/data.pkl")]
        if not pickles:
            raise zipfile.BadZipFile("it is a zip file, but not one that torch wrote")
        return reader(archive, pickles[0].removesuffix("data.pkl")).load()


class _Reader(pickle.Unpickler):
    """Rebuilds tensors and dicts; every other class or function is up to `other`."""

    def __init__(self, archive: zipfile.ZipFile, root: str):
        super().__init__(archive.open(f"{root}data.pkl"))
        self.archive, self.root = archive, root

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _keep_first
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        return self.other(module, name)

    def other(self, module: str, name: str) -> Any:
        raise NotImplementedError

    def persistent_load(self, pid: tuple[Any, ...]) -> Tensor:
        _, dtype, key, _, count = pid
        if not count:
            return torch.empty(0, dtype=dtype)
        return torch.frombuffer(bytearray(self.archive.read(f"{self.root}data/{key}")), dtype=dtype)


class _Scripted(_Reader):
    def other(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return Inert
        if module == "torch.jit._pickle":
            return _keep_first
        raise pickle.UnpicklingError(f"it wants {module}.{name}, which a weight file has no need of")


class _Tolerant(_Reader):
    def other(self, module: str, name: str) -> Any:
        return Inert


def _rebuild(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    return storage.as_strided(size, stride, offset).clone()


def _keep_first(value: Any, *_: Any) -> Any:
    return value
