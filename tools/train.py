"""Learn prompts: python tools/train.py --config configs/coop/embedded.yaml DATASET.SHOTS 4 OUTPUT_DIR out

On several GPUs or machines: torchrun --nproc-per-node 4 tools/train.py ...; each process takes a share of every batch.
"""

from promptvision.cli import one_sentence, tool_parser
from promptvision.config import load_config, summary
from promptvision.config.families import FAMILIES


def arguments():
    parser = tool_parser(__doc__, config="YAML file; its _BASE_ may name another", overrides="keys to override")
    parser.add_argument(
        "--resume", choices=("never", "auto"), default="never", help="auto: continue from last.ckpt, if there is one"
    )
    return parser.parse_args()


def main():
    args = arguments()
    train(load_config(args.config, args.overrides, FAMILIES), resume=args.resume == "auto")


def train(cfg, resume):
    """Run a checked config and print its tables; torch is imported here, after the user's mistakes were found."""
    from rich.console import Console

    import promptvision
    from promptvision.engine.distributed import is_first, process_group, run_folder
    from promptvision.engine.run_folder import LOG, log_to_terminal
    from promptvision.experiment.run import run
    from promptvision.report.tables.terminal import matrix_table, measures_table, run_table, worst_classes

    with process_group(cfg.TRAIN.DEVICE), run_folder(cfg.OUTPUT_DIR, resume=resume) as folder:
        if is_first():
            log_to_terminal()
        LOG.info("code in %s", promptvision.__path__[0])
        LOG.info("%s", summary(cfg, FAMILIES))
        result = run(cfg, FAMILIES, folder, progress=is_first())
        if "matrix" in result:  # of a stream of tasks
            draw(result, folder.path)
            Console().print(matrix_table(result, cfg.OUTPUT_DIR), measures_table(result))
        elif is_first():
            Console().print(run_table(result, cfg.OUTPUT_DIR), worst_classes(result))


def draw(result, folder):
    """Draw the matrix of a stream of tasks and, of methods with a pool, the prompts that each task chose."""
    from promptvision.report.figures.streams import draw_choices, draw_matrix

    draw_matrix(result, folder / "matrix.png")
    if "prompt_choices" in result:
        draw_choices(result, folder / "prompt_choices.png")


if __name__ == "__main__":
    with one_sentence():
        main()
