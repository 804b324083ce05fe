"""Classify images with a trained run: python tools/predict.py --run out/coop photos/ 'more/*.jpg' --top 3"""

import json
import sys
from pathlib import Path

from promptvision.cli import add_trust, gpu_count, natural, one_sentence, positive, say, tool_parser
from promptvision.config import load_config
from promptvision.config.families import FAMILIES
from promptvision.errors import InputError, briefly, visible

ROWS = 1000
"""Rows of a table."""


def arguments():
    parser = tool_parser(__doc__)
    parser.add_argument("--run", required=True, type=Path, help="folder of a run")
    parser.add_argument("images", nargs="*", help="files, folders (searched recursively), globs and shards (.tar)")
    parser.add_argument(
        "--list",
        action="append",
        default=[],
        metavar="FILE",
        help="paths of images: a .txt, or a .csv/.tsv with a column `path`",
    )
    parser.add_argument("--top", type=positive, default=5, help="number of classes to print for each image (default 5)")
    parser.add_argument("--threshold", type=float, default=0.0, metavar="P", help="least probability, else `unsure`")
    parser.add_argument("--classes", metavar="NAMES", help="other classes: a,b,c, or a file with a name per line")
    parser.add_argument("--json", action="store_true", help="print one JSON object per line instead of a table")
    parser.add_argument("--output", type=Path, help="file (.csv, .jsonl, .parquet), or folder of Parquet parts")
    parser.add_argument("--resume", action="store_true", help="keep the finished parts of --output")
    parser.add_argument(
        "--workers", type=natural, metavar="N", help="processes that read images (default TRAIN.WORKERS)"
    )
    parser.add_argument("--ray", metavar="ADDRESS", help="predict on a Ray cluster: auto, HOST:PORT, or local")
    parser.add_argument(
        "--gpus", type=gpu_count, default=0.0, help="GPUs, or the share of one, of each actor on the cluster"
    )
    parser.add_argument(
        "--actors", type=natural, default=0, metavar="N", help="actors on the cluster (default: those that fit)"
    )
    add_trust(parser)
    args = parser.parse_args()
    check(args)
    return args


def check(args):
    """Raise InputError for options that exclude one another, and for a threshold that is no probability."""
    if not args.images and not args.list:
        raise InputError("name images, folders, globs or shards, or a --list of them")
    if not 0 <= args.threshold <= 1:
        raise InputError(f"--threshold is {args.threshold:g}; it is a probability, from 0 to 1")
    if args.resume and not args.output:
        raise InputError("--resume continues the --output of an earlier call: name it")
    if args.ray is not None and not args.output:
        raise InputError("--ray writes predictions: name a folder or file for them by --output")
    if args.ray is None and (args.gpus or args.actors):
        raise InputError("--gpus and --actors are for a cluster: name it by --ray")


def main():
    args = arguments()
    cfg = load_config(args.run / "config.yaml", [], FAMILIES, trust=args.trust, of_run=True)
    of_folders = []
    told = briefly(classify(cfg, args, of_folders))
    for sentence in told:
        say(f"error: {sentence}", sys.stderr)
    for line in of_folders:
        say(line, sys.stderr if args.json else sys.stdout)
    raise SystemExit(2 if told else 0)


def classify(cfg, args, of_folders):
    """Print or write the most likely classes of each image, and yield a sentence for each that cannot be read.

    `of_folders` gets the lines on images whose folder says their class.
    """
    from promptvision.deploy.folder_labels import FolderLabels
    from promptvision.engine.progress import log_to_terminal
    from promptvision.experiment.predict import UNSURE
    from promptvision.experiment.prediction.inputs import find_images
    from promptvision.experiment.prediction.output import classes_of, plan_of

    log_to_terminal()
    images = find_images(args.images, args.list, inside=args.ray is None)
    named = class_names(args.classes) if args.classes is not None else []
    classes = named or classes_of(args.run)
    if args.threshold and UNSURE in classes:
        raise InputError(f"--threshold calls images {UNSURE}, which is the name of a class")
    plan = plan_of(args.run, args.top, images, threshold=args.threshold, classes=named)
    labels = FolderLabels(classes)
    if args.output:
        yield from written(cfg, args, images, plan, labels)
    else:
        yield from printed(predicted(cfg, args, images, plan), args.json, labels)
    of_folders += labels.lines()


def class_names(text):
    """Return the names of --classes: a line each of a file, or between commas."""
    from promptvision.data.readers.layout import read_text

    is_file = "," not in text and (Path(text).is_file() or text.lower().endswith(".txt"))
    names = read_text(Path(text), "file of --classes").splitlines() if is_file else text.split(",")
    found = [name.strip() for name in names if name.strip()]
    if not found:
        raise InputError(f"--classes {text!r} names no class: give a,b,c, or a file with a name per line")
    return found


def predicted(cfg, args, images, plan, spans=None):
    """Return the predictions, batch by batch."""
    from promptvision.experiment.predict import predict_images
    from promptvision.experiment.prediction.output import planned
    from promptvision.experiment.run import load_run

    method, workers = planned(load_run(cfg, FAMILIES, args.run), plan), args.workers
    settings = {
        "threshold": args.threshold,
        "workers": cfg.TRAIN.WORKERS if workers is None else workers,
        "progress": not (args.json and sys.stdout.isatty()),  # the lines show it
    }
    return predict_images(cfg, method, images, args.top, spans=spans, **settings)


def written(cfg, args, images, plan, labels):
    """Write the parts of --output that are not finished, and yield a sentence for each image that cannot be read."""
    from promptvision.experiment.prediction.output import Output

    parts = images.parts()
    with Output(args.output, plan, resume=args.resume) as output:
        if args.ray is not None:
            from promptvision.experiment.prediction.cluster import Cluster, predict_on_cluster

            cluster = Cluster(args.ray, args.gpus, args.actors)
            batches = predict_on_cluster(cfg, FAMILIES, args.run, images, output, cluster)
        else:
            todo = {number: parts[number] for number in output.missing(len(parts))}
            batches = output.keep(predicted(cfg, args, images, plan, list(todo.values())), todo)
        for _ in printed(batches, True) if args.json else batches:
            pass
        for path, label, error in output.rows():
            if error:
                yield error
            else:
                labels.add(path, label)
        output.finish(len(parts))
    say(f"predictions: {args.output}")


def printed(batches, as_json, labels=None):
    """Print rows, as each batch ends as JSON, or in tables of ROWS, and yield a sentence for each image without one."""
    rows = []
    for batch in batches:
        yield from (each.error for each in batch if each.error)
        good = [each for each in batch if not each.error]
        rows += [each.row() for each in good]
        for each in good if labels else ():
            labels.add(each.path, each.label)
        if as_json or len(rows) >= ROWS:
            show(rows, as_json)
            rows = []
    if rows:
        show(rows, as_json)


def show(rows, as_json):
    if not as_json:
        from promptvision.report.tables.terminal import predictions_table, wide_console

        wide_console().print(predictions_table(rows))
        return
    in_utf8 = (sys.stdout.encoding or "").lower().startswith("utf")
    for row in rows:
        line = json.dumps(row, ensure_ascii=False)
        print(line if in_utf8 and visible(line) == line else json.dumps(row))
    sys.stdout.flush()


if __name__ == "__main__":
    with one_sentence():
        main()
