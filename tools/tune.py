"""Search settings by VPT's protocols: on validation images; then train again and test once.

python tools/tune.py --grid configs/vpt/grids/vtab_prompt.yaml --config configs/vpt/embedded.yaml OUTPUT_DIR out/tuned
"""

from functools import partial
from pathlib import Path

from promptvision.atomic import read_json, write_json
from promptvision.cli import natural, one_sentence, positive, tool_parser
from promptvision.config import load_config
from promptvision.config.families import FAMILIES
from promptvision.engine.progress import log_to_terminal
from promptvision.errors import InputError, NotWritten
from promptvision.report.report import load_report
from promptvision.report.tables.terminal import result_tables, search_table, terminal_report, wide_console
from promptvision.sweep.optuna_search import PRUNERS, some_settings
from promptvision.sweep.search import load_search, search
from promptvision.sweep.stack import train_ahead


def arguments():
    parser = tool_parser(__doc__, config="YAML file of the method", overrides="keys to override in every run")
    parser.add_argument("--grid", required=True, help="YAML file with PROTOCOL, GRID and SEEDS")
    parser.add_argument("--optuna", type=natural, default=0, metavar="TRIALS", help="try so many proposals only")
    parser.add_argument("--prune", choices=PRUNERS, default="", help="with --optuna: rule that stops poor runs early")
    parser.add_argument("--stack", type=positive, default=1, metavar="N", help="train up to N runs of the grid as one")
    parser.add_argument("--overwrite", action="store_true", help="replace runs with other settings in OUTPUT_DIR")
    args = parser.parse_args()
    if args.stack > 1 and args.optuna:
        raise InputError(
            "--stack trains a whole grid together: leave out --optuna, which proposes one run after the other"
        )
    if args.prune and not args.optuna:
        raise InputError("--prune goes with --optuna TRIALS")
    return args


def main():
    args = arguments()

    def configure(changes):
        pairs = [word for key, value in changes.items() for word in (key, value)]
        return load_config(args.config, [*args.overrides, *pairs], FAMILIES)

    find, cfg, console = load_search(args.grid), configure({}), wide_console()
    if not cfg.OUTPUT_DIR:
        raise InputError("OUTPUT_DIR is empty; name a folder for the search, such as out/tuned")
    folder = Path(cfg.OUTPUT_DIR)
    present = [name for name in ("search.json", "search.png", "search.svg") if (folder / name).exists()]
    earlier = read_json(folder / "search.json") if "search.json" in present else None
    if present and not (isinstance(earlier, dict) and "tuning" in earlier):
        raise InputError(f"OUTPUT_DIR {folder} holds a {present[0]} that no search wrote; choose another OUTPUT_DIR")
    log_to_terminal()
    some = partial(some_settings, trials=args.optuna, prune=args.prune, spare=cfg.OPTIM.WARMUP_EPOCHS)
    tune = some if args.optuna else None
    ahead = partial(train_ahead, families=FAMILIES, size=args.stack, overwrite=args.overwrite)
    try:
        found = search(find, configure, FAMILIES, folder, tune, overwrite=args.overwrite, ahead=ahead)
    except NotWritten as error:
        console.print(result_tables(error.result, args.config))
        raise
    report = load_report(folder)
    console.print(search_table(found["tuning"], found["chosen"]), terminal_report(report.tables, report.remarks))
    write_json(folder / "search.json", found)
    from promptvision.report.figures.search import draw_search  # matplotlib, which help need not import

    drawn = draw_search(found["tuning"], folder / "search")
    if drawn:
        console.print(f"map of the search: {drawn[0]}")


if __name__ == "__main__":
    with one_sentence():
        main()
