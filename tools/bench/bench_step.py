"""bench.py step: a step of a CLIP method, its default way beside the official one, on the same random weights.

The official way runs every prompt of every class whole, padding included, through untouched blocks; autograd goes
through all of them from the first prompt on. What stays the same from step to step (zero-shot features, the fast way's
constants) is computed once, before the count, in both. Images go through the image tower in both.
"""

import copy

import torch
import torch.nn.functional as F
from bench_text import class_names
from measure import Kept, counted, largest_difference, listed
from torch.optim.optimizer import register_optimizer_step_pre_hook

import coop
from coop.parts.teacher import Descriptions, Teacher, filled
from coop.parts.upper_blocks import UpperText
from promptvision.backbones import CLIP, load_clip
from promptvision.backbones.classes.entered import EnteredTexts
from promptvision.backbones.classes.inserted import InsertedTokens
from promptvision.backbones.compute import Compute
from promptvision.backbones.packing import CONSTANT
from promptvision.backbones.prompt_encoder import ChangedTexts, PromptEncoder
from promptvision.cli import positive

COLUMNS = ("method", "GFLOP, official", "here", "less", "MB kept, official", "here", "less", "logits", "gradient")
UNTRAINED = ("zero_shot", "linear_probe", "tip_adapter", "gda", "lp_plus_plus")
OPTIONS = {
    "coop": dict(n_ctx=16),
    "cocoop": dict(ctx_init="a photo of a"),
    "vpt": dict(n_ctx=8, depth=12),
    "clip_lora": dict(dropout=0.25),
    "clip_lora, no dropout": dict(dropout=0.0),
    "ivlp": dict(n_ctx_text=2, n_ctx_vision=2, depth_text=12, depth_vision=12),
    "ivlp, language alone": dict(n_ctx_text=4, depth_text=12, depth_vision=0),
    "maple": dict(n_ctx=2, depth=9),
    "co_prompt": dict(n_ctx=2, depth=9),
    "prompt_src": dict(depth_text=9, depth_vision=9, teacher_templates=["a photo of a {}."]),
    "prompt_kd": dict(depth=9),
    "mma_pp": dict(ensemble="select", dropout=0.2),
    "mma_pp, no dropout": dict(ensemble="select", dropout=0.0),
    "at_prompt": dict(n_ctx=2),
    "dept, MaPLe": dict(host="maple", n_ctx=2, depth=9),
}
"""Options of the published presets where they are not the defaults; where a depth is more than a tower has, all of it.
The texts of a teacher, which are encoded before the count, are few here. A row is `method`, or `method, what`."""
ROWS = [*dict.fromkeys([*(name for name in coop.METHODS if name not in UNTRAINED), *OPTIONS])]
SHOTS = 16
"""Shots of Tip-Adapter-F's cache."""


def add_options(parser):
    parser.add_argument("--method", nargs="+", choices=ROWS, default=ROWS, metavar="NAME", help=listed(ROWS))
    parser.add_argument("--classes", type=positive, default=100, help="number of classes")
    parser.add_argument("--batch", type=positive, default=4, help="images of a step")
    parser.add_argument("--backbone", default="ViT-B-16-quickgelu", help="BACKBONE.NAME; its weights are random")


def rows(args):
    """Yield one row per method; the same weights in all."""
    torch.manual_seed(0)
    clip = load_clip(args.backbone, "none").to(args.device)
    for row in args.method:
        yield compare(row, clip, args)


def compare(row, clip, args):
    """Return FLOPs and bytes of both ways, and how equal their logits and gradients are."""
    torch.manual_seed(1)
    batch = torch.randn(args.batch, 3, clip.image.image_size, clip.image.image_size, device=args.device)
    labels = torch.arange(args.batch, device=args.device) % args.classes
    found = [measure(build(row, clip, args.classes, official), batch, labels) for official in (True, False)]
    return compared(row, *found, drawn=OPTIONS.get(row, {}).get("dropout"))


def compared(row, official, ours, drawn=0.0):
    """Return the cells of a row from what `measure` found of each way; where dropout draws, nothing is compared."""
    (flops, kept, *theirs), (our_flops, our_kept, *ours) = official, ours
    equal = (largest_difference(our, their) for our, their in zip(ours, theirs, strict=True))
    return [
        row,
        f"{flops / 1e9:.4g}", f"{our_flops / 1e9:.4g}", f"{flops / our_flops:.2f}x",
        f"{kept / 1e6:.4g}", f"{our_kept / 1e6:.4g}", f"{kept / our_kept:.2f}x",
        *(("", "") if drawn else equal),
    ]  # fmt: skip


def build(row, clip, classes, official):
    """Return the method in the default way, or in the official one."""
    torch.manual_seed(1)
    name, options = row.partition(",")[0], OPTIONS.get(row, {})
    most = min(clip.image.depth, len(clip.text.blocks))
    options = {key: min(value, most) if key.startswith("depth") else value for key, value in options.items()}
    options |= {"start_layer": min(6, most // 2)} if name == "skip_tuning" else {}
    clip.compute = Compute("plain" if official else "auto", images_at_once=1)
    method = coop.build(name, clip, class_names(classes), **options).to(clip.logit_scale.device)
    if name == "co_prompt":
        method.teacher = Descriptions(filled(["a photo of a {}."], method.classes), together=True)
    if name == "tip_adapter_f":
        shots = torch.arange(SHOTS * classes) % classes
        method.prepare([(torch.randn(len(shots), clip.image.feature_dim), shots)], [])
    return made_whole(method, clip) if official else method


def made_whole(method, clip):
    """Return a method of the plain way with its prompts' padding, and a text tower that does not stop before it."""
    for module in method.modules():
        if isinstance(module, PromptEncoder | ChangedTexts):
            inserted = module.count if isinstance(module, InsertedTokens) else 0
            padding = clip.text.context_length + inserted - module.ids.shape[1]
            module.packed.ids = F.pad(module.ids, (0, padding))
        if isinstance(module, UpperText):
            module.nodes = F.pad(module.nodes, (0, clip.text.context_length - module.nodes.shape[1]))
        if isinstance(module, PromptEncoder):
            module.packed.slots = F.pad(module.slots, (0, padding), value=CONSTANT)
        if isinstance(module, EnteredTexts):
            module.ids = F.pad(module.ids, (0, clip.text.context_length - module.ids.shape[1]))
    text = copy.copy(clip.text)
    text.causal = False
    method.backbone = CLIP(clip.name, clip.image, text, clip.logit_scale)
    return method


def measure(method, images, labels):
    """Return FLOPs and most bytes kept of a step; logits before it, and the gradient of all that is learned."""
    take = tune if isinstance(method, coop.METHODS["tpt"]) else step
    with torch.no_grad():
        logits = method.train(take is tune)(images)
    teacher = getattr(method, "teacher", None)
    if isinstance(teacher, Teacher):
        teacher.text_features(method.backbone)
    with Kept([images, labels, *method.parameters(), *method.buffers()]) as kept:
        gradient = take(method.train(), images, labels)
    _, flops = counted(lambda: take(method, images, labels))
    return flops, kept.most, logits, gradient


def step(method, images, labels):
    """Go forward and backward; DAPL's target, or a second view, is the images again."""
    method.zero_grad(set_to_none=True)
    more = (images,) if method.wants_unlabelled or method.wants_second_view else ()
    method.loss(images, labels, *more).backward()
    return torch.cat([p.grad.flatten() for p in method.parameters() if p.grad is not None])


def tune(method, images, labels):
    """Take TPT's step, which is a test's; return the gradient of the contexts of each image."""
    found = []
    hook = register_optimizer_step_pre_hook(lambda own, *_: found.append(own.param_groups[0]["params"][0].grad.clone()))
    method(images)
    hook.remove()
    return torch.cat(found)
