"""Fit a classifier to your own images: promptvision fit my_images/ --minutes 10

It needs no config: it tries the methods that suit the images and the backbone in the time given, and chooses one on
held-out images. The same command resumes after a stop, and tries what had no time before.
"""

import logging
import shlex
from itertools import takewhile
from pathlib import Path

from promptvision.atomic import write_atomically
from promptvision.cli import one_sentence, positive, say, tool_parser
from promptvision.config.families import FAMILIES
from promptvision.data.cards import load_card
from promptvision.data.own_reader import own_reader
from promptvision.data.readers.folder import check_output
from promptvision.engine.progress import log_to_terminal, track
from promptvision.errors import InputError, as_called
from promptvision.report.tables.table import Column, Entry, Table
from promptvision.report.tables.terminal import TerminalTable, wide_console
from promptvision.report.tables.writers import markdown
from promptvision.sweep.benchmark import file_name
from promptvision.sweep.fitting.clock import Clock
from promptvision.sweep.fitting.task import Task

DEFAULT = "ViT-B-16"
TO_CHECK = 0.2
"""Share of the time that looking at every image may take."""
UNREADABLE = "images that cannot be read"


class Once(logging.Filter):
    """Lets a warning through once, and progress; what each run says of its images is said before."""

    def __init__(self):
        super().__init__()
        self.said = set()

    def filter(self, record):
        """Return whether to show a line of the log."""
        if record.levelno < logging.WARNING:
            return record.name == "promptvision"
        new = record.getMessage() not in self.said and record.name != "promptvision.experiment.data"
        self.said.add(record.getMessage())
        return new


def arguments():
    parser = tool_parser(__doc__)
    parser.add_argument("images", help="folder of class folders, list, tar shards, or Hugging Face dataset on disk")
    parser.add_argument("--minutes", type=float, default=10.0, help="time limit (default 10)")
    parser.add_argument("--backbone", default=DEFAULT, metavar="NAME", help=f"CLIP or ViT (default OpenAI's {DEFAULT})")
    parser.add_argument("--pretrained", default="default", metavar="TAG", help="weights: a tag of open_clip, or a file")
    parser.add_argument("--output", type=Path, help="folder of the runs (default out/fit_ and the name of the images)")
    parser.add_argument("--seed", type=positive, default=1, help="seed of folds and training (default 1)")
    parser.add_argument("--jobs", type=positive, default=1, metavar="N", help="runs at once, in processes (default 1)")
    args = parser.parse_args()
    if not 0 < args.minutes < 1e6:
        raise InputError("--minutes takes a number above 0")
    return args


def main():
    args = arguments()
    clock, place = Clock(args.minutes), Path(args.images).expanduser()
    settings = {"DATASET.NAME": own_reader(args.images), "DATASET.ROOT": str(place)}
    output = args.output or Path("out", f"fit_{file_name(place.resolve().stem)}")
    if settings["DATASET.NAME"] == "folder":
        check_output(settings["DATASET.ROOT"], output)
    log_to_terminal()
    once = Once()
    for handler in logging.getLogger("promptvision").handlers:
        handler.addFilter(once)

    def tell(text):
        seconds = round(clock.limit - clock.left())
        say(f"{seconds // 60}:{seconds % 60:02} {text}")

    settings |= checked(settings, clock, args.jobs, tell, once)
    settings |= {"BACKBONE.NAME": args.backbone, "BACKBONE.PRETRAINED": args.pretrained}
    show(fitted(Task(settings, output, FAMILIES, args.seed, args.jobs), clock, tell), output)


def fitted(task, clock, tell):
    """Fit; a stop and missing weights are explained in the words of this tool, which has no keys."""
    from promptvision.sweep.fitting.fit import fit  # torch

    try:
        return fit(task, clock, tell)
    except (KeyboardInterrupt, SystemExit):
        tell("stopped: the same command resumes")
        raise
    except InputError as error:
        reason, advice, _ = str(error).partition("; give a file: BACKBONE.PRETRAINED")
        hint = "; name a file of weights, or --backbone embedded, a small one that needs no download" if advice else ""
        raise InputError(f"{reason}{hint}") from error


def show(found, output):
    """Print the candidates and what was chosen, write both to fit.md, and name the command that predicts."""
    from promptvision.sweep.fitting.words import summary  # torch

    table, sentences = candidates_table(found.tried, found.best), summary(found)
    wide_console().print(TerminalTable(table))
    for sentence in sentences:
        say(sentence)
    write_atomically(output / "fit.md", "\n\n".join([markdown(table), *sentences, ""]).encode())
    write_page(output / "best")
    run = shlex.quote(str(output / "best"))
    say(as_called(f"python tools/predict.py --run {run} photos/"))


def write_page(folder):
    """Write run.html of the chosen run; a page that cannot be written is a warning, as the run is safe."""
    from promptvision.deploy.run_page import SECONDS, write_page_of
    from promptvision.engine.progress import LOG

    try:
        write_page_of(folder, folder / "run.html", FAMILIES, seconds=SECONDS)
        say(f"page: {folder / 'run.html'}")
    except InputError as error:
        LOG.warning("No page: %s", error)


def checked(settings, clock, jobs, tell, once):
    """Look at every image, as far as the time goes, and say what is wrong; return settings that leave out bad ones."""
    from promptvision.data.prepare.check import check  # torch

    def in_time(seen, total):
        shown = track(seen, "looking at the images", "image", total)
        return takewhile(lambda _: clock.left() > (1 - TO_CHECK) * clock.limit, shown)

    (report,) = check(load_card(settings["DATASET.NAME"]), settings["DATASET.ROOT"], jobs=jobs, progress=in_time)
    for finding in report.findings:
        case = finding.cases[0].replace("set DATASET.ROOT to", "name")  # a fit has no keys
        if finding.what == "cannot be used as it is":
            raise InputError(case)
        more = f", and {len(finding.cases) - 1:,} more" if len(finding.cases) > 1 else ""
        tell(f"{finding.what}: {case}{more}")
        once.said.update(finding.cases)
    bad = any(finding.what == UNREADABLE for finding in report.findings)
    return {"INPUT.ON_BAD_IMAGE": "skip" if bad else "stop"}


def candidates_table(tried, best):
    """Return the candidates with their accuracy on held-out images."""
    columns = [Column("candidate", number=False, head=True), Column("held out (%)"), Column("±"), Column("seconds")]
    rows = []
    for each in tried:
        score = each.score
        numbers = [f"{score.accuracy:.1f}", f"{score.error:.1f}", f"{each.seconds:.1f}"] if score else ["", "", ""]
        mark = "best" if each is best else ""
        rows.append([Entry(text, mark=mark) for text in (each.candidate.name, *numbers, each.note)])
    return Table(
        "Candidates", [*columns, Column("note", number=False)], rows, "±: standard error of the held-out images."
    )


if __name__ == "__main__":
    with one_sentence():
        main()
