"""bench.py image: a training step of visual prompts, the fast image encoder beside the plain one.

The plain way is the official one: every block whole, attention written out (its weights are kept for backward),
autograd through all blocks from the first prompt on.
"""

import copy
import itertools

import timm
import torch
from measure import counted, kept_bytes, largest_difference, medians

import vpt
from promptvision.backbones.compute import Compute
from promptvision.cli import positive

COLUMNS = (
    "prompts", "kind", "batch", "logits", "gradient", "GFLOP", "FLOPs", "seconds", "time", "MB", "memory",
)  # fmt: skip
KINDS = ("deep", "shallow")
CLASSES = [f"class {index}" for index in range(100)]


def add_options(parser):
    parser.add_argument("--prompts", type=positive, nargs="+", default=[10, 50, 100, 200], help="numbers of prompts")
    parser.add_argument("--kind", nargs="+", choices=KINDS, default=KINDS, help="in every layer, or in the first")
    parser.add_argument("--batch", type=positive, nargs="+", default=[8], help="images of a step")


def rows(args):
    """Yield one row per number of prompts, kind and batch size; the same random ViT-B/16 in all."""
    torch.manual_seed(0)
    tower = vpt.load_backbone(timm.create_model("vit_base_patch16_224", num_classes=0)).to(args.device)
    for count, kind, batch in itertools.product(args.prompts, args.kind, args.batch):
        yield compare(tower, count, kind, batch, args)


def official(tower):
    """Return the tower with the same weights and without fused attention."""
    plain = copy.deepcopy(tower, {id(parameter): parameter for parameter in tower.parameters()})
    for block in plain.blocks:
        block.attn.fused_attn = False
    return plain


def step(method, images, labels):
    """Go forward and backward; return the logits and the gradients of the prompts."""
    method.zero_grad(set_to_none=True)
    logits = method(images)
    torch.nn.functional.cross_entropy(logits, labels).backward()
    prompts = [p.grad.flatten() for name, p in method.named_parameters() if "prompt_embeddings" in name]
    return logits.detach(), torch.cat(prompts)


def compare(tower, count, kind, batch, args):
    """Return one row: how equal, and plain divided by fast of FLOPs, time and bytes."""
    methods = {}
    for way, backbone in (("plain", official(tower)), ("fast", tower)):
        torch.manual_seed(1)
        backbone.compute = Compute(way)
        methods[way] = vpt.build("prompt", backbone, CLASSES, num_tokens=count, deep=kind == "deep")
        methods[way].to(args.device).train()
    images = torch.randn(batch, 3, tower.image_size, tower.image_size, device=args.device)
    labels = torch.arange(batch, device=args.device) % len(CLASSES)
    ways = {way: lambda method=method: step(method, images, labels) for way, method in methods.items()}
    (plain, plain_flops), (fast, fast_flops) = (counted(work) for work in ways.values())
    kept = {}
    for way, method in methods.items():
        given = (images, labels, *method.parameters())
        kept[way] = kept_bytes(lambda method=method: method.loss(images, labels), given)
    took = medians(ways, args.repeats, args.device)
    return [
        f"{count}", kind, f"{batch}",
        largest_difference(fast[0], plain[0]), largest_difference(fast[1], plain[1]),
        f"{fast_flops / 1e9:.0f}", f"{plain_flops / fast_flops:.3f}x",
        f"{took['fast']:.2f}", f"{took['plain'] / took['fast']:.2f}x",
        f"{kept['fast'] / 1e6:.0f}", f"{kept['plain'] / kept['fast']:.2f}x",
    ]  # fmt: skip
