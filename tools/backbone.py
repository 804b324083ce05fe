"""Show what a backbone is and which methods work on it: python tools/backbone.py --name vit_tiny_patch16_224

Sizes, normalisation, the time of a forward pass, and for every method with its default options the time of a training
step on random images, or the sentence in which it refuses. Weights are random unless --pretrained says otherwise.
"""

from promptvision.cli import one_sentence, tool_parser
from promptvision.config.families import FAMILIES


def arguments():
    parser = tool_parser(__doc__)
    parser.add_argument("--name", nargs="+", required=True, help="BACKBONE.NAME: a model, a file, or module:function")
    parser.add_argument("--pretrained", default="none", help="BACKBONE.PRETRAINED (default none: random weights)")
    parser.add_argument("--size", type=int, default=0, help="INPUT.SIZE (default: the model's own)")
    parser.add_argument("--method", nargs="+", default=[], metavar="NAME", help="methods to try (default: all)")
    parser.add_argument("--batch", type=int, default=2, metavar="N", help="images of a step (default 2)")
    parser.add_argument("--markdown", action="store_true", help="one table of all names and methods, without times")
    args = parser.parse_args()
    if args.batch < 2:
        parser.error("--batch takes a number from 2 on: each of two classes needs an image")
    return args


def main():
    args = arguments()
    from promptvision.report.tables.terminal import wide_console
    from promptvision.sweep.method_trials import load_all

    for name in args.method:
        if not any(name in family.METHODS for family in FAMILIES.values()):
            FAMILIES["vpt"].METHODS.check(name)
    console = wide_console()
    pages = {}
    for name in args.name:
        for family, backbone in load_all(FAMILIES, name, args.pretrained, args.size).items():
            title = f"{name} ({family})"
            if args.markdown:
                pages[family, name] = list(tried(family, backbone, args))
            else:
                show(console, title, family, backbone, args)
    if args.markdown:
        print(markdown(pages), end="")


def tried(family, backbone, args):
    """Yield the trials of a family's methods, of those chosen if any are."""
    from promptvision.sweep.method_trials import trials

    chosen = [name for name in args.method if name in FAMILIES[family].METHODS]
    if chosen or not args.method:
        yield from trials(FAMILIES[family], backbone, args.batch, chosen, times=0 if args.markdown else 3)


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


def markdown(pages):
    """Return a table for each family, a row for each method and a column for each backbone, with the reasons below."""
    lines = []
    for family in dict.fromkeys(family for family, _ in pages):
        names, reasons = [name for other, name in pages if other == family], []
        rows = {}
        for name in names:
            for each in pages[family, name]:
                reason = each.why_not.replace(f"backbone {name!r} ", "")
                if reason and reason not in reasons:
                    reasons.append(reason)
                rows.setdefault(each.method, []).append(f"{reasons.index(reason) + 1}" if reason else "yes")
        lines += [f"`{family}`:", "", "| method | " + " | ".join(f"`{name}`" for name in names) + " |"]
        lines += ["|---" * (1 + len(names)) + "|"]
        lines += [f"| `{method}` | " + " | ".join(cells) + " |" for method, cells in rows.items()]
        lines += ["", *(f"{number}. {reason}" for number, reason in enumerate(reasons, 1)), ""]
    return "\n".join(lines)


if __name__ == "__main__":
    with one_sentence():
        main()
