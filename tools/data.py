"""List, inspect, check, download and cache datasets.

    python tools/data.py list                                # every card: protocols, classes, whether it is here
    python tools/data.py show dtd --output dtd.png           # its card, and images with their labels
    python tools/data.py check dtd --root data               # counts, labels, broken images, copies
    python tools/data.py download dtd && python tools/data.py prepare dtd
    python tools/data.py split dtd --seed 1                  # a new split, if the published one cannot be obtained
    python tools/data.py cache dtd --size 256 --output out/dtd   # images decoded once, for fast epochs

NAME is a card of datasets/ or a card file of your own. --root is DATASET.ROOT; without it, the folder data.
"""

from functools import partial
from itertools import count
from pathlib import Path

from promptvision.cli import natural, one_sentence, positive, say, tool_parser
from promptvision.data.cards import card_names, load_card
from promptvision.data.prepare.download import SOURCES, download
from promptvision.data.prepare.make_split import make_split
from promptvision.data.prepare.presence import IN_MEMORY, presence, root_folder
from promptvision.data.prepare.samples import samples
from promptvision.data.prepare.unpack import archives, prepare
from promptvision.data.readers import read
from promptvision.engine.progress import Meter, log_to_terminal, track
from promptvision.errors import InputError, as_called, counted
from promptvision.report.tables.terminal import PlainConsole, card_table, cards_table


def arguments():
    parser = tool_parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(action, help, *, name=True):
        own = commands.add_parser(action.__name__.removesuffix("_"), help=help, description=f"{help}.")
        own.set_defaults(action=action)
        own.add_argument("--root", default="", help="DATASET.ROOT (without it, the folder data)")
        if name:
            own.add_argument("name", metavar="NAME", help="a card of datasets/, or a card file of your own")
        return own

    command(list_, "print a table of all cards", name=False)
    own = command(show, "print a card, and draw a sheet of images with their labels")
    own.add_argument("--output", type=Path, metavar="SHEET.png", help="draw images of it here")
    own.add_argument("--classes", type=positive, default=40, help="maximum number of classes on the sheet (default 40)")
    own.add_argument("--images", type=positive, default=3, help="images of each class on the sheet (default 3)")
    own = command(check_, "check every file and image; exit status 1 if something is wrong", name=False)
    own.add_argument("names", nargs="*", metavar="NAME", help="cards of datasets/, or card files of your own")
    own.add_argument("--all", action="store_true", help="every card whose folders are under the root")
    own.add_argument("--jobs", type=positive, default=1, help="processes that decode images (default 1)")
    own.add_argument("--limit", type=natural, default=20, help="cases printed of each finding (default 20, 0 for all)")
    own = command(download_, "download what the card names, if its licence allows it")
    own.add_argument("--source", choices=SOURCES, default="", help="official addresses, or the Hugging Face Hub")
    command(prepare_, "unpack the official archives to the layout of the reader")
    own = command(split, "make a split file, different from the published one, if that is missing")
    own.add_argument("--seed", type=int, default=1, help="seed of the shuffling (default 1)")
    own = command(cache, "decode every image once, at a smaller size if you like, into a folder for fast epochs")
    own.add_argument("--output", type=Path, required=True, help="folder of the cache")
    own.add_argument("--size", type=natural, default=0, help="shorter side in pixels (default 0: original size)")
    own.add_argument("--filter", default="bicubic", help="resampling filter, bicubic or bilinear (default bicubic)")
    own.add_argument("--resize", default="pillow", help="what resizes, as in INPUT.RESIZE: pillow (default) or tensor")
    own.add_argument("--jobs", type=positive, default=1, help="processes that decode images (default 1)")
    return parser.parse_args()


def list_(args):
    cards = [load_card(name) for name in card_names()]
    PlainConsole().print(cards_table([(card, presence(card, args.root)) for card in cards]))


def show(args):
    card = load_card(args.name)
    PlainConsole().print(card_table(card, presence(card, args.root)))
    if args.output is None:
        return
    from promptvision.report.figures.contact_sheet import contact_sheet

    rows, classes = samples(read(card, args.root), args.classes, args.images)
    some = f", {len(rows)} of {counted(classes, 'class')}" if len(rows) < classes else ""
    try:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        contact_sheet(rows, args.output, f"{card.title}{some}")
    except OSError as error:
        raise InputError(f"--output {args.output} cannot be written: {error.strerror}") from None
    say(args.output)


def check_(args):
    if bool(args.names) == args.all:
        raise InputError("name the datasets to check, or pass --all")
    names = args.names or present_cards(args.root)
    reports = [report for name in names for report in check_one(load_card(name), args)]
    wrong = [report.name for report in reports if not report.fine]
    say(f"{len(reports) - len(wrong)} of {len(reports)} fine" + (f", not: {'; '.join(wrong)}" if wrong else ""))
    raise SystemExit(1 if wrong else 0)


def present_cards(root):
    """Return the names of the cards whose folders are under the root."""
    cards = [load_card(name) for name in card_names()]
    state = {card.name: presence(card, root) for card in cards if card.reader not in IN_MEMORY}
    names = [name for name, found in state.items() if found in ("here", "in part")]
    absent = [name for name, found in state.items() if found == "no"]
    if not names:
        raise InputError(f"none of the {counted(len(absent), 'dataset')} of the cards is under {root_folder(root)}")
    if absent:
        say(f"not under {root_folder(root)}: {', '.join(absent)}")
        print()
    return names


def check_one(card, args):
    """Check one card, print its findings and return the reports."""
    from promptvision.data.prepare.check import check

    reports = check(card, args.root, jobs=args.jobs, progress=partial(decoding, card.name))
    for report in reports:
        sizes = ", ".join(
            f"{split} {counted(n, 'image')} of {counted(c, 'class')}" for split, (n, c) in report.sizes.items()
        )
        say(f"{report.name}: {sizes or 'nothing could be read'}")
        for finding in report.findings:
            say(f"  {'WRONG' if finding.fault else 'note'}: {finding.what} ({len(finding.cases):,})")
            limit = args.limit or len(finding.cases)
            for case in finding.cases[:limit]:
                say(f"    {case}")
            if len(finding.cases) > limit:
                say(f"    and {len(finding.cases) - limit:,} more (--limit 0 prints all)")
        print("  fine\n" if report.fine else "")
    return reports


def decoding(name, seen, total):
    """Yield the decoded images of a dataset and show the progress."""
    return track(seen, f"decoding {name}", "image", total)


def download_(args):
    card = load_card(args.name)
    with Meter(f"downloading {card.name}", None, "byte") as meter:

        def progress(have, of):
            if of != meter.total:
                meter.expect(of or None, have)
            meter.update(have)

        files = download(card, args.root, args.source, progress)
    for file in files:
        say(file)
    steps = [*(["prepare"] if archives(card, args.root) else []), "check"]
    say("next: " + ", then ".join(as_called(f"python tools/data.py {step} {args.name}") for step in steps))


def prepare_(args):
    card = load_card(args.name)
    number = count(1)
    with Meter(f"unpacking {card.name}", None, "file") as meter:
        new = prepare(card, args.root, lambda name: meter.update(next(number), f"unpacking {name}"))
    say(f"{card.name}: {counted(new, 'new file')}" if new else f"{card.name}: everything was in place already")


def split(args):
    card = load_card(args.name)
    file, sizes = make_split(card, args.root, args.seed)
    say(f"{file}: " + ", ".join(f"{name} {count:,}" for name, count in sizes.items()))
    say("This is not the published split: do not compare its results with published numbers.")


def cache(args):
    from promptvision.data.image_cache import build_cache

    card = load_card(args.name)
    options = {"filter": args.filter, "resize": args.resize, "jobs": args.jobs}
    made = build_cache(read(card, args.root), args.output, args.size, progress=partial(decoding, card.name), **options)
    say(
        f"{args.output}: {counted(len(made), 'image')} of {card.name}, {made.kind}; "
        f"train with INPUT.CACHE {args.output}"
    )


def main():
    args = arguments()
    log_to_terminal()
    args.action(args)


if __name__ == "__main__":
    with one_sentence():
        main()
