"""The site of the docs: its pages, and the names that the API reference documents. `make site` builds it."""

import ast
import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SITE = (ROOT / "zensical.toml").read_text(encoding="utf-8")
NAMES = [
    name
    for page in sorted((DOCS / "api").glob("*.md"))
    for name in re.findall(r"^::: ([\w.]+)$", page.read_text(), re.M)
]
PUBLIC = ("promptvision.backbones", "promptvision.config", "promptvision.experiment")
"""Packages whose `__init__` says what is public."""


def found(name):
    """The object of a dotted name: a module, or an attribute of one."""
    module, _, attribute = name.rpartition(".")
    try:
        return import_module(name)
    except ModuleNotFoundError:
        return getattr(import_module(module), attribute)


def test_the_menu_has_every_page_once():
    pages = [page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")]
    assert sorted(re.findall(r'"([\w/]+\.md)"', SITE)) == sorted(pages)


@pytest.mark.parametrize("name", NAMES)
def test_the_reference_documents_what_exists(name):
    each = found(name)
    members = [m for key, m in vars(each).items() if inspect.isfunction(m) and not key.startswith("_")]
    own = [m for m in members if m.__module__ == getattr(each, "__module__", each.__name__)]
    assert all(inspect.getdoc(member) for member in [each, *own])


def test_the_reference_has_all_that_is_public():
    for package in PUBLIC:
        tree = ast.parse(Path(import_module(package).__file__).read_text(encoding="utf-8"))
        (names,) = (
            ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign) and n.targets[0].id == "__all__"
        )
        assert {f"{package}.{name}" for name in names} <= set(NAMES)
