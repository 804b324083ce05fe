"""The rules by which runs are matched to published numbers name only what exists, there and here."""

import re

import coop
import vpt
from promptvision.report.kinds import COOP, FGVC, TITLES, VTAB
from promptvision.report.literature.compare import published
from promptvision.report.literature.counterparts import rules
from promptvision.report.literature.settings import normal


def test_every_rule_names_something_published():
    rows = published()
    assert len(rows) == 2515 + 2095 + 1178 and {row["confidence"] for row in rows} == {
        "checked",
        "transcribed",
        "rerun",
        "low",
    }
    assert not [row for row in rows if not re.fullmatch(r"-?\d+(\.\d+)?", row["value"])]
    columns = {name: {row[name] for row in rows} for name in ("protocol", "method", "backbone", "dataset")}
    assert {name for names in rules()["tables"].values() for name in names} <= columns["protocol"]
    assert {method["published"] for method in rules()["methods"]} <= columns["method"]
    assert set(rules()["backbones"]) <= columns["backbone"]
    assert {name for names in rules()["datasets"].values() for name in names.values()} <= columns["dataset"]
    assert {name for names in rules()["averages"].values() for name in names} <= columns["dataset"]
    assert {method["settings"] for method in rules()["methods"]} <= set(rules()["settings"])


def test_every_rule_names_a_card_and_a_method_of_ours():
    from promptvision.data.cards import card_names

    datasets = {kinds: set(names) for kinds, names in rules()["datasets"].items()}
    cards = {name for kinds, names in datasets.items() if kinds not in ("uda", "continual") for name in names}
    cards |= {name.partition(":")[0] for name in datasets["uda"]}
    streams = {names.partition(":")[0] for names in datasets["continual"]}
    cards |= {name for names in streams for name in names.split(", ")} | set(rules()["tests"])
    assert cards - {*VTAB, "mean", "mean of groups", "average"} <= set(card_names())
    assert {*COOP, *FGVC, *(f"vtab_{task}" for tasks in VTAB.values() for task in tasks)} <= set(card_names())
    assert {kind for kinds in datasets for kind in kinds.split()} <= set(TITLES)


def test_every_rule_names_a_method_of_a_family():

    families = {"coop": coop, "vpt": vpt}
    for method in rules()["methods"]:
        family, name = method["ours"].split("/")
        options = method.get("options", {})
        assert set(options) <= set(families[family].options(name, options.get("HOST", ""))), method


def test_values_are_compared_by_what_they_mean():
    assert normal(1) == normal(1.0) == "1" and normal(0.0005) == normal(5e-4)
    assert normal(None) == normal("") == normal([]) == "" and normal(True) == "true"
    assert normal([0, 0.5]) == "[0, 0.5]"
