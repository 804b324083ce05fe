"""bench.py gpu: training steps on a GPU: time, launches, memory and exactness, in the ways that a run can take.

official: every prompt whole, all 77 tokens of it; blocks of a ViT untouched. fast: the default without a graph. bf16:
fast with TRAIN.PRECISION bf16. graph: fast, captured (COMPUTE.GRAPH). stacked: fast, several runs on a leading axis,
time and launches per run. A step is loss, backward and SGD on random weights; methods that leave the image tower frozen
are given features. `differs` is the gradient's largest difference from a fast step on the CPU in double precision, on
the first images, relative to the largest entry; for graph and stacked that of the learned tensors, after all steps,
from those of fast. The last row is of runs on the embedded world that are killed and resumed (bench.py kill).
"""

import copy
import json
import time
from pathlib import Path

import torch
from bench_image import official as official_tower
from bench_kill import Attempts, kill_test
from bench_step import build
from bench_text import class_names
from measure import kernels
from torch.profiler import ProfilerActivity, profile

import vpt
from promptvision.backbones import load_clip, load_vit
from promptvision.backbones.compute import Compute
from promptvision.cli import natural, positive
from promptvision.engine.capture.graph import WARM_UP, GraphStep
from promptvision.engine.device import peak_memory
from promptvision.engine.environment import facts
from promptvision.engine.optim import build_optimizer
from promptvision.engine.step import Step
from promptvision.engine.together.stack import Stack, StackedStep

COLUMNS = ("cell", "way", "ms", "against official", "launches", "MB", "differs")
CELLS = ("coop", "cocoop", "prompt", "lora")
WAYS = ("official", "fast", "bf16", "graph", "stacked")
OPTIONS = {"prompt": dict(num_tokens=10, deep=True), "lora": dict(dropout=0.0)}
LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch", "cudaMemcpyAsync", "cudaMemsetAsync")
EXACT = 2
"""Images of the step in double precision."""


def add_options(parser):
    parser.add_argument("--classes", type=positive, nargs="+", default=[10, 100, 1000], help="classes of CoOp")
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=CELLS, help="methods whose steps are measured")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, help="in which steps are computed")
    parser.add_argument("--batch", type=positive, default=32, help="images of a step; CoCoOp has a quarter")
    parser.add_argument("--steps", type=positive, default=12, help="steps of a way, of which the first are its warm-up")
    parser.add_argument("--runs", type=positive, default=8, help="runs that are stacked")
    parser.add_argument("--kills", type=natural, default=3, help="of runs on the device; 0 for none")
    parser.add_argument("--clip", default="ViT-B-16-quickgelu", help="BACKBONE.NAME; its weights are random")
    parser.add_argument("--vit", default="vit_base_patch16_224", help="of the ViT methods; its weights are random")
    parser.add_argument("--json", help="file for the rows and the machine")


def rows(args):
    """Yield one row per cell and way, and one for killed runs."""
    device, found = torch.device(args.device), []
    for cell, name, classes in cells(args):
        for row in measure_cell(name, classes, device, args):
            found.append({"cell": cell, **row})
            yield texts(found[-1])
    if args.kills:
        with Attempts() as attempts:
            words = ("TRAIN.DEVICE", args.device, "TRAIN.DETERMINISTIC", "True")
            hits, _, different = kill_test(attempts, "coop", args.kills, variants=("cached",), more=words)
        found.append({"cell": "coop, killed", "way": f"{len(hits)} kills", "different": different})
        yield texts(found[-1])
    if args.json:
        Path(args.json).write_text(json.dumps({**facts(device), "rows": found}, indent=1))


def cells(args):
    """Yield (title, method, classes)."""
    for name in args.cells:
        for classes in args.classes if name == "coop" else [min(100, max(args.classes))]:
            yield f"{name}, {classes} classes", name, classes


def texts(row):
    """Return the row of the table; what was not measured is a dash."""
    formats = {"ms": "{:.2f}", "against official": "{:.1f}x", "launches": "{:.0f}", "MB": "{:.0f}", "differs": "{:.0e}"}
    shown = [formats[key].format(row[key]) if row.get(key) is not None else "-" for key in COLUMNS[2:]]
    if "different" in row:
        shown[-1] = "; ".join(row["different"]) or "nothing"
    return [row["cell"], row["way"], *shown]


def measure_cell(name, classes, device, args):
    """Yield the measurements of each way of a method, all on the same weights and batches."""
    torch.manual_seed(0)
    family = "vpt" if name in OPTIONS else "coop"
    tower = load_clip(args.clip, "none") if family == "coop" else load_vit(args.vit, "none")
    image = tower.image if family == "coop" else tower
    size = max(1, args.batch // 4) if name == "cocoop" else args.batch
    shape = (image.feature_dim,) if family == "coop" else (3, image.image_size, image.image_size)
    batch = torch.randn(size, *shape), torch.arange(size) % classes
    few = [tensor[:EXACT] for tensor in batch]
    exact = gradient(made(name, copy.deepcopy(tower).double(), classes, "fast"), [few[0].double(), few[1]])
    tower, official, fast = tower.to(device), None, None
    for way in args.ways:
        method = made(name, tower, classes, way)
        if way == "stacked" and not method.stackable:
            continue
        row = {"way": way}
        if way in ("official", "fast", "bf16"):
            with torch.autocast(device.type, torch.bfloat16, enabled=way == "bf16"):
                row["differs"] = difference(gradient(method, [t.to(device) for t in few]), exact)
        measured, learned = (stacked if way == "stacked" else alone)(method, way, batch, device, args)
        official, fast = measured["ms"] if way == "official" else official, learned if way == "fast" else fast
        if way in ("graph", "stacked") and fast is not None:
            row["differs"] = difference(learned, fast)
        yield row | measured | {"against official": official and official / measured["ms"]}


def made(name, tower, classes, way):
    """Return the method in training, the same whatever the way."""
    if name not in OPTIONS:
        method = build(name, tower, classes, way == "official")
    else:
        torch.manual_seed(1)
        tower = official_tower(tower) if way == "official" else tower
        tower.compute = Compute("plain" if way == "official" and name == "prompt" else "auto")
        method = vpt.build(name, tower, class_names(classes), **OPTIONS[name])
    method.to(next(tower.parameters())).train().pin()
    return method


def gradient(method, batch):
    """Return the gradient of all that is learned, in one vector on the CPU in double precision."""
    method.zero_grad(set_to_none=True)
    method.loss(*batch).backward()
    grads = [parameter.grad for parameter in method.trained().values() if parameter.grad is not None]
    return torch.cat([grad.flatten().double().cpu() for grad in grads])


def difference(ours, theirs):
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def learned_of(method):
    return torch.cat([parameter.detach().flatten().double().cpu() for parameter in method.trained().values()])


def parts(method, device, way):
    """Return the arguments of a step of the method."""
    optimizer = build_optimizer("sgd", method.named_parameters(), 0.002, 5e-4)
    scaler = torch.amp.GradScaler(device.type, enabled=False)
    return method, optimizer, scaler, device, "bf16" if way == "bf16" else "fp32", 0.0


def alone(method, way, batch, device, args):
    """Return the measurements of a run alone, and what it has learned."""
    step = (GraphStep if way == "graph" else Step)(*parts(method, device, way))
    batch = [tensor.to(device) for tensor in batch]
    forget_peak(device)
    for _ in range(WARM_UP + 1):
        float(step.take([batch]))
    steps = max(1, args.steps - WARM_UP - 2)
    took = clocked(lambda: [step.take([batch]) for _ in range(steps)][-1], device) / steps
    memory = peak_memory(device)
    count = launches(lambda: float(step.take([batch])), device)
    return {"ms": 1000 * took, "launches": count, "MB": memory / 1e6}, learned_of(method)


def stacked(method, way, batch, device, args):
    """Return measurements, per run and step, of equal runs that train together, and what the first has learned."""
    methods = [method, *(copy.deepcopy(method, {id(method.backbone): method.backbone}) for _ in range(args.runs - 1))]
    batch, settings = [tensor.to(device) for tensor in batch], [parts(each, device, way) for each in methods]

    def train(count):
        def work(own):
            return lambda member: [StackedStep(*own, member).take([batch]) for _ in range(count)]

        return lambda: Stack([work(own) for own in settings]).run()

    forget_peak(device)
    train(WARM_UP + 1)()
    steps = max(1, args.steps - WARM_UP - 2)
    took = clocked(train(steps), device) / steps / args.runs
    memory = peak_memory(device)
    count = launches(train(1), device) / args.runs or None  # `kernels` counts none in the threads of the runs
    return {"ms": 1000 * took, "launches": count, "MB": memory / 1e6}, learned_of(method)


def forget_peak(device):
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def clocked(work, device):
    """Return seconds of the work until the device is done; a loss that is read later is read."""
    start = time.perf_counter()
    last = work()
    if not isinstance(last, list):
        float(last)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def launches(work, device):
    """Count how often the host starts a kernel, a copy or a whole graph; without CUDA, kernels of the operations."""
    if device.type != "cuda":
        return kernels(work)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        work()
    return sum(event.count for event in seen.key_averages() if event.key.startswith(LAUNCHES))
