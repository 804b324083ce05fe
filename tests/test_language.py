"""Plain English in code and docs: CONTRIBUTING.md has the rules, these tests grep for what no sentence needs."""

import ast
import re
from pathlib import Path

from promptvision.errors import counted

ROOT = Path(__file__).parents[1]
FOLDERS = ("promptvision", "coop", "vpt", "tools", "examples")
TESTS = sorted((ROOT / "tests").glob("*.py"))
CODE = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
PROSE = sorted(
    [
        ROOT / "README.md",
        ROOT / "examples/README.md",
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "configs").rglob("*.yaml"),
    ]
)

STILTED = {"What", "Where", "Whether", "Who", "How", "Of"}
"""First words of docstrings that describe a question in place of the thing."""
WORDS = re.compile(
    r"\b(pictures?|somebody(?:'s)?|whoever|anew|nothing but|gone on with|taken up again|(?:of )?one's own)\b", re.I
)
"""Words that read as translated; each has a plainer one."""
KEYS = re.compile(r"[\"'`](?:pictures?|pictures_from|bad_pictures)[\"'`]|(?:blurry )picture")
"""Keys of results, and words of the embedded world's captions, which stay as they are."""


BEFORE_PLURAL = re.compile(
    r"(?:\{len\([^{}]*\)(?::,)?\}|%d) (?:[a-z]+ )?(?:images|classes|files|folders|runs|lists|blocks|labels|figures)\b"
)
"""A number that may be 1 in front of a plural; `errors.counted` says both."""
GUARDED = re.compile(r" if |none of the ")
"""Lines that are reached with more than one, or sentences that are right with one."""


def test_numbers_agree_with_their_nouns():
    assert counted(1, "image") == "1 image" and counted(2000, "class") == "2,000 classes"
    assert counted(3, "batch") == "3 batches"
    assert counted(0, "file was", "files were") == "0 files were"
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in CODE
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if BEFORE_PLURAL.search(line) and not GUARDED.search(line)
    ]
    assert not found


def test_words_that_read_as_translated():
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in [*CODE, *PROSE]
        for number, line in enumerate(KEYS.sub("", path.read_text(encoding="utf-8")).splitlines(), 1)
        if WORDS.search(line)
    ]
    assert not found


def test_first_words_of_docstrings():
    kinds = ast.Module, ast.ClassDef, ast.FunctionDef
    nodes = [(path, node) for path in CODE for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    docs = [(path.name, doc) for path, node in nodes if isinstance(node, kinds) and (doc := ast.get_docstring(node))]
    assert not [(name, doc) for name, doc in docs if doc.split()[0].strip(",:") in STILTED]
    values = [
        (path.name, line.strip()) for path in [*CODE, *TESTS] for line in path.read_text(encoding="utf-8").splitlines()
    ]
    assert not [line for line in values if re.match(rf'"""({"|".join(STILTED)}) ', line[1])]
