"""Is a data set whole, and is it the one that its card describes."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from promptvision.data.card import Card
from promptvision.data.images import Images, pixel_hash
from promptvision.data.prepare.findings import (
    Lists,
    colliding_paths,
    confusable_names,
    copies,
    distinct,
    empty_classes,
    listed_twice,
    misplaced,
    wrong_counts,
    wrong_labels,
)
from promptvision.data.prepare.make_split import split_note
from promptvision.data.prepare.presence import expected, root_folder
from promptvision.data.readers import read
from promptvision.data.readers.checks import Faults
from promptvision.data.readers.folder import images_under
from promptvision.data.readers.paths import Finder
from promptvision.data.scan import Seen, scan

Progress = Callable[[Iterable[Seen], int], Iterable[Seen]]
"""Wraps the images as they are decoded, and is told how many there are."""


@dataclass(frozen=True)
class Finding:
    """One kind of mistake, or of thing worth knowing, and each case of it."""

    what: str
    cases: list[str]
    fault: bool = True


@dataclass
class Report:
    """What a check found in one data set, or one domain of it."""

    name: str
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Part -> (images, classes)."""
    findings: list[Finding] = field(default_factory=list)

    @property
    def fine(self) -> bool:
        return not any(finding.fault for finding in self.findings)

    def add(self, what: str, cases: list[str], *, fault: bool = True) -> None:
        """Keep a finding that has cases."""
        if cases:
            self.findings.append(Finding(what, cases, fault))


def check(card: Card, root: str = "", *, jobs: int = 1, progress: Progress = lambda seen, total: seen) -> list[Report]:
    """One report, or one for each domain of a card that has several. Images are decoded by `jobs` processes."""
    reports: list[Report] = []
    for domain in card.domains or [""]:
        report = Report(f"{card.name}, {domain}" if domain else card.name)
        if not reports:
            _expect(report, card, root)
        images = _read(report, card, root, domain)
        report.add("about its split", split_note(card, root, domain), fault=False)
        if images is not None:
            counts = card.domains[domain].get("counts", {}) if domain else card.counts
            _check_lists(report, images, counts, card.classes)
            _check_files(report, images, jobs, progress)
        reports.append(report)
    return reports


def _expect(report: Report, card: Card, root: str) -> None:
    top = root_folder(root)
    absent = [str(top / file) for file, there in expected(card, root).items() if not there]
    report.add("expected, but not there", absent if card.files else [])


def _read(report: Report, card: Card, root: str, domain: str) -> Images | None:
    """Read what the reader accepts, and report everything that it refuses; None if too little is left to check."""
    faults, images = Faults(gather=True), None
    with faults:
        images = read(card, root, domain, faults)
    report.add("cannot be used as it is", faults.found)
    return images


def _parts(images: Images) -> Lists:
    return {"train": images.train, "val": images.val, "test": images.test}


def _check_lists(report: Report, images: Images, counts: dict[str, int], classes: int | None) -> None:
    lists = _parts(images)
    report.sizes.update({p: (len(items), len({label for _, label, _ in items})) for p, items in lists.items() if items})
    report.add("counts differ from the card's", wrong_counts(lists, counts, classes))
    report.add("wrong labels", wrong_labels(lists))
    report.add("listed under another class than its folder's", misplaced(lists))
    report.add("class names", confusable_names(lists))
    report.add("classes without images", empty_classes(lists), fault=False)
    apart, same = distinct(lists)
    report.add("parts of one content", same, fault=False)
    report.add("listed twice", listed_twice(apart))
    report.add("names that differ by case only", colliding_paths([item[0] for own in apart.values() for item in own]))


def _check_files(report: Report, images: Images, jobs: int, progress: Progress) -> None:
    apart, _ = distinct(_parts(images))
    paths = list(dict.fromkeys(path for items in apart.values() for path, _, _ in items))
    absent: dict[str, str] = {}
    empty: list[str] = []
    if images.root is not None:
        top = Path(images.root)
        files = {path: images.file_of(path) if images.file_of else path for path in paths}
        finder = Finder(top)
        absent = {path: reason for path, file in files.items() if (reason := _absence(finder, file))}
        empty = [path for path, file in files.items() if path not in absent and not os.path.getsize(top / file)]
        report.add("listed, but not there", [f"{path}: {reason}" for path, reason in absent.items()])
        report.add("empty files (0 bytes)", empty)
        if images.file_of is None:
            _check_folders(report, top, paths)
    skipped = {*absent, *empty}
    left = [path for path in paths if path not in skipped]
    seen = list(progress(scan(images, left, pixel_hash, jobs), len(left)))
    report.add("images that cannot be read", [one.fault for one in seen if one.fault])
    across, within = copies(apart, {one.path: one.result.hex() for one in seen if one.result})
    report.add("the same image in two parts or classes", across)
    report.add("the same image twice in a part", within, fault=False)


def _absence(finder: Finder, path: str) -> str:
    """Why a listed file is not there; "" if it is."""
    try:
        return "" if stat.S_ISREG(os.stat(finder.base / path).st_mode) else "is no file"
    except FileNotFoundError:
        near = finder.find(path) or finder.nearly(path)
        return f"no such file, but there is {near}" if near else "no such file"
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)


def _check_folders(report: Report, top: Path, listed: list[str]) -> None:
    """Looks about in the folders that hold listed images, for images that are not, and for folders without any."""
    known = set(listed)
    within = {path.partition("/")[0] for path in listed} if all("/" in path for path in listed) else {""}
    found = [path.relative_to(top).as_posix() for folder in sorted(within) for path in images_under(top / folder)]
    beside = [path for path in found if path not in known]
    report.add("images there, but not listed", beside, fault=False)
    bare = [
        os.path.relpath(place, top)
        for folder in sorted(within)
        for place, inner, files in os.walk(top / folder)
        if not inner and not files and "/." not in Path(place).as_posix()
    ]
    report.add("empty folders", bare)
