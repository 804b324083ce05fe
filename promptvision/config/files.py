"""Config files: where they are, and those that a file builds on by `_BASE_`."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any

from promptvision.config.key import short
from promptvision.errors import InputError
from promptvision.safe_yaml import read_yaml

Files = list[tuple[str, dict[Any, Any]]]
"""The path and the contents of each base of a config file, the most distant first, and of the file itself."""
BASES = 10
"""Files that a chain of `_BASE_` may have."""


def config_folder() -> Path:
    """Return the folder of the configs that ship with the project, installed or in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def find_config(path: str | Path) -> Path:
    """Return the path or, if there is no such file, that of a shipped config, such as `coop/embedded.yaml`."""
    shipped = config_folder()
    places = (Path(path), shipped / path, shipped.parent / path)
    return next((place for place in places if place.is_file()), Path(path))


def read_files(path: str | Path) -> Files:
    """Return the contents of a config file and its bases."""
    return _chain(find_config(path), ())


def _chain(path: Path, children: tuple[Path, ...]) -> Files:
    if path.resolve() in (child.resolve() for child in children):
        raise InputError(f"the _BASE_ of {children[-1]} closes a loop: {' -> '.join(map(str, (*children, path)))}")
    if len(children) > BASES:
        raise InputError(f"{children[0]} has more than {BASES} levels of _BASE_, up to {path}: merge some of them")
    content = _read(path, f"the _BASE_ of {children[-1]}," if children else "config file")
    base = content.pop("_BASE_", None)
    if base is None:
        return [(str(path), content)]
    if not isinstance(base, str):
        raise InputError(f"{path}: _BASE_ takes the path of one file, not {short(base)}")
    return [*_chain(path.parent / base, (*children, path)), (str(path), content)]


def check_exists(path: Path, what: str) -> None:
    """Raise InputError for a path that is no file, with the nearest name beside it or among the shipped configs."""
    if path.is_dir():
        raise InputError(f"{what} {path} is a folder; name a file in it")
    if not path.is_file():
        beside = {other.name: other for other in sorted(path.parent.glob("*.y*ml"))}
        shipped = [other.relative_to(config_folder()).as_posix() for other in config_folder().rglob("*.yaml")]
        near = [beside[name] for name in get_close_matches(path.name, beside, n=1)]
        near += [Path(name) for name in get_close_matches(str(path).removeprefix("configs/"), sorted(shipped), n=1)]
        hint = f"; did you mean {near[0]}?" if near else ""
        raise InputError(f"{what} {path} does not exist{hint}")


def _read(path: Path, what: str) -> dict[Any, Any]:
    check_exists(path, what)
    content = read_yaml(path, what)
    if not isinstance(content, dict | None):
        raise InputError(f"{path} should hold KEY: value lines, not {short(content)}")
    return content or {}
