"""Two families of methods with a few options, and configs for them."""

from types import SimpleNamespace

import pytest

from promptvision.config import load_config
from promptvision.config.methods import LazyTable
from promptvision.errors import InputError

OPTIONS = {
    "coop": {
        "N_CTX": 16,
        "CSC": False,
        "DROPOUT": 0.0,
        "CTX_INIT": "",
        "SCALES": (1, 0.5),
        "TEMPLATES": (),
        "SEED": None,
    },
    "plain": {},
}
FAMILIES = {
    "coop": SimpleNamespace(METHODS=LazyTable({"coop": "", "plain": ""}), options=OPTIONS.__getitem__),
    "vpt": SimpleNamespace(METHODS=LazyTable({"linear": ""}), options=lambda name: {"HEAD": "small"}),
}


@pytest.fixture
def write_config(tmp_path):
    """`write_config("SEED: 1", "b.yaml")` writes a config and gives its path."""

    def write(text="", name="a.yaml"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write


def load(path, *overrides):
    return load_config(path, overrides, FAMILIES)


def refusal(path, *overrides):
    with pytest.raises(InputError) as error:
        load(path, *overrides)
    assert "\n" not in str(error.value)
    return str(error.value)
