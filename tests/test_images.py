"""Every kind of image is read as docs/images.md says; one that cannot be read is named, and stops a run or not."""

import json
import pickle
import random
import struct
import zlib
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from promptvision.data import decode as files
from promptvision.data.decode import BadImage, open_image, read_image
from promptvision.data.images import Images
from promptvision.data.scan import leave_out_bad
from promptvision.data.transforms import test_transform as make_test_transform
from promptvision.data.transforms import train_transform
from promptvision.errors import InputError

ROOT = Path(__file__).parents[1]
COOP = str(ROOT / "configs/coop/embedded.yaml")
RAMP = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
"""16-bit grey whose upper 8 bits are 0 to 255."""


def stored(image, kind, **options):
    out = BytesIO()
    image.save(out, kind, **options)
    return read_image(out.getvalue(), "p")


def pixel(image):
    assert image.mode == "RGB"
    return image.getpixel((1, 1))


@pytest.mark.parametrize(
    ("mode", "colour", "kind", "expected"),
    [
        ("RGB", (10, 20, 30), "PNG", (10, 20, 30)),
        ("RGBA", (10, 20, 30, 0), "PNG", (10, 20, 30)),
        ("RGBA", (10, 20, 30, 128), "WEBP", (10, 20, 30)),
        ("LA", (7, 0), "PNG", (7, 7, 7)),
        ("L", 7, "BMP", (7, 7, 7)),
        ("1", 1, "PNG", (255, 255, 255)),
        ("1", 0, "TIFF", (0, 0, 0)),
        ("CMYK", (255, 0, 0, 0), "TIFF", (0, 255, 255)),
        ("CMYK", (0, 0, 0, 128), "JPEG", (127, 127, 127)),
        ("I", 70000, "TIFF", (255, 255, 255)),
        ("I", 90, "TIFF", (90, 90, 90)),
        ("F", 90.7, "TIFF", (90, 90, 90)),
    ],
)
def test_modes(mode, colour, kind, expected):
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    assert pixel(stored(Image.new(mode, (4, 4), colour), kind, **options)) == expected


def test_a_palette_gives_its_colours_and_loses_its_transparency():
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    for options in ({}, {"transparency": 1}, {"transparency": b"\xff\x00"}):
        assert pixel(stored(image, "PNG", **options)) == (200, 100, 50)
    assert pixel(stored(image, "GIF")) == (200, 100, 50)


def pgm(array):
    return b"P5 16 16 65535\n" + array.astype(">u2").tobytes()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "big-endian TIFF", "PGM"])
def test_16_bit_grey_keeps_its_upper_8_bits(kind):
    if kind == "PGM":
        found = read_image(pgm(RAMP), "p")
    elif kind == "big-endian TIFF":
        found = stored(Image.fromarray(RAMP.astype(">u2")), "TIFF")
    else:
        found = stored(Image.fromarray(RAMP), kind)
    assert np.array_equal(np.asarray(found), np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2))


def png_16_bit_colour(values):
    """A 16-bit RGB PNG of one row, which PIL cannot write."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", len(values), 1, 16, 2, 0, 0, 0)
    row = b"\0" + np.array(values, dtype=">u2").tobytes()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")


def test_16_bit_colour_keeps_its_upper_8_bits():
    found = read_image(png_16_bit_colour([(0x0AFF, 0x1400, 0xFFFF), (0, 0x80FF, 0x8000)]), "p")
    assert np.asarray(found).tolist() == [[[0x0A, 0x14, 0xFF], [0, 0x80, 0x80]]]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame(kind):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((250, 0, 0), (0, 250, 0))]
    out = BytesIO()
    frames[0].save(out, kind, save_all=True, append_images=frames[1:], **({"lossless": True} if kind == "WEBP" else {}))
    assert pixel(read_image(out.getvalue(), "p")) == (250, 0, 0)


def oriented(orientation, kind="PNG"):
    """3 x 2, its upper left pixel white, stored so that `orientation` must be applied to see it upright."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.new("RGB", (3, 2))
    image.putpixel((0, 0), (255, 255, 255))
    return stored(image, kind, exif=exif)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_an_exif_orientation_is_ignored_or_applied(kind):
    assert oriented(6, kind).size == (3, 2)
    ignored, applied = (make_test_transform("vtab", (3, 2), (0,) * 3, (1,) * 3, upright=own) for own in (False, True))
    assert repr(ignored) != repr(applied)
    upright = {1: (0, 0), 2: (0, 2), 3: (1, 2), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (2, 1), 8: (2, 0)}
    for orientation, (row, column) in upright.items():
        image = oriented(orientation)
        size = (2, 3) if orientation < 5 else (3, 2)
        for side in (make_test_transform, train_transform):
            found = side("vtab", size, (0,) * 3, (1,) * 3, upright=True)(image)[0]
            assert found.argmax() == row * size[1] + column, orientation


def test_what_no_image_is_named_for(tmp_path):
    whole = BytesIO()
    Image.effect_noise((64, 64), 50).convert("RGB").save(whole, "JPEG")
    contents = {
        "empty.jpg": (b"", "it is no image, the file is empty"),
        "text.jpg": (b"not found", "it is no image, broken or cut short"),
        "page.jpg": (b"<html>not found</html>", "it is no image but a web page: download the image itself"),
        "torn.jpg": (whole.getvalue()[:700], "it is no image, broken or cut short"),
        "lfs.jpg": (b"version https://git-lfs.github.com/spec/v1\noid", "a pointer of Git LFS: run `git lfs pull`"),
    }
    for name, (data, reason) in contents.items():
        (tmp_path / name).write_bytes(data)
        for attempt in (partial(open_image, str(tmp_path), name), partial(read_image, data, name)):
            with pytest.raises(BadImage) as caught:
                attempt()
            assert name in str(caught.value) and str(caught.value).endswith(reason)
            assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    with pytest.raises(BadImage, match="gone.jpg cannot be read: No such file"):
        open_image(str(tmp_path), "gone.jpg")
    with pytest.raises(BadImage, match="cannot be read: Is a directory"):
        open_image(str(tmp_path), ".")


def test_very_large_images_are_told_and_bombs_refused(tmp_path, monkeypatch, caplog, recwarn):
    Image.new("RGB", (12, 10)).save(tmp_path / "large.png")
    files._check_sides.cache_clear()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for _ in range(3):
        assert open_image(str(tmp_path), "large.png").size == (12, 10)
    assert caplog.text.count("large.png is very large: 12 x 10 pixels") == 1 and not recwarn.list
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with pytest.raises(BadImage, match="large.png cannot be read: Image size .120 pixels. exceeds limit"):
        open_image(str(tmp_path), "large.png")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM"])
def test_damaged_bytes_are_a_image_or_a_sentence_never_another_error(kind):
    out, stream = BytesIO(), random.Random(kind)
    Image.effect_noise((24, 24), 90).convert("RGB").save(out, kind)
    whole = out.getvalue()
    refused = 0
    for _ in range(150):
        data = bytearray(whole[: stream.randrange(1, len(whole) + 1)])
        for _ in range(stream.randrange(6)):
            data[stream.randrange(min(len(data), stream.choice((60, len(data)))))] = stream.randrange(256)
        try:
            assert read_image(bytes(data), "p").mode == "RGB"
        except BadImage as error:
            assert str(error).startswith("image p cannot be read: ") and "\n" not in str(error)
            refused += 1
    assert refused > 20


# A run


@pytest.fixture
def photos(tmp_path):
    """Ten images of each of two colours, of which one is torn, one empty and one a text."""
    root = tmp_path / "photos"
    for name, colour in (("red", (200, 30, 30)), ("blue", (30, 30, 200))):
        (root / name).mkdir(parents=True)
        for n in range(10):
            Image.new("RGB", (40 + n, 50), colour).save(root / name / f"{n}.png")
    (root / "red/3.png").write_bytes((root / "red/3.png").read_bytes()[:60])
    (root / "red/7.png").write_bytes(b"")
    (root / "blue/0.png").write_text("no image")
    return root


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_images_are_left_out_of_every_list(photos, workers):
    rows = [(f"{name}/{n}.png", label, name) for label, name in enumerate(("blue", "red")) for n in range(10)]
    images = Images(rows[:8], rows[8:14], rows[14:], partial(open_image, str(photos)), str(photos), rows[12:14])
    kept, told = leave_out_bad(images, workers)
    assert kept.train == rows[1:8] and kept.unlabelled == rows[12:13]
    assert kept.val == [*rows[8:13]] and kept.test == [*rows[14:17], *rows[18:]]
    assert [sentence.split(" cannot")[0].rpartition("photos/")[2] for sentence in told] == [
        "blue/0.png",
        "red/3.png",
        "red/7.png",
    ]
    memory = Images([("1", 0, "a")], [], [], open=kept.open)
    assert leave_out_bad(memory) == (memory, [])


def test_a_run_stops_or_leaves_out_and_says_so(tool, photos, tmp_path):
    words = ["DATASET.NAME", "folder", "DATASET.ROOT", photos, "DATASET.SHOTS", "0", "OPTIM.EPOCHS", "1"]
    words += ["DATASET.TEMPLATE", "a sheet of {} paper."]
    status, _, err = tool("train", "--config", COOP, *words, "OUTPUT_DIR", tmp_path / "stopped")
    assert status == 2 and "cannot be read: it is no image" in err and "Traceback" not in err
    assert "INPUT.ON_BAD_IMAGE skip leaves out such images" in err
    words += ["INPUT.ON_BAD_IMAGE", "skip", "OUTPUT_DIR", tmp_path / "run"]
    status, _, err = tool("train", "--config", COOP, *words)
    assert status == 0, err
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["bad_pictures"] == 3 and sum(result["pictures"].values()) == 17
    assert [name in " ".join(result["left_out"]) for name in ("red/3.png", "red/7.png", "blue/0.png")] == [True] * 3
    assert err.count("left out: image") == 3
    assert tool("train", "--resume", "auto", "--config", COOP, *words, "OPTIM.EPOCHS", "1")[0] == 0
    again = json.loads((tmp_path / "run/result.json").read_text())
    assert again["train_hash"] == result["train_hash"] and again["left_out"] == result["left_out"]
    assert tool("eval", "--run", tmp_path / "run")[0] == 0
    tested = json.loads((tmp_path / "run/eval-folder-all-test.json").read_text())
    assert tested["accuracy"] == result["accuracy"] and tested["left_out"] == result["left_out"]


def test_a_template_of_ones_own(tool, tmp_path):
    config = ROOT / "configs/coop/embedded_zero_shot.yaml"
    words = ["--config", config, "OUTPUT_DIR", tmp_path]
    assert tool("train", *words, "DATASET.TEMPLATE", "a drawing of a {}.")[0] == 0
    assert json.loads((tmp_path / "result.json").read_text())["templates"] == ["a drawing of a {}."]
    status, _, err = tool("train", *words[:-1], tmp_path / "other", "DATASET.TEMPLATE", "a drawing")
    assert status == 2 and "DATASET.TEMPLATE 'a drawing' has no {} for the class name" in err


def test_the_orientation_changes_what_a_run_sees(tool, tmp_path):
    """Upright images show white above black; they are stored lying, and half of them say so."""
    exif = Image.Exif()
    exif[0x0112] = 6
    tall = Image.new("RGB", (32, 32))
    tall.paste((255, 255, 255), (0, 0, 32, 16))
    for name, image in (("above", tall), ("below", tall.rotate(180))):
        (tmp_path / "own" / name).mkdir(parents=True)
        for n in range(10):
            stored_lying = image.rotate(90)
            stored_lying.save(tmp_path / f"own/{name}/{n}.png", **({"exif": exif} if n % 2 else {}))
    words = ["--config", COOP, "DATASET.NAME", "folder", "DATASET.ROOT", tmp_path / "own", "OPTIM.EPOCHS", "0"]
    losses = []
    for mode in ("ignore", "apply"):
        assert tool("train", *words, "INPUT.EXIF", mode, "OUTPUT_DIR", tmp_path / mode)[0] == 0
        losses.append(json.loads((tmp_path / mode / "result.json").read_text())["ece"])
    assert losses[0] != losses[1]
    status, _, err = tool("train", *words, "INPUT.EXIF", "apply", "INPUT.CACHE", tmp_path, "OUTPUT_DIR", tmp_path / "x")
    assert status == 2 and "INPUT.EXIF apply needs the files" in err


def test_errors_of_bad_images_are_input_errors():
    assert issubclass(BadImage, InputError)
