"""Verify an installation, its weights and its datasets: python tools/verify.py --root data --backbone RN50 ViT-B-16

The verdict of a check is that it holds, that it differs, or that what it needs is not here. The exit status is 1 if any
check differs. The checks compare packages and arithmetic; weight files with the SHA-256 of their addresses; tokenizer
and image transform with known results; the fast encoding with the plain one on these weights; counts, few-shot images
and views of each dataset under --root; and zero-shot accuracies and linear probes with the published ones. --train
also repeats a published training, on the smallest dataset that has one. docs/verify.md explains the checks.
"""

import json
import time
from functools import cache, partial

from promptvision.cli import one_sentence, say, tool_parser
from promptvision.config.families import FAMILIES
from promptvision.data.cards import card_names, load_card
from promptvision.data.prepare.presence import expected, presence, root_folder
from promptvision.data.readers import read
from promptvision.errors import InputError, counted

NAMES = ("cat", "golden retriever", "DC-9-30", "bird's nest", "Washington D.C.", "snapdragon", "T-shirt", "annual crop")
"""Classes of the methods by which the ways of encoding are compared."""
VIEWS = 8
"""Images of a dataset whose views are compared."""
READING = 0.01
"""Seconds for reading an image, about."""
PASSES = 40
"""Forward passes of one image that take as long as comparing the ways: training steps of two, also in float64."""


def arguments():
    parser = tool_parser(__doc__)
    parser.add_argument("--root", default="", help="DATASET.ROOT (without it, the folder data)")
    known = "embedded, and of CLIPs with published numbers those whose weights are on this machine"
    help = f"names or weight files, as for BACKBONE.NAME; missing weights are downloaded (default: {known})"
    parser.add_argument("--backbone", nargs="+", default=[], metavar="NAME", help=help)
    parser.add_argument("--train", action="store_true", help="also repeat a published training, with three seeds")
    parser.add_argument("--json", action="store_true", help="print one JSON object per line instead of a table")
    return parser.parse_args()


def main():
    args = arguments()

    from promptvision.engine.progress import log_to_terminal, track
    from promptvision.report.tables.terminal import TerminalTable, wide_console
    from promptvision.verify.check import DIFFERS, table

    log_to_terminal()
    backbones, here = needs(args)
    checks = [*of_machine(), *missing(args, backbones, here)]
    checks += [check for card in here for check in of_dataset(card, args.root)]
    checks += [check for name in backbones for check in of_backbone(name)]
    checks += accuracies(args, backbones, here)
    if not args.json:
        seconds = sum(check.images * pace(check.of) for check in checks if check.images)
        wait = f"{seconds / 60:.0f} minutes" if seconds > 90 else "a minute or two"
        say(f"{counted(len(checks), 'check')}, about {wait} on {device()}. Features of images stay in CACHE_DIR.")
    rows = []
    for check in track(checks, "verifying", "check"):
        rows.append(check.row())
        if args.json:
            say(json.dumps(rows[-1], ensure_ascii=False))
    if not args.json:
        wide_console().print(TerminalTable(table(rows)))
    raise SystemExit(1 if any(row["verdict"] == DIFFERS for row in rows) else 0)


def needs(args):
    """Return the names of the backbones and the cards of the datasets to verify, and say what is needed."""
    from promptvision.verify.published import clips
    from promptvision.verify.weights import weight_file

    backbones = args.backbone or ["embedded", *(name for name in clips() if weight_file(name))]
    cards = {name: load_card(name) for name in card_names()}
    here = [card for card in cards.values() if presence(card, args.root) in ("here", "in part")]
    if not args.json:
        say(f"Needs weights (published numbers: {', '.join(clips())}; --backbone) and datasets (--root).")
        found = ", ".join(card.name for card in here) or "no dataset"
        say(f"Here: {', '.join(backbones)}; under {root_folder(args.root)}: {found}.")
    return backbones, here


@cache
def device():
    """Return the device that runs use by default."""
    from promptvision.engine.device import choose_device

    return choose_device()


@cache
def load(name):
    """Return a CLIP or an image tower on the device, or the error that loading it ends with."""
    from promptvision.verify.weights import is_clip

    try:
        return FAMILIES["coop" if is_clip(name) else "vpt"].load_backbone(name).to(device())
    except Exception as error:  # noqa: BLE001 - the row of its weights says so, and other checks follow
        return error


@cache
def pace(name):
    """Return the seconds that a backbone takes for an image, reading it included."""
    import torch

    tower = getattr(load(name), "image", load(name))
    for count in (1, 2):  # the first batch also prepares the device
        images = torch.randn(count, 3, tower.image_size, tower.image_size, device=device())
        started = time.monotonic()
        with torch.no_grad():
            float(tower(images).sum())
    return (time.monotonic() - started) / count + READING


def of_machine():
    from promptvision.data.prepare.known import KNOWN_VIEW, view_of_known_image
    from promptvision.verify.check import Check, judged
    from promptvision.verify.machine import arithmetic, packages

    def view():
        fault = "differs from the known one: does another library than Pillow resize?"
        return judged([fault] if view_of_known_image() != KNOWN_VIEW else [], "bit for bit")

    yield Check("installation", "packages", packages)
    yield Check("installation", "arithmetic", partial(arithmetic, device()))
    yield Check("installation", "CLIP's view of a known image", view)


def missing(args, backbones, here):
    """Yield the weights, unless some are named, and the datasets with published numbers that are not here."""
    from promptvision.verify.check import ABSENT, Answer, Check
    from promptvision.verify.published import cards, clips

    names = [] if args.backbone else [name for name in clips() if name not in backbones]
    absent = [name for name in cards() if name not in [card.name for card in here]]
    if names:
        yield Check("weights", "files", partial(Answer, ABSENT, f"not on this machine: {', '.join(names)}"))
    if absent:
        where = f"not under {root_folder(args.root)}: {', '.join(absent)}"
        yield Check("datasets", "files", partial(Answer, ABSENT, where))


def of_dataset(card, root):
    """Yield the checks of a dataset under the root; one of which files are missing is not here."""
    from promptvision.data.prepare.known import fingerprints, miscounted, wrong_picks, wrong_views
    from promptvision.verify.check import ABSENT, Answer, Check, judged

    lacks = [name for name, exists in expected(card, root).items() if not exists]
    if lacks:
        yield Check(card.name, "files", partial(Answer, ABSENT, f"missing: {', '.join(lacks)}"))
        return
    images, known = cache(partial(read, card, root)), fingerprints(card.name)
    counts = ", ".join(f"{split} {count:,}" for split, count in card.counts.items()) or "the card has none"
    yield Check(card.name, "counts", lambda: judged(miscounted(card, root), counts))
    if known:
        lists = f"{2 * len(known)} published lists, by their fingerprints"
        yield Check(card.name, "few-shot images", lambda: judged(wrong_picks(images(), known), lists))
    same = f"{VIEWS} test images as by CLIP's own transform, bit for bit"
    yield Check(card.name, "views", lambda: judged(wrong_views(images(), VIEWS), same))


def of_backbone(name):
    """Yield the checks of a backbone, or the reason for which it cannot be loaded."""
    from promptvision.verify.check import ABSENT, DIFFERS, Answer, Check
    from promptvision.verify.tokens import known_tokens
    from promptvision.verify.weights import check_hash, is_clip, weight_file

    file, backbone = weight_file(name), load(name)
    if isinstance(backbone, Exception):
        absent = file is None and isinstance(backbone, InputError)
        yield Check(name, "weights", partial(Answer, ABSENT if absent else DIFFERS, str(backbone)))
        return
    yield Check(name, "weights", partial(check_hash, weight_file(name)))
    image = {"num_tokens": 10, "deep": True}
    if is_clip(name):
        yield Check(name, "tokens", partial(known_tokens, backbone.text))
        yield Check(name, "fast way, texts", partial(ways, name, "coop", "coop", "text", n_ctx=4))
        image = {"n_ctx": 4, "depth": max(1, len(backbone.image.blocks))}
    method = ("coop", "vpt", "image") if is_clip(name) else ("vpt", "prompt", "")
    yield Check(name, "fast way, images", partial(ways, name, *method, **image), PASSES)


def ways(name, family, method, tower, **options):
    """Compare the ways of encoding by a method with random prompts on random images, or on their features."""
    import torch

    from promptvision.verify.check import ABSENT, Answer
    from promptvision.verify.ways import compare_ways

    backbone = load(name)
    image = getattr(backbone, "image", backbone)
    torch.manual_seed(0)
    try:
        built = FAMILIES[family].build(method, backbone, NAMES, **options).to(device())
    except InputError as error:  # such as a tower without blocks to put prompts into
        return Answer(ABSENT, str(error))
    inputs = torch.randn(2, 3, image.image_size, image.image_size, device=device())
    if tower == "text":
        with torch.no_grad():
            inputs = image(inputs)
    half = "fp16" if device().type == "cuda" else "bf16"
    labels = torch.arange(2, device=device())
    return compare_ways(built, getattr(backbone, tower, backbone), inputs, labels, half)


def accuracies(args, backbones, here):
    """Yield the published accuracies that can be repeated, and for each backbone without one that there is none."""
    from promptvision.verify.check import ABSENT, Answer, Check
    from promptvision.verify.published import numbers_of, own_numbers
    from promptvision.verify.weights import published_name, weight_file

    trainings = []
    for name in (name for name in backbones if not isinstance(load(name), Exception)):
        known = published_name(name, weight_file(name))
        found = own_numbers() if name == "embedded" else []
        found += [number for card in here for number in numbers_of(known, name, card, args.root)]
        for number in found:
            of = f"{number.what}, {number.words['DATASET.NAME']}"
            check = Check(name, of, partial(number.repeat, FAMILIES), number.images)
            if number.trains:
                trainings.append((number.images, check))
            else:
                yield check
        bare = [card.name for card in here if not any(n.words["DATASET.NAME"] == card.name for n in found)]
        if bare:
            yield Check(name, "accuracy", partial(Answer, ABSENT, f"no published number on {', '.join(bare)}"))
    if args.train:
        smallest = sorted(trainings, key=lambda pair: pair[0])[:1]
        yield from (check for _, check in smallest)
        if not smallest:
            none = "no published training of these backbones on these datasets"
            yield Check("training", "accuracy", partial(Answer, ABSENT, none))


if __name__ == "__main__":
    with one_sentence():
        main()
