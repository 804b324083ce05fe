"""Train the embedded CLIP from scratch on the miniature world, on one thread bit for bit.

    python tools/pretrain.py --out embedded.safetensors --state pretraining.pt
    python tools/pretrain.py --out vit.safetensors --vit

Contrastive as CLIP (arXiv:2103.00020), from captions alone; `--vit` trains a ViT with the scenes' labels instead. With
`--state`, a run that was stopped resumes by the same command and ends bit-identical to one that never stopped.
"""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

import torch
from pretraining.clip import Contrastive
from pretraining.loop import Training
from pretraining.recipe import Recipe
from pretraining.vit import Supervised

from promptvision.cli import one_sentence, positive, tool_parser
from promptvision.engine.progress import log_to_terminal


def arguments() -> Namespace:
    """Return the command line."""
    usual, parser = Recipe(), tool_parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--pairs", type=positive, default=usual.pairs, help=f"images to see (default {usual.pairs:,})")
    parser.add_argument("--seed", type=int, default=usual.seed)
    parser.add_argument(
        "--threads", type=positive, default=1, help="more than one may be faster, but not bit-identical"
    )
    parser.add_argument("--state", type=Path, help="file to save the training in; if it exists, resume from it")
    parser.add_argument("--every", type=positive, default=200, help="steps between two saves (default 200)")
    parser.add_argument("--vit", action="store_true", help="a ViT with labels instead of a CLIP with captions")
    return parser.parse_args()


def main() -> None:
    """Train and write the file."""
    args = arguments()
    log_to_terminal()
    torch.set_num_threads(args.threads)
    recipe = Recipe(pairs=args.pairs, seed=args.seed)
    objective = (Supervised if args.vit else Contrastive)(recipe)
    training = Training(objective, recipe, args.state)
    training.run(args.every)
    objective.save(args.out, {"recipe": json.dumps(asdict(recipe)), "curve": json.dumps(training.curve)})
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.2f} MB")
    for name, value in training.curve[-1].items():
        print(f"{name:>24} {value:10,.10g}")


if __name__ == "__main__":
    with one_sentence():
        main()
