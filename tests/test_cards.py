"""Every card: complete, of the right types, and true where the data are at hand; and what a wrong card says."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from promptvision.data.cards import card_names, load_card
from promptvision.data.prepare.docs_page import datasets_page
from promptvision.data.readers import READERS
from promptvision.data.readers.class_names import RULES
from promptvision.errors import InputError

GOOD = {
    "title": "Mine",
    "source": "me",
    "licence": "CC0",
    "where": "ask me",
    "reader": "folder",
    "template": "a photo of a {}.",
}
"""The least a card can say."""


@pytest.fixture
def card(tmp_path):
    """Load a card of these facts (or this text) as a file of your own."""

    def load(facts):
        path = tmp_path / "mine.yaml"
        path.write_text(facts if isinstance(facts, str) else yaml.safe_dump(facts))
        return load_card(str(path))

    return load


@pytest.mark.parametrize("name", card_names())
def test_every_card_is_whole(name):
    card = load_card(name)
    assert card.name == name and card.reader in READERS
    assert "{}" in card.template and card.template.format("dog") != card.template
    for fact in (card.title, card.source, card.licence, card.where):
        assert fact and fact == fact.strip() and not fact.endswith(".")
    assert card.classes is None or card.classes > 1
    assert set(card.counts) in (set(), {"train", "val", "test"})
    assert all(trap.endswith(".") for trap in card.traps)
    assert card.name_rule in RULES and not set(card.ignored) & set(card.renames)
    names = card.options.get("names", [])
    assert len(set(names)) == len(names) and len(names) in (0, card.classes)


def test_all_cards_load_without_a_slow_import():
    slow = ("torch", "torchvision", "sklearn", "scipy", "pandas", "open_clip", "timm", "pyarrow")
    code = "from promptvision.data.cards import card_names, load_card; [load_card(name) for name in card_names()]"
    said = subprocess.run(
        [sys.executable, "-c", f"import sys; {code}; print([name for name in {slow} if name in sys.modules])"],
        capture_output=True, text=True, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert said.stdout.strip() == "[]", said.stderr


def test_every_dataset_of_the_first_slice_has_a_card():
    files = {"caltech101", "dtd", "oxford_flowers", "oxford_pets", "folder"}
    assert set(card_names()) >= files | {"digits", "mnist", "fashion_mnist", "cifar10", "cifar100"}


OFFICIAL = {
    "imagenet": "ImageNet",
    "imagenet_v2": "ImageNetV2",
    "imagenet_sketch": "ImageNetSketch",
    "imagenet_a": "ImageNetA",
    "imagenet_r": "ImageNetR",
    "caltech101": "Caltech101",
    "oxford_pets": "OxfordPets",
    "stanford_cars": "StanfordCars",
    "oxford_flowers": "OxfordFlowers",
    "food101": "Food101",
    "fgvc_aircraft": "FGVCAircraft",
    "sun397": "SUN397",
    "dtd": "DescribableTextures",
    "eurosat": "EuroSAT",
    "ucf101": "UCF101",
}
"""Cards of CoOp's datasets, and what its code calls them."""


def test_templates_are_those_of_coop(golden):
    templates = golden("coop/zeroshot")[0]["CUSTOM_TEMPLATES"]
    assert {OFFICIAL[name]: load_card(name).template for name in OFFICIAL} == templates


def test_a_card_of_your_own(card):
    own = card({**GOOD, "classes": 3, "counts": {"train": 6}, "traps": ["none."]})
    assert (own.name, own.title, own.classes, own.counts, own.options) == ("mine", "Mine", 3, {"train": 6}, {})
    assert card({**GOOD, "reader": "world", "task": "shapes"}).options == {"task": "shapes"}


def test_an_unknown_dataset_names_the_nearest():
    with pytest.raises(InputError, match="unknown dataset 'oxford_flower'; did you mean 'oxford_flowers'"):
        load_card("oxford_flower")
    with pytest.raises(InputError, match="unknown dataset 'zzz'; one of: .*caltech101, .*digits"):
        load_card("zzz")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"licens": "MIT"}, "unknown key 'licens'; did you mean 'licence'"),
        ({"task": "shapes"}, "unknown key 'task'"),
        ({"reader": "foldr"}, "unknown reader 'foldr'; did you mean 'folder'"),
        ({"reader": None}, "unknown reader 'None'"),
        ({"classes": "ten"}, "classes must be int | None, not 'ten'"),
        ({"classes": True}, "classes must be int | None, not True"),
        ({"title": 7}, "title must be str, not 7"),
        ({"traps": "none"}, "traps must be list[str], not 'none'"),
        ({"counts": {"train": "many"}}, "counts must be dict[str, int], not {'train': 'many'}"),
        ({"template": "a photo."}, "template 'a photo.' has no {}"),
        ({"reader": "world"}, "lacks the key 'task'"),
        ({"reader": "digits", "names": [0, 1]}, "names must be list[str], not [0, 1]"),
    ],
)
def test_a_wrong_card_names_file_and_key(card, tmp_path, change, message):
    with pytest.raises(InputError) as caught:
        card({**GOOD, **change})
    assert message in str(caught.value)
    assert str(tmp_path / "mine.yaml") in str(caught.value)


@pytest.mark.parametrize("key", GOOD)
def test_a_missing_key_is_named(card, key):
    with pytest.raises(InputError, match=f"{key}|unknown reader 'None'"):
        card({name: fact for name, fact in GOOD.items() if name != key})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title: [", "is not plain YAML"),
        ("title: !!python/object/apply:os.getcwd []", "is not plain YAML: could not determine a constructor"),
        ("- title", "must hold keys and values"),
        ("", "must hold keys and values"),
    ],
)
def test_a_card_that_is_no_mapping(card, tmp_path, text, message):
    with pytest.raises(InputError) as caught:
        card(text)
    assert message in str(caught.value) and str(tmp_path / "mine.yaml") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_card_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="none.yaml cannot be read: No such file"):
        load_card(str(tmp_path / "none.yaml"))


DOMAINS = {"sketch": {"task": "sketches", "counts": {"test": 1}}, "photo": {"task": "shapes"}}


def test_the_keys_of_a_reader_may_stand_with_the_domains(card):
    own = card({**GOOD, "reader": "world", "domains": DOMAINS, "hub": {"repo": "a/b", "files": ["c.zip"]}})
    assert own.domains == DOMAINS and own.hub == {"repo": "a/b", "files": ["c.zip"]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"domains": {"a": {"tsk": "shapes"}}}, "domain 'a': unknown key 'tsk'; did you mean 'task'"),
        ({"domains": {"a": {"title": "A"}}}, "domain 'a': unknown key 'title'"),
        ({"domains": {"a": {"task": 3}}}, "domain 'a': task must be str, not 3"),
        ({"domains": {"a": {"task": "shapes"}, "b": {}}}, "lacks the key 'task'"),
        ({"domains": ["a"]}, "domains must be"),
        ({"task": "shapes", "templates": ["a sketch"]}, "template 'a sketch' has no {}"),
        ({"task": "shapes", "protocols": ["fewshot"]}, "unknown protocol 'fewshot'; did you mean 'few_shot'"),
        ({"task": "shapes", "download": [{"url": ["x"]}]}, "download must be"),
        ({"reader": "digits", "names": ["a", "b"], "classes": 3}, "names holds 2 names, classes says 3"),
        ({"reader": "digits", "names": "none.txt"}, "none.txt cannot be read: No such file"),
    ],
)
def test_a_wrong_domain_or_list_is_named(card, change, message):
    with pytest.raises(InputError) as caught:
        card({**GOOD, "reader": "world", **change})
    assert message in str(caught.value)


def test_names_may_stand_in_a_file_beside_the_card(card, tmp_path):
    (tmp_path / "names.txt").write_text("naïve\nred thing\n", encoding="utf-8")
    assert card({**GOOD, "reader": "digits", "names": "names.txt"}).options == {"names": ["naïve", "red thing"]}


def test_the_page_of_datasets_is_current_and_its_example_is_a_card(tmp_path):
    page = (Path(__file__).parents[1] / "docs/datasets.md").read_text(encoding="utf-8")
    assert page == datasets_page(), "run python tools/docs.py"
    example = page.partition("```yaml\n")[2].partition("```")[0]
    (tmp_path / "mushrooms.yaml").write_text(example)
    assert load_card(str(tmp_path / "mushrooms.yaml")).options["names"] == ["fly agaric", "cep", "chanterelle"]
    assert all(f"| `{name}` |" in page for name in card_names())
