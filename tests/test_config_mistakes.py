"""Mistakes in config files and overrides: each is one sentence that names the file or the key."""

import pytest
from small_families import load, refusal

from promptvision.config.key import option_rows
from promptvision.config.schema import KEYS
from promptvision.errors import InputError


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["OPTIM.LRR", "1"], "command line: unknown key 'OPTIM.LRR'; did you mean OPTIM.LR?"),
        (["optim.lr", "1"], "command line: unknown key 'optim.lr'; did you mean OPTIM.LR?"),
        (["EPOCHS", "1"], "command line: unknown key 'EPOCHS'; did you mean OPTIM.EPOCHS?"),
        (["COMPUTE.DEVICE", "cpu"], "command line: unknown key 'COMPUTE.DEVICE'; did you mean TRAIN.DEVICE?"),
        (["DATASETS.NAME", "dtd"], "command line: unknown key 'DATASETS.NAME'; did you mean DATASET.NAME?"),
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
def test_a_wrong_override_is_one_sentence(write_config, overrides, said):
    assert said in refusal(write_config(), *overrides)


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
        (
            "SEED: 1\nOPTIM: {}\nSEED: 2",
            "a.yaml is not plain YAML: 'SEED' is there twice, first on line 1; keep one (line 3",
        ),
        (
            "OPTIM:\n  LR: 1\n  LR: 2",
            "a.yaml is not plain YAML: 'LR' is there twice, first on line 2; keep one (line 3",
        ),
    ],
)
def test_a_wrong_file_is_one_sentence_that_names_it(write_config, text, said):
    assert said in refusal(write_config(text))


def test_python_in_a_config_does_not_run(write_config, tmp_path):
    there = tmp_path / "touched"
    assert "not plain YAML" in refusal(write_config(f"SEED: !!python/object/apply:os.mkdir ['{there}']"))
    assert not there.exists()


def test_aliases_that_multiply_are_refused_without_being_written_out(write_config):
    lists = ["&a [x, x, x, x, x, x, x, x, x]"]
    lists += [f"&{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefghijk", "bcdefghijkl", strict=True)]
    for depth, reason in ((5, " takes "), (12, "is not plain YAML: more than 1,000,000 values")):
        for text in ("METHOD: {OPTIONS: {SEED: [%s]}}", "INPUT: {MEAN: [%s]}", "SEED: [%s]"):
            said = refusal(write_config(text % ", ".join(lists[:depth])))
            assert reason in said and len(said) < 1000


@pytest.mark.fault("parsing")
@pytest.mark.parametrize(
    "text", ["SEED: 59" + ":59" * 3000, "SEED: 1" + "0" * 5000, '_BASE_: "a\\0b"', "METHOD: &a {NAME: *a}"]
)
def test_values_that_no_parser_bears_are_one_sentence(write_config, text):
    assert "a.yaml is not plain YAML: " in refusal(write_config(text))


@pytest.mark.fault("limits")
@pytest.mark.parametrize("value", [2**40, 2**64, -(2**70), 10**299])
def test_every_number_has_a_limit(write_config, value):
    rows = [key for key in KEYS if type(key.default) in (int, float) or (key.default == [] and key.items is not str)]
    for key in [*rows, *option_rows({"N_CTX": 4, "SCALE": 0.5, "LAYERS": (1, 2), "ANY": ()}).values()]:
        several = isinstance(key.default, list | tuple)
        wanted = float(value) if (key.items if several else type(key.default)) is float else value
        with pytest.raises(InputError, match=f"{key.name} must be at (most|least)"):
            key.accept([wanted] * 3 if several else wanted, "file")


@pytest.mark.fault("memory")
def test_ten_bases_are_enough(write_config):
    for level in range(12):
        path = write_config(f"_BASE_: {level - 1}.yaml\n" if level else "SEED: 7", f"{level}.yaml")
    assert load(path.with_name("10.yaml")).SEED == 7
    assert "11.yaml has more than 10 levels of _BASE_" in refusal(path)


def test_missing_files_are_named_with_the_nearest(write_config, tmp_path):
    write_config("SEED: 1", "embedded.yaml")
    assert f"did you mean {tmp_path / 'embedded.yaml'}?" in refusal(tmp_path / "embeded.yaml")
    assert refusal(tmp_path) == f"config file {tmp_path} is a folder; name a file in it"
    said = refusal(write_config("_BASE_: nowhere/base.yml"))
    assert said == f"the _BASE_ of {tmp_path / 'a.yaml'}, {tmp_path / 'nowhere/base.yml'} does not exist"


def test_a_loop_of_bases_is_shown(write_config, tmp_path):
    write_config("_BASE_: sub/../a.yaml", "b.yaml")
    (tmp_path / "sub").mkdir()
    assert "a.yaml -> " in refusal(write_config("_BASE_: b.yaml")) and "b.yaml -> " in refusal(tmp_path / "a.yaml")


def test_a_base_of_another_method_names_the_option_that_is_left_over(write_config, tmp_path):
    advice = "choose a --config without these options"
    write_config("METHOD: {NAME: coop, OPTIONS: {N_CTX: 4}}", "base.yaml")
    said = refusal(write_config("_BASE_: base.yaml\nMETHOD: {FAMILY: vpt, NAME: linear}"))
    sentence = f"{tmp_path / 'base.yaml'}: unknown METHOD.OPTIONS of the vpt method linear: 'N_CTX'; one of: HEAD"
    assert said == f"{sentence}; {tmp_path / 'a.yaml'} names another method than this file: {advice}"
    said = refusal(tmp_path / "base.yaml", "METHOD.FAMILY", "vpt", "METHOD.NAME", "linear")
    assert said == f"{sentence}; command line names another method than this file: {advice}"


def test_a_setting_of_the_computation_is_no_option_of_a_method(write_config):
    path = write_config("METHOD: {OPTIONS: {WAY: auto}}")
    said = refusal(path)
    assert said == f"{path}: METHOD.OPTIONS.WAY is no option of the coop method coop; set COMPUTE.WAY"


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
def test_a_table_that_is_wrong(write_config, table, said):
    assert said in refusal(write_config(table))
