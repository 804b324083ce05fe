"""bench.py deep: a training step of prompts in both towers, the fast encoders beside the official way.

The official way runs every prompt whole, all 77 tokens of it, and every image block whole; autograd goes through all
blocks from the first prompt on. Random CLIP of ViT-B/16's sizes.
"""

import copy
import itertools

import torch
from measure import counted, kept_bytes, largest_difference, medians
from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

import coop
from promptvision.backbones import CLIP, load_clip

COLUMNS = ("method", "classes", "batch", "loss", "gradient", "GFLOP", "FLOPs", "seconds", "time", "MB", "memory")
PRESETS = {
    "ivlp": dict(n_ctx_text=2, n_ctx_vision=2, depth_text=12, depth_vision=12),
    "language": dict(n_ctx_text=4, depth_text=12, depth_vision=0),
    "maple": dict(n_ctx=2, depth=9),
    "prompt_src": dict(depth_text=9, depth_vision=9, teacher_templates=["a photo of a {}."]),
}
"""Options of the published base-to-new presets; `language` is IVLP without visual prompts. The teacher's texts, which
are encoded once (before the count, in `kept_bytes`), are few here."""


def rows(args):
    """One row per method, number of classes and batch size; the same weights in all."""
    torch.manual_seed(0)
    clip = load_clip("ViT-B-16-quickgelu", "none").to(args.device)
    for method, classes, batch in itertools.product(PRESETS, args.classes, args.batch):
        yield compare(method, clip, classes, batch, args)


def official(clip):
    """The same weights; the text tower does not know that it need not look behind the end token."""
    text = copy.copy(clip.text)
    text.causal = False
    return CLIP(clip.name, clip.image, text, clip.logit_scale)


def build(method, clip, classes, way):
    torch.manual_seed(1)
    names = [IMAGENET_CLASSNAMES[i * len(IMAGENET_CLASSNAMES) // classes] for i in range(classes)]
    built = coop.build("ivlp" if method == "language" else method, clip, names, way=way, **PRESETS[method])
    return built.to(clip.logit_scale.device).train()


def step(method, images, labels):
    """Forward and backward; the loss and the gradients of all that is learned."""
    method.zero_grad(set_to_none=True)
    loss = method.loss(images, labels)
    loss.backward()
    return loss.detach(), torch.cat([p.grad.flatten() for p in method.parameters() if p.requires_grad])


def compare(name, clip, classes, batch, args):
    """One row: how equal, and plain divided by fast of FLOPs, time and bytes of a step."""
    methods = {"plain": build(name, official(clip), classes, "plain"), "fast": build(name, clip, classes, "fast")}
    images = torch.randn(batch, 3, 224, 224, device=args.device)
    labels = torch.arange(batch, device=args.device) % classes
    results, counts, kept = {}, {}, {}
    for way, method in methods.items():
        given = (images, labels, *method.parameters())
        kept[way] = kept_bytes(lambda method=method: method.loss(images, labels), given)
        results[way], counts[way] = counted(lambda method=method: step(method, images, labels))
    work = {way: lambda method=method: step(method, images, labels) for way, method in methods.items()}
    took = medians(work, 0 if args.no_time else args.repeats, args.device)
    return [
        name, f"{classes}", f"{batch}",
        *(largest_difference(fast, plain) for plain, fast in zip(results["plain"], results["fast"], strict=True)),
        f"{counts['fast'] / 1e9:.0f}", f"{counts['plain'] / counts['fast']:.1f}x",
        f"{took['fast']:.2f}", f"{took['plain'] / took['fast']:.1f}x",
        f"{kept['fast'] / 1e6:.0f}", f"{kept['plain'] / kept['fast']:.1f}x",
    ]  # fmt: skip
