"""bench.py vit: a step of a ViT method, its default way beside the official one, on the same random weights.

The official way runs every block whole, for all tokens, attention written out (its weights are kept for backward);
autograd goes through all blocks from the first one on that something learned enters.
"""

import torch
from bench_image import official
from bench_step import COLUMNS, compared, measure  # noqa: F401
from measure import listed

import vpt
from promptvision.backbones import load_vit
from promptvision.backbones.compute import Compute
from promptvision.cli import positive

UNTRAINED = ("knn", "simple_cil", "swin_prompt", "prompt_ablations")
"""Nothing is learned, a Swin has no class token, and the ablations cost what `prompt` does."""
OPTIONS = {
    "partial": dict(blocks=1),
    "partial, 4 blocks": dict(blocks=4),
    "adapter, AdaptFormer": dict(parallel=True, bottleneck=64),
    "fact, Tucker": dict(decomposition="tk", rank=32),
    "adapter, Houlsby": dict(sequential=True, after_attention=True, bottleneck=8),
    "prompt": dict(num_tokens=10),
    "prompt, deep": dict(num_tokens=10, deep=True),
    "prompt, 100 deep": dict(num_tokens=100, deep=True),
    "dtl, DTL+": dict(kernel=3),
    "full, checkpoint": {},
    "adapter, checkpoint": {},
    "lora, checkpoint": {},
    "prompt, deep, checkpoint": dict(num_tokens=10, deep=True),
}
"""Options where they are not the defaults. A row is `method`, or `method, what`; "checkpoint" is COMPUTE.CHECKPOINT."""
ROWS = [*dict.fromkeys([*(name for name in vpt.METHODS if name not in UNTRAINED), *OPTIONS])]


def add_options(parser):
    parser.add_argument("--method", nargs="+", choices=ROWS, default=ROWS, metavar="NAME", help=listed(ROWS))
    parser.add_argument("--classes", type=positive, default=100, help="number of classes")
    parser.add_argument("--batch", type=positive, default=1, help="images of a step")
    parser.add_argument("--backbone", default="vit_base_patch16_224", help="BACKBONE.NAME; its weights are random")


def rows(args):
    """Yield one row per method; the same weights in all."""
    torch.manual_seed(0)
    tower = load_vit(args.backbone, "none").to(args.device)
    for row in args.method:
        yield compare(row, tower, args)


def compare(row, tower, args):
    """Return FLOPs and bytes of both ways, and how equal their logits and gradients are."""
    torch.manual_seed(1)
    batch = torch.randn(args.batch, 3, tower.image_size, tower.image_size, device=args.device)
    labels = torch.arange(args.batch, device=args.device) % args.classes
    found = []
    for plain in (True, False):
        backbone = official(tower) if plain else tower
        backbone.compute = Compute("plain") if plain else Compute(checkpoint=row.endswith("checkpoint"))
        torch.manual_seed(1)
        names = [f"class {index}" for index in range(args.classes)]
        method = vpt.build(row.partition(",")[0], backbone, names, **OPTIONS.get(row, {})).to(args.device)
        found.append(measure(method, batch, labels))
        tower.requires_grad_(False).eval().zero_grad(set_to_none=True)
    return compared(row, *found)
