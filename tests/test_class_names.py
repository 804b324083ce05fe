"""CoOp's class names from the raw data's."""

from dataclasses import replace

import pytest

from promptvision.data.cards import load_card
from promptvision.data.readers.class_names import RULES, class_name
from promptvision.errors import InputError


@pytest.mark.parametrize(
    ("rule", "raw", "name"),
    [
        ("", "Annual Crop", "Annual Crop"),
        ("year_first", "Audi TTS Coupe 2012", "2012 Audi TTS Coupe"),
        ("reversed_path", "/i/ice_skating_rink/outdoor", "outdoor ice_skating_rink"),
        ("reversed_path", "/a/abbey", "abbey"),
        ("split_capitals", "ApplyEyeMakeup", "Apply_Eye_Makeup"),
        ("split_capitals", "YoYo", "Yo_Yo"),
        ("split_capitals", "TaiChi", "Tai_Chi"),
        ("file_stem", "Abyssinian_100", "abyssinian"),
        ("file_stem", "american_pit_bull_terrier_7", "american_pit_bull_terrier"),
        ("lower", "Alarm_Clock", "alarm_clock"),
    ],
)
def test_rules(rule, raw, name):
    assert RULES[rule](raw) == name


def test_a_rename_goes_before_the_rule_and_some_classes_are_left_out():
    card = replace(load_card("folder"), renames={"Faces": "face"}, ignored=["Faces_easy"], name_rule="lower")
    assert [class_name(card, raw) for raw in ("Faces", "Faces_easy", "Ant")] == ["face", None, "ant"]


def test_an_unknown_rule_is_named():
    with pytest.raises(InputError, match="unknown name rule of dataset 'folder' 'lowr'; did you mean 'lower'"):
        class_name(replace(load_card("folder"), name_rule="lowr"), "a")
