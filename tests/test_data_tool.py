"""`data list`, `show`, `cache` and `--help`."""

from PIL import Image

from promptvision.data.cards import card_names


def test_list_has_a_row_for_every_card(tool, root, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    status, out, _ = tool("data", "list", "--root", root)
    rows = {
        cells[0].strip(): [cell.strip() for cell in cells]
        for line in out.splitlines()
        if (cells := line.strip("│").split("│"))[1:]
    }
    assert status == 0 and set(card_names()) <= set(rows)
    assert rows["vtab_text"] == ["vtab_text", "A test", "vtab", "3", "here"]
    assert rows["absent"][-1] == "no" and rows["folder"][-1] == "own images"


def test_list_of_the_real_cards(tool, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    status, out, _ = tool("data", "list", "--root", "nowhere")
    assert status == 0 and all(name in out for name in card_names())
    (world,) = (line for line in out.splitlines() if "world_shapes " in line)
    assert "built in" in world


def test_list_is_readable_in_80_columns(tool, monkeypatch):
    """Every dataset has one line, with its whole name, classes, and whether it is here."""
    monkeypatch.setenv("COLUMNS", "80")
    status, out, _ = tool("data", "list", "--root", "nowhere")
    lines = out.splitlines()
    assert status == 0 and all(len(line) <= 80 for line in lines)
    for name in card_names():
        (line,) = (line for line in lines if line.split()[:1] == [name])
        assert line.rstrip().endswith((" no", " built in", " here", " own images")), line
    assert any(line.split()[0] == "imagenet" and " 1,000 " in line for line in lines if line.split())


def test_show_has_the_facts_and_draws_a_sheet(tool, root, tmp_path):
    sheets = [tmp_path / f"sheets/{n}.png" for n in range(2)]
    for sheet in sheets:
        status, out, err = tool("data", "show", "pets", "--root", root, "--output", sheet, "--images", "2")
        assert status == 0, err
    assert all(fact in out for fact in ("pets: A test", "CC0", "a photo of a {}.", "coop_split", "here"))
    assert sheets[0].read_bytes() == sheets[1].read_bytes()
    wide = Image.open(sheets[0]).size
    assert tool("data", "show", "pets", "--root", root, "--output", sheets[1], "--classes", "1")[0] == 0
    assert Image.open(sheets[1]).size[0] < wide[0]


def test_show_works_without_data_and_says_why_there_is_no_sheet(tool, root, tmp_path):
    status, out, _ = tool("data", "show", "absent", "--root", root)
    assert status == 0 and "ask me" in out
    status, _, err = tool("data", "show", "absent", "--root", root, "--output", tmp_path / "sheet.png")
    assert status == 2 and f"the data root {root} has no folder absent" in err
    assert tool("data", "show", "pets", "--root", root, "--output", tmp_path, "--classes", "0")[0] == 2
    status, _, err = tool("data", "show", "pets", "--root", root, "--output", tmp_path)
    assert status == 2 and f"error: {tmp_path} cannot be written" in err


def test_cache_decodes_every_image(tool, root, tmp_path):
    status, out, err = tool("data", "cache", "pets", "--root", root, "--output", tmp_path / "cache", "--size", "8")
    assert status == 0, err
    assert "33 images of pets, shorter side 8, bicubic" in out
    status, _, err = tool("data", "cache", "pets", "--root", root, "--output", tmp_path / "cache")
    assert status == 2 and "holds images shorter side 8, bicubic, not whole" in err


def test_images_in_memory_need_no_cache(tool, tmp_path):
    status, _, err = tool("data", "cache", "digits", "--output", tmp_path)
    assert status == 2 and "in memory already" in err


def test_help_explains_itself(tool):
    commands = ("list", "show", "check", "download", "prepare", "split", "cache")
    status, out, _ = tool("data", "--help")
    assert status == 0 and all(f"data.py {name}" in out for name in commands)
    for name in commands:
        status, out, _ = tool("data", name, "--help")
        assert status == 0 and "--root" in out
