"""The contract of a method: all that the training loop, the checkpoints and the tools know about it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from promptvision.errors import InputError, check_names
from promptvision.learned import Learned

Batches = Iterable[tuple[Tensor, Tensor]]
"""Images (B, 3, H, W) without augmentation, or their features (B, E), and labels (B,), on any device."""


@dataclass(frozen=True)
class ImageViews:
    """Views of a test image: itself and random crops of its file that cover `smallest` to all of the area."""

    count: int
    """All of them, the image itself included."""
    smallest: float
    augmix: bool
    """True if the crops go through AugMix."""
    seed: int


class Method(Learned):
    """A classifier that learns a few tensors on a frozen backbone, its submodule `backbone`.

    A subclass takes `(backbone, classes, *, option=default, ...)` and implements `forward`. The keyword-only arguments
    are the options that a config can set. The learned tensors are the parameters and persistent buffers of the method,
    and the parameters of the backbone that it passes to `thaw`, whatever their `requires_grad` becomes later.
    """

    no_decay: frozenset[str] = frozenset()
    """Names of learned tensors without weight decay."""
    rate_factors: Mapping[str, float] = {}
    """Factors of the learning rates of learned tensors, 1 for those without; a constant warm-up is the same for all."""
    frozen_images: bool = False
    """True if images pass through the frozen image tower only: then `forward`, `loss` and `predictor` also accept its
    features (B, E) in place of images (`ImageTower.as_features`)."""
    frozen_layers: bool = False
    """True if a method with `frozen_images` takes the features after every block in place of those after the last, rows
    of `backbones.image.layer_features`."""
    frozen_blocks: int = 0
    """Number of the image tower's first blocks that images pass unchanged, where the tower itself stays frozen: `loss`
    then accepts rows of `kept_states` in place of images too; 0 if it accepts images alone."""
    stackable: bool = False
    """True if runs on features that differ in seed, rate or shots can compute their steps as one (`sweep --stack`):
    `loss` draws nothing, changes no buffer, follows no value of a tensor (`torch.func.vmap`), and reads nothing beside
    parameters, buffers and the batch that differs from seed to seed. The runs have one backbone, which none changes."""
    wants_unlabelled: bool = False
    """True if `loss` takes unlabelled images of a target domain (B', 3, H, W) as a third argument."""
    wants_second_view: bool = False
    """True if `loss` takes a second augmented view of every training image (B, 3, H, W) as a third argument."""
    image_views: ImageViews | None = None
    """Views in place of each test image: then `forward` and `predictor` take (B, V, 3, H, W), the images first."""
    prepare_views: int = 0
    """Augmented views of every training image that `prepare` is given, all images of one view after those of another
    and in the same order; 0 for the images without augmentation."""
    loss_is_mean: bool = True
    """True if `loss` is a mean over a batch's images, plus terms without images: then processes can share a batch."""
    loss_on_labels: bool = True
    """True if `loss` holds the `cross_entropy` of the labels, which `label_smoothing` and `class_weights` change."""
    label_smoothing: float = 0.0
    """Share of every training label that `cross_entropy` spreads evenly over the classes (arXiv:1512.00567)."""
    class_weights: Tensor | None = None
    """Factors (C,) of the losses of each class's images in `cross_entropy`; None for 1."""
    stages: Sequence[float] = (1.0,)
    """Shares of the training steps of the stages of training, in each of which the schedule starts again. One optimiser
    serves all: it leaves a tensor as it is until it has a gradient, and once it has none."""
    fits_tasks: bool = False
    """True if `finish` fits what is learned to a task's images in closed form: then a stream need not train."""
    new_classes: bool = False
    """True if `for_classes` can name classes that the method was not trained on."""
    fewer_classes: bool = False
    """True if `for_classes` can name some of the classes that it was trained on."""
    trained_classes: Sequence[str] = ()
    """Names of the classes of training, known before the subclass's `__init__` makes its tensors: `classes` themselves,
    except in what `for_classes` returns. Learned tensors with a row for each class have one for each of these."""
    task: int = 0
    """Index of the current task in a stream of `tasks`; training chooses among `task_labels`, all if empty."""
    tasks: int = 1
    task_labels: Sequence[int] = ()
    task_places: Tensor
    """The same labels, on the device."""
    options: dict[str, Any]
    """The keyword arguments that build the method, defaults included."""

    def __new__(cls, *args: Any, **options: Any) -> Method:
        method = super().__new__(cls)
        defaults = {name.lower(): value for name, value in option_defaults(cls).items()}
        method.options = {name: options.get(name, value) for name, value in defaults.items()}
        return method

    def __init__(self, backbone: nn.Module, classes: Sequence[str]):
        check_names(classes)
        super().__init__(backbone)
        self.classes = list(classes)
        self.trained_classes = self.trained_classes or self.classes

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, C) of normalised images (B, 3, H, W)."""
        raise InputError(f"{type(self).__name__} defines no forward(images)")

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross-entropy, a scalar; `labels` (B,) int64."""
        return self.cross_entropy(self(images), labels)

    def cross_entropy(
        self, logits: Tensor, labels: Tensor, reduction: str = "mean", columns: Tensor | None = None
    ) -> Tensor:
        """Return the cross-entropy of logits (B, C) with labels (B,) among the classes that training chooses among.

        A scalar, or (B,) with `reduction` "none". `columns` (K,): the classes of logits (B, K) if these are not all; a
        label that is none of them counts as the first. Class weights enter the mean over images as factors, without a
        division by their sum, so that batches and processes can share a mean.
        """
        logits = logits if columns is not None else self.for_task(logits)
        if columns is None and self.label_smoothing and self.task_labels:
            columns = self.task_places.to(labels.device)  # the other classes, at -inf, get no share of a label
            logits = logits[:, columns]
        places = labels if columns is None else (labels[:, None] == columns).long().argmax(dim=1)
        if self.class_weights is None:
            return F.cross_entropy(logits, places, label_smoothing=self.label_smoothing, reduction=reduction)
        loss = F.cross_entropy(logits, places, label_smoothing=self.label_smoothing, reduction="none")
        weighted = loss * self.class_weights.to(loss)[labels]
        return weighted.mean() if reduction == "mean" else weighted

    def start_task(self, task: int, tasks: int, labels: Sequence[int] = ()) -> None:
        """Prepare for task `task`, from 0, of a stream of `tasks`, in which training chooses among `labels`, if any."""
        self.task, self.tasks, self.task_labels = task, tasks, tuple(labels)
        self.register_buffer("task_places", torch.tensor(self.task_labels, dtype=torch.long), persistent=False)

    def for_task(self, logits: Tensor) -> Tensor:
        """Set the logits (B, C) of classes that training does not choose among to -inf."""
        if not self.task_labels:
            return logits
        other = torch.ones_like(logits[0], dtype=torch.bool).index_fill(0, self.task_places.to(logits.device), False)
        return logits.masked_fill(other, -torch.inf)

    @property
    def kept_states(self) -> Sequence[int]:
        """Blocks of a frozen image tower whose entering tokens can be kept, with the features, in place of images.

        `loss` then accepts rows of `backbones.image.entered` for these; none if it accepts images alone.
        """
        return (self.frozen_blocks,) if self.frozen_blocks else ()

    def pin(self, on: bool = True) -> bool:
        """Pin the towers (`Tower.pin`), as before every epoch, or unpin them; return whether any has changed."""
        return any([each.pin(on) for each in self.modules() if each is not self and hasattr(each, "pin")])  # type: ignore[operator]

    def prepare(self, train: Batches, val: Batches) -> None:
        """Compute what has a closed form in the images' features; called once before training.

        `train`: the training images as tests see them, or, one after the other, `prepare_views` augmented views of all.
        """

    def to_half(self, training: bool) -> Sequence[Method]:
        """Compute what float32 weights decide, before they are held in 16 bits; return this method and its teachers."""
        return [self]

    def start_stage(self, stage: int) -> None:
        """Begin stage `stage`, from 0, before its first step; what tells the stages apart is learned state."""

    def end_epoch(self, epoch: int, epochs: int) -> None:
        """Change learned tensors, if need be, after the last step of epoch `epoch`, from 0, of `epochs`."""

    def training_state(self) -> dict[str, Tensor]:
        """Return what training carries from epoch to epoch, and from task to task, besides the learned tensors.

        Only last.ckpt and, in a stream, the carried.ckpt of the latest task store it.
        """
        return {name: tensor for name, tensor in self._state().items() if name.partition(".")[0] in self.dropped}

    def load_training_state(self, state: Mapping[str, Tensor]) -> None:
        """Resume from a `training_state()`, whose buffers may have grown."""
        own = self._state()
        for name, tensor in state.items():
            if own[name].shape == tensor.shape:
                own[name].copy_(tensor)
            else:
                setattr(self, name, tensor.to(own[name].device))

    def finish(self, train: Batches, val: Batches) -> None:
        """Choose what validation images decide, or fit in closed form what needs the trained features.

        Called once after training; in a stream after that of each task, with its images alone.
        """

    def predictor(self) -> Callable[[Tensor], Tensor]:
        """Return `forward` for many batches with unchanged parameters: what does not depend on images is done once."""
        return self.forward

    def features_of(self, images: Tensor) -> Tensor:
        """Return the image features (B, E) that the method classifies, of images (B, 3, H, W); InputError without any.

        Those of the frozen tower where images pass through it only.
        """
        if not self.frozen_images:
            raise InputError(f"{type(self).__name__} has no image features (features_of), only logits")
        tower: Any = getattr(self.backbone, "image", self.backbone)  # of a CLIP
        return tower.as_features(images)

    @property
    def trained_labels(self) -> list[int]:
        """The label that each of the classes had in training, -1 for one that is new."""
        labels = {name: label for label, name in enumerate(self.trained_classes)}
        return [labels.get(name, -1) for name in self.classes]

    def for_classes(self, names: Sequence[str]) -> Method:
        """Return this method with the same learned tensors for other classes, or raise InputError."""
        if not self.new_classes and not (self.fewer_classes and set(names) <= set(self.trained_classes)):
            raise InputError(f"{type(self).__name__} is tied to the classes it was trained on and cannot name new ones")
        return self.built_for(names)

    def built_for(self, names: Sequence[str], *more: Any) -> Method:
        """Return this method, built for classes `names` (and what else it is built of), with the same learned tensors.

        It was trained on the same classes as this one.
        """
        other = type(self).__new__(type(self), **self.options)
        other.trained_classes = self.trained_classes
        type(other).__init__(other, self.backbone, names, *more, **self.options)
        other.load_learned_state(self.learned_state())
        return other.to(next(self.backbone.parameters()).device)


def option_defaults(method: type[Method]) -> dict[str, Any]:
    """Return the keyword-only arguments of a method's constructor with their defaults, in upper case.

    A constructor that takes any others, `**options`, hands them to the next class, and so has the options of that too.
    """
    found: dict[str, Any] = {}
    for each in (base for base in method.__mro__ if "__init__" in vars(base)):
        parameters = inspect.signature(vars(each)["__init__"]).parameters.values()
        found = {p.name.upper(): p.default for p in parameters if p.kind is p.KEYWORD_ONLY} | found
        if all(p.kind is not p.VAR_KEYWORD for p in parameters):
            break
    return found
