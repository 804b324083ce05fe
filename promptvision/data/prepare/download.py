"""Download of datasets: by torchvision, from official addresses, or from a collection on the Hugging Face Hub."""

from __future__ import annotations

import inspect
from pathlib import Path
from urllib.error import URLError

from promptvision.data.card import Card
from promptvision.data.prepare.fetch import Progress, fetch, no_empty_folders
from promptvision.data.prepare.presence import IN_MEMORY, below_root, presence, root_folder
from promptvision.data.readers.layout import missing
from promptvision.data.readers.torchvision import TORCHVISION
from promptvision.errors import InputError, as_called, unknown
from promptvision.network import unreachable

SOURCES = ("official", "hub")


def download(card: Card, root: str, source: str = "", progress: Progress = lambda have, of: None) -> list[Path]:
    """Download what the card names into the root, and return the files, or the folder that torchvision filled.

    Without `source` the official one comes first. InputError, which says how to get the dataset by hand, if the card
    names no source, and if the download fails.
    """
    if card.reader in IN_MEMORY:
        raise InputError(f"dataset {card.name!r} needs no download: {as_called(card.where)}")
    official = card.reader == "torchvision" or card.download
    known = [name for name, exists in zip(SOURCES, (official, card.hub), strict=True) if exists]
    if not known:
        raise InputError(f"dataset {card.name!r} cannot be downloaded by this tool: {as_called(card.where)}")
    if source and source not in known:
        raise unknown(f"source of dataset {card.name!r}", source, known)
    top = root_folder(root)
    try:
        if (source or known[0]) == "hub":
            return from_hub(card, top)
        return from_torchvision(card, top) if card.reader == "torchvision" else from_addresses(card, top, progress)
    except InputError as error:
        if not source and len(known) > 1:
            raise InputError(f"{error}; {card.hub['repo']} holds it too: take --source hub") from None
        raise


def from_addresses(card: Card, top: Path, progress: Progress) -> list[Path]:
    """Download the card's `download` entries."""
    files = []
    for entry in card.download:
        file = below_root(card, top, entry["file"])
        reason = "" if file.exists() else unreachable(str(entry["url"]))
        if reason:
            raise InputError(f"{entry['url']} cannot be reached: {reason}")
        sums = {key: str(entry.get(key, "")) for key in ("sha256", "md5")}
        fetch(str(entry["url"]), file, **sums, size=int(entry.get("size", 0)), progress=progress)
        files.append(file)
    return files


def from_torchvision(card: Card, top: Path) -> list[Path]:
    """Download by torchvision, which checks the official checksums and keeps files that are whole."""
    from torchvision import datasets

    if card.options["dataset"] not in TORCHVISION or not card.options["folders"]:
        known = unknown("torchvision dataset", card.options["dataset"], TORCHVISION)
        raise InputError(f"card {card.name!r} names no folder, or an {known}")
    kind = getattr(datasets, card.options["dataset"])
    by_split = "split" in inspect.signature(kind).parameters
    own = below_root(card, top, card.options["folders"][0])
    folder = own if by_split and not hasattr(kind, "base_folder") else top
    mirrors, splits = getattr(kind, "mirrors", None), getattr(kind, "split_list", None)
    address = mirrors[0] if mirrors else splits["train"][0] if splits else kind.url
    reason = "" if presence(card, str(top)) == "here" else unreachable(address)
    if reason:
        raise missing(card, f"torchvision could not download it: {address} cannot be reached ({reason})")
    try:
        with no_empty_folders(folder / str(getattr(kind, "__name__", "")) / "raw"):
            folder.mkdir(parents=True, exist_ok=True)
            for split in ("train", "test"):
                kind(str(folder), **({"split": split} if by_split else {"train": split == "train"}), download=True)
    except (URLError, RuntimeError, OSError) as error:
        reason = " ".join(str(getattr(error, "reason", error)).split())
        raise missing(card, f"torchvision could not download it: {reason}") from None
    return [own]


def from_hub(card: Card, top: Path) -> list[Path]:
    """Download from `hub`: a `repo` of this `kind` ("model" by default), its `files` (or all), `into` a folder."""
    from huggingface_hub import constants, snapshot_download

    repo, kind, files = str(card.hub["repo"]), str(card.hub.get("kind", "model")), list(card.hub.get("files", []))
    place = below_root(card, top, card.hub.get("into", ""))
    reason = unreachable(constants.ENDPOINT)
    if reason:
        raise missing(card, f"the collection {repo} on the Hugging Face Hub cannot be reached: {reason}")
    try:
        with no_empty_folders(place):
            snapshot_download(repo, repo_type=kind, allow_patterns=files or None, local_dir=str(place))
    except OSError as error:
        first = str(error).strip().splitlines()[0]
        raise missing(card, f"the collection {repo} on the Hugging Face Hub cannot be reached: {first}") from None
    absent = [file for file in files if not (place / file).exists()]
    if absent:
        raise missing(card, f"the collection {repo} on the Hugging Face Hub has no {absent[0]}")
    return [place / file for file in files] or [place]
