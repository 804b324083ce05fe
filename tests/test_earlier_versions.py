"""Runs of an earlier version: settings that it lacked count as its runs were made."""

from pathlib import Path

import pytest
import yaml
from small_run import config

from promptvision.config import resolved
from promptvision.config.families import FAMILIES
from promptvision.config.schema import KEYS
from promptvision.engine.earlier_run import ADDED, FREE, first_difference
from promptvision.engine.resume import check_identity
from promptvision.errors import InputError

ROOT = Path(__file__).parents[1]
THEN = ROOT / "tests/version_0_1.yaml"
COOP = ROOT / "configs/coop/embedded.yaml"
QUICK = ["DATASET.NAME", "digits", "DATASET.SHOTS", "1", "OPTIM.EPOCHS", "1"]


def test_every_setting_that_version_0_1_lacks_is_known_as_it_was_then():
    then = {name: (words or "").split() for name, words in yaml.safe_load(THEN.read_text()).items()}
    now = {f"{family}.{name}": module.options(name) for family, module in FAMILIES.items() for name in module.METHODS}
    new = {key.name for key in KEYS if not key.name.startswith(FREE)} - {*then["config"]}
    new |= {f"METHOD.OPTIONS.{key}" for name in then.keys() & now.keys() for key in {*now[name]} - {*then[name]}}
    assert new == ADDED.keys()


@pytest.mark.fault("files")
def test_the_config_of_a_finished_run_of_an_earlier_version_gives_its_result(tool, tmp_path):
    run = tmp_path / "run"
    assert tool("train", "--config", COOP, *QUICK, "OUTPUT_DIR", run)[0] == 0
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("  ACCUMULATE: 1\n", ""))
    status, _, err = tool("train", "--config", run / "config.yaml", "TRAIN.WORKERS", "1")
    assert status == 0 and "is finished" in err
    status, _, err = tool("train", "--config", run / "config.yaml", "SEED", "9")
    assert status == 2 and "holds the config file" in err


def test_a_run_of_an_earlier_version_is_the_same_run(tmp_path):
    now = resolved(config(tmp_path))
    earlier = yaml.safe_load(yaml.safe_dump(now))
    for key, value in ADDED.items():
        section, _, name = key.partition(".")
        assert section == "METHOD" or earlier[section].pop(name) == value
    assert first_difference(earlier, now) is None
    check_identity(earlier, now)
    other = resolved(config(tmp_path, "OPTIM.ACCUMULATE", "4"))
    assert first_difference(earlier, other) == "OPTIM.ACCUMULATE was 1, here it is 4"
    with pytest.raises(InputError, match=r"its OPTIM.ACCUMULATE is 1, here it is 4"):
        check_identity(earlier, other)


@pytest.mark.parametrize(("name", "options"), [("plot", 2), ("adapter", 9), ("dual_prompt", 2)])
def test_a_run_without_an_option_that_its_method_has_since_is_the_same_run(tmp_path, name, options):
    family = "coop" if name == "plot" else "vpt"
    now = resolved(config(tmp_path, "METHOD.FAMILY", family, "METHOD.NAME", name))
    earlier = yaml.safe_load(yaml.safe_dump(now))
    new = [key for key in earlier["METHOD"]["OPTIONS"] if f"METHOD.OPTIONS.{key}" in ADDED]
    for key in new:
        del earlier["METHOD"]["OPTIONS"][key]
    assert len(new) == options and first_difference(earlier, now) is None
    check_identity(earlier, now)
