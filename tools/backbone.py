"""Describe a backbone and try every method on it: python tools/backbone.py --name vit_tiny_patch16_224

Prints sizes, normalisation and the time of a forward pass, and for every method with its default options the time of a
training step on random images, or the reason why it refuses. Weights are random unless --pretrained says otherwise.
"""

from promptvision.cli import natural, one_sentence, tool_parser, whole
from promptvision.config.families import FAMILIES


def arguments():
    parser = tool_parser(__doc__)
    parser.add_argument("--name", nargs="+", required=True, help="BACKBONE.NAME: a model, a file, or module:function")
    parser.add_argument("--pretrained", default="none", help="BACKBONE.PRETRAINED (default none: random weights)")
    parser.add_argument("--size", type=natural, default=0, help="INPUT.SIZE (default: the model's own)")
    parser.add_argument("--method", nargs="+", default=[], metavar="NAME", help="methods to try (default: all)")
    parser.add_argument("--batch", type=whole(2), default=2, metavar="N", help="images of a step (default 2)")
    parser.add_argument("--markdown", action="store_true", help="all names side by side, in Markdown")
    return parser.parse_args()


def main():
    args = arguments()
    from promptvision.report.tables.terminal import wide_console
    from promptvision.sweep.method_trials import facts, load_all

    for name in args.method:
        if not any(name in family.METHODS for family in FAMILIES.values()):
            FAMILIES["vpt"].METHODS.check(name)
    console = wide_console()
    pages = {}
    for name in args.name:
        for family, backbone in load_all(FAMILIES, name, args.pretrained, args.size).items():
            title = f"{name} ({family})"
            if args.markdown:
                pages.setdefault(family, {})[name] = facts(backbone, args.batch), list(tried(family, backbone, args))
            else:
                show(console, title, family, backbone, args)
    if args.markdown:
        print("\n".join(line for family, found in pages.items() for line in markdown(family, found, args.batch)))


def tried(family, backbone, args):
    """Yield the trials of a family's methods, of those chosen if any are."""
    from promptvision.sweep.method_trials import trials

    chosen = [name for name in args.method if name in FAMILIES[family].METHODS]
    if chosen or not args.method:
        yield from trials(FAMILIES[family], backbone, args.batch, chosen)


def show(console, title, family, backbone, args):
    """Print the facts of a backbone, and a row for each method."""
    from rich.table import Table

    from promptvision.sweep.method_trials import facts

    sizes = Table(title=title, title_justify="left", show_header=False)
    for row in facts(backbone, args.batch).items():
        sizes.add_row(*row)
    console.print(sizes)
    table = Table(title=f"methods of {family}", title_justify="left")
    for column in ("method", "learned parameters", f"step, {args.batch} images", "why not"):
        table.add_column(column, justify="right" if column.startswith(("learned", "step")) else "left")
    for each in tried(family, backbone, args):
        step = f"{1000 * each.step:.1f} ms" if each.step is not None else "no steps"
        table.add_row(each.method, *(["", "", each.why_not] if each.why_not else [f"{each.learned:,}", step, ""]))
    console.print(table)


def markdown(family, pages, batch):
    """Return lines: a table of facts, a row for each backbone; one of methods, a column for each; reasons below."""
    facts, trials = zip(*pages.values(), strict=True)
    columns = list(dict.fromkeys(key for each in facts for key in each))
    step = f"step, {batch} images"
    lines = [f"`{family}`:", "", f"| backbone | {' | '.join([*columns, step])} |", "|---" * (2 + len(columns)) + "|"]
    for name, each, tries in zip(pages, facts, trials, strict=True):
        steps = [1000 * trial.step for trial in tries if trial.step is not None]
        found = f"{min(steps):.0f} to {max(steps):.0f} ms" if steps else "no steps"
        lines.append(f"| `{name}` | {' | '.join([*(each.get(column, '') for column in columns), found])} |")
    lines += ["", "| method | " + " | ".join(f"`{name}`" for name in pages) + " |", "|---" * (1 + len(pages)) + "|"]
    reasons = []
    for row in zip(*trials, strict=True):
        cells = []
        for name, trial in zip(pages, row, strict=True):
            called = f"backbone {name!r}"
            reason = trial.why_not.removeprefix(f"{called} ").replace(called, "the backbone")
            if reason and reason not in reasons:
                reasons.append(reason)
            cells.append(f"{reasons.index(reason) + 1}" if reason else "yes")
        lines.append(f"| `{row[0].method}` | {' | '.join(cells)} |")
    return [*lines, "", *(f"{number}. {reason}" for number, reason in enumerate(reasons, 1)), ""]


if __name__ == "__main__":
    with one_sentence():
        main()
