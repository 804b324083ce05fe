"""Opening images, datasets in memory, and domains."""

import os
from dataclasses import replace

import pytest
from PIL import Image
from split_data import paths, plant, save, small_split

from promptvision.data.cards import load_card
from promptvision.data.readers import read
from promptvision.data.splits import subset_hash
from promptvision.errors import InputError


def broken(path, kind):
    whole = path.with_suffix(".whole")
    save(whole)
    data = whole.read_bytes()
    whole.unlink()
    contents = {"cut short": data[:-30], "empty": b"", "no image": b"hello", "header only": data[:40]}
    path.write_bytes(contents[kind])


@pytest.mark.parametrize("kind", ["cut short", "empty", "no image", "header only"])
def test_a_broken_image_is_named(tmp_path, kind):
    for n in range(4):
        save(tmp_path / f"cat/{n}.png")
    broken(tmp_path / "cat/9.png", kind)
    images = read(load_card("folder"), tmp_path)
    with pytest.raises(InputError) as caught:
        images.open("cat/9.png")
    assert f"image {tmp_path / 'cat/9.png'} cannot be read: it is no image" in str(caught.value)
    with pytest.raises(InputError, match="gone.png cannot be read: No such file"):
        images.open("cat/gone.png")


@pytest.mark.fault("memory")
def test_a_image_too_large_to_be_safe_is_named(tmp_path, monkeypatch):
    save(tmp_path / "cat/1.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(InputError, match="cat/1.png cannot be read: Image size .24 pixels. exceeds limit"):
        read(load_card("folder"), tmp_path).open("cat/1.png")


def test_an_exif_orientation_is_not_applied(tmp_path):
    (tmp_path / "cat").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (6, 4)).save(tmp_path / "cat/1.jpg", exif=exif)
    assert read(load_card("folder"), tmp_path).open("cat/1.jpg").size == (6, 4)


def test_alpha_is_dropped_and_grey_is_spread(tmp_path):
    (tmp_path / "cat").mkdir()
    Image.new("RGBA", (3, 3), (10, 20, 30, 0)).save(tmp_path / "cat/1.png")
    Image.new("L", (3, 3), 7).save(tmp_path / "cat/2.png")
    images = read(load_card("folder"), tmp_path)
    assert images.open("cat/1.png").getpixel((1, 1)) == (10, 20, 30)
    assert images.open("cat/2.png").getpixel((1, 1)) == (7, 7, 7)
    assert images.open("cat/2.png").mode == "RGB"


def without_permission(action):
    """Run `action` in a child that may not read what its parent made, and return the sentence it ends with."""
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        if os.getuid() == 0:
            os.setuid(65534)
        try:
            action()
        except InputError as error:
            os.write(sender, str(error).encode())
        finally:
            os._exit(0)
    os.close(sender)
    os.waitpid(child, 0)
    with os.fdopen(receiver) as pipe:
        return pipe.read()


def test_files_and_folders_without_permission_are_named(tmp_path):
    home = tmp_path / "home"
    save(home / "cat/1.png")
    plant(load_card("dtd"), home, small_split())
    images = read(load_card("folder"), home / "dtd")
    for place in (home / "cat/1.png", home / "cat", home / "dtd" / load_card("dtd").options["split"]):
        place.chmod(0)
    for place in (tmp_path, *tmp_path.parents):
        if "pytest" in str(place):
            place.chmod(0o755)
    split = without_permission(lambda: read(load_card("dtd"), home))
    assert split.endswith("cannot be read: Permission denied") and load_card("dtd").options["split"] in split
    folder = without_permission(lambda: read(load_card("folder"), home))
    assert folder == f"folder {home / 'cat'} cannot be read: Permission denied"
    (home / "dtd/images").chmod(0)
    image = without_permission(lambda: images.open("images/red thing/train_1.png"))
    assert image.endswith("images/red thing/train_1.png cannot be read: Permission denied")
    for place in (home / "cat", home / "dtd/images"):
        place.chmod(0o755)


def test_digits_need_no_root_and_never_change():
    card = load_card("digits")
    images = read(card)
    assert {part: len(getattr(images, part)) for part in ("train", "val", "test")} == card.counts
    assert len({path for path in paths(images.train + images.val + images.test)}) == 1797
    assert images.classes == card.options["names"]
    first = images.open("digits/00000")
    assert first.size == (8, 8) and first.mode == "RGB"
    assert [first.getpixel((x, 0))[0] for x in range(8)] == [0, 0, 80, 207, 143, 16, 0, 0]
    assert next(item for item in images.train + images.val + images.test if item[0] == "digits/00000")[1] == 0
    assert subset_hash(images.train) == "005f5790af987a286e2a0e62e4590f6f73b30b0a6f27fd0252a2d4c76510b100"


@pytest.mark.parametrize("name", ["world_counting", "world_location"])
def test_world_tasks_are_read_through_their_cards(name):
    card = load_card(name)
    images = read(card)
    assert {part: len(getattr(images, part)) for part in ("train", "val", "test")} == card.counts
    assert len(images.classes) == card.classes
    assert images.open(images.train[0][0]).mode == "RGB"


def test_domains_are_read_one_by_one_and_together():
    card = load_card("world_domains")
    alone = {name: read(card, domain=name) for name in ("sketch", "second")}
    assert len(alone["sketch"].train) == 1536 and not alone["second"].train
    pair = replace(card, domains={name: card.domains[name] for name in alone})
    both = read(pair)
    assert both.test == alone["sketch"].test + alone["second"].test and both.classes == alone["sketch"].classes
    for images in alone.values():
        path = images.test[7][0]
        assert both.open(path).tobytes() == images.open(path).tobytes()
    with pytest.raises(InputError, match="unknown domain of dataset 'world_domains' 'sketches'; did you mean 'sketch'"):
        read(card, domain="sketches")
    with pytest.raises(InputError, match="unknown domain of dataset 'digits' 'a'"):
        read(load_card("digits"), domain="a")


def test_domains_of_different_classes_do_not_mix():
    card = load_card("world_domains")
    odd = replace(card, domains={"photo": {"task": "shapes"}, "odd": {"task": "textures"}})
    with pytest.raises(InputError, match="domains disagree: label 0 is 'circle' and, at textures/train/00000, 'plain'"):
        read(odd)
