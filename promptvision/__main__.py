"""The command `promptvision`: `promptvision train ...` runs train.py of tools/, which is installed as commands/."""

from __future__ import annotations

import ast
import runpy
import sys
from pathlib import Path

from promptvision import __version__
from promptvision.cli import one_sentence
from promptvision.errors import unknown

USAGE = "usage: promptvision COMMAND ...; promptvision COMMAND --help explains one\n\n"


@one_sentence()
def main() -> None:
    """Run the command that the first word names; without one, list the commands."""
    here = Path(__file__).parent
    folder = next(place for place in (here / "commands", here.parent / "tools") if place.is_dir())
    commands = {path.stem: path for path in sorted(folder.glob("*.py"))}
    words = sys.argv[1:]
    if words[:1] == ["help"] and len(words) == 2 and words[1] in commands:
        words = [words[1], "--help"]
    name = words[0] if words and words != ["help"] else "--help"
    if name == "--version":
        sys.stdout.write(f"promptvision {__version__}\n")
    elif name in ("-h", "--help"):
        sys.stdout.write(USAGE + "".join(f"  {name:<10}{title(path)}\n" for name, path in commands.items()))
    elif name in commands:
        sys.argv[:] = [f"promptvision {name}", *words[1:]]
        runpy.run_path(str(commands[name]))["main"]()
    else:
        raise unknown("command", name, commands)


def title(path: Path) -> str:
    """Return the beginning of a tool's docstring, up to its first example."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0].partition(":")[0]


if __name__ == "__main__":
    main()
