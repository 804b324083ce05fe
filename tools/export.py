"""Write a trained run for other programs: python tools/export.py --run out/coop --to onnx

`--to onnx` and `--to pt2` write a program, normalised images to logits, with any number of images in a batch; `--to
classifier` writes a zero-shot head for open_clip, or the state dict of a timm model that has become a plain ViT.
"""

from pathlib import Path

from promptvision.cli import add_trust, one_sentence, say, tool_parser
from promptvision.deploy.export import KINDS
from promptvision.errors import unknown


def arguments():
    parser = tool_parser(__doc__)
    parser.add_argument("--run", required=True, type=Path, help="folder of a run")
    parser.add_argument("--to", required=True, metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--output", type=Path, metavar="FILE", help="file to write (default: in the run folder)")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that exists")
    add_trust(parser)
    return parser.parse_args()


def main():
    args = arguments()
    if args.to not in KINDS:
        raise unknown("kind of --to", args.to, KINDS)
    from promptvision.deploy.export.export import export

    found = export(args.run, args.to, args.output, overwrite=args.overwrite, trust=args.trust)
    say(f"{found.file}: {found.file.stat().st_size / 1e6:.2f} MB, described in {found.facts}")
    note = "" if found.precision == "fp32" else f" (in float32; the run itself predicts in {found.precision})"
    say(f"largest difference from the run: logits {found.logits:.1e}, probabilities {found.probabilities:.1e}{note}")


if __name__ == "__main__":
    with one_sentence():
        main()
