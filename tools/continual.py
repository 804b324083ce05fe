"""Learn a stream of tasks: python tools/continual.py --config configs/vpt/embedded_l2p.yaml SEED 2 OUTPUT_DIR out"""

from rich.console import Console

import promptvision
from promptvision.cli import one_sentence, tool_parser
from promptvision.config import load_config, summary
from promptvision.config.families import FAMILIES
from promptvision.engine.run_folder import LOG, RunFolder, log_to_terminal
from promptvision.experiment.continual import run_stream
from promptvision.report.figures.streams import draw_choices, draw_matrix
from promptvision.report.tables.terminal import matrix_table, measures_table


def arguments():
    parser = tool_parser(__doc__, config="YAML file; its _BASE_ may name another", overrides="keys to override")
    parser.add_argument("--resume", choices=("never", "auto"), default="never", help="auto: keep the tasks learned")
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
