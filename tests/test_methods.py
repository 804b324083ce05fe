"""Tables of methods: what is known of a method before it is imported, and that it is the same afterwards."""

import subprocess
import sys

import pytest

from promptvision.config.families import FAMILIES
from promptvision.config.methods import LazyTable, MethodTable
from promptvision.errors import InputError
from promptvision.method import Method, option_defaults

EVERY = [(family, name) for family in FAMILIES for name in FAMILIES[family].METHODS]


@pytest.mark.parametrize(("family", "name"), EVERY)
def test_options_read_from_the_source_are_those_of_the_class(family, name):
    found, method = FAMILIES[family].options(name), FAMILIES[family].METHODS.find(name)
    assert issubclass(method, Method)
    assert [*found.items()] == [*option_defaults(method).items()]
    assert [*map(type, found.values())] == [*map(type, option_defaults(method).values())]


@pytest.mark.parametrize(("family", "name"), EVERY)
def test_every_option_has_a_meaning(family, name):
    docs = FAMILIES[family].METHODS.docs(name)
    assert docs.defaults.keys() == docs.meanings.keys(), "the docstring of the class says what each option means"
    assert all(len(meaning) > 5 and not meaning.startswith("as in ") for meaning in docs.meanings.values())
    assert docs.paper and docs.summary


def test_a_table_imports_what_is_asked_for_and_nothing_else():
    code = (
        "import sys\n"
        "from promptvision.config.families import FAMILIES\n"
        "assert [*FAMILIES] == ['vpt', 'coop'] and 'coop' in FAMILIES and 'coop' not in sys.modules\n"
        "import coop, vpt\n"
        "for family in (coop, vpt):\n"
        "    for name in family.METHODS:\n"
        "        assert name in family.METHODS and family.options(name) is not None\n"
        "assert 'torch' not in sys.modules and not [name for name in sys.modules if name.startswith('coop.')]\n"
        "coop.METHODS['zero_shot']\n"
        "assert 'coop.zero_shot' in sys.modules and 'coop.coop' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_module_is_an_entry_too():
    assert LazyTable({"calendar": "calendar"})["calendar"].MONDAY == 0


BASE = '''
import torch.no_such_module
from promptvision.method import Method

SIZE = 3

class Own(Method):
    """Own.

    `size`: of the base. `parts`, `size`: names; an
    empty one is left out.
    """
    def __init__(self, backbone, classes, *, size: int = 5, parts=("q", -1.5)): ...

class Named(Method):
    """Named. `size` as in Heir."""
    def __init__(self, backbone, classes, *, size=3): ...

class Constant(Method):
    def __init__(self, backbone, classes, *, size=SIZE): ...
'''
HEIR = '''
"""Heirs (arXiv:0000.00000).

More."""
from own_family.base import Own as Base

class Heir(Base):
    """A method of one line
    and a half. Not more.

    `size`: number of parts, e.g. 5. Rather few. `depth`: no option.
    """
'''


@pytest.fixture
def table(tmp_path, monkeypatch):
    """A family of methods in files that cannot be imported; `heir` has the options of its base `own`."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_family").mkdir()
    (tmp_path / "own_family/base.py").write_text(BASE)
    (tmp_path / "own_family/heir.py").write_text(HEIR)
    rows = {name: f"own_family.base:{name.title()}" for name in ("own", "named", "constant")}
    return MethodTable("own_family", rows | {"heir": "own_family.heir:Heir"})


def test_an_option_means_what_the_nearest_docstring_says(table):
    docs = table.docs("heir")
    assert (docs.paper, docs.summary) == ("Heirs (arXiv:0000.00000).", "A method of one line and a half.")
    assert docs.defaults == {"SIZE": 5, "PARTS": ("q", -1.5)}
    assert docs.meanings == {"SIZE": "number of parts, e.g. 5.", "PARTS": "names; an empty one is left out."}
    assert table.docs("named").meanings == {"SIZE": "number of parts, e.g. 5."}


@pytest.mark.parametrize("name", ["own", "heir"])
def test_options_are_those_of_the_nearest_constructor(table, name):
    assert table.options(name) == {"SIZE": 5, "PARTS": ("q", -1.5)}


def test_a_default_that_is_no_literal_is_refused(table):
    with pytest.raises(InputError, match="option size of the method constant needs a literal as default"):
        table.options("constant")


def test_an_unknown_name_gets_the_nearest(table):
    for ask in (table.options, table.find):
        with pytest.raises(InputError, match="unknown own_family method 'hair'; did you mean 'heir'?"):
            ask("hair")
    assert "hair" not in table and table.get("hair") is None
