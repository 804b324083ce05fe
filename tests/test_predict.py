"""Predictions at any scale: inputs, one row per image, files that survive a kill, and memory that stays flat."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
from own_images import image
from PIL import Image
from test_shards import cls, png, samples, shard

from promptvision.config.families import FAMILIES
from promptvision.data.readers.search import LeftOut, search
from promptvision.errors import InputError, briefly
from promptvision.experiment.predict import Readable, predict_images, read_batches
from promptvision.experiment.prediction import inputs
from promptvision.experiment.prediction.inputs import ImageList, find_images, open_entry, shown_entry
from promptvision.experiment.run import load_run

ROOT = Path(__file__).parents[1]
SMALL = "import runpy, sys; from promptvision.experiment.prediction import inputs; inputs.PART = 20; "
SMALL += "del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
"""A tool whose parts have 20 images."""


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """105 images of noise in two folders."""
    root = tmp_path_factory.mktemp("photos")
    for number in range(105):
        folder = root / ("a" if number < 60 else "b")
        folder.mkdir(exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")
    return root


def entries(*names, lists=()):
    return [entry for entry, _, _ in find_images([str(name) for name in names], [str(name) for name in lists])]


def shown(*names, lists=()):
    return [shown_entry(entry) for entry in entries(*names, lists=lists)]


# Inputs


def test_a_folder_is_searched_in_the_order_of_its_paths(tmp_path):
    for name in ("a/1.png", "a-b/1.png", "a.png", "a/b/2.png", "ab.png", "b/1.png", "a b/1.png"):
        image(tmp_path / name)
    found = [path.as_posix() for path in search(tmp_path, LeftOut())]
    assert len(found) == 7 and found == sorted(found) == entries(tmp_path)


def test_names_of_several_images_give_each_once(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(photos)
    assert entries("a", "a/000.png", "[ab]/06*.png", "b/060.png") == [
        *(f"a/{n:03d}.png" for n in range(60)),
        *(f"b/{n:03d}.png" for n in range(60, 70)),
    ]
    assert entries("a/000.png", photos / "a/000.png", "b/../a/000.png") == ["a/000.png"]
    with pytest.raises(InputError, match="no image at c$"):
        find_images(["a", "c"])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.txt", "\na/000.png\n  b/060.png\n"),
        ("list.csv", "label,image_path\nx,a/000.png\n\ny,b/060.png\n"),
        ("list.csv", "a/000.png,x\nb/060.png,y\n"),
        ("list.tsv", "path\na/000.png\nb/060.png\n"),
        ("list.csv", "label;path\nx;a/000.png\ny;b/060.png\n"),
        ("list.csv", "label\tpath\nx\ta/000.png\ny\tb/060.png\n"),
    ],
)
def test_lists_of_paths(photos, tmp_path, monkeypatch, name, text):
    wanted = [str(photos / "a/000.png"), str(photos / "b/060.png")]
    (photos / name).write_text(text)
    assert entries(lists=[photos / name]) == wanted
    (tmp_path / name).write_text(text)
    monkeypatch.chdir(photos)  # where the paths of a list elsewhere are found
    assert entries(lists=[tmp_path / name]) == ["a/000.png", "b/060.png"]
    (photos / name).unlink()


def test_lists_keep_line_breaks_that_are_part_of_a_name(tmp_path):
    (tmp_path / "list.csv").write_bytes(b'path,label\n"a\r\nb.png",x\n')
    (tmp_path / "list.txt").write_bytes("a\u2028b.png\r\nc\x0bd.png\n".encode())
    assert entries(lists=[tmp_path / "list.csv"]) == ["a\r\nb.png"]
    assert entries(lists=[tmp_path / "list.txt"]) == ["a\u2028b.png", "c\x0bd.png"]


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("list.csv", "label,size\nx,3\n", "needs a column of paths, such as path; its first line is 'label,size'"),
        ("list.csv", "path,label\na.png,x\n,y\n", "list.csv, line 3: no path in ',y'"),
        ("list.txt", "\n", "list.txt names no image"),
        ("list.md", "a.png", "is no list; a list ends in .txt, .csv, .tsv"),
        ("list.csv", 'path\n"' + "a" * 2_000_000, "list.csv, line 2: field larger than field limit"),
    ],
)
def test_a_wrong_list_is_one_sentence(tmp_path, name, text, sentence):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=sentence):
        find_images([], [str(tmp_path / name)])


def test_shards_are_read_in_place_with_and_without_labels(tmp_path):
    shard(tmp_path / "x/0.tar", samples(0, 3, cls))
    shard(tmp_path / "x/1.tar", {"7.png": png(7), "7.seg.png": png(9), ".hidden.png": png(1), "8.PNG": png(8)})
    image(tmp_path / "x/loose.png")
    found = entries(tmp_path / "x")
    top = tmp_path / "x"
    assert [shown_entry(each) for each in found] == [
        *(f"{top}/0.tar/00000{n}.png" for n in range(3)),
        *(f"{top}/1.tar/{n}.png" for n in (7, 8)),
        f"{top}/loose.png",
    ]
    assert [open_entry(each).getpixel((0, 0))[0] for each in found] == [0, 1, 2, 7, 8, 1]
    assert [entry for entry, _, _ in find_images([str(top)], inside=False)] == [
        f"{top}/0.tar",
        f"{top}/1.tar",
        f"{top}/loose.png",
    ]


def test_what_a_shard_leaves_out_is_told_with_the_reason(tmp_path, caplog):
    with tarfile.open(tmp_path / "0.tar", "w") as opened:
        for name, number in (("a.png", 1), ("a.png", 2), ("../up.png", 3), ("b.jpg", 4), ("b.png", 5)):
            info = tarfile.TarInfo(name)
            info.size = len(png(number))
            opened.addfile(info, io.BytesIO(png(number)))
    found = entries(tmp_path / "0.tar")
    assert [open_entry(each).getpixel((0, 0))[0] for each in found][0] == 2 and len(found) == 2
    assert "1 file, as the shard has a later one of its name, such as" in caplog.text
    assert "1 file whose name leads out of the shard, such as" in caplog.text and "up.png" in caplog.text
    assert "1 image of a key that has another image" in caplog.text


def test_a_damaged_shard_is_one_sentence_and_stops_no_other(tmp_path):
    shard(tmp_path / "good.tar", samples(0, 2, cls))
    (tmp_path / "torn.tar").write_bytes((tmp_path / "good.tar").read_bytes()[:-9000])
    shard(tmp_path / "void.tar", {"a.txt": "3"})
    good = [shown_entry(each) for each in entries(tmp_path)][:2]
    torn, void = entries(tmp_path)[2:]
    assert all("good.tar/" in each for each in good)
    with pytest.raises(InputError, match="torn.tar cannot be read: it is no tar file, broken or cut short"):
        open_entry(torn)
    with pytest.raises(InputError, match="void.tar holds no image"):
        open_entry(void)


def test_parts_are_shards_and_blocks_of_other_images(monkeypatch):
    monkeypatch.setattr(inputs, "PART", 2)
    images = ImageList(["a", "b", "c", "1.tar", "2.TAR", "d", "e", "f", "3.tar"])
    assert [list(part) for part in images.parts()] == [[0, 1], [2], [3], [4], [5, 6], [7], [8]]
    assert ImageList(["a"]).parts() == [range(1)] and ImageList(["a", "b", "c"]).parts()[1] == range(2, 3)


def test_names_in_any_encoding_are_held_as_they_are():
    names = ["a.png", "犬/é.png", os.fsdecode(b"caf\xe9.png"), ""]
    assert [entry for entry, _, _ in ImageList(names)] == names
    assert ImageList(names).fingerprint() != ImageList(["a", ".png", *names[1:]]).fingerprint()


# Predictions


def rows_of(trained, names, **options):
    folder, cfg = trained
    images = find_images([str(name) for name in names])
    batches = list(predict_images(cfg, load_run(cfg, FAMILIES, folder), images, 3, **options))
    return [[(each.path, each.top, each.error) for each in batch] for batch in batches]


def test_workers_and_shards_change_nothing(trained, photos, tmp_path):
    here = rows_of(trained, [photos / "a"])
    assert [len(batch) for batch in here] == [8] * 7 + [4]
    assert rows_of(trained, [photos / "a"], workers=2) == here
    shard(tmp_path / "a.tar", {path.name: path.read_bytes() for path in sorted((photos / "a").iterdir())})
    packed = rows_of(trained, [tmp_path / "a.tar"])
    assert [[row[1] for row in batch] for batch in packed] == [[row[1] for row in batch] for batch in here]


def test_a_batch_is_yielded_before_the_next_one_is_read(trained, photos, tmp_path):
    for path in sorted((photos / "a").iterdir())[:16]:
        (tmp_path / path.name).symlink_to(path)
    folder, cfg = trained
    batches = predict_images(cfg, load_run(cfg, FAMILIES, folder), find_images([str(tmp_path)]), 1)
    assert not any(row.error for row in next(batches))
    for path in tmp_path.iterdir():
        path.unlink()
    assert all("No such file" in row.error for row in next(batches))


def test_broken_images_are_named_briefly_and_stop_no_other(tool, trained, photos, tmp_path):
    for number in range(25):
        (tmp_path / f"torn{number:02d}.png").write_bytes(b"no image")
    words = ["--run", trained[0], tmp_path, photos / "b", "--top", "1"]
    status, out, err = tool("predict", *words, "--json")
    assert status == 2 and len(out.splitlines()) == 45 and {*json.loads(out.splitlines()[0])} == {"picture", "top"}
    assert err.count("error: image") == 20 and err.endswith("error: and 5 more")
    status, out, err = tool("predict", *words, "--output", tmp_path / "out.csv")
    assert status == 2 and err.endswith("error: and 5 more")
    table = list(csv.reader((tmp_path / "out.csv").open(newline="")))
    assert len(table) == 71 and all(cells[1] == "" and "cannot be read" in cells[-1] for cells in table[1:26])


def test_briefly_takes_a_generator():
    assert briefly(f"{n}" for n in range(3)) == ["0", "1", "2"]
    assert briefly(f"{n}" for n in range(1025))[18:] == ["18", "19", "and 1,005 more"]


# Files


def test_three_formats_hold_the_same_rows(tool, trained, photos, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("=1+1.png", "a.png"):
        (tmp_path / "in" / name).write_bytes((photos / "a/000.png").read_bytes())
    (tmp_path / "in/z.png").write_bytes(b"no image")
    here = rows_of(trained, [tmp_path / "in"])[0]
    for name in ("o.jsonl", "o.csv", "o.parquet", "folder"):
        words = ["--run", trained[0], tmp_path / "in", "--top", "3", "--output", tmp_path / name]
        assert tool("predict", *words)[0] == 2, name
    lines = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert [line["path"] for line in lines] == [path for path, _, _ in here]
    assert lines[0]["labels"] == [name for name, _ in here[0][1]] and lines[0]["label"] == lines[0]["labels"][0]
    assert np.float32(lines[0]["probabilities"]).tolist() == [value for _, value in here[0][1]]
    assert lines[2]["label"] is None and "cannot be read" in lines[2]["error"] and lines[0]["error"] is None
    tables = [pq.read_table(tmp_path / name).to_pylist() for name in ("o.parquet", "folder")]
    assert (
        tables[0]
        == tables[1]
        == [
            {**line, "probability": rounded[0] if rounded else None, "probabilities": rounded}
            for line in lines
            for rounded in [np.float32(line["probabilities"]).tolist()]
        ]
    )
    cells = list(csv.reader((tmp_path / "o.csv").open(newline="")))
    assert cells[0] == ["path", "label", "probability", "label_2", "probability_2", "label_3", "probability_3", "error"]
    assert [float(cell) for cell in cells[1][2:8:2]] == lines[0]["probabilities"] and cells[1][1] == lines[0]["label"]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["folder", "in", "o.csv", "o.jsonl", "o.parquet"]


def test_no_cell_is_a_formula(tool, trained, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("=1+1.png").write_bytes((photos / "a/000.png").read_bytes())
    assert tool("predict", "--run", trained[0], "=1+1.png", "--output", "o.csv")[0] == 0
    assert Path("o.csv").read_text().splitlines()[1].startswith("'=1+1.png,")


def call(*words):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SMALL, str(ROOT / "tools/predict.py"), *map(str, words)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.fault("files")
@pytest.mark.parametrize("name", ["o.csv", "o.parquet", "folder"])
def test_killed_and_resumed_is_as_if_undisturbed(trained, photos, tmp_path, name):
    (photos / "a/torn.png").write_bytes(b"no image")
    words = ["--run", trained[0], photos, "--output"]
    undisturbed = call(*words, tmp_path / f"whole{Path(name).suffix}")
    assert "torn.png" in undisturbed.communicate()[1] and undisturbed.returncode == 2
    parts = tmp_path / (f"{name}.parts" if "." in name else name)
    process = call(*words, tmp_path / name)
    while len(list(parts.glob("part-*"))) < 2 and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    finished = {path: path.stat().st_mtime_ns for path in parts.glob("part-*")}
    assert 2 <= len(finished) < 6 and process.returncode == -signal.SIGKILL
    resumed = call(*words, tmp_path / name, "--resume")
    assert "torn.png" in resumed.communicate()[1] and resumed.returncode == 2
    (photos / "a/torn.png").unlink()
    whole = tmp_path / f"whole{Path(name).suffix}"
    if "." in name:
        assert (tmp_path / name).read_bytes() == whole.read_bytes() and not parts.exists()
        return
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert [(path.name, path.read_bytes()) for path in sorted(parts.glob("part-*"))] == [
        (path.name, path.read_bytes()) for path in sorted(whole.glob("part-*"))
    ]


def test_no_more_processes_than_batches(monkeypatch):
    counts, workers = [], Readable.workers
    monkeypatch.setattr(Readable, "workers", lambda views, count: counts.append(count) or workers(views, 0))
    (batch,) = read_batches(ImageList(["missing.png"]), None, 8, [range(1)], workers=100)
    assert batch.pixels is None
    assert counts == [1]


def test_parts_of_something_else_are_refused(tool, trained, photos, tmp_path):
    def predict(*words, run=trained[0]):
        status, _, err = tool("predict", "--run", run, *words, "--output", tmp_path / "out")
        return err if status else ""

    assert predict(photos / "a") == "" == predict(photos / "a", "--resume")
    assert "out holds predictions: continue them with --resume, or delete it" in predict(photos / "a")
    for words, what in (([photos / "b"], "other images"), ([photos / "a", "--top", "2"], "another --top")):
        assert f"out holds predictions of {what}: choose another --output, or delete it" in predict(*words, "--resume")
    other = tmp_path / "other"
    other.mkdir()
    for path in trained[0].iterdir():
        if path.is_file() and path.name != ".lock":
            (other / path.name).write_bytes(path.read_bytes())
    assert predict(photos / "a", "--resume", run=other) == "", "the same run in another place"
    (other / "config.yaml").write_text((other / "config.yaml").read_text().replace("BATCH_SIZE: 8", "BATCH_SIZE: 9"))
    assert "predictions of another run" in predict(photos / "a", "--resume", run=other)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--output", "o.xlsx"], "unknown format of --output '.xlsx'; one of: .csv, .jsonl, .parquet"),
        (["--output", "o.jsn"], "unknown format of --output '.jsn'; did you mean '.jsonl'"),
        (["--output", "taken.csv"], "--output taken.csv exists: choose another one, or delete it"),
        (["--output", "full"], "--output full holds other files: choose another one"),
        (["--output", "taken.csv/o.csv"], "taken.csv/o.csv.parts cannot be written: Not a directory"),
        (["--resume"], "--resume continues the --output of an earlier call: name it"),
        (["--workers", "-1"], "argument --workers: '-1' is no whole number from 0 on"),
    ],
)
def test_a_wrong_output_is_one_sentence(tool, trained, photos, tmp_path, monkeypatch, words, sentence):
    monkeypatch.chdir(tmp_path)
    Path("taken.csv").touch()
    Path("full").mkdir()
    Path("full/notes.txt").touch()
    status, _, err = tool("predict", "--run", trained[0], photos / "a/000.png", *words)
    assert (status, err) == (2, f"error: {sentence}") or (status == 2 and sentence in err), err
    assert not [path for path in tmp_path.iterdir() if path.name not in ("taken.csv", "full")]


def test_parquet_without_pyarrow_is_one_sentence(tool, trained, photos, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("pyarrow")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    status, _, err = tool("predict", "--run", trained[0], photos / "a", "--output", tmp_path / "o.parquet")
    assert status == 2 and "o.parquet needs pyarrow: pip install 'promptvision[parquet]'" in err


# Memory


@pytest.mark.fault("memory")
def test_a_list_of_images_takes_their_names_and_eight_bytes_each():
    names = [f"images/{n // 1000:04d}/{n:08d}.png" for n in range(100_000)]
    images = ImageList(names)
    assert sys.getsizeof(images.text) + sys.getsizeof(images.ends) < 1.2 * (sum(map(len, names)) + 8 * len(names))
    assert images[99_999] == (names[-1], 99_999, "") and images[500].__class__ is tuple


@pytest.mark.slow
@pytest.mark.fault("memory")
def test_ten_times_as_many_images_take_no_more_memory(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools/bench")
    import bench_predict

    few, many = bench_predict.rows(SimpleNamespace(images=[1_000, 10_000], format="parquet"))
    assert float(many[2].removesuffix("x")) < 1.05, many
