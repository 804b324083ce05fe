"""A step that is captured in a CUDA graph, so that the device runs it without waiting for the host."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch

from promptvision.engine.capture.optimizer import DeviceOptimizer, unknown_optimizer
from promptvision.engine.capture.watch import Held, Watch
from promptvision.engine.device import autocast
from promptvision.engine.distributed import part
from promptvision.engine.step import Batch, Later, Step
from promptvision.method import Method

LOG = logging.getLogger(__name__)
DEVICES = {"cuda"}
"""Kinds of device on which COMPUTE.GRAPH auto captures steps."""
WITHOUT = "Steps run without a CUDA graph: %s"
WARM_UP = 3
"""Steps that run as usual before one is captured."""


def choose_step(step: Step, graph: str, accumulate: int) -> Step:
    """Return the step that COMPUTE.GRAPH `graph`, auto or off, asks for; log why it is the ordinary one."""
    if graph == "off" or step.device.type not in DEVICES:
        return step
    obstacle = _obstacle(step, accumulate)
    if obstacle:
        LOG.info(WITHOUT, obstacle)
        return step
    return GraphStep(step.method, step.optimizer, step.scaler, step.device, step.precision, step.clip)


def _obstacle(step: Step, accumulate: int) -> str:
    """Return why no step of this run can be captured, "" if nothing says so before the first."""
    if part()[1] > 1:
        return "several processes share each batch"
    if accumulate > 1:
        return f"a step takes {accumulate} batches (OPTIM.ACCUMULATE)"
    if step.scaler.is_enabled():
        return "the host scales the loss in fp16 (TRAIN.PRECISION)"
    if type(step.method).end_epoch is not Method.end_epoch:
        return f"{type(step.method).__name__} changes at the ends of epochs"
    unknown = unknown_optimizer(step.optimizer)
    return f"{unknown} needs the host in each step (OPTIM.NAME)" if unknown else ""


class Capture:
    """Work on a device that can be captured in a graph, and replayed; without CUDA a replay is a plain call."""

    def __init__(self, work: Callable[[], None], device: torch.device):
        self.work, self.device = work, device
        self.replay: Callable[[], None] | None = None

    def warm_up(self) -> None:
        """Run the work on a stream of its own, which a capture demands of what precedes it."""
        if self.device.type != "cuda":
            self.work()
            return
        stream, current = torch.cuda.Stream(self.device), torch.cuda.current_stream(self.device)
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            self.work()
        current.wait_stream(stream)

    def start(self) -> None:
        """Capture the work, which does not run it."""
        if self.device.type != "cuda":
            self.replay = self.work
            return
        graph, self.held = torch.cuda.CUDAGraph(), Held()
        with torch.cuda.graph(graph), self.held:
            self.work()
        self.replay = graph.replay


@dataclass
class GraphStep(Step):
    """A step on buffers that stay in place: loss, backward, clipping and update, captured after a warm-up.

    Its loss is read when the next step is on its way. One that is not finite changes nothing, and neither do the steps
    after it: the device decides that. A batch of another size, and every batch after an obstacle was found, takes the
    same step without the graph.
    """

    def __post_init__(self) -> None:
        self.update = DeviceOptimizer(self.optimizer, self.device)
        self.sound = torch.ones((), dtype=torch.bool, device=self.device)
        self.value = torch.zeros((), dtype=torch.double, device=self.device)
        self.inputs: Batch = ()
        self.buffers: Batch = ()
        self.capture = Capture(self._work, self.device)
        self.taken, self.largest, self.obstacle, self.told = 0, 0, "", False

    def take(self, batches: Sequence[Batch]) -> float | Later:
        """Update the learned tensors once and return the loss, which is `Later`."""
        (batch,) = batches
        self.taken, self.largest = self.taken + 1, max(self.largest, _size(batch))
        self.update.announce()
        if self.taken <= WARM_UP:
            self._warm_up(batch)
        elif self.capture.replay is None and not self.obstacle and _size(batch) == self.largest:
            self._capture(batch)
        if self.taken > WARM_UP:
            self._run(batch)
        self.update.count()
        return Later(self.value)

    def renew(self) -> None:
        """Capture again: what a captured step reads besides the batch has been replaced."""
        self.capture, self.taken = Capture(self._work, self.device), 0

    def _warm_up(self, batch: Batch) -> None:
        """Take a step as it will be captured; the second is watched, since the first may compute constants."""
        self.inputs, watch = [tensor.to(self.device) for tensor in batch], Watch(self.method, self.device)
        with watch if self.taken == WARM_UP - 1 else nullcontext():
            self.capture.warm_up()
        if watch.obstacle:
            self._give_up(watch.obstacle)

    def _capture(self, batch: Batch) -> None:
        """Capture a step on batches like this one."""
        self.inputs = self.buffers = [tensor.to(self.device, copy=True) for tensor in batch]
        try:
            self.capture.start()
        except RuntimeError as error:  # nothing of the step has run
            self.buffers = ()
            self._give_up(str(error).partition("\n")[0])

    def _run(self, batch: Batch) -> None:
        """Replay the captured step on a batch of its size, or take it without a graph."""
        if self.capture.replay and [t.shape for t in batch] == [t.shape for t in self.buffers]:
            self.inputs = self.buffers
            for buffer, tensor in zip(self.buffers, batch, strict=True):
                buffer.copy_(tensor.pin_memory() if buffer.is_cuda > tensor.is_cuda else tensor, non_blocking=True)
            self.capture.replay()
            return
        if self.capture.replay and not self.told:
            size, others = len(batch[1]), len(self.buffers[1])
            LOG.info(WITHOUT, f"a batch of {size} among batches of {others}, in its own step alone")
            self.told = True
        self.inputs = [tensor.to(self.device) for tensor in batch]
        self._work()

    def _work(self) -> None:
        """Take a step on `inputs` without reading anything back."""
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.device, self.precision):
            loss = self.method.loss(*self.inputs)
        loss.backward()
        self.value.copy_(loss.detach())
        self.sound.logical_and_(loss.detach().isfinite())
        if self.clip:
            torch.nn.utils.clip_grad_norm_(self.learned, self.clip)
        self.update.step(self.sound)

    def _give_up(self, obstacle: str) -> None:
        self.obstacle = obstacle
        LOG.info(WITHOUT, obstacle)


def _size(batch: Batch) -> int:
    return sum(tensor.numel() for tensor in batch)
