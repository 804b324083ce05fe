"""The run that a folder already holds: it is kept, and neither another run nor other files are overwritten."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from reprlib import repr as short
from typing import Any

from promptvision.atomic import read_json
from promptvision.errors import InputError
from promptvision.safe_yaml import LARGEST, as_yaml, read_yaml

FREE = ("OUTPUT_DIR", "CACHE_DIR", "LOG.", "COMPUTE.", "TEST.BATCH_SIZE") + tuple(
    f"TRAIN.{key}"
    for key in ("DEVICE", "WORKERS", "THREADS", "CACHE", "CHECKPOINT_EVERY", "CHECKPOINT_SECONDS", "DETERMINISTIC")
)
"""Settings, and sections, that may differ between two starts of the same run: where and how it is computed."""
FIRST = ("SEED", "METHOD.FAMILY", "METHOD.NAME", "BACKBONE.NAME", "DATASET.NAME")
"""Settings that a difference names before all others."""
ADDED: Mapping[str, Any] = {
    "OPTIM.LABEL_SMOOTHING": 0.0,
    "OPTIM.CLASS_WEIGHTS": "",
    "OPTIM.ACCUMULATE": 1,
    "OPTIM.DROP_LAST": True,
    "OPTIM.ONE_CLASS": False,
    "TRAIN.PATIENCE": 0,
    "DATASET.TRAIN_CLASSES": "same",
    "DATASET.FOLDS": 0,
    "DATASET.VALIDATION_SHOTS": 4,
    "INPUT.RESIZE": "pillow",
    **{f"METHOD.OPTIONS.{name}": False for name in ("POOLED", "SEQUENTIAL", "LEARNED_SCALE", "HEAD_NORM")},
    **{f"METHOD.OPTIONS.{name}": False for name in ("WHOLE_POOL", "PORT_RESHAPE", "PER_CLASS")},
    "METHOD.OPTIONS.MIXTURE": False,
    "METHOD.OPTIONS.VIEWS": 0,
    "METHOD.OPTIONS.LOGIT_SCALE": 0.0,
    "METHOD.OPTIONS.STOP": "each",
    "METHOD.OPTIONS.CROPS": "image",
    "METHOD.OPTIONS.AUGMIX": False,
    "METHOD.OPTIONS.LOSS_SCALE": 1024.0,
    "METHOD.OPTIONS.READS": "normed",
    "METHOD.OPTIONS.NORM": "none",
    "METHOD.OPTIONS.AFTER_ATTENTION": False,
    "METHOD.OPTIONS.DROPOUT": 0.0,
    "METHOD.OPTIONS.DROP_PATH": 0.0,
    "METHOD.OPTIONS.PROMPT": "",
    "METHOD.OPTIONS.BOTTLENECK": 0,
}
"""Settings that the config of an earlier version lacks, with the values by which its runs were computed: `as_made`."""
VALUABLE = ("result.json", "learned.safetensors", "last.ckpt", "stream.json")
"""Files that only a run has that got somewhere; one without them may be replaced by any other."""
Settings = Mapping[str, Any]
"""A whole config as nested dicts."""


def earlier_result(ours: Settings, folder: str | Path, *, resume: bool = False, overwrite: bool = False) -> Any:
    """Return the result of the finished run with these settings in `folder`, None if a run may start there.

    Raise InputError if the folder holds files that no run wrote, or another run that `overwrite` does not give up. An
    unfinished run that is to be resumed is left to its checkpoint, which knows the images too.
    """
    if not str(folder):
        raise InputError("OUTPUT_DIR is empty; name a folder for the run, such as out/coop")
    place = Path(folder)
    names = {file.name for file in place.iterdir() if file.is_file()} if place.is_dir() else set[str]()
    foreign = sorted(name for name in names - {"log.txt", "wandb.id"} if not name.startswith("."))
    exactly = _wrote(ours, place)
    if foreign and not exactly and not holds_run(place):
        raise InputError(f"OUTPUT_DIR {folder} holds {foreign[0]}, which no run wrote; choose another OUTPUT_DIR")
    if names.isdisjoint(VALUABLE):
        return None
    finished = "result.json" in names
    difference = None if exactly else first_difference(read_yaml(place / "config.yaml", "config"), ours)
    if difference is None:
        return read_json(place / "result.json") if finished else None
    if overwrite or (resume and not finished):
        return None
    raise InputError(
        f"OUTPUT_DIR {folder} holds another run: {difference}; choose another OUTPUT_DIR, or replace that run with "
        "--overwrite"
    )


def keep_config(path: Path, folder: str, text: str, ours: Settings) -> None:
    """Raise InputError if a run in `folder` would replace the file of its own --config by `text`, the whole config.

    The config of the run that is there, by the same settings, may be written again.
    """
    again = any(Path(folder, name).exists() for name in VALUABLE) and same_run(ours, folder)
    same = path.name == "config.yaml" and (again or path.read_text(encoding="utf-8") == text)
    if folder and path.resolve().parent == Path(folder).resolve() and not same:
        raise InputError(f"OUTPUT_DIR {folder} holds the config file {path}; choose another OUTPUT_DIR")


def same_run(ours: Settings, folder: str | Path) -> bool:
    """Return whether the run in a folder, finished or not, has these settings."""
    if _wrote(ours, Path(folder)):
        return True
    return holds_run(Path(folder)) and first_difference(read_yaml(Path(folder, "config.yaml"), "config"), ours) is None


def _wrote(ours: Settings, folder: Path) -> bool:
    """Return whether the config.yaml in a folder is the text of exactly these settings, which needs no parsing."""
    file = folder / "config.yaml"
    return file.is_file() and file.stat().st_size <= LARGEST and file.read_bytes() == as_yaml(ours).encode()


def holds_run(folder: Path) -> bool:
    """Return whether the config.yaml in a folder was written by a run: it holds every section of a config."""
    try:
        config = read_yaml(folder / "config.yaml", "config")
    except InputError:
        return False
    sections = ("METHOD", "BACKBONE", "DATASET", "INPUT", "OPTIM", "TRAIN", "TEST")
    return isinstance(config, Mapping) and all(isinstance(config.get(key), Mapping) for key in sections)


def first_difference(theirs: Settings, ours: Settings) -> str | None:
    """Return "KEY was THEIRS, here it is OURS" of the first setting that makes another run, None if there is none."""
    for key, (was, now) in differences(theirs, ours).items():
        return f"{key} was {short(was)}, here it is {short(now)}"
    return None


def differences(theirs: Settings, ours: Settings) -> dict[str, tuple[Any, Any]]:
    """Return {KEY: (their value, our value)} of the settings that make another run, those of FIRST first."""
    was, now = dict(flat(theirs)), dict(flat(ours))
    keys = (key for key in dict.fromkeys([*FIRST, *now, *was]) if decides(key, now))
    made = as_made(was)
    both = {key: (made.get(key), now.get(key)) for key in keys}
    return {key: (then, here) for key, (then, here) in both.items() if then != here}


def as_made(settings: Settings) -> dict[str, Any]:
    """Return settings by their full keys, with those that an earlier version lacked as it computed its runs."""
    reads = {} if settings.get("METHOD.OPTIONS.PARALLEL") else {"METHOD.OPTIONS.READS": "stream"}
    return {**ADDED, **reads, **settings}


def changed_since(theirs: Settings, ours: Settings) -> str:
    """Return "KEY VALUE" of an option that an earlier version lacked and that is not as its run was made, else ""."""
    was = dict(flat(theirs))
    changed = ((key, then) for key, (then, _) in differences(theirs, ours).items() if key not in was)
    return next((f"{key} {then}" for key, then in changed if key.startswith("METHOD.") and then is not None), "")


def decides(key: str, settings: Settings) -> bool:
    """Return whether a key makes another run, given all settings by their full keys: a test batch that chooses its
    prompts together has a say in the accuracy."""
    together = key == "TEST.BATCH_SIZE" and settings.get("METHOD.OPTIONS.BATCHWISE_TEST")
    return bool(together) or not key.startswith(FREE)


def flat(settings: Settings, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (SECTION.KEY, value) of a config."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", list(value) if isinstance(value, tuple) else value
