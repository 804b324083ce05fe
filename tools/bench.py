"""The fast ways against the plain ones, on the same weights: python tools/bench.py text --classes 100 --ctx 16

For a training step of every CLIP method, or of some: python tools/bench.py step --method coop maple
For CoCoOp's step, many classes or images at once: python tools/bench.py cocoop --classes 1000 --batch 32 --chunk 250
For visual prompts: python tools/bench.py image --prompts 10 50 100 200 --batch 8
For loading images: python tools/bench.py data --images 256
For runs that are killed: python tools/bench.py kill --times 50 --method coop cocoop prompt

FLOPs are torch's count of forward and backward. Times are medians of interleaved runs. Bytes are the most that autograd
keeps for backward at a time. The plain way is the official one: every prompt whole, all 77 tokens of it.
"""

import argparse

import bench_cocoop
import bench_data
import bench_image
import bench_kill
import bench_step
import bench_text
import torch
from rich import box
from rich.console import Console
from rich.table import Table

from promptvision.cli import one_sentence


def kill_options(parser):
    parser.add_argument("--times", type=int, default=10, help="how often each method's runs are killed")
    parser.add_argument("--method", nargs="+", choices=tuple(bench_kill.METHODS), default=["coop"])
    parser.add_argument("--seed", type=int, default=0, help="of the moments")


KINDS = {
    "text": ("CoOp's text step, ViT-B/16 sizes", bench_text, bench_text.add_options),
    "cocoop": ("CoCoOp's text step, ViT-B/16 sizes", bench_cocoop, bench_cocoop.add_options),
    "image": ("VPT's step, ViT-B/16 sizes", bench_image, bench_image.add_options),
    "step": ("A training step of a CLIP method", bench_step, bench_step.add_options),
    "data": ("JPEGs of 500x375 pixels", bench_data, bench_data.add_options),
    "kill": ("Killed runs against runs left alone", bench_kill, kill_options),
}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="what", required=True)
    for name, (title, _, add_options) in KINDS.items():
        kind = kinds.add_parser(name, help=title, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        add_options(kind)
        kind.add_argument("--repeats", type=int, default=3, help="timed runs of each way")
        kind.add_argument("--no-time", dest="repeats", action="store_const", const=0, help="count only")
        kind.add_argument("--threads", type=int, default=1)
        kind.add_argument("--device", default="cpu")
    return parser.parse_args()


def main():
    args = arguments()
    torch.set_num_threads(args.threads)
    title, kind, _ = KINDS[args.what]
    rows = list(kind.rows(args))
    table = Table(
        *kind.COLUMNS[: len(rows[0])], title=f"{title}, {args.device}, {args.threads} thread", box=box.MARKDOWN
    )
    for row in rows:
        table.add_row(*row)
    Console(width=130).print(table)


if __name__ == "__main__":
    with one_sentence():
        main()
