"""Learned tensors on a frozen backbone: which they are, their official names, and their state."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from promptvision.errors import InputError


class Learned(nn.Module):
    """A module that learns its own parameters and persistent buffers, and thawed parameters of its `backbone`."""

    remembered: frozenset[str] = frozenset()
    """Names of learned buffers that store training images, or masks: saved, but not counted as learned parameters."""

    dropped: frozenset[str] = frozenset()
    """Names of submodules and buffers that training needs and no test: no learned tensors, but training state."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone.requires_grad_(False).eval()
        self.thawed: set[str] = set()

    def thaw(self, parameters: Iterable[nn.Parameter]) -> None:
        """Learn these parameters of the backbone too."""
        chosen = {id(parameter) for parameter in parameters}
        for name, parameter in self.named_parameters():
            if id(parameter) in chosen:
                parameter.requires_grad_(True)
                self.thawed.add(name)

    def train(self, mode: bool = True) -> Learned:
        """Switch the learned part to training mode; a frozen backbone stays in eval mode."""
        self.training = mode
        for child in self.children():
            if child is not self.backbone:
                child.train(mode)
        if any(module.training for module in self.backbone.modules()):
            self.backbone.eval()
        return self

    def learned(self) -> list[str]:
        """Return the names of the learned tensors, as in the official checkpoints."""
        return [self.official_name(name) for name in self._changing()]

    def official_name(self, name: str) -> str:
        """Return the name that a learned tensor of `state_dict()` has in the official checkpoints."""
        return learned_name(name)

    def _changing(self) -> list[str]:
        """Return the names of the learned tensors in `state_dict()`."""
        without = {"backbone", *self.dropped}
        return [name for name in self._state() if name in self.thawed or name.partition(".")[0] not in without]

    def _state(self) -> dict[str, Tensor]:
        """Return `state_dict()`, without the backbone if none of it is learned."""
        if self.thawed:
            return self.state_dict()
        state = dict[str, Tensor]()
        self._save_to_state_dict(state, "", keep_vars=False)
        for name, child in self._modules.items():
            if child is not None and name != "backbone":
                child.state_dict(destination=state, prefix=f"{name}.")
        return state

    def trained(self) -> dict[str, nn.Parameter]:
        """Return the parameters that gradient descent changes, by their names in `named_parameters()`."""
        changing, dropped = set(self._changing()), self.dropped
        named = self.named_parameters()
        return {name: each for name, each in named if name in changing or name.partition(".")[0] in dropped}

    def learned_state(self) -> dict[str, Tensor]:
        """Return copies of the learned tensors by name."""
        state = self._state()
        return {self.official_name(name): state[name].detach().clone() for name in self._changing()}

    def learned_parameters(self) -> int:
        """Count the learned numbers, without remembered images and the running statistics of norms."""
        left_out = self.remembered | {"running_mean", "running_var", "num_batches_tracked"}
        return sum(each.numel() for name, each in self.learned_state().items() if name.rsplit(".")[-1] not in left_out)

    def load_learned_state(self, state: dict[str, Tensor]) -> None:
        """Set the learned tensors; names and shapes must fit exactly."""
        names, own = {self.official_name(name): name for name in self._changing()}, self._state()
        for name in names:
            if name not in state:
                raise InputError(f"the learned state lacks {name!r}; it holds {', '.join(sorted(state)) or 'nothing'}")
            theirs, ours = tuple(state[name].shape), tuple(own[names[name]].shape)
            if theirs != ours:
                hint = "was it learned on another backbone, or with other options?"
                raise InputError(f"learned tensor {name!r} has shape {theirs}, this method needs {ours}; {hint}")
            if state[name].is_floating_point() != own[names[name]].is_floating_point():
                raise InputError(f"learned tensor {name!r} holds {state[name].dtype}, not {own[names[name]].dtype}")
            if not state[name].float().isfinite().all():
                raise InputError(f"learned tensor {name!r} holds NaN or infinite numbers")
        if extra := sorted(state.keys() - names.keys()):
            raise InputError(f"the learned state holds {extra[0]!r}, which this method does not learn")
        self.load_state_dict({names[name]: tensor for name, tensor in state.items()}, strict=False)


def learned_name(name: str) -> str:
    """Return the official name of a tensor of `Method.state_dict()`: thawed parts of the backbone keep their own."""
    return name.removeprefix("backbone.").removeprefix("model.") if name.startswith("backbone.") else name
