"""bench.py precision: a training step in 16 bits with frozen weights held in them, beside autocast alone.

The weights are random and the same in both, and so are the numbers: the row says whether loss and gradients are equal
bit for bit. Kernels are counted in forward and backward; kept are the most bytes that autograd keeps for backward,
without weights and inputs; weights are all parameters of the method.
"""

import copy

import torch
from bench_step import ROWS, build
from measure import kept_bytes, kernels, listed

import vpt
from promptvision.backbones import load_clip, load_vit
from promptvision.cli import positive
from promptvision.engine.device import PRECISIONS, autocast
from promptvision.experiment.half_precision import hold

COLUMNS = ("method", "", "kernels, cast", "held", "MB kept, cast", "held", "MB weights, cast", "held", "same bits")

METHODS = ("vpt_deep", *ROWS)


def add_options(parser):
    parser.add_argument(
        "--method",
        nargs="+",
        choices=METHODS,
        default=["vpt_deep", "coop", "maple"],
        metavar="NAME",
        help=listed(METHODS),
    )
    parser.add_argument("--precision", nargs="+", choices=("bf16", "fp16"), default=["bf16"], help="of held weights")
    parser.add_argument("--classes", type=positive, default=10, help="number of classes")
    parser.add_argument("--batch", type=positive, default=2, help="images of a step")
    parser.add_argument("--backbone", default="ViT-B-16-quickgelu", help="CLIP of the CLIP methods")
    parser.add_argument("--vit", default="vit_base_patch16_224", help="ViT of vpt_deep, with 10 prompts")


def rows(args):
    """Yield one row per method and precision."""
    for name in args.method:
        torch.manual_seed(0)
        made = (
            visual(args) if name == "vpt_deep" else build(name, load_clip(args.backbone, "none"), args.classes, False)
        )
        method = made.to(args.device).train()
        for precision in args.precision:
            yield compare(name, method, precision, args)


def visual(args):
    """Return VPT-deep with 10 prompts."""
    backbone = load_vit(args.vit, "none")
    return vpt.build("prompt", backbone, [f"class {index}" for index in range(args.classes)], num_tokens=10, deep=True)


def compare(name, method, precision, args):
    """Return one row: kernels, bytes and numbers of both ways."""
    method.to_half(True)
    before = measured(method, precision, args)
    held = copy.deepcopy(method)
    hold(held, PRECISIONS[precision])
    after = measured(held, precision, args)
    same = all(torch.equal(ours, theirs) for ours, theirs in zip(before[3], after[3], strict=True))
    figures = [f"{value:.4g}" for pair in zip(before[:3], after[:3], strict=True) for value in pair]
    return [name, precision, *figures, "yes" if same else "NO"]


def measured(method, precision, args):
    """Return the kernels of a step, MB kept for backward, MB of weights, and loss and gradients."""
    tower = getattr(method.backbone, "image", method.backbone)
    torch.manual_seed(1)
    images = torch.randn(args.batch, 3, tower.image_size, tower.image_size, device=args.device)
    labels = torch.arange(args.batch, device=args.device) % args.classes
    device = torch.device(args.device)

    def loss():
        with autocast(device, precision):
            return method.loss(images, labels)

    def step():
        method.zero_grad(set_to_none=True)
        torch.manual_seed(2)
        found = loss()
        found.backward()
        return [found.detach(), *(p.grad for p in method.parameters() if p.grad is not None)]

    numbers = step()  # which computes what stays the same from step to step
    kept = kept_bytes(loss, (images, labels, *method.parameters(), *method.buffers()))
    return kernels(step), kept / 1e6, sum(p.nbytes for p in method.parameters()) / 1e6, numbers
