"""Learn a stream of tasks: python tools/continual.py --config configs/vpt/embedded_l2p.yaml SEED 2 OUTPUT_DIR out"""

import argparse

from families import FAMILIES
from rich.console import Console

import promptvision
from promptvision.config import load_config, summary
from promptvision.config.docs import help_text
from promptvision.engine.run_folder import LOG, RunFolder, log_to_terminal
from promptvision.errors import one_sentence
from promptvision.experiment.continual import run_stream
from promptvision.report.figures.streams import draw_choices, draw_matrix
from promptvision.report.tables.terminal import matrix_table, measures_table


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=help_text(), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, help="YAML file; its _BASE_ may name another")
    parser.add_argument("--resume", choices=("never", "auto"), default="never", help="auto: keep the tasks learned")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="what to set differently")
    return parser.parse_args()


def main():
    args = arguments()
    cfg = load_config(args.config, args.overrides, FAMILIES)
    log_to_terminal()
    with RunFolder(cfg.OUTPUT_DIR, resume=args.resume == "auto") as folder:
        LOG.info("code in %s", promptvision.__path__[0])
        LOG.info("%s", summary(cfg, FAMILIES))
        result = run_stream(cfg, FAMILIES, folder)
        draw_matrix(result, folder.path / "matrix.png")
        if "prompt_choices" in result:
            draw_choices(result, folder.path / "prompt_choices.png")
    Console().print(matrix_table(result, cfg.OUTPUT_DIR), measures_table(result))


if __name__ == "__main__":
    with one_sentence():
        main()
