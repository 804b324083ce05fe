"""Images and shards that are common in the field: read as meant, or refused in one sentence; nothing in silence."""

import os
import tarfile
from io import BytesIO

import pytest
from own_images import everything, image
from PIL import Image, PngImagePlugin

from promptvision.data.cards import load_card
from promptvision.data.decode import BadImage, open_image
from promptvision.data.readers import read
from promptvision.data.transforms import test_transform as make_test_transform
from promptvision.experiment.predict import in_utf8
from promptvision.report.figures.contact_sheet import contact_sheet, drawable
from promptvision.report.tables.terminal import predictions_table


def test_names_that_are_not_utf_8_are_escaped():
    assert in_utf8("out/caf\udce9.png") == "'out/caf\\udce9.png'" and in_utf8("out/café.png") == "out/café.png"
    rows = [{"picture": "a[b]\x1b.png", "top": [{"class": "[red]", "probability": 1.0}]}]
    table = predictions_table(rows)
    cells = [str(cell) for column in table.columns for cell in column.cells]
    assert cells == ["'a[b]\\x1b.png'", "[red] 100.0 %"]


def test_a_sheet_of_class_names_in_any_script(tmp_path, recwarn):
    contact_sheet([(name, [Image.new("RGB", (4, 4))]) for name in ("犬", "แมว", "\U0001fabf")], tmp_path / "sheet.png")
    assert not [str(each.message) for each in recwarn.list if "Glyph" in str(each.message)]
    assert drawable("naïve") == "naïve" and drawable("\U0010fffd") == "\\U0010fffd"


# One image


def test_formats_that_cannot_be_read_are_named(tmp_path):
    starts = {
        b"\0\0\0\x18ftypheic\0\0\0\0mif1": "it is HEIC.*pip install pillow-heif.*convert",
        b"\0\0\0\x18ftypmp42": "it is a video",
        b"\xff\x0a" + bytes(20): "it is JPEG XL.*convert",
        b"%PDF-1.7": "it is a PDF",
        b'<?xml version="1.0"?><svg>': "it is SVG",
        b"<!DOCTYPE html><p>": "no image but a web page",
    }
    for start, reason in starts.items():
        (tmp_path / "x.png").write_bytes(start)
        with pytest.raises(BadImage, match=f"x.png cannot be read: .*{reason}"):
            open_image(str(tmp_path), "x.png")


@pytest.mark.fault("memory")
def test_a_png_with_much_text_is_read_and_with_too_much_the_reason_is_named(tmp_path):
    def save(name, size):
        text = PngImagePlugin.PngInfo()
        for n in range(size // 1_500_000):
            text.add_text(f"workflow {n}", "ab" * 750_000, zip=True)
        image(tmp_path / name, pnginfo=text)

    save("much.png", 3_000_000)
    assert open_image(str(tmp_path), "much.png").size == (6, 4)
    save("more.png", 70_000_000)
    with pytest.raises(BadImage, match="the text stored in this PNG is larger than Pillow allows"):
        open_image(str(tmp_path), "more.png")


@pytest.mark.fault("parsing")
@pytest.mark.parametrize("damage", [b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(9), b"Exif\0\0XX", b"Exif\0\0"])
def test_damaged_exif_is_no_stray_warning(tmp_path, recwarn, damage):
    image(tmp_path / "0.jpg", kind="JPEG", exif=damage)
    upright = make_test_transform("vtab", (4, 4), (0,) * 3, (1,) * 3, upright=True)
    assert upright(open_image(str(tmp_path), "0.jpg")).shape == (3, 4, 4)
    assert not recwarn.list


@pytest.mark.fault("memory")
def test_a_pipe_is_no_image(tmp_path):
    os.mkfifo(tmp_path / "f.png")
    with pytest.raises(BadImage, match="f.png cannot be read: it is no file but a pipe or device"):
        open_image(str(tmp_path), "f.png")


# Shards


def shard(path, members):
    with tarfile.open(path, "w") as opened:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            opened.addfile(info, BytesIO(data))


def png():
    out = BytesIO()
    Image.new("RGB", (5, 4)).save(out, "PNG")
    return out.getvalue()


def test_keys_of_shards_may_have_dots(tmp_path):
    keys = [f"a/red_{n}" for n in range(4)] + [f"red_0.0{n}" for n in range(4)] + [f"v1.2.{n}" for n in range(4)]
    shard(tmp_path / "0.tar", {f"{key}{end}": data for key in keys for end, data in ((".PNG", png()), (".cls", b"0"))})
    images = read(load_card("shards"), tmp_path)
    assert sorted(everything(images)) == sorted(f"0.tar/{key}.png" for key in keys)
    assert images.open("0.tar/v1.2.3.png").size == (5, 4)


def test_compressed_shards_beside_others_are_counted(tmp_path, caplog):
    shard(
        tmp_path / "0.tar", {f"{n}.{end}": png() if end == "png" else b"a" for n in range(4) for end in ("png", "cls")}
    )
    (tmp_path / "1.tar.gz").write_bytes(b"")
    read(load_card("shards"), tmp_path)
    assert "1 compressed shard, which must be unpacked to .tar, such as 1.tar.gz" in caplog.text


def test_members_of_shards_that_are_left_out_are_counted(tmp_path, caplog):
    own = {f"{n}.png": png() for n in range(4)} | {f"{n}.cls": b"0" for n in range(4)}
    more = {
        "0.seg.png": png(),
        "7.v2.png": png(),
        "7.cls": b"1",
        "8.heic": b"x",
        "8.cls": b"1",
        "__MACOSX/._1.png": b"x",
    }
    shard(tmp_path / "0.tar", own | more)
    (tmp_path / "._0.tar").write_bytes(b"x")
    assert len(everything(read(load_card("shards"), tmp_path))) == 4
    assert "2 images of a key that has another image or the label, such as 0.tar/0.seg.png" in caplog.text
    assert "1 .heic file," in caplog.text and "1 hidden file, such as 0.tar/__MACOSX/._1.png" in caplog.text
