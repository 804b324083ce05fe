"""Config files and overrides: in which order and type they are read, and that they load back."""

import re

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_families import FAMILIES, load

from promptvision.config import dump, families, method_options, resolved, summary
from promptvision.config.docs import SECTIONS, config_page, keys_help
from promptvision.config.schema import KEYS
from promptvision.errors import InputError
from promptvision.safe_yaml import read_yaml


def test_defaults_come_from_the_schema(write_config):
    cfg = load(write_config())
    values = resolved(cfg)
    for key in KEYS:
        section, _, last = key.name.rpartition(".")
        assert (values[section] if section else values)[last] == key.initial
    assert cfg.METHOD.OPTIONS.N_CTX == 16
    assert cfg.is_frozen() and cfg.OPTIM.is_frozen()


def test_bases_then_file_then_overrides(write_config):
    write_config("OPTIM: {LR: 0.1, EPOCHS: 3}\nMETHOD: {NAME: coop, OPTIONS: {N_CTX: 4, CSC: true}}", "base.yaml")
    write_config("_BASE_: ../base.yaml\nOPTIM: {LR: 1}\nMETHOD: {OPTIONS: {CSC: false}}", "sub/middle.yaml")
    cfg = load(write_config("_BASE_: sub/middle.yaml\nTRAIN:\n"), "OPTIM.EPOCHS", "7")
    assert (cfg.OPTIM.LR, cfg.OPTIM.EPOCHS) == (1.0, 7)
    assert (cfg.METHOD.OPTIONS.N_CTX, cfg.METHOD.OPTIONS.CSC) == (4, False)


def test_dump_loads_back_to_the_same_config(write_config):
    overrides = ("OPTIM.LR", "1e-5", "METHOD.OPTIONS.CTX_INIT", "a photo: ‘of’ {a}", "METHOD.OPTIONS.SCALES", "[3]")
    cfg = load(write_config(), *overrides, "METHOD.OPTIONS.TEMPLATES", "['a {}.', yes]", "DATASET.NAME", "123")
    assert load(write_config(dump(cfg), "again.yaml")) == cfg
    assert dump(cfg) == yaml.safe_dump(resolved(cfg), sort_keys=False, allow_unicode=True)
    assert cfg.DATASET.NAME == "123"


def test_a_file_that_is_read_again_gives_values_of_its_own(write_config, tmp_path):
    path = write_config("METHOD: {OPTIONS: {LAYERS: [1]}}")
    for _ in range(2):
        found = read_yaml(path, "config")
        assert found["METHOD"]["OPTIONS"]["LAYERS"] == [1]
        found["METHOD"]["OPTIONS"]["LAYERS"].append(2)
    path.write_text("METHOD: {OPTIONS: {LAYERS: [3]}}")
    assert read_yaml(path, "config")["METHOD"]["OPTIONS"]["LAYERS"] == [3]


def test_options_reach_the_class_as_keyword_arguments(write_config):
    options = method_options(load(write_config(), "METHOD.OPTIONS.SEED", "3"))
    assert options == {
        "n_ctx": 16,
        "csc": False,
        "dropout": 0.0,
        "ctx_init": "",
        "scales": (1.0, 0.5),
        "templates": (),
        "seed": 3,
    }


@pytest.mark.parametrize(
    ("key", "given", "expected"),
    [
        ("OPTIM.LR", "1", 1.0),
        ("OPTIM.LR", "1e-3", 0.001),
        ("OPTIM.LR", 1, 1.0),
        ("OPTIM.WARMUP_RECOUNT", "false", False),
        ("OPTIM.STEPS", "[3, 7]", [3, 7]),
        ("INPUT.MEAN", "[0, 0.5, 1]", [0.0, 0.5, 1.0]),
        ("INPUT.MEAN", (0, 0.5, 1), [0.0, 0.5, 1.0]),
        ("TRAIN.DEVICE", "cuda:3", "cuda:3"),
        ("COMPUTE.CHUNK", "auto", "auto"),
        ("COMPUTE.CHUNK", "7", 7),
        ("DATASET.NAME", "0017", "0017"),
        ("OUTPUT_DIR", "", ""),
        ("METHOD.OPTIONS.CTX_INIT", "a photo of a", "a photo of a"),
        ("METHOD.OPTIONS.CTX_INIT", "null", "null"),
        ("METHOD.OPTIONS.SCALES", "[2, 1e-3]", [2.0, 0.001]),
        ("METHOD.OPTIONS.SEED", "null", None),
        ("METHOD.OPTIONS.SEED", "a: b", "a: b"),
        ("METHOD.OPTIONS.SEED", "[", "["),
    ],
)
def test_overrides_are_read_in_the_type_of_their_key(write_config, key, given, expected):
    value = load(write_config(), key, given)
    for part in key.split("."):
        value = value[part]
    assert value == expected and type(value) is type(expected)


def test_the_summary_tells_what_differs(write_config):
    lines = summary(
        load(write_config(), "OPTIM.LR", "1", "METHOD.OPTIONS.CSC", "true", "SEED", "1"), FAMILIES
    ).splitlines()
    assert {"OPTIM.LR: 1.0", "METHOD.OPTIONS.CSC: True", "METHOD.NAME: coop", "SEED: 1"} <= set(lines)
    assert not any("MOMENTUM" in line or "SCALES" in line for line in lines)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([key.name for key in KEYS] + ["METHOD.OPTIONS.N_CTX", "METHOD.OPTIONS.SEED"]), values)
def test_any_value_is_taken_and_kept_or_refused_in_words(write_config, key, value):
    path = write_config()
    try:
        cfg = load(path, key, value)
    except InputError as error:
        assert "METHOD" in str(error) or key in str(error)
    else:
        assert load(write_config(dump(cfg), "again.yaml")) == cfg
        assert dump(cfg) == yaml.safe_dump(resolved(cfg), sort_keys=False, allow_unicode=True)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text() | st.text(alphabet="SEED: {}[]&*!|>-'\"\n0a_BASE_,?%@#"))
def test_any_file_is_read_or_refused_in_words(tmp_path, text):
    path = tmp_path / "a.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        load(path)
    except InputError as error:
        assert str(path) in str(error) or "METHOD" in str(error)


def test_help_and_page_explain_every_key_and_option():
    page, text = config_page(families.FAMILIES), "\n" + keys_help()
    for key in KEYS:
        assert f"| `{key.name}` |" in page and f"\n{key.name} (" in text
        assert key.help.endswith(".") and "\n" not in key.help
    sections = re.findall(r"^## (?:`(\w+)`: )?(?!METHOD.OPTIONS)", page, re.M)
    assert sections[: len(SECTIONS)] == list(SECTIONS)
    for name, family in families.FAMILIES.items():
        part = page.partition(f"## METHOD.OPTIONS of the `{name}` family")[2].partition("\n## ")[0]
        for method in family.METHODS:
            rows = part.partition(f"### `{method}`\n")[2].partition("\n### ")[0]
            alone = method not in family.METHODS.hosts  # the options of a host are under its own name
            known = family.options(method) if alone else family.METHODS.docs(method).defaults
            assert re.findall(r"^\| `(.*?)` \|", rows, re.M) == [*known]
    assert '| `CTX_INIT` | `""` | words to start from' in page and keys_help("SEED").startswith("SEED (1): Seed of")


TABLE = """
OPTIM: {EPOCHS: 200, BATCH_SIZE: 32}
SET:
  - {OPTIM.EPOCHS: 100, WHEN: {DATASET.SHOTS: [2, 4]}}
  - {OPTIM: {EPOCHS: 50}, WHEN: {DATASET.NAME: imagenet}}
  - {METHOD.OPTIONS: {N_CTX: 4, TEMPLATES: ["{} texture."]}, WHEN: {DATASET.NAME: dtd, DATASET.CLASSES: base}}
  - {OPTIM.BATCH_SIZE: 8, WHEN: {OPTIM.EPOCHS: 100}}
"""


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ([], (200, 32, 16)),
        (["DATASET.SHOTS", "4"], (100, 8, 16)),
        (["DATASET.SHOTS", 2, "DATASET.NAME", "imagenet"], (50, 32, 16)),
        (["DATASET.NAME", "dtd"], (200, 32, 16)),
        (["DATASET.NAME", "dtd", "DATASET.CLASSES", "base"], (200, 32, 4)),
        (["DATASET.SHOTS", "4", "OPTIM.EPOCHS", "7"], (7, 32, 16)),
    ],
)
def test_a_table_of_a_file_holds_where_its_keys_have_these_values(write_config, words, found):
    """One row after the other, below what the command line says."""
    cfg = load(write_config(TABLE), *words)
    assert found == (cfg.OPTIM.EPOCHS, cfg.OPTIM.BATCH_SIZE, cfg.METHOD.OPTIONS.N_CTX)
    assert load(write_config(dump(cfg), "dumped.yaml")) == cfg


def test_a_file_wins_over_the_table_of_its_base(write_config):
    write_config(TABLE, "base.yaml")
    child = write_config("_BASE_: base.yaml\nOPTIM: {EPOCHS: 3}\nSET: [{OPTIM.LR: 1.0, WHEN: {OPTIM.EPOCHS: 3}}]")
    cfg = load(child, "DATASET.SHOTS", "4")
    assert (cfg.OPTIM.EPOCHS, cfg.OPTIM.BATCH_SIZE, cfg.OPTIM.LR) == (3, 32, 1.0)
