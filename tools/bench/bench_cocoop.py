"""bench.py cocoop: CoCoOp's step through the text tower, image by image; fast encoder and official way."""

import itertools

import torch
import torch.nn.functional as F
from bench_text import class_names, official, step, text_tower
from measure import counted, kept_bytes, seconds

from coop.parts.context import context_prompts
from coop.parts.per_image import mean_loss
from promptvision.backbones.compute import Compute
from promptvision.cli import natural, positive
from promptvision.engine.device import peak_memory

COLUMNS = ("classes", "M", "batch", "seconds", "process GB", "time", "GFLOP", "FLOPs", "MB", "memory")


def add_options(parser):
    parser.add_argument("--classes", type=positive, nargs="+", default=[100], help="numbers of classes")
    parser.add_argument("--ctx", type=positive, nargs="+", default=[16, 4], help="numbers of context vectors")
    parser.add_argument("--batch", type=positive, nargs="+", default=[8], help="images of a step")
    parser.add_argument("--chunk", type=natural, default=0, help="classes computed at once, 0 for all")
    parser.add_argument("--fast-only", action="store_true", help="time and memory of the fast way alone")


def rows(args):
    """Yield one row per cell of the grid that the arguments span."""
    tower = text_tower(args.device)
    tower.compute = Compute("fast", args.chunk)
    for cell in itertools.product(args.classes, args.ctx, args.batch):
        yield compare_conditional(tower, *cell, args)


def cocoop_step(tower, encoder, ctx, images):
    """Take a step as `CoCoOp.loss` does: forward and backward image by image."""
    labels = torch.arange(len(images), device=images.device) % len(encoder.slots)

    def losses(contexts, part):
        logits = 100 * torch.einsum("be,bce->bc", images[part], F.normalize(encoder(tower, contexts), dim=-1))
        return F.cross_entropy(logits, labels[part], reduction="none")

    ctx.grad = None
    mean_loss(ctx, losses, 1).backward()


def compare_conditional(tower, classes, n_ctx, batch, args):
    """Return one row for CoCoOp; the official way loops over the images: one is measured, times the batch."""
    encoder = context_prompts(tower, class_names(classes), n_ctx).to(args.device)
    ctx = (torch.randn(batch, n_ctx, 512, device=args.device) * 0.02).requires_grad_()
    images = F.normalize(torch.randn(batch, 512, device=args.device), dim=-1)
    took = seconds(lambda: cocoop_step(tower, encoder, ctx, images), args.device)
    used = peak_memory(torch.device(args.device))
    row = [f"{classes}", f"{n_ctx}", f"{batch}", f"{took:.1f}", f"{used / 1e9:.2f}"]
    if args.fast_only:
        return row
    plain, one = official(tower, encoder), ctx[0].detach().requires_grad_()
    counts = []
    for way in (plain, lambda c: encoder(tower, c)):
        counts.append(counted(lambda way=way: step(way, one, images[:1]))[1])
    kept = kept_bytes(lambda: plain(one)), kept_bytes(lambda: encoder(tower, ctx[:1]))
    official_took = batch * seconds(lambda: step(plain, one, images[:1]), args.device)
    return [
        *row, f"{official_took / took:.1f}x", f"{batch * counts[1] / 1e9:.0f}", f"{counts[0] / counts[1]:.1f}x",
        f"{kept[1] / 1e6:.0f}", f"{batch * kept[0] / kept[1]:.0f}x",
    ]  # fmt: skip
