"""Classify images with a trained run: python tools/predict.py --run out/coop photos/ 'more/*.jpg' --top 3"""

import json
import sys
from pathlib import Path

from promptvision.cli import add_trust, one_sentence, say, tool_parser
from promptvision.config import load_config
from promptvision.config.families import FAMILIES
from promptvision.errors import InputError, briefly, visible


def arguments():
    parser = tool_parser(__doc__)
    parser.add_argument("--run", required=True, type=Path, help="folder of a run")
    parser.add_argument("images", nargs="+", help="files, folders (searched recursively) and globs")
    parser.add_argument("--top", type=int, default=5, help="number of classes to print for each image (default 5)")
    parser.add_argument("--json", action="store_true", help="print one JSON object per line instead of a table")
    add_trust(parser)
    return parser.parse_args()


def main():
    args = arguments()
    if args.top < 1:
        raise InputError(f"--top is {args.top}; it must be at least 1")
    cfg = load_config(args.run / "config.yaml", [], FAMILIES, trust=args.trust, of_run=True)
    rows, broken = classify(cfg, args)
    if args.json:
        for row in rows:
            line = json.dumps(row, ensure_ascii=False)
            in_utf8 = (sys.stdout.encoding or "").lower().startswith("utf")
            print(line if in_utf8 and visible(line) == line else json.dumps(row))
    else:
        from promptvision.report.tables.terminal import predictions_table, wide_console

        wide_console().print(predictions_table(rows))
    for sentence in briefly(broken):
        say(f"error: {sentence}", sys.stderr)
    raise SystemExit(2 if broken else 0)


def classify(cfg, args):
    """Return the most likely classes of each image, and a sentence for each that cannot be read."""
    from promptvision.engine.progress import log_to_terminal
    from promptvision.experiment.predict import find_images, predict_images
    from promptvision.experiment.run import load_run

    log_to_terminal()
    images = find_images(args.images)
    return predict_images(cfg, load_run(cfg, FAMILIES, args.run), images, args.top, progress=True)


if __name__ == "__main__":
    with one_sentence():
        main()
