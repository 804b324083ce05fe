"""Evaluate a run, on its own or on other images: python tools/eval.py --run out/coop DATASET.CLASSES new"""

import sys
from pathlib import Path

from promptvision.cli import add_trust, one_sentence, say, tool_parser
from promptvision.config import load_config
from promptvision.config.families import FAMILIES
from promptvision.errors import InputError, as_called


def arguments():
    parser = tool_parser(__doc__, overrides="keys to override")
    parser.add_argument("--run", required=True, type=Path, help="folder of a run")
    add_trust(parser)
    return parser.parse_args()


def main():
    args = arguments()
    if "METHOD.WEIGHTS" in args.overrides:
        other = as_called("python tools/train.py OPTIM.EPOCHS 0")
        raise InputError(f"a run is tested with what it learned; test other tensors by {other}")
    if unread := [key for key in args.overrides[::2] if key.startswith("OPTIM.")]:
        say(f"warning: {', '.join(unread)}: only training reads OPTIM; the run is tested as it is", sys.stderr)
    evaluate(load_config(args.run / "config.yaml", args.overrides, FAMILIES, trust=args.trust, of_run=True), args.run)


def evaluate(cfg, folder):
    """Test the run in `folder` by a checked config; write and print the result."""
    from promptvision.atomic import write_json
    from promptvision.engine.progress import log_to_terminal
    from promptvision.engine.results.evaluation_file import evaluation_file
    from promptvision.experiment.run import retest
    from promptvision.report.tables.terminal import result_tables, wide_console
    from promptvision.sweep.benchmark import file_name

    log_to_terminal()

    def place(result):
        target = file_name(result["protocol"]["TARGET"])
        name = "-".join([result["dataset"], *([target] if target else []), result["class_subset"], result["split"]])
        return evaluation_file(folder, name, result)

    result = retest(cfg, FAMILIES, folder, file=place)
    file = place(result)
    wide_console().print(result_tables(result, file.stem.removeprefix("eval-")))
    write_json(file, result)


if __name__ == "__main__":
    with one_sentence():
        main()
