"""bench.py text: CoOp's step through the text tower, the fast encoder beside the official way.

The plain way is the official one: every prompt whole, all 77 tokens of it. Random weights of ViT-B/16's sizes.
"""

import itertools

import open_clip
import torch
import torch.nn.functional as F
from measure import counted, kept_bytes, kernels, largest_difference, medians
from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

from coop.parts.context import context_prompts
from promptvision.backbones.compute import Compute
from promptvision.backbones.text import OpenClipText
from promptvision.cli import positive

COLUMNS = (
    "classes",
    "M",
    "position",
    "logits",
    "gradient",
    "kernels",
    "GFLOP",
    "FLOPs",
    "seconds",
    "time",
    "MB",
    "memory",
)
POSITIONS = ("end", "middle", "front")
WHOLE = 100


def add_options(parser):
    parser.add_argument("--classes", type=positive, nargs="+", default=[100], help="numbers of classes")
    parser.add_argument("--ctx", type=positive, nargs="+", default=[16, 4], help="numbers of context vectors")
    parser.add_argument("--position", nargs="+", choices=POSITIONS, default=POSITIONS, help="place of the class name")
    parser.add_argument("--first", action="store_true", help="ImageNet's first names, not evenly picked ones")
    parser.add_argument("--csc", action="store_true", help="class-specific contexts")


def rows(args):
    """Yield one row per cell of the grid that the arguments span."""
    tower = text_tower(args.device)
    for cell in itertools.product(args.classes, args.ctx, args.position):
        yield compare(tower, *cell, args)


def text_tower(device):
    """Return a random text tower of CLIP ViT-B/16's sizes."""
    torch.manual_seed(0)
    with torch.device(device):
        model = open_clip.CLIP(512, dict(layers=1, width=64, image_size=32, patch_size=16), {}, quick_gelu=True)
    tower = OpenClipText(model.eval().requires_grad_(False), open_clip.get_tokenizer("ViT-B-32"), "ViT-B-16")
    tower.positional_embedding.normal_(std=0.02)
    tower.compute = Compute("fast")
    return tower.to(device)


def class_names(count):
    """Return `count` of CLIP's names for ImageNet, evenly picked."""
    return [IMAGENET_CLASSNAMES[i * len(IMAGENET_CLASSNAMES) // count] for i in range(count)]


def official(tower, encoder):
    """Encode contexts into features as CoOp's `TextEncoder` does: all 77 tokens through every block."""

    def features(ctx):
        prompts = encoder.prompts(tower, ctx[None])
        tokens = F.pad(prompts, (0, 0, 0, tower.context_length - prompts.shape[1])) + tower.positional_embedding
        for block in tower.blocks:
            tokens = block(tokens, attn_mask=tower.mask)
        ends = tower.ln_final(tokens)[torch.arange(len(tokens)), encoder.eot]
        return ends @ tower.projection

    return features


def step(features, ctx, images):
    """Go forward and backward as in a training step: cosine logits of 32 images, cross-entropy."""
    logits = 100 * images @ F.normalize(features(ctx), dim=-1).T
    loss = F.cross_entropy(logits, torch.arange(len(images), device=images.device) % logits.shape[1])
    ctx.grad = None
    loss.backward()
    return logits.detach(), ctx.grad


def compare(tower, classes, n_ctx, position, args):
    """Return one row: how equal, and plain divided by fast of FLOPs, time and bytes.

    The plain way treats every class alone: of many classes it runs the first WHOLE, and its numbers are scaled up.
    """
    device, names = args.device, IMAGENET_CLASSNAMES[:classes] if args.first else class_names(classes)
    options = dict(position=position, class_specific=args.csc)
    encoder = context_prompts(tower, names, n_ctx, **options).to(device)
    some = context_prompts(tower, names[:WHOLE], n_ctx, **options).to(device)
    ctx = (torch.randn((classes, n_ctx, 512) if args.csc else (n_ctx, 512), device=device) * 0.02).requires_grad_()
    part = ctx.detach()[:WHOLE].clone().requires_grad_() if args.csc else ctx
    images = F.normalize(torch.randn(32, 512, device=device), dim=-1)
    more = max(1, classes / WHOLE)
    results = [step(way, part, images) for way in (official(tower, some), lambda c: some(tower, c))]
    encoder(tower, ctx)  # which computes the constants
    ways = {"plain": (official(tower, some), part), "fast": (lambda c: encoder(tower, c), ctx)}
    counts = {name: counted(lambda w=work: step(*w, images))[1] for name, work in ways.items()}
    bytes_kept = {name: kept_bytes(lambda w=work: w[0](w[1])) for name, work in ways.items()}
    steps = {name: lambda w=work: step(*w, images) for name, work in ways.items()}
    took = medians(steps, args.repeats, device)
    for measured in (counts, bytes_kept, took):
        measured["plain"] *= more
    return [
        f"{classes}", f"{n_ctx}", position + (", class-specific" if args.csc else ""),
        *(largest_difference(fast, plain) for plain, fast in zip(*results, strict=True)),
        f"{kernels(lambda: step(*ways['fast'], images))}",
        f"{counts['fast'] / 1e9:.2f}", f"{counts['plain'] / counts['fast']:.1f}x",
        f"{took['fast']:.2f}", f"{took['plain'] / took['fast']:.1f}x",
        f"{bytes_kept['fast'] / 1e6:.0f}", f"{bytes_kept['plain'] / bytes_kept['fast']:.1f}x",
    ]  # fmt: skip
