"""The contract between a method and everything around it: the loop, the checkpoints and the tools know no more."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from promptvision.errors import InputError, unknown

Batches = Iterable[tuple[Tensor, Tensor]]
"""Images (B, 3, H, W) that are not augmented, or their features (B, E), and labels (B,), wherever they are."""


class Method(nn.Module):
    """A classifier that learns a few tensors on a frozen backbone, kept as the submodule `backbone`.

    Subclasses take `(backbone, classes, *, option=default, ...)`; the keyword-only arguments are the options a
    config may set. They implement `forward(images)`: (B, 3, H, W) normalised images to (B, C) logits.
    """

    no_decay: frozenset[str] = frozenset()
    """Names of learned tensors that weight decay leaves alone."""

    frozen_images: bool = False
    """Whether images meet nothing but the frozen image tower: then `forward`, `loss` and `predictor` also take its
    features (B, E) in their place (`ImageTower.as_features`), which can be computed once and kept."""

    wants_unlabelled: bool = False
    """Whether `loss` takes unlabelled images of a target domain (B', 3, H, W) as a third argument."""

    loss_is_mean: bool = True
    """Whether `loss` is a mean over the images of a batch (terms without images aside): then several processes can
    share one."""

    remembered: frozenset[str] = frozenset()
    """Names of learned buffers that hold images as they are: kept, but not counted as learned parameters."""

    task: int = 0
    """Number of the task at hand in a stream of `tasks`; training chooses among `task_labels`, all if empty."""
    tasks: int = 1
    task_labels: Sequence[int] = ()

    def __init__(self, backbone: nn.Module, classes: Sequence[str]):
        super().__init__()
        check_names(classes)
        self.backbone = backbone.requires_grad_(False).eval()
        self.classes = list(classes)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised images to (B, C) logits."""
        raise InputError(f"{type(self).__name__} defines no forward(images)")

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy, a scalar; `labels` (B,) int64."""
        return F.cross_entropy(self.for_task(self(images)), labels)

    def start_task(self, task: int, tasks: int, labels: Sequence[int] = ()) -> None:
        """Called before task `task`, from 0, of a stream of `tasks`; training will choose among `labels`, if any."""
        self.task, self.tasks, self.task_labels = task, tasks, tuple(labels)

    def for_task(self, logits: Tensor) -> Tensor:
        """Logits (B, C) with -inf for classes that training does not choose among."""
        if not self.task_labels:
            return logits
        other = torch.ones(logits.shape[1], dtype=torch.bool, device=logits.device)
        other[list(self.task_labels)] = False
        return logits.masked_fill(other, -torch.inf)

    def prepare(self, train: Batches, val: Batches) -> None:
        """Called once before training: what is made from the images' features in closed form is made here."""

    def end_epoch(self, epoch: int, epochs: int) -> None:
        """Called after the last step of epoch `epoch`, from 0, of `epochs`; learned tensors may be changed here."""

    def training_state(self) -> dict[str, Tensor]:
        """What training carries from epoch to epoch beside the learned tensors; last.ckpt alone holds it."""
        return {}

    def load_training_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a `training_state()`."""

    def finish(self, train: Batches, val: Batches) -> None:
        """Called once after training: what is chosen by validation images is chosen here."""

    def predictor(self) -> Callable[[Tensor], Tensor]:
        """`forward` for many batches with unchanged parameters: whatever does not depend on images is done once."""
        return self.forward

    def train(self, mode: bool = True) -> Method:
        """Switch the learned part to training; a frozen backbone stays in eval mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    def learned(self) -> list[str]:
        """Names of the tensors that training changes, as the official checkpoints call them."""
        return [learned_name(name) for name in self._changing()]

    def _changing(self) -> list[str]:
        """The names in `state_dict()` of the tensors that training changes."""
        names = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        own_buffers = {name for name, _ in self.named_buffers() if not name.startswith("backbone.")}
        return [name for name in self.state_dict() if name in names | own_buffers]

    def learned_state(self) -> dict[str, Tensor]:
        """Copies of the learned tensors by name."""
        state = self.state_dict()
        return {learned_name(name): state[name].detach().clone() for name in self._changing()}

    def learned_parameters(self) -> int:
        """How many numbers training chooses: without remembered images and the running statistics of norms."""
        left_out = self.remembered | {"running_mean", "running_var", "num_batches_tracked"}
        state = self.learned_state()
        return sum(t.numel() for name, t in state.items() if name.rpartition(".")[2] not in left_out)

    def load_learned_state(self, state: dict[str, Tensor]) -> None:
        """Set the learned tensors; names and shapes must fit exactly."""
        state_dict = self.state_dict()
        own = {learned_name(name): state_dict[name] for name in self._changing()}
        for name in own:
            if name not in state:
                raise InputError(f"the learned state lacks {name!r}; it holds {', '.join(sorted(state)) or 'nothing'}")
            if state[name].shape != own[name].shape:
                theirs, ours = tuple(state[name].shape), tuple(own[name].shape)
                raise InputError(f"learned tensor {name!r} has shape {theirs}, this method needs {ours}")
        extra = sorted(set(state) - set(own))
        if extra:
            raise InputError(f"the learned state holds {extra[0]!r}, which this method does not learn")
        self.load_state_dict({name: state[learned_name(name)] for name in self._changing()}, strict=False)

    def for_classes(self, names: Sequence[str]) -> Method:
        """This method with the same learned tensors for other classes, or a refusal."""
        raise InputError(f"{type(self).__name__} is tied to the classes it was trained on and cannot name new ones")


def learned_name(name: str) -> str:
    """The official name of a tensor of `Method.state_dict()`: a thawed part of the backbone goes by its own name."""
    return name.removeprefix("backbone.").removeprefix("model.") if name.startswith("backbone.") else name


def check_names(classes: Sequence[str]) -> None:
    """Refuse class names that are empty or stand twice: nothing could tell the two apart."""
    if not classes:
        raise InputError("no classes: a method needs at least one class name")
    for label, name in enumerate(classes):
        if not name.strip(" _\t\r\n"):
            raise InputError(f"class {label} has no name ({name!r}); every class needs one")
    if len(set(classes)) < len(classes):
        twin = next(name for label, name in enumerate(classes) if name in classes[:label])
        raise InputError(f"two classes are called {twin!r} (labels {_labels(classes, twin)}); rename one of them")


def _labels(classes: Sequence[str], name: str) -> str:
    return " and ".join(str(label) for label, other in enumerate(classes) if other == name)


def option_defaults(method: type[Method]) -> dict[str, Any]:
    """The keyword-only arguments of a method, in upper case, with their defaults: the keys METHOD.OPTIONS may hold."""
    parameters = inspect.signature(method).parameters.values()
    return {p.name.upper(): p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def build_method(
    method: type[Method], name: str, backbone: nn.Module, classes: Sequence[str], options: Mapping[str, Any]
) -> Method:
    """Construct a method after checking that it has every option asked for."""
    known = [option.lower() for option in option_defaults(method)]
    for option in options:
        if option not in known:
            raise unknown(f"option of {name}", option, known)
    return method(backbone, classes, **options)
