"""Check that a dataset is whole, and that it is the one which its card describes."""

from __future__ import annotations

import os
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
    unusable,
    wrong_counts,
    wrong_labels,
)
from promptvision.data.prepare.make_split import split_note
from promptvision.data.prepare.presence import expected, root_folder
from promptvision.data.readers import read
from promptvision.data.readers.checks import Faults
from promptvision.data.readers.paths import Finder
from promptvision.data.readers.search import LeftOut, search
from promptvision.data.scan import Progress, scan


@dataclass(frozen=True)
class Finding:
    """One kind of fault, or of fact worth knowing, and each case of it."""

    what: str
    cases: list[str]
    fault: bool = True


@dataclass
class Report:
    """The findings of a check in one dataset, or in one domain of it."""

    name: str
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Split -> (images, classes)."""
    findings: list[Finding] = field(default_factory=list)

    @property
    def fine(self) -> bool:
        return not any(finding.fault for finding in self.findings)

    def add(self, what: str, cases: list[str], *, fault: bool = True) -> None:
        """Keep a finding that has cases."""
        if cases:
            self.findings.append(Finding(what, cases, fault))


def check(card: Card, root: str = "", *, jobs: int = 1, progress: Progress = lambda seen, total: seen) -> list[Report]:
    """Return one report, or one for each domain of a card that has several. Images are decoded by `jobs` processes."""
    reports: list[Report] = []
    for domain in card.domains or [""]:
        report = Report(f"{card.name}, {domain}" if domain else card.name)
        if card.files and not reports:
            absent = [str(root_folder(root) / file) for file, exists in expected(card, root).items() if not exists]
            report.add("expected, but missing", absent)
        faults, images = Faults(gather=True), None
        with faults:
            images = read(card, root, domain, faults)
        report.add("cannot be used as it is", faults.found)
        report.add("worth knowing", faults.notes, fault=False)
        report.add("about its split", split_note(card, root, domain), fault=False)
        if images is not None:
            counts = card.domains[domain].get("counts", {}) if domain else card.counts
            lists = check_lists(report, images, counts, card.classes)
            check_images(report, images, lists, jobs, progress)
        reports.append(report)
    return reports


def check_lists(report: Report, images: Images, counts: dict[str, int], classes: int | None) -> Lists:
    """Check the lists alone, and return them without splits that hold the images of another."""
    lists = {"train": images.train, "val": images.val, "test": images.test}
    for split, items in lists.items():
        if items:
            report.sizes[split] = len(items), len({label for _, label, _ in items})
    report.add("counts differ from the card's", wrong_counts(lists, counts, classes))
    report.add("too few images", [] if counts else unusable(lists))
    report.add("wrong labels", wrong_labels(lists))
    report.add("listed under another class than the rest of its folder", misplaced(lists))
    report.add("class names", confusable_names(lists))
    report.add("classes without images", empty_classes(lists), fault=False)
    apart, same = distinct(lists)
    report.add("splits with the same images", same, fault=False)
    report.add("listed twice", listed_twice(apart))
    report.add("names that differ by case only", colliding_paths([item[0] for own in apart.values() for item in own]))
    return apart


def check_images(report: Report, images: Images, lists: Lists, jobs: int, progress: Progress) -> None:
    """Check that every listed image exists, can be decoded and is no copy of another."""
    paths = list(dict.fromkeys(path for items in lists.values() for path, _, _ in items))
    if images.root is not None:
        if images.file_of is None:
            check_folders(report, Path(images.root), paths)
        paths = check_files(report, images, Path(images.root), paths)
    seen = list(progress(scan(images, paths, pixel_hash, jobs), len(paths)))
    report.add("images that cannot be read", [one.fault for one in seen if one.fault])
    across, within = copies(lists, {one.path: one.result.hex() for one in seen if one.result})
    report.add("the same image in two splits or classes", across)
    report.add("the same image twice in a split", within, fault=False)


def check_files(report: Report, images: Images, top: Path, paths: list[str]) -> list[str]:
    """Check that the files of images exist, and return the paths of those that hold something."""
    finder = Finder(top)
    files = {path: images.file_of(path) if images.file_of else path for path in paths}
    reasons = {path: finder.absence(file) for path, file in files.items()}
    present = [path for path in paths if not reasons[path]]
    empty = {path for path in present if not os.path.getsize(top / files[path])}
    report.add("listed, but missing", [f"{path}: {reason}" for path, reason in reasons.items() if reason])
    report.add("empty files (0 bytes)", sorted(empty))
    return [path for path in present if path not in empty]


def check_folders(report: Report, top: Path, listed: list[str]) -> None:
    """Search the folders that hold listed images for images that are not listed, and for empty folders."""
    within = sorted({path.partition("/")[0] for path in listed}) if all("/" in path for path in listed) else [""]
    found = [path.relative_to(top).as_posix() for folder in within for path in search(top / folder, LeftOut())]
    report.add("images that are not listed", sorted({*found} - {*listed}), fault=False)
    walked = [entry for folder in within for entry in os.walk(top / folder)]
    empty = [os.path.relpath(place, top) for place, inner, files in walked if not inner and not files]
    report.add("empty folders", [place for place in empty if "/." not in f"/{place}"])
