"""Config files, overrides, and what is said about each mistake in them."""

import re
from types import SimpleNamespace

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from promptvision.config import dump, families, load_config, method_options, resolved, summary
from promptvision.config.docs import config_page, keys_help
from promptvision.config.key import option_rows
from promptvision.config.methods import LazyTable
from promptvision.config.schema import KEYS
from promptvision.errors import InputError
from promptvision.safe_yaml import read_yaml

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
def write(tmp_path):
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


def test_defaults_come_from_the_schema(write):
    cfg = load(write())
    values = resolved(cfg)
    for key in KEYS:
        section, _, last = key.name.rpartition(".")
        assert (values[section] if section else values)[last] == key.initial
    assert cfg.METHOD.OPTIONS.N_CTX == 16
    assert cfg.is_frozen() and cfg.OPTIM.is_frozen()


def test_bases_then_file_then_overrides(write):
    write("OPTIM: {LR: 0.1, EPOCHS: 3}\nMETHOD: {NAME: coop, OPTIONS: {N_CTX: 4, CSC: true}}", "base.yaml")
    write("_BASE_: ../base.yaml\nOPTIM: {LR: 1}\nMETHOD: {OPTIONS: {CSC: false}}", "sub/middle.yaml")
    cfg = load(write("_BASE_: sub/middle.yaml\nTRAIN:\n"), "OPTIM.EPOCHS", "7")
    assert (cfg.OPTIM.LR, cfg.OPTIM.EPOCHS) == (1.0, 7)
    assert (cfg.METHOD.OPTIONS.N_CTX, cfg.METHOD.OPTIONS.CSC) == (4, False)


def test_dump_loads_back_to_the_same_config(write):
    overrides = ("OPTIM.LR", "1e-5", "METHOD.OPTIONS.CTX_INIT", "a photo: ‘of’ {a}", "METHOD.OPTIONS.SCALES", "[3]")
    cfg = load(write(), *overrides, "METHOD.OPTIONS.TEMPLATES", "['a {}.', yes]", "DATASET.NAME", "123")
    assert load(write(dump(cfg), "again.yaml")) == cfg
    assert dump(cfg) == yaml.safe_dump(resolved(cfg), sort_keys=False, allow_unicode=True)
    assert cfg.DATASET.NAME == "123"


def test_a_file_that_is_read_again_gives_values_of_its_own(write, tmp_path):
    path = write("METHOD: {OPTIONS: {LAYERS: [1]}}")
    for _ in range(2):
        found = read_yaml(path, "config")
        assert found["METHOD"]["OPTIONS"]["LAYERS"] == [1]
        found["METHOD"]["OPTIONS"]["LAYERS"].append(2)
    path.write_text("METHOD: {OPTIONS: {LAYERS: [3]}}")
    assert read_yaml(path, "config")["METHOD"]["OPTIONS"]["LAYERS"] == [3]


def test_options_reach_the_class_as_keyword_arguments(write):
    options = method_options(load(write(), "METHOD.OPTIONS.SEED", "3"))
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
def test_overrides_are_read_in_the_type_of_their_key(write, key, given, expected):
    value = load(write(), key, given)
    for part in key.split("."):
        value = value[part]
    assert value == expected and type(value) is type(expected)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["OPTIM.LRR", "1"], "command line: unknown key 'OPTIM.LRR'; did you mean OPTIM.LR?"),
        (["optim.lr", "1"], "command line: unknown key 'optim.lr'; did you mean OPTIM.LR?"),
        (["EPOCHS", "1"], "command line: unknown key 'EPOCHS'; did you mean OPTIM.EPOCHS?"),
        (["DATASET.XYZZYXYZZY", "1"], "there are DATASET.NAME, DATASET.ROOT, "),
        (["QQQ", "1"], "unknown key 'QQQ'; there are BACKBONE, "),
        (["OPTIM", "1"], "command line: OPTIM is a section; set one of its keys, such as OPTIM.NAME"),
        (["METHOD.OPTIONS", "1"], "command line: METHOD.OPTIONS is a section; set one of its keys"),
        (["SEED=1", "OPTIM.LR=1"], "overrides come as two words each: SEED 1, not SEED=1"),
        (["SEED"], "overrides come as KEY VALUE pairs; the last one, 'SEED', is alone"),
        (["SEED", "1.5"], "command line: SEED takes a whole number, not 1.5"),
        (["SEED", "one"], "command line: SEED takes a whole number, not 'one'"),
        (["COMPUTE.CHUNK", "all"], "command line: COMPUTE.CHUNK takes a whole number or auto, not 'all'"),
        (["SEED", "-1"], "command line: SEED must be at least 0, not -1"),
        (["SEED", "9" * 30], "command line: SEED must be at most 4294967295, not 999999999999999999999999999999"),
        (["OPTIM.LR", "big"], "command line: OPTIM.LR takes a number, not 'big'"),
        (["OPTIM.LR", "true"], "command line: OPTIM.LR takes a number, not True"),
        (["OPTIM.LR", "nan"], "command line: OPTIM.LR takes a finite number, not nan"),
        (["OPTIM.LR", "9" * 400], "command line: OPTIM.LR takes a finite number, not inf"),
        (["OPTIM.WARMUP_RECOUNT", "1"], "command line: OPTIM.WARMUP_RECOUNT takes True or False, not 1"),
        (["OPTIM.STEPS", "30,60"], "command line: OPTIM.STEPS takes a list such as [1, 2], not '30,60'"),
        (["OPTIM.STEPS", "[a]"], "an entry of command line: OPTIM.STEPS takes a whole number, not 'a'"),
        (["INPUT.MEAN", "[1, 2]"], "command line: INPUT.MEAN takes 0 or 3 entries, not 2"),
        (["INPUT.STD", "[0, 1, 1]"], "command line: INPUT.STD must be at least 1e-06, not 0.0"),
        (["OPTIM.NAME", "adan"], "command line: unknown value of OPTIM.NAME 'adan'; did you mean 'adam'?"),
        (["TRAIN.DEVICE", "gpu"], "unknown value of TRAIN.DEVICE 'gpu'; "),
        (["METHOD.FAMILY", "vpt"], "default: unknown value of METHOD.NAME 'coop'; one of: linear"),
        (["METHOD.FAMILY", "cop"], "command line: unknown value of METHOD.FAMILY 'cop'; did you mean 'coop'?"),
        (["METHOD.NAME", "plane"], "command line: unknown value of METHOD.NAME 'plane'; did you mean 'plain'?"),
        (["METHOD.OPTIONS.N_CTXX", "1"], "command line: unknown METHOD.OPTIONS of the coop method coop: 'N_CTXX'"),
        (["METHOD.OPTIONS.n_ctx", "1"], "did you mean 'N_CTX'?"),
        (["METHOD.OPTIONS.N_CTX", "4.0"], "command line: METHOD.OPTIONS.N_CTX takes a whole number, not 4.0"),
        (["METHOD.OPTIONS.SEED", {"a": 1}], "command line: METHOD.OPTIONS.SEED takes a plain value, not {'a': 1}"),
    ],
)
def test_a_wrong_override_is_one_sentence(write, overrides, said):
    assert said in refusal(write(), *overrides)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("OPTIM: {LRR: 1}", "a.yaml: unknown key 'OPTIM.LRR'; did you mean OPTIM.LR?"),
        ("OPTIM: 5", "a.yaml: OPTIM is a section; set one of its keys, such as OPTIM.NAME"),
        ("SEED: {A: 1}", "a.yaml: SEED takes a whole number, not {'A': 1}"),
        ("SEED:", "a.yaml: SEED takes a whole number, not None"),
        ("1: 2", "a.yaml: unknown key '1'"),
        ("DATASET: {NAME: 5}", "a.yaml: DATASET.NAME takes text, not 5; put it in quotes"),
        ("DATASET: {NAME: 2020-01-01}", "a.yaml: DATASET.NAME takes text, not datetime.date(2020, 1, 1)"),
        ("- a", "a.yaml should hold KEY: value lines, not ['a']"),
        ("SEED: [", "a.yaml is not plain YAML: expected the node content"),
        ("SEED: 2020-13-45", "a.yaml is not plain YAML: month must be in 1..12"),
        ("SEED: " + "[" * 5000, "a.yaml is not plain YAML: it is nested too deeply"),
        ("SEED: !!python/object/apply:os.getcwd []", "constructor for the tag 'tag:yaml.org,2002:python/object/apply:"),
        ("SEED: \x00", "a.yaml is not plain YAML: "),
        ("_BASE_: [a, b]", "a.yaml: _BASE_ takes the path of one file, not ['a', 'b']"),
        ("_BASE_: a.yaml", "a.yaml closes a loop: "),
        (
            "METHOD: {NAME: plain, OPTIONS: {N_CTX: 1}}",
            "METHOD.OPTIONS.N_CTX does not exist; the coop method plain has",
        ),
        (
            "METHOD: {OPTIONS: {SEED: &a [*a]}}",
            "a.yaml is not plain YAML: more than 1,000,000 values",
        ),
        ("SEED: &a [*a]", "a.yaml is not plain YAML: more than 1,000,000 values"),
    ],
)
def test_a_wrong_file_is_one_sentence_that_names_it(write, text, said):
    assert said in refusal(write(text))


def test_python_in_a_config_does_not_run(write, tmp_path):
    there = tmp_path / "touched"
    assert "not plain YAML" in refusal(write(f"SEED: !!python/object/apply:os.mkdir ['{there}']"))
    assert not there.exists()


def test_aliases_that_multiply_are_refused_without_being_written_out(write):
    lists = ["&a [x, x, x, x, x, x, x, x, x]"]
    lists += [f"&{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefghijk", "bcdefghijkl", strict=True)]
    for depth, reason in ((5, " takes "), (12, "is not plain YAML: more than 1,000,000 values")):
        for text in ("METHOD: {OPTIONS: {SEED: [%s]}}", "INPUT: {MEAN: [%s]}", "SEED: [%s]"):
            said = refusal(write(text % ", ".join(lists[:depth])))
            assert reason in said and len(said) < 1000


@pytest.mark.fault("parsing")
@pytest.mark.parametrize(
    "text", ["SEED: 59" + ":59" * 3000, "SEED: 1" + "0" * 5000, '_BASE_: "a\\0b"', "METHOD: &a {NAME: *a}"]
)
def test_values_that_no_parser_bears_are_one_sentence(write, text):
    assert "a.yaml is not plain YAML: " in refusal(write(text))


@pytest.mark.fault("limits")
@pytest.mark.parametrize("value", [2**40, 2**64, -(2**70), 10**299])
def test_every_number_has_a_limit(write, value):
    rows = [key for key in KEYS if type(key.default) in (int, float) or (key.default == [] and key.items is not str)]
    for key in [*rows, *option_rows({"N_CTX": 4, "SCALE": 0.5, "LAYERS": (1, 2), "ANY": ()}).values()]:
        several = isinstance(key.default, list | tuple)
        wanted = float(value) if (key.items if several else type(key.default)) is float else value
        with pytest.raises(InputError, match=f"{key.name} must be at (most|least)"):
            key.accept([wanted] * 3 if several else wanted, "file")


@pytest.mark.fault("memory")
def test_ten_bases_are_enough(write):
    for level in range(12):
        path = write(f"_BASE_: {level - 1}.yaml\n" if level else "SEED: 7", f"{level}.yaml")
    assert load(path.with_name("10.yaml")).SEED == 7
    assert "11.yaml has more than 10 levels of _BASE_" in refusal(path)


def test_missing_files_are_named_with_the_nearest(write, tmp_path):
    write("SEED: 1", "embedded.yaml")
    assert f"did you mean {tmp_path / 'embedded.yaml'}?" in refusal(tmp_path / "embeded.yaml")
    assert "is not" not in refusal(tmp_path)
    said = refusal(write("_BASE_: nowhere/base.yml"))
    assert said == f"the _BASE_ of {tmp_path / 'a.yaml'}, {tmp_path / 'nowhere/base.yml'} does not exist"


def test_a_loop_of_bases_is_shown(write, tmp_path):
    write("_BASE_: sub/../a.yaml", "b.yaml")
    (tmp_path / "sub").mkdir()
    assert "a.yaml -> " in refusal(write("_BASE_: b.yaml")) and "b.yaml -> " in refusal(tmp_path / "a.yaml")


def test_a_base_of_another_method_names_the_option_that_is_left_over(write, tmp_path):
    write("METHOD: {NAME: coop, OPTIONS: {N_CTX: 4}}", "base.yaml")
    said = refusal(write("_BASE_: base.yaml\nMETHOD: {FAMILY: vpt, NAME: linear}"))
    assert said == f"{tmp_path / 'base.yaml'}: unknown METHOD.OPTIONS of the vpt method linear: 'N_CTX'; one of: HEAD"


def test_a_setting_of_the_computation_is_no_option_of_a_method(write):
    path = write("METHOD: {OPTIONS: {WAY: auto}}")
    said = refusal(path)
    assert said == f"{path}: METHOD.OPTIONS.WAY is no option of the coop method coop; set COMPUTE.WAY"


def test_the_summary_tells_what_differs(write):
    lines = summary(load(write(), "OPTIM.LR", "1", "METHOD.OPTIONS.CSC", "true", "SEED", "1"), FAMILIES).splitlines()
    assert {"OPTIM.LR: 1.0", "METHOD.OPTIONS.CSC: True", "METHOD.NAME: coop", "SEED: 1"} <= set(lines)
    assert not any("MOMENTUM" in line or "SCALES" in line for line in lines)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([key.name for key in KEYS] + ["METHOD.OPTIONS.N_CTX", "METHOD.OPTIONS.SEED"]), values)
def test_any_value_is_taken_and_kept_or_refused_in_words(write, key, value):
    path = write()
    try:
        cfg = load(path, key, value)
    except InputError as error:
        assert "METHOD" in str(error) or key in str(error)
    else:
        assert load(write(dump(cfg), "again.yaml")) == cfg
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
def test_a_table_of_a_file_holds_where_its_keys_have_these_values(write, words, found):
    """One row after the other, below what the command line says."""
    cfg = load(write(TABLE), *words)
    assert found == (cfg.OPTIM.EPOCHS, cfg.OPTIM.BATCH_SIZE, cfg.METHOD.OPTIONS.N_CTX)
    assert load(write(dump(cfg), "dumped.yaml")) == cfg


def test_a_file_wins_over_the_table_of_its_base(write):
    write(TABLE, "base.yaml")
    child = write("_BASE_: base.yaml\nOPTIM: {EPOCHS: 3}\nSET: [{OPTIM.LR: 1.0, WHEN: {OPTIM.EPOCHS: 3}}]")
    cfg = load(child, "DATASET.SHOTS", "4")
    assert (cfg.OPTIM.EPOCHS, cfg.OPTIM.BATCH_SIZE, cfg.OPTIM.LR) == (3, 32, 1.0)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("SET: {OPTIM.EPOCHS: 3}", "a.yaml: SET is a list of {KEY: value, ..., WHEN: {KEY: value, ...}}"),
        ("SET: [{OPTIM.EPOCHS: 3, WHEN: dtd}]", "a.yaml: SET is a list of"),
        ("SET: [{OPTIM.EPOCHES: 3, WHEN: {SEED: 7}}]", "unknown key 'OPTIM.EPOCHES'; did you mean OPTIM.EPOCHS?"),
        ("SET: [{OPTIM.EPOCHS: 3, WHEN: {DATASET.NAM: dtd}}]", "'DATASET.NAM'; did you mean DATASET.NAME?"),
        (
            "SET: [{OPTIM.EPOCHS: 3, WHEN: {METHOD.OPTIONS.CSC: true}}]",
            "WHEN asks for METHOD.OPTIONS.CSC, which is",
        ),
        ("SET: [{OPTIM.EPOCHS: many, WHEN: {SEED: 1}}]", "a.yaml: OPTIM.EPOCHS takes a whole number, not 'many'"),
    ],
)
def test_a_table_that_is_wrong(write, table, said):
    assert said in refusal(write(table))
