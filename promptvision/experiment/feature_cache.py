"""Features of a frozen image tower in place of images: computed once, in large batches, and kept in files.

A training view is a function of (seed, number of the view, image), so the features that one run computed serve every
later run with the same tower, transform, images and seed. A view takes images x feature length x 4 bytes (2 in 16
bits): 655 MB for 1,600 images of ViT-B/16 with a fresh view in each of 200 epochs. A file whose tower, images or
transform changed is never read again; files may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import PIL
import torch
from torch import Tensor

from promptvision.backbones import ImageTower
from promptvision.backbones.fingerprint import fingerprint
from promptvision.backbones.image import entered, layer_features
from promptvision.data.images import Images, Item
from promptvision.data.loader import Batch, TestLoader, TrainLoader
from promptvision.engine.device import PRECISIONS, autocast
from promptvision.engine.environment import facts
from promptvision.engine.progress import track
from promptvision.errors import counted
from promptvision.experiment import feature_file

LOG = logging.getLogger(__name__)
FORMAT = 1
COMPUTED_BY = ("torch", "torchvision", "timm", "open_clip_torch", "device", "threads")
"""Facts about the environment on which the last digits depend."""


class FeatureCache:
    """The features of one frozen tower, read from the files in `folder`, where missing ones are written.

    Of several processes that want the same file, one computes it and the others wait. Features are the same bit for
    bit whether they come from a file or not; those of `TestLoader`'s batches are what the tower returns for each
    batch. Without a writable folder they are kept in memory. `compare`: for a tower whose code the fingerprint cannot
    cover, such as the modules and files that your own code reads: the first batch of a file is computed and compared.
    `starts`: keep the rows of `entered`, with what enters these blocks, in place of the features alone. `layers`: keep
    the rows of `layer_features`. `everything`: all images of a dataset; the views without random choices of a list of
    them are rows of theirs, which one file holds.
    """

    def __init__(
        self,
        tower: ImageTower,
        folder: Path | None,
        precision: str = "fp32",
        *,
        progress: bool = False,
        compare: bool = False,
        starts: Sequence[int] = (),
        layers: bool = False,
        everything: Images | None = None,
    ):
        self.tower, self.folder, self.precision, self.progress = tower, folder, precision, progress
        self.compare, self.starts, self.layers = compare, tuple(starts), layers
        self.everything = everything
        self.device = next(tower.parameters()).device
        self.bytes_each = tower.feature_dim * PRECISIONS[precision].itemsize * (tower.depth if layers else 1)
        if starts:  # tokens stay in float32 in autocast too
            tokens = tower.prefix + (tower.image_size // tower.patch_size) ** 2
            self.bytes_each = (tower.feature_dim + len(starts) * tokens * tower.width) * torch.float32.itemsize
        self.identity = fingerprint(tower) if folder else ""  # in float32, whatever is held in 16 bits later
        self._known: dict[Any, Tensor] = {}
        self._whole: dict[Any, tuple[Tensor, str]] = {}
        self._pixels = defaultdict[Any, dict[str, bytes]](dict)

    def holds(self, loader: TestLoader, images: Images) -> bool:
        """Return whether the features of a loader's images are in memory or in a file."""
        if self._place(loader, images) in self._known:
            return True
        if self.everything:
            return (repr(loader.views.transform), loader.batch_size) in self._whole
        key = self._key(loader, self.fingerprint(images, loader.views.items))
        return self.folder is not None and os.path.isfile(self.folder / _name(key))

    def once(self, loader: TestLoader, images: Images, title: str) -> tuple[Tensor, str]:
        """Return what `get` returns; of images without random choices it is kept, and files are taken as unchanged."""
        views, key = loader.views, self._place(loader, images)
        if views.stream is None and key in self._known:
            return self._known[key], "cache"
        features, source = self.get(loader, self.fingerprint(images, views.items), title)
        if views.stream is None:
            self._known[key] = features
        return features, source

    def _place(self, loader: TestLoader, images: Images) -> tuple[Any, ...]:
        """Return the key in memory of a loader's images."""
        views, place = loader.views, images.root if images.root is not None else images.open
        return place, images.made, tuple(views.items), repr(views.transform), loader.batch_size

    def fingerprint(self, images: Images, items: Sequence[Item]) -> str:
        """Return `Images.fingerprint`; images in memory are taken as unchanged."""
        return images.fingerprint(items, self._pixels[images.open])

    def get(self, loader: TestLoader, images: str, title: str = "") -> tuple[Tensor, str]:
        """Return the features (N, E) of all images in order, on the CPU, and their source: "cache" or "computed".

        `images`: the fingerprint of the loader's images. `title`: of the progress; empty to show none.
        """
        if self.everything and loader.views.stream is None:
            return self._rows_of_all(self.everything, loader, title)
        return self._get(loader, images, title)

    def _rows_of_all(self, everything: Images, loader: TestLoader, title: str) -> tuple[Tensor, str]:
        """Return the rows of a loader's images among those of all images."""
        paths, key = everything.paths, (repr(loader.views.transform), loader.batch_size)
        if key not in self._whole:
            items, views = [(path, 0, "") for path in paths], loader.views
            whole = TestLoader(
                items,
                everything.open,
                views.transform,
                batch_size=loader.batch_size,
                workers=loader.workers.count,
                device=views.device,
            )
            self._whole[key] = self._get(whole, self.fingerprint(everything, items), title and "all images")
        features, source = self._whole[key]
        row = {path: number for number, path in enumerate(paths)}
        return features[[row[path] for path, _, _ in loader.views.items]], source

    def _get(self, loader: TestLoader, images: str, title: str) -> tuple[Tensor, str]:
        """Return what `get` returns, for the loader's list by itself."""
        if self.folder:
            key = self._key(loader, images)
            path = self.folder / _name(key)
            damaged = os.path.isfile(path)
            found = self._read(path, key, loader)
            if found is not None:
                return found, "cache"
            with feature_file.claimed(path) as waited:
                if waited or not damaged:  # another process may have written it just now
                    found = self._read(path, key, loader)
                if found is None:
                    found = self._write(path, key, loader, title)
            if found is not None:
                return found, "computed"
        return torch.cat(list(self._compute(loader, title))), "computed"

    def _read(self, path: Path, key: str, loader: TestLoader) -> Tensor | None:
        """Return the features of a file, None if it does not exist, is damaged, or is not what the tower computes."""
        found = feature_file.read(path, key)
        if found is not None and self.compare:
            (first,) = self._encode(loader.views.batches(loader.indices[:1]))
            if not torch.equal(first, found[: len(first)]):
                LOG.info("The backbone's code or files have changed: its image features are computed again")
                return None
        return found

    def _write(self, path: Path, key: str, loader: TestLoader, title: str) -> Tensor | None:
        """Compute and write a file and return its features; after a failure, stop using the folder."""
        try:
            feature_file.write(path, key, len(loader.views.items), self._compute(loader, title))
        except OSError as error:
            reason = error.strerror or error
            LOG.warning("No image features can be kept in CACHE_DIR %s (%s): continuing without", path.parent, reason)
            self.folder = None
        return feature_file.read(path, key)

    def _compute(self, loader: TestLoader, title: str) -> Iterator[Tensor]:
        """Yield the features of each batch of a loader."""
        shown = self.progress and bool(title)
        return self._encode(track(loader, f"image features, {title}", "batch", shown=shown))

    @torch.no_grad()
    def _encode(self, batches: Iterable[Batch]) -> Iterator[Tensor]:
        """Yield the features of each batch."""
        for images, _ in batches:
            with autocast(self.device, self.precision):
                yield self._rows(images.to(self.device)).cpu()

    def _rows(self, images: Tensor) -> Tensor:
        """Return what is kept of images (B, 3, H, W), (B, W)."""
        if self.layers:
            return layer_features(self.tower, images)
        return entered(self.tower, images, *self.starts) if self.starts else self.tower(images)

    def _key(self, loader: TestLoader, images: str) -> str:
        """Return everything that a feature depends on."""
        parts = {
            **self._constants,
            "transform": repr(loader.views.transform),
            "pictures": images,
            "view": loader.views.stream,
            "batch": loader.batch_size,
            "precision": [self.precision, torch.get_float32_matmul_precision()],
        }
        return json.dumps(parts, sort_keys=True)

    @cached_property
    def _constants(self) -> dict[str, Any]:
        """The parts of a key that are the same for all loaders; the way of the last block decides the last digits."""
        known = facts(self.device)
        environment = {name: known[name] for name in COMPUTED_BY}
        way: dict[str, Any] = {"last block": "first token"} if self.tower.last_view() else {}
        way |= {"entering blocks": self.starts} if self.starts else {}
        way |= {"layers": True} if self.layers else {}
        return {"format": FORMAT, "tower": self.identity, **way, "pillow": PIL.__version__, **environment}


def _name(key: str) -> str:
    """Return the name of the file of this key."""
    return f"{hashlib.sha256(key.encode()).hexdigest()[:40]}.safetensors"


class FeatureTestLoader:
    """`TestLoader`'s batches with features (B, E) in place of images, computed on first use.

    `title`: of the progress then; empty to show none.
    """

    def __init__(self, loader: TestLoader, cache: FeatureCache, images: Images, title: str = ""):
        self.loader, self.cache, self.images, self.title = loader, cache, images, title
        self.labels = torch.tensor([label for _, label, _ in loader.views.items], dtype=torch.int64)
        self.features, self.source = torch.empty(0), ""

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self.loader)

    def known(self) -> bool:
        """Return whether the features need not be computed."""
        return bool(self.source) or self.cache.holds(self.loader, self.images)

    def prepare(self) -> None:
        """Compute now what the cache lacks."""
        if not self.source:
            self.features, self.source = self.cache.once(self.loader, self.images, self.title)

    def __iter__(self) -> Iterator[Batch]:
        self.prepare()
        return ((self.features[batch], self.labels[batch]) for batch in self.loader.indices)


class FeatureTrainLoader:
    """`TrainLoader`'s batches in its order, with features (B, E) in place of images.

    `batch_size`: images that the tower encodes at once. `keep`: whether the images are few enough to be kept in memory
    while many views of them are computed.
    """

    def __init__(
        self, loader: TrainLoader, cache: FeatureCache, images: Images, batch_size: int, *, keep: bool = False
    ):
        self.loader, self.cache, self.batch_size, self.keep = loader, cache, batch_size, keep
        self.labels = torch.tensor([label for _, label, _ in loader.items], dtype=torch.int64)
        self.fingerprint, self.source = cache.fingerprint(images, loader.items), "cache"
        self._held: dict[int, Tensor] = {}

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        return len(self.loader)

    def prepare(self, epochs: Iterable[int]) -> None:
        """Compute now what the cache lacks for these epochs; views that come back stay in memory.

        Of several processes that train together, each starts with its share of the views and then reads the others'.
        """
        views = list(dict.fromkeys(self.loader.view_of(epoch) for epoch in epochs))
        process, count = self.loader.part
        first = len(views) * process // count
        views = views[first:] + views[:first]
        megabytes = len(views) * len(self.labels) * self.cache.bytes_each / 1e6
        LOG.info("Training on cached image features (%s, %.1f MB)", counted(len(views), "view"), megabytes)
        for number, view in enumerate(views, start=1):
            if self.cache.folder or self.loader.views:
                self._view(view, f"training view {number} of {len(views)}")
            if self.keep and self.source == "computed" and number < len(views):
                self.loader.keep()
                self.keep = False

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from number `start` on."""
        features = self._view(self.loader.view_of(epoch))
        for batch in map(torch.tensor, self.loader.batches(epoch)[start:]):
            yield features[batch], self.labels[batch]

    def _view(self, number: int, title: str = "") -> Tensor:
        """Return the features of a view; without a fixed number of views only one is kept in memory."""
        if number not in self._held:
            if not self.loader.views:
                self._held.clear()
            loader = self.loader.view(number, self.batch_size)
            self._held[number], source = self.cache.get(loader, self.fingerprint, title)
            self.source = "computed" if source == "computed" else self.source
        return self._held[number]
