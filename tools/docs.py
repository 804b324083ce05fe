"""Writes docs/config.md from the schema and the methods' signatures: python tools/docs.py"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from families import FAMILIES

from promptvision.config_help import config_page
from promptvision.engine.checkpoint import write_atomically

PAGE = ROOT / "docs" / "config.md"

if __name__ == "__main__":
    write_atomically(PAGE, config_page(FAMILIES).encode())
