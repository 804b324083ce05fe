"""The import directions that keep the parts apart."""

import ast
import sys
from graphlib import TopologicalSorter
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).parents[1]

GROUND = ("errors", "atomic", "safe_yaml", "learned", "method", "addition", "cli", "network", "own_code")
"""Modules that may stand loose in `promptvision/`, beside `__init__` and `__main__`."""
MAY_IMPORT = {
    "promptvision/errors.py": [],
    "promptvision/atomic.py": ["promptvision.errors"],
    "promptvision/cli.py": ["promptvision.config", "promptvision.errors"],
    "promptvision/safe_yaml.py": ["promptvision.atomic", "promptvision.errors"],
    "promptvision/learned.py": ["promptvision.errors"],
    "promptvision/method.py": ["promptvision.errors", "promptvision.learned"],
    "promptvision/addition.py": ["promptvision.method"],
    "promptvision/network.py": ["promptvision.errors"],
    "promptvision/own_code.py": ["promptvision.errors"],
    "promptvision/config": [
        "promptvision.config",
        *(f"promptvision.{name}" for name in ("errors", "method", "own_code", "safe_yaml")),
    ],
    "promptvision/backbones": [
        "promptvision.atomic",
        "promptvision.backbones",
        "promptvision.errors",
        "promptvision.network",
        "promptvision.own_code",
    ],
    "promptvision/data": [f"promptvision.{name}" for name in ("data", "atomic", "errors", "network", "safe_yaml")],
    "promptvision/engine": [
        "promptvision",
        *(f"promptvision.{name}" for name in ("engine", "atomic", "method", "errors", "safe_yaml")),
    ],
    "promptvision/report": [
        "promptvision.engine.earlier_run",  # which settings make another run
        "promptvision.engine.results.predictions_file",
        *(f"promptvision.{name}" for name in ("report", "atomic", "errors", "safe_yaml")),
    ],
    "promptvision/experiment": [
        *(f"promptvision.{name}" for name in ("experiment", "config", "data", "backbones", "engine")),
        *(f"promptvision.{name}" for name in ("atomic", "errors", "method", "own_code", "safe_yaml")),
    ],
    "promptvision/sweep": [
        *(
            f"promptvision.{name}"
            for name in ("sweep", "experiment", "config", "backbones", "engine", "atomic", "errors", "safe_yaml")
        ),
    ],
    "promptvision/deploy": [
        "promptvision",
        *(f"promptvision.{name}" for name in ("deploy", "experiment", "report", "config", "data", "backbones")),
        *(
            f"promptvision.{name}"
            for name in ("engine", "atomic", "errors", "method", "network", "own_code", "safe_yaml")
        ),
    ],
    "promptvision/verify": [
        *(f"promptvision.{name}" for name in ("verify", "experiment", "config", "data", "backbones", "engine")),
        *(f"promptvision.{name}" for name in ("report", "atomic", "errors", "method")),
    ],
    "vpt": [
        "vpt",
        *(
            f"promptvision.{name}"
            for name in ("backbones", "config.methods", "method", "addition", "errors", "network")
        ),
    ],
    "coop": [
        "coop",
        *(
            f"promptvision.{name}"
            for name in ("backbones", "config.methods", "method", "addition", "errors", "atomic", "safe_yaml")
        ),
    ],
}
OURS = ("promptvision", "vpt", "coop", "tools")


def imports(path):
    """Full names of our own modules that a file imports, at its top or within functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} imports relatively"
            names = [node.module]
        yield from (name for name in names if name.partition(".")[0] in OURS)


def files(place):
    return [ROOT / place] if place.endswith(".py") else sorted((ROOT / place).rglob("*.py"))


def within(name, package):
    return name == package or (package != "promptvision" and name.startswith(f"{package}."))


@pytest.mark.parametrize("place", MAY_IMPORT)
def test_import_direction(place):
    found = [(path, name) for path in files(place) for name in imports(path)]
    for path, name in found:
        assert any(within(name, allowed) for allowed in MAY_IMPORT[place]), f"{path} imports {name}"
    assert found or not MAY_IMPORT[place]


def test_a_run_imports_nothing_that_prepares_data():
    for path in files("promptvision"):
        if "prepare" not in path.parts:
            assert not [name for name in imports(path) if within(name, "promptvision.data.prepare")], path


def modules():
    """{module name: path} of promptvision, coop and vpt."""
    paths = [path for top in ("promptvision", "coop", "vpt") for path in (ROOT / top).rglob("*.py")]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


def imported_modules(path, known):
    """Modules among `known` that a file imports; what only re-exports (an `__init__`) is left out."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in known else node.module for name in inner]
        yield from (name for name in names if name in known and known[name].name != "__init__.py")


def test_no_import_circle():
    known = modules()
    inner = {name: path for name, path in known.items() if path.name != "__init__.py"}
    graph = {name: set(imported_modules(path, known)) - {name} for name, path in inner.items()}
    list(TopologicalSorter(graph).static_order())


def test_the_root_holds_ground_files_only():
    loose = {path.stem for path in (ROOT / "promptvision").glob("*.py")}
    assert loose <= {*GROUND, "__init__", "__main__"}


def test_functions_are_worth_the_jump():
    """Half of the functions have eight lines or more, and few helpers serve one file; accessors do not count."""
    trees = [ast.parse(path.read_text()) for path in modules().values()]
    accessors = {"property", "cached_property", "setter"}
    lengths = [
        node.end_lineno - node.lineno + 1
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        and not accessors & {ast.unparse(each).rpartition(".")[2] for each in node.decorator_list}
        and (node.name == "__init__" or not node.name.startswith("__"))
    ]
    helpers = [node.name for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef)]
    lines = sum(len(path.read_text().splitlines()) for path in modules().values())
    assert median(lengths) >= 8
    assert sum(name.startswith("_") for name in helpers) <= 12 * lines / 1000


def test_no_folder_has_two_roles():
    for folder in {path.parent for path in modules().values()} - {ROOT / "coop", ROOT / "vpt"}:
        most = 26 if folder.name == "backbones" else 21
        assert len(list(folder.glob("*.py"))) <= most, folder


def test_promptvision_knows_no_family():
    for path in files("promptvision"):
        assert not [name for name in imports(path) if name.partition(".")[0] in ("vpt", "coop", "tools")], path


def test_folders_that_hold_no_package():
    assert not list((ROOT / "datasets").rglob("*.py"))
    for folder in ("tools", "tests", "configs", "datasets"):
        assert not (ROOT / folder / "__init__.py").exists()


def test_no_tool_hides_a_library():
    names = {path.stem for path in (ROOT / "tools").glob("*.py")}
    assert not names & (set(sys.stdlib_module_names) | {"datasets", "evaluate", "torch", "timm", "coop", "vpt", "yacs"})
