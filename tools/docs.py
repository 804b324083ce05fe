"""Write the generated pages: python tools/docs.py

docs/config.md from keys and methods' docstrings, docs/datasets.md from cards, docs/tutorials/ from examples/tutorials/.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from promptvision.atomic import write_atomically
from promptvision.config.docs import config_page
from promptvision.config.families import FAMILIES
from promptvision.data.prepare.docs_page import datasets_page

RUN_IT = """\
*This page is the script `{path}`: run it in an empty folder, or cell by cell in an editor.*
"""


def main():
    for script in sorted((ROOT / "examples/tutorials").glob("*.py")):
        write_atomically(ROOT / f"docs/tutorials/{script.stem}.md", tutorial_page(script).encode())
    write_atomically(ROOT / "docs" / "config.md", config_page(FAMILIES).encode())
    write_atomically(ROOT / "docs" / "datasets.md", datasets_page().encode())


def tutorial_page(script):
    """Return a script in cells, which begin with `# %%`, as Markdown: its text, the commands that it runs, its code."""
    parts = []
    for cell in re.split(r"^# %% ?", script.read_text(encoding="utf-8"), flags=re.M)[1:]:
        kind, _, body = cell.partition("\n")
        commands = re.findall(r'^run\("{1,3}(.*?)"{1,3}\)$', body, re.M | re.S)
        if kind == "[markdown]":
            parts.append(re.sub(r"^# ?", "", body.strip(), flags=re.M))
        elif kind != "commands":  # the cell that says how a command is run
            parts.append("\n".join(["```", *commands, "```"] if commands else ["```python", body.strip(), "```"]))
    title, _, rest = parts[0].partition("\n")
    parts[0] = f"{title}\n\n{RUN_IT.format(path=script.relative_to(ROOT).as_posix())}{rest}"
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main()
