"""bench.py classes: the memory of CoOp's step through the text tower with very many classes, random weights.

Constants: bytes that are kept from step to step. Kept: bytes that autograd keeps from forward to backward. Peak: growth
of the process's resident memory during the step (Linux), which has what comes and goes too.
"""

from pathlib import Path

import open_clip
import torch
from measure import kept_bytes, seconds
from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

from coop.parts.context import context_prompts
from promptvision.backbones.compute import Compute
from promptvision.backbones.text import OpenClipText
from promptvision.cli import natural, positive, whole

COLUMNS = ("classes", "chunk", "constants MB", "kept MB", "peak MB", "planned s", "step s")
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def add_options(parser):
    parser.add_argument("--classes", type=positive, nargs="+", default=[2100, 21000], help="numbers of classes")
    parser.add_argument("--chunk", type=chunk, nargs="+", default=[0, 500], help="COMPUTE.CHUNK: a number, or auto")
    parser.add_argument("--layers", type=positive, default=2, help="blocks of the text tower")
    parser.add_argument("--width", type=whole(64, 64), default=512, help="of the text tower, 64 for each head")


def chunk(word):
    """Return `auto`, or the number of classes that are computed at once."""
    return word if word == "auto" else natural(word)


def rows(args):
    """Yield one row for each number of classes and each chunk."""
    tower = text_tower(args.width, args.layers).to(args.device)
    for count in args.classes:
        for at_once in args.chunk:
            tower.compute = Compute("fast", at_once)
            yield measured(tower, count, at_once)


def text_tower(width, layers):
    torch.manual_seed(0)
    text = dict(width=width, layers=layers, heads=width // 64)
    model = open_clip.CLIP(width, dict(layers=1, width=64, image_size=32, patch_size=16), text)
    return OpenClipText(model.eval().requires_grad_(False), open_clip.get_tokenizer("ViT-B-32"))


def names(count):
    """Return CLIP's names for ImageNet, with a number after the first thousand."""
    size = len(IMAGENET_CLASSNAMES)
    return [IMAGENET_CLASSNAMES[i % size] + (f" {i // size}" if i >= size else "") for i in range(count)]


def measured(tower, count, at_once):
    made, device = [], tower.positional_embedding.device
    planned = seconds(lambda: made.append(context_prompts(tower, names(count), 16)), "cpu")
    encoder, ctx = made[0].to(device), torch.randn(16, tower.width, device=device, requires_grad=True)
    with torch.no_grad():
        encoder(tower, ctx)
    constants = stored(encoder.packed.kept.found)
    weights, before = torch.randn(count, tower.width, device=device), start_peak()
    took = seconds(lambda: (encoder(tower, ctx) * weights).sum().backward(), device.type)
    grown = peak() - before
    found = []
    kept = kept_bytes(lambda: found.append((encoder(tower, ctx) * weights).sum()))
    megabytes = (f"{number / 1e6:.0f}" for number in (constants, kept, grown))
    return f"{count:,}", f"{at_once}", *megabytes, f"{planned:.1f}", f"{took:.1f}"


def stored(found):
    """Return the bytes of all tensors in nested values, every storage once."""
    storages, left = {}, [found]
    while left:
        each = left.pop()
        if isinstance(each, torch.Tensor):
            storages[each.untyped_storage().data_ptr()] = each.untyped_storage().nbytes()
        elif isinstance(each, dict):
            left += each.values()
        elif isinstance(each, list | tuple):
            left += each
        elif hasattr(each, "__dict__"):
            left += vars(each).values()
    return sum(storages.values())


def start_peak():
    """Forget the largest resident size so far, and return that of now in bytes."""
    if CLEAR.exists():
        CLEAR.write_text("5")
    return peak()


def peak():
    """Return the largest resident size in bytes, 0 where the system does not tell."""
    lines = STATUS.read_text().splitlines() if STATUS.exists() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)
