"""Train a method: python tools/train.py --config configs/coop/embedded.yaml DATASET.SHOTS 4 OUTPUT_DIR out/coop

On several GPUs or machines: torchrun --nproc-per-node 4 tools/train.py ...; each process takes a share of every batch.
"""

import sys
from functools import partial

from promptvision.cli import add_trust, one_sentence, say, tool_parser
from promptvision.config import dump, find_config, load_config, resolved, summary
from promptvision.config.families import FAMILIES
from promptvision.engine.earlier_run import earlier_result, keep_config
from promptvision.errors import InputError, NotWritten


def arguments():
    parser = tool_parser(__doc__, config="YAML file; its _BASE_ may name another", overrides="keys to override")
    parser.add_argument(
        "--resume",
        choices=("never", "auto"),
        metavar="never|auto",
        default="never",
        help="auto: continue from last.ckpt, if there is one",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the run in OUTPUT_DIR and its evaluations")
    parser.add_argument("--no-page", action="store_true", help="write no run.html")
    add_trust(parser)
    parser.usage = "%(prog)s --config CONFIG [options] [KEY VALUE ...]"
    args = parser.parse_args()
    if args.overwrite and args.resume == "auto":
        raise InputError("--overwrite trains again, --resume auto continues: choose one")
    return args


def main():
    args = arguments()
    cfg = load_config(args.config, args.overrides, FAMILIES, trust=args.trust)
    keep_config(find_config(args.config), cfg.OUTPUT_DIR, dump(cfg), resolved(cfg))
    found = earlier_result(resolved(cfg), cfg.OUTPUT_DIR, resume=args.resume == "auto", overwrite=args.overwrite)
    if found and not args.overwrite:
        show(found, cfg.OUTPUT_DIR)
        say(f"{cfg.OUTPUT_DIR} is finished: this is its result; --overwrite trains it again", sys.stderr)
    else:
        train(cfg, args)


def train(cfg, args):
    """Run a checked config and print its tables; torch is imported here, after the user's mistakes were found."""
    import promptvision
    from promptvision.engine.distributed import is_first, process_group, run_folder
    from promptvision.engine.progress import LOG, log_to_terminal
    from promptvision.experiment.data import check_place
    from promptvision.experiment.run import run

    check_place(cfg, cfg.OUTPUT_DIR)
    how = {"resume": args.resume == "auto", "overwrite": args.overwrite}
    with process_group(cfg.TRAIN.DEVICE), run_folder(cfg.OUTPUT_DIR, **how) as folder:
        if is_first():
            log_to_terminal()
        LOG.info("code in %s", promptvision.__path__[0])
        LOG.info("%s", summary(cfg, FAMILIES), extra={"lines": True})
        after = None if args.no_page else partial(write_page, cfg, args, folder)
        try:
            result = run(cfg, FAMILIES, folder, progress=is_first(), after=after)
        except NotWritten as error:
            show(error.result, cfg.OUTPUT_DIR)
            raise
        if is_first():
            show(result, cfg.OUTPUT_DIR)
            if folder.page.is_file():
                say(f"page: {folder.page}")
        if "matrix" in result:
            draw(result, folder.path)


def write_page(cfg, args, folder, setup):
    """Write run.html of a finished run; a page that cannot be written is a warning, as the result is safe."""
    from promptvision.deploy.run_page import SECONDS, changes, write_run_page
    from promptvision.engine.progress import LOG

    try:
        changed = changes(cfg, FAMILIES, args.config, args.trust)
        write_run_page(setup, folder.path, changed, folder.page, seconds=SECONDS)
    except InputError as error:
        LOG.warning("No page: %s", error)


def show(result, name):
    """Print the tables of a result."""
    from promptvision.report.tables.terminal import result_tables, wide_console

    wide_console().print(result_tables(result, name))


def draw(result, folder):
    """Draw the matrix of a stream of tasks and, of methods with a pool, the prompts that each task chose."""
    from promptvision.report.figures.streams import draw_choices, draw_matrix

    draw_matrix(result, folder / "matrix.png")
    if "prompt_choices" in result:
        draw_choices(result, folder / "prompt_choices.png")


if __name__ == "__main__":
    with one_sentence():
        main()
