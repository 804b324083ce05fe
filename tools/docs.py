"""Writes docs/config.md (schema and methods' signatures) and docs/datasets.md (cards): python tools/docs.py"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from promptvision.atomic import write_atomically
from promptvision.config.docs import config_page
from promptvision.config.families import FAMILIES
from promptvision.data.prepare.docs_page import datasets_page


def main():
    write_atomically(ROOT / "docs" / "config.md", config_page(FAMILIES).encode())
    write_atomically(ROOT / "docs" / "datasets.md", datasets_page().encode())


if __name__ == "__main__":
    main()
