"""Compare the fast encoders with the plain ones, on the same weights: python tools/bench.py text --classes 100 --ctx 16

A training step of CLIP methods: python tools/bench.py step --method coop maple
A training step of ViT methods: python tools/bench.py vit --method linear partial full
CoCoOp's step with many classes or images at once: python tools/bench.py cocoop --classes 1000 --batch 32 --chunk 250
CoOp's memory with very many classes: python tools/bench.py classes --classes 2100 21000 --chunk 500
Visual prompts: python tools/bench.py image --prompts 10 50 100 200 --batch 8
A step in 16 bits: python tools/bench.py precision --method vpt_deep coop --precision bf16
Loading images: python tools/bench.py data --images 256; with processes: python tools/bench.py data --workers 0 1 2
Libraries that resize images: python tools/bench.py resize
Memory of predictions: python tools/bench.py predict --images 2000 200000
Planning a sweep of many runs and tests: python tools/bench.py plan --cells 1000
Steps of a published table: python tools/bench.py tables --benchmark benchmarks/base_to_new.yaml --row CoOp MaPLe
Runs that train together: python tools/bench.py stack
Seeding the random generators: python tools/bench.py seed
Steps on a GPU: python tools/bench.py gpu --device cuda --threads 16 --json gpu.json
Killed runs: python tools/bench.py kill --times 50 --method coop cocoop maple prompt l2p
Attacks and faults: python tools/bench.py faults --workers 2

FLOPs are torch's count of forward and backward, attention written out. Times are medians of interleaved runs. Bytes are
the most that autograd keeps for backward at a time. The plain way is the official one: every prompt whole, all 77
tokens of it.
"""

import sys
from argparse import HelpFormatter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "bench"))

import bench_classes
import bench_cocoop
import bench_data
import bench_faults
import bench_gpu
import bench_image
import bench_kill
import bench_plan
import bench_precision
import bench_predict
import bench_resize
import bench_seed
import bench_stack
import bench_step
import bench_tables
import bench_text
import bench_vit
import torch
from measure import device, listed
from rich import box
from rich.console import Console
from rich.table import Table

from promptvision.cli import natural, one_sentence, positive, tool_parser
from promptvision.errors import counted

KINDS = {
    "text": ("CoOp's text step, ViT-B/16 sizes", bench_text),
    "cocoop": ("CoCoOp's text step, ViT-B/16 sizes", bench_cocoop),
    "classes": ("CoOp's text step with very many classes", bench_classes),
    "image": ("VPT's step, ViT-B/16 sizes", bench_image),
    "precision": ("A training step in 16 bits", bench_precision),
    "step": ("A training step of a CLIP method", bench_step),
    "vit": ("A training step of a ViT method", bench_vit),
    "data": ("JPEGs of 500x375 pixels", bench_data),
    "predict": ("Predictions of the embedded ViT", bench_predict),
    "plan": ("Planning a sweep", bench_plan),
    "tables": ("Training of a whole table", bench_tables),
    "stack": ("Runs alone and together", bench_stack),
    "resize": ("INPUT.RESIZE on images of 500x375 pixels", bench_resize),
    "seed": ("Seeding a step", bench_seed),
    "gpu": ("Training steps, ViT-B/16 sizes", bench_gpu),
    "faults": ("Attacks and faults that were tried", bench_faults),
    "kill": ("Killed runs against undisturbed runs", bench_kill),
}


class Defaults(HelpFormatter):
    """Help with the default of each option that has one and takes a value."""

    def _get_help_string(self, action):
        default = action.default
        if action.nargs == 0 or default in (None, []):
            return action.help
        names = default if isinstance(default, list | tuple) else [default]
        return f"{action.help} (default: {'all' if default == action.choices else listed(map(str, names))})"


def arguments():
    parser = tool_parser(__doc__)
    kinds = parser.add_subparsers(dest="what", required=True)
    for name, (title, module) in KINDS.items():
        kind = kinds.add_parser(name, help=title, formatter_class=Defaults)
        module.add_options(kind)
        kind.add_argument("--repeats", type=natural, default=3, help="timed runs of each way")
        kind.add_argument("--no-time", dest="repeats", action="store_const", const=0, help="count only")
        kind.add_argument("--threads", type=positive, default=1, help="threads of torch")
        kind.add_argument("--device", type=device, default="cpu", help="auto, cpu, cuda or cuda:N")
    return parser.parse_args()


def main():
    args = arguments()
    torch.set_num_threads(args.threads)
    title, kind = KINDS[args.what]
    rows = list(kind.rows(args))
    title = f"{title}, {args.device}, {counted(args.threads, 'thread')}"
    table = Table(*kind.COLUMNS[: len(rows[0])], title=title, box=box.MARKDOWN)
    for row in rows:
        table.add_row(*row)
    Console(width=130).print(table)
    if kind is bench_faults and any(tried != held for _, tried, held, _ in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    with one_sentence():
        main()
