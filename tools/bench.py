"""The fast ways against the plain ones, on the same weights: python tools/bench.py text --classes 100 --ctx 16

For visual prompts: python tools/bench.py image --prompts 10 50 100 200 --batch 8
For prompts in both towers (IVLP, MaPLe, PromptSRC): python tools/bench.py deep --classes 20 --batch 4 --no-time
For loading pictures: python tools/bench.py data --pictures 256
For runs that are killed: python tools/bench.py kill --times 50 --method coop cocoop prompt

FLOPs are torch's count of forward and backward. Times are medians of interleaved runs. Bytes are what autograd keeps
for backward. The plain way is the official one: every prompt whole, all 77 tokens of it.
"""

import argparse
import itertools

import bench_data
import bench_deep
import bench_image
import bench_kill
import open_clip
import torch
import torch.nn.functional as F
from measure import counted, kept_bytes, largest_difference, medians, seconds
from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES
from rich.console import Console
from rich.table import Table

from coop.context import context_prompts
from coop.per_image import mean_loss
from promptvision.backbones.text import OpenClipText
from promptvision.engine.device import peak_memory
from promptvision.errors import one_sentence


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "what",
        choices=("text", "cocoop", "image", "deep", "data", "kill"),
        help="CoOp's text step, CoCoOp's, VPT's step, that of prompts in both towers, loading, or runs that are killed",
    )
    parser.add_argument("--times", type=int, default=10, help="kill: how often each method's runs are killed")
    parser.add_argument("--method", nargs="+", choices=tuple(bench_kill.METHODS), default=["coop"], help="kill")
    parser.add_argument("--seed", type=int, default=0, help="kill: of the moments")
    parser.add_argument("--pictures", type=int, default=256, help="loading: number of JPEGs of 500x375 pixels")
    parser.add_argument("--size", type=int, default=224, help="loading: side of the input")
    parser.add_argument("--batch", type=int, nargs="+", default=[8], help="pictures of a CoCoOp or VPT step")
    parser.add_argument("--prompts", type=int, nargs="+", default=[10, 50, 100, 200], help="VPT: number of prompts")
    parser.add_argument("--kind", nargs="+", choices=("deep", "shallow"), default=["deep", "shallow"], help="VPT")
    parser.add_argument("--classes", type=int, nargs="+", default=[100])
    parser.add_argument("--ctx", type=int, nargs="+", default=[16, 4])
    parser.add_argument("--position", nargs="+", default=["end", "middle", "front"])
    parser.add_argument("--csc", action="store_true", help="class-specific contexts")
    parser.add_argument("--chunk", type=int, default=0, help="CoCoOp: classes computed at once, 0 for all")
    parser.add_argument("--fast-only", action="store_true", help="CoCoOp: time and memory of the fast way alone")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of each way")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-time", action="store_true", help="count only: exactness, FLOPs, bytes")
    return parser.parse_args()


def text_tower(device):
    """A random text tower of CLIP ViT-B/16's sizes."""
    torch.manual_seed(0)
    with torch.device(device):
        model = open_clip.CLIP(512, dict(layers=1, width=64, image_size=32, patch_size=16), {}, quick_gelu=True)
    tower = OpenClipText(model.eval().requires_grad_(False), open_clip.get_tokenizer("ViT-B-32"), "ViT-B-16")
    tower.positional_embedding.normal_(std=0.02)
    return tower.to(device)


def class_names(count):
    """`count` of CLIP's names for ImageNet, evenly picked."""
    return [IMAGENET_CLASSNAMES[i * len(IMAGENET_CLASSNAMES) // count] for i in range(count)]


def official(tower, encoder):
    """Contexts to features as CoOp's `TextEncoder` computes them: all 77 tokens through every block."""

    def features(ctx):
        prompts = encoder.prompts(ctx[None])[0]
        tokens = F.pad(prompts, (0, 0, 0, tower.context_length - prompts.shape[1])) + tower.positional_embedding
        for block in tower.blocks:
            tokens = block(tokens, attn_mask=tower.mask)
        ends = tower.ln_final(tokens)[torch.arange(len(tokens)), encoder.eot]
        return ends @ tower.projection

    return features


def step(features, ctx, images):
    """Forward and backward of one training step: cosine logits of 32 pictures, cross-entropy."""
    logits = 100 * images @ F.normalize(features(ctx), dim=-1).T
    loss = F.cross_entropy(logits, torch.arange(len(images), device=images.device) % logits.shape[1])
    ctx.grad = None
    loss.backward()
    return logits.detach(), ctx.grad


def compare(tower, classes, n_ctx, position, args):
    """One row: how equal, and plain divided by fast of FLOPs, time and bytes.

    The plain way treats every class alone: of many classes it runs the first WHOLE, and its numbers are scaled up.
    """
    device, names = args.device, class_names(classes)
    options = dict(position=position, class_specific=args.csc)
    encoder = context_prompts(tower, names, n_ctx, way="fast", **options).to(device)
    some = context_prompts(tower, names[:WHOLE], n_ctx, way="fast", **options).to(device)
    ctx = (torch.randn((classes, n_ctx, 512) if args.csc else (n_ctx, 512), device=device) * 0.02).requires_grad_()
    part = ctx.detach()[:WHOLE].clone().requires_grad_() if args.csc else ctx
    images = F.normalize(torch.randn(32, 512, device=device), dim=-1)
    more = max(1, classes / WHOLE)
    results = [step(way, part, images) for way in (official(tower, some), lambda c: some(tower, c))]
    ways = {"plain": (official(tower, some), part), "fast": (lambda c: encoder(tower, c), ctx)}
    counts = {name: counted(lambda w=work: step(*w, images))[1] for name, work in ways.items()}
    bytes_kept = {name: kept_bytes(lambda w=work: w[0](w[1])) for name, work in ways.items()}
    steps = {name: lambda w=work: step(*w, images) for name, work in ways.items()}
    took = medians(steps, 0 if args.no_time else args.repeats, device)
    for measured in (counts, bytes_kept, took):
        measured["plain"] *= more
    return [
        f"{classes}", f"{n_ctx}", position + (", class-specific" if args.csc else ""),
        *(largest_difference(fast, plain) for plain, fast in zip(*results, strict=True)),
        f"{counts['fast'] / 1e9:.2f}", f"{counts['plain'] / counts['fast']:.1f}x",
        f"{took['fast']:.2f}", f"{took['plain'] / took['fast']:.1f}x",
        f"{bytes_kept['fast'] / 1e6:.0f}", f"{bytes_kept['plain'] / bytes_kept['fast']:.1f}x",
    ]  # fmt: skip


def cocoop_step(tower, encoder, ctx, images):
    """A step as `CoCoOp.loss` takes it: forward and backward picture by picture."""
    labels = torch.arange(len(images), device=images.device) % len(encoder.slots)

    def losses(contexts, part):
        logits = 100 * torch.einsum("be,bce->bc", images[part], F.normalize(encoder(tower, contexts), dim=-1))
        return F.cross_entropy(logits, labels[part], reduction="none")

    ctx.grad = None
    mean_loss(ctx, losses, 1).backward()


def compare_conditional(tower, classes, n_ctx, batch, args):
    """One row for CoCoOp; the official way loops over the pictures, so one of them is measured, times the batch."""
    encoder = context_prompts(tower, class_names(classes), n_ctx, way="fast", chunk=args.chunk).to(args.device)
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


CONDITIONAL = ("classes", "M", "batch", "seconds", "process GB", "time", "GFLOP", "FLOPs", "MB", "memory")
WHOLE = 100
COLUMNS = ("classes", "M", "position", "logits", "gradient", "GFLOP", "FLOPs", "seconds", "time", "MB", "memory")


def text_rows(args):
    """One row per cell of the grid that the arguments span."""
    tower = text_tower(args.device)
    work, last = (compare_conditional, args.batch) if args.what == "cocoop" else (compare, args.position)
    for cell in itertools.product(args.classes, args.ctx, last):
        yield work(tower, *cell, args)


def main():
    args = arguments()
    torch.set_num_threads(args.threads)
    columns = {
        "text": ("CoOp's text step", COLUMNS),
        "cocoop": ("CoCoOp's text step", CONDITIONAL[:5] if args.fast_only else CONDITIONAL),
        "image": ("VPT's step", bench_image.COLUMNS),
        "deep": ("Prompts in both towers, a step", bench_deep.COLUMNS),
        "data": (f"JPEGs of 500x375 to {args.size}x{args.size}", bench_data.COLUMNS),
        "kill": ("Killed runs against runs left alone", bench_kill.COLUMNS),
    }
    what, names = columns[args.what]
    sizes = "" if args.what in ("data", "kill") else f", ViT-B/16 sizes, float32, {args.device}"
    table = Table(*names, title=f"{what}{sizes}, {args.threads} thread")
    others = {"image": bench_image.rows, "deep": bench_deep.rows, "data": bench_data.rows, "kill": bench_kill.rows}
    for row in others.get(args.what, text_rows)(args):
        table.add_row(*row)
    Console(width=120).print(table)


if __name__ == "__main__":
    with one_sentence():
        main()
