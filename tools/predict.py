"""Name what is on images: python tools/predict.py --run out photos/ 'more/*.jpg' --top 3"""

import json
import sys
from pathlib import Path

from rich.console import Console

from promptvision.cli import one_sentence, tool_parser
from promptvision.config import load_config
from promptvision.config.families import FAMILIES
from promptvision.errors import InputError
from promptvision.experiment.predict import find_images, predict_images
from promptvision.experiment.run import load_run
from promptvision.report.tables.terminal import predictions_table


def arguments():
    parser = tool_parser(__doc__)
    parser.add_argument("--run", required=True, type=Path, help="folder that tools/train.py wrote")
    parser.add_argument("images", nargs="+", help="files, folders (searched through) and globs")
    parser.add_argument("--top", type=int, default=5, help="how many classes to name for each image")
    parser.add_argument("--json", action="store_true", help="one JSON object a line instead of a table")
    return parser.parse_args()


def main():
    args = arguments()
    if args.top < 1:
        raise InputError(f"--top is {args.top}; at least one class must be named")
    images = find_images(args.images)
    cfg = load_config(args.run / "config.yaml", [], FAMILIES)
    rows, broken = predict_images(cfg, load_run(cfg, FAMILIES, args.run), images, args.top)
    if args.json:
        for row in rows:
            print(json.dumps(row, ensure_ascii=False))
    else:
        Console().print(predictions_table(rows))
    for sentence in broken:
        sys.stderr.write(f"error: {sentence}\n")
    raise SystemExit(2 if broken else 0)


if __name__ == "__main__":
    with one_sentence():
        main()
