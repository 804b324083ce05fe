"""Where data sets are fetched from: torchvision, official addresses, or a collection on the Hugging Face Hub."""

from __future__ import annotations

import inspect
from pathlib import Path, PurePosixPath
from urllib.error import URLError

from promptvision.data.card import Card
from promptvision.data.prepare.fetch import Progress, fetch
from promptvision.data.prepare.presence import IN_MEMORY, root_folder
from promptvision.data.readers.layout import missing
from promptvision.errors import InputError, unknown

SOURCES = ("official", "hub")


def sources(card: Card) -> list[str]:
    """Those of `SOURCES` that a card knows, the first is the one to try first."""
    official = card.reader == "torchvision" or card.download
    return [name for name, there in (("official", official), ("hub", card.hub)) if there]


def download(card: Card, root: str, source: str = "", progress: Progress = lambda have, of: None) -> list[Path]:
    """Fetch what the card names into the root; the files, or the folder that torchvision filled.

    InputError where there is nothing to fetch (it says what to do by hand), or where fetching fails.
    """
    if card.reader in IN_MEMORY:
        raise InputError(f"data set {card.name!r} needs no download: {card.where}")
    known = sources(card)
    if not known:
        raise InputError(f"data set {card.name!r} cannot be fetched from here: {card.where}")
    if source and source not in known:
        raise unknown(f"source of data set {card.name!r}", source, known)
    try:
        return _fetch_from(source or known[0], card, root_folder(root), progress)
    except InputError as error:
        if not source and len(known) > 1:
            raise InputError(f"{error}; {card.hub['repo']} holds it too: take --source hub") from None
        raise


def _fetch_from(source: str, card: Card, top: Path, progress: Progress) -> list[Path]:
    if source == "hub":
        return _hub(card, top)
    return _torchvision(card, top) if card.reader == "torchvision" else _addresses(card, top, progress)


def _addresses(card: Card, top: Path, progress: Progress) -> list[Path]:
    files = []
    for entry in card.download:
        name = PurePosixPath(str(entry["file"]))
        if name.is_absolute() or ".." in name.parts:
            raise InputError(f"data set {card.name!r}: its card would write {name}, outside the root")
        file = top / name
        sums = {key: str(entry.get(key, "")) for key in ("sha256", "md5")}
        fetch(str(entry["url"]), file, **sums, size=int(entry.get("size", 0)), progress=progress)
        files.append(file)
    return files


def _torchvision(card: Card, top: Path) -> list[Path]:
    """torchvision checks the official checksums, and keeps what is there and whole."""
    from torchvision import datasets

    kind = getattr(datasets, card.options["dataset"])
    by_split = "split" in inspect.signature(kind).parameters
    folder = top / card.options["folders"][0] if by_split and not hasattr(kind, "base_folder") else top
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for part in ("train", "test"):
            kind(str(folder), **({"split": part} if by_split else {"train": part == "train"}), download=True)
    except (URLError, RuntimeError, OSError) as error:
        reason = " ".join(str(getattr(error, "reason", error)).split())
        raise missing(card, f"torchvision could not fetch it: {reason}") from None
    return [top / card.options["folders"][0]]


def _hub(card: Card, top: Path) -> list[Path]:
    """`hub`: `repo`, its `kind` ("model" if not said), the `files` wanted (all if not said), `into` which folder."""
    from huggingface_hub import snapshot_download

    repo, files = str(card.hub["repo"]), list(card.hub.get("files", []))
    place = top / str(card.hub.get("into", ""))
    try:
        snapshot_download(
            repo, repo_type=str(card.hub.get("kind", "model")), allow_patterns=files or None, local_dir=str(place)
        )
    except OSError as error:
        first = str(error).strip().splitlines()[0]
        raise missing(card, f"the collection {repo} on the Hugging Face Hub cannot be had: {first}") from None
    absent = [file for file in files if not (place / file).exists()]
    if absent:
        raise missing(card, f"the collection {repo} on the Hugging Face Hub has no {absent[0]}")
    return [place / file for file in files] or [place]
