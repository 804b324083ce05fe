"""Hugging Face datasets on disk: Arrow files as save_to_disk leaves them, and Parquet as the Hub keeps them."""

import io
import json
import pickle
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from promptvision.data.cards import load_card
from promptvision.data.decode import BadImage
from promptvision.data.readers import hub_folder, read
from promptvision.errors import InputError

NAMES = ["zebra", "small dog", "ant"]
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def png(number):
    out = io.BytesIO()
    Image.new("RGB", (5, 4), (number, 2 * number, 3)).save(out, "PNG")
    return out.getvalue()


def cells(numbers):
    return pa.array([{"bytes": png(n), "path": f"{n}.png"} for n in numbers], STRUCT)


def metadata(label="label", image="image", names=NAMES):
    """As `datasets` writes it into the schema."""
    features = {
        "id": {"dtype": "int64", "_type": "Value"},
        "thumbnail": {"_type": "Value", "dtype": "string"},
        image: {"_type": "Image"},
        label: {"names": names, "_type": "ClassLabel"},
    }
    return {b"huggingface": json.dumps({"info": {"features": features}}).encode()}


def make_table(numbers, label="label", image="image", labels=None, names=NAMES):
    columns = {
        "id": pa.array(list(numbers)),
        "thumbnail": pa.array(["x"] * len(numbers)),
        image: cells(numbers),
        label: pa.array([n % 3 for n in numbers] if labels is None else labels),
    }
    return pa.table(columns).replace_schema_metadata(metadata(label, image, names))


def save_to_disk(folder, table, files=2):
    """A split as `datasets.Dataset.save_to_disk` lays it out: IPC streams, and what is in them."""
    folder.mkdir(parents=True)
    names = [f"data-{n:05d}-of-{files:05d}.arrow" for n in range(files)]
    step = -(-len(table) // files)
    for n, name in enumerate(names):
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table.slice(n * step, step), max_chunksize=4)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (folder / "dataset_info.json").write_text("{}")
    (folder / "cache-123.arrow").write_bytes(b"an index that `datasets` keeps beside the data")


def refused(root, card="hub_folder"):
    with pytest.raises(InputError) as caught:
        read(load_card(str(card)), root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def check(images, test):
    """The lists hold what the numbers in the images say."""
    assert images.classes == NAMES
    seen = []
    for items in (images.train, images.val, images.test):
        for path, label, name in items:
            number = images.open(path).getpixel((2, 2))[0]
            assert label == number % 3 and name == NAMES[label]
            seen.append(number)
    assert sorted(seen) == list(range(len(seen)))
    assert [images.open(path).getpixel((0, 0))[0] for path, _, _ in images.test] == test


def test_arrow_files_of_several_parts(tmp_path):
    save_to_disk(tmp_path / "train", make_table(range(30)))
    save_to_disk(tmp_path / "test", make_table(range(30, 42)), files=1)
    (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    images = read(load_card("hub_folder"), tmp_path)
    assert [len(items) for items in (images.train, images.val, images.test)] == [24, 6, 12]
    check(images, list(range(30, 42)))
    assert images.test[0][0] == "test/data-00000-of-00001.arrow/000000"
    check(pickle.loads(pickle.dumps(images)), list(range(30, 42)))


def test_a_single_dataset_is_split(tmp_path):
    save_to_disk(tmp_path / "own", make_table(range(60)))
    images = read(load_card("hub_folder"), tmp_path / "own")
    assert [len(items) for items in (images.train, images.val, images.test)] == [30, 12, 18]


def parquet(path, table, rows=4):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=rows)


def test_parquet_files_of_the_hub(tmp_path):
    for n in range(2):
        parquet(tmp_path / f"data/train-0000{n}-of-00002.parquet", make_table(range(15 * n, 15 * n + 15)))
    parquet(tmp_path / "data/validation-00000-of-00001.parquet", make_table(range(30, 42)))
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache/train-9.parquet").touch()
    images = read(load_card("hub_folder"), tmp_path)
    assert [len(items) for items in (images.train, images.val, images.test)] == [24, 6, 12]
    check(images, list(range(30, 42)))


def test_of_a_parquet_file_few_row_groups_are_kept(tmp_path):
    parquet(tmp_path / "test.parquet", make_table(range(30)))
    images = read(load_card("hub_folder"), tmp_path)
    check(images, list(range(30)))
    file = images.open.files["test.parquet"]
    assert len(file.starts) == 9 and len(file.kept) == hub_folder.GROUPS_KEPT
    assert images.open("test.parquet/000001").getpixel((0, 0))[0] == 1


def test_columns_by_type_by_name_and_by_a_card_of_ones_own(tmp_path):
    def classes(table, name, card="hub_folder"):
        parquet(tmp_path / name / "test.parquet", table)
        return read(load_card(str(card)), tmp_path / name).classes

    assert classes(make_table(range(6), label="fine_label", image="img"), "typed") == NAMES
    plain = make_table(range(6)).replace_schema_metadata(None)
    assert classes(plain, "plain") == ["0", "1", "2"]
    words = pa.table({"image": pa.array([png(n) for n in range(4)]), "class": pa.array(["b", "a"] * 2)})
    assert classes(words, "words") == ["a", "b"]
    own = tmp_path / "own.yaml"
    own.write_text(load_text() + "image: photo\nlabel: kind\n")
    renamed = plain.rename_columns(["id", "thumbnail", "photo", "kind"])
    assert classes(renamed, "own", own) == ["0", "1", "2"]
    assert "unknown column 'photo'" in refused(tmp_path / "plain", own)
    assert "has no column of images: its columns are id, thumbnail, photo, kind" in refused(tmp_path / "own")


def load_text():
    keys = {"title": "t", "source": "s", "licence": "l", "where": "w", "reader": "hub_folder", "template": "a {}."}
    return "".join(f"{key}: {json.dumps(value)}\n" for key, value in keys.items())


def test_images_without_a_label_are_left_out(tmp_path, caplog):
    parquet(tmp_path / "test.parquet", make_table(range(6), labels=[0, -1, 2, None, 1, 2]))
    images = read(load_card("hub_folder"), tmp_path)
    assert [int(path[-1]) for path, _, _ in images.test] == [0, 2, 4, 5]
    assert "2 images without a label are left out" in caplog.text


def test_bad_cells_are_named(tmp_path):
    table = make_table(range(3))
    image = pa.array([{"bytes": b"text", "path": "a"}, {"bytes": None, "path": "b"}, {"bytes": png(2)}], STRUCT)
    parquet(tmp_path / "test.parquet", table.set_column(2, "image", image))
    images = read(load_card("hub_folder"), tmp_path)
    with pytest.raises(BadImage, match="test.parquet/000000 cannot be read: it is no image"):
        images.open("test.parquet/000000")
    with pytest.raises(BadImage, match="test.parquet/000001 cannot be read: the dataset holds no bytes of it"):
        images.open("test.parquet/000001")
    assert images.open("test.parquet/000002").size == (5, 4)
    fresh = pickle.loads(pickle.dumps(images))
    (tmp_path / "test.parquet").write_bytes(b"PAR1 broken PAR1")
    with pytest.raises(BadImage, match="image .*000002 cannot be read: it is no Arrow or Parquet file"):
        fresh.open("test.parquet/000002")


def test_what_is_wrong_is_one_sentence(tmp_path):
    assert "DATASET.ROOT is not set" in refused("")
    (tmp_path / "notes").touch()
    assert f"{tmp_path} holds no .arrow or .parquet files" in refused(tmp_path)
    parquet(tmp_path / "train.parquet", make_table(range(6), labels=[0, 1, 2, 3, 0, 1]))
    assert "train.parquet, row 3: 3 is no label" in refused(tmp_path)
    parquet(tmp_path / "train.parquet", make_table(range(6), labels=[0.5] * 6, names=[]))
    assert "row 0: 0.5 is no label" in refused(tmp_path)
    parquet(tmp_path / "train.parquet", make_table(range(6), labels=[-1] * 6))
    assert f"{tmp_path} holds no labelled images" in refused(tmp_path)
    parquet(tmp_path / "train.parquet", make_table(range(6)))
    parquet(tmp_path / "more.parquet", make_table(range(6)))
    assert "more.parquet, row 0: no split, though other images have one" in refused(tmp_path)
    for name in ("train.parquet", "more.parquet"):
        (tmp_path / name).unlink()
    (tmp_path / "train.arrow").write_bytes(b"no arrow")
    assert "train.arrow cannot be read: it is no Arrow or Parquet file, broken or cut short" in refused(tmp_path)


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert refused(tmp_path) == (
        "dataset 'hub_folder' is read with pyarrow, which is missing: pip install 'promptvision[hub]'"
    )


@pytest.mark.fault("parsing")
@pytest.mark.parametrize("text", ["[1]", '{"info": [1]}', '{"info": {"features": {"label": 1}}}', "null"])
def test_metadata_of_the_hub_that_makes_no_sense(tmp_path, text):
    write_metadata(tmp_path / "train.parquet", text)
    assert hub_folder.find_columns(tmp_path / "train.parquet", "", "") == ("image", "label", [])


@pytest.mark.fault("parsing")
@pytest.mark.parametrize("text", ["[" * 9000, "{"])
def test_metadata_of_the_hub_that_is_not_json_is_refused(tmp_path, text):
    write_metadata(tmp_path / "train.parquet", text)
    with pytest.raises(InputError, match="the Hub's metadata in .*train.parquet is not JSON"):
        hub_folder.find_columns(tmp_path / "train.parquet", "", "")


def write_metadata(path, text):
    table = pa.table({"image": [b"x"], "label": ["a"]})
    pq.write_table(table.replace_schema_metadata({"huggingface": text}), path)


@pytest.mark.fault("memory")
def test_rows_that_take_no_byte_are_refused(tmp_path, little_memory):
    with pa.OSFile(str(tmp_path / "train.arrow"), "wb") as file:
        table = pa.table({"image": pa.nulls(1 << 20), "label": pa.nulls(1 << 20)})
        with pa.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table)
    with pytest.raises(InputError, match="says that it has 1,048,576 rows, more than its"):
        hub_folder.find_columns(tmp_path / "train.arrow", "", "")
