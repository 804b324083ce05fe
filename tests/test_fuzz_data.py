"""Split files, lists, shards and caches made by chance: refused by name, and none leaves the data root."""

import contextlib
import io
import json
import tarfile

import pytest
from fuzzing import CARD, NotNamed, changed, fuzzed, json_texts, mappings, plain, refused, values, whole, words
from hypothesis import given
from hypothesis import strategies as st

from promptvision.data.image_cache import CachedImages
from promptvision.data.readers.checks import Faults
from promptvision.data.readers.coop_split import read_coop_split
from promptvision.data.readers.list import read_list
from promptvision.data.readers.list_rows import read_rows
from promptvision.data.readers.shards import read_shards
from promptvision.errors import InputError


def split_of(path):
    read_coop_split(CARD, str(path.parents[1]), Faults(), folders=["own"], images="images", split=path.name)


rows = st.lists(st.lists(plain, max_size=4) | values, max_size=3)


@pytest.mark.fault("parsing")
@fuzzed
@given(
    content=st.binary(max_size=40)
    | values.map(json.dumps).map(str.encode)
    | st.builds(
        lambda *parts: json.dumps(dict(zip(("train", "val", "test"), parts, strict=True))).encode(), rows, rows, rows
    )
)
def test_split_files(scratch, content):
    (scratch / "own/images").mkdir(parents=True, exist_ok=True)
    path = scratch / "own/split.json"
    path.write_bytes(content)
    with contextlib.suppress(NotNamed):
        refused(path, whole(split_of))


lines = st.lists(st.lists(words, max_size=4).map(",".join), max_size=4).map("\n".join)
lists = st.one_of(
    st.binary(max_size=60),
    lines.map(lambda text: f"path,label\n{text}".encode("utf-8", "surrogatepass")),
    st.lists(mappings, max_size=3).map(json.dumps).map(str.encode),
)


@pytest.mark.fault("parsing")
@pytest.mark.parametrize("suffix", [".csv", ".json", ".jsonl"])
@fuzzed
@given(content=lists)
def test_lists(scratch, suffix, content):
    path = scratch / f"list{suffix}"
    path.write_bytes(content)
    refused(path, read_rows)
    with contextlib.suppress(NotNamed):
        refused(path, whole(lambda file: read_list(CARD, str(file), Faults())))


@pytest.mark.fault("code")
@pytest.mark.parametrize("outside", ["../secret.png", "/etc/passwd", "a/../../secret.png", "..\\secret.png", "~/x.png"])
def test_lists_cannot_leave_the_data_root(scratch, outside):
    (scratch / "in").mkdir(exist_ok=True)
    (scratch / "secret.png").write_bytes(b"secret")
    for name, content in (
        ("out.csv", f"path,label\n{outside},a\n"),
        ("out.json", json.dumps([{"path": outside, "label": "a"}])),
        ("out.jsonl", json.dumps({"path": outside, "label": "a"})),
    ):
        path = scratch / "in" / name
        path.write_text(content)
        with pytest.raises(InputError, match="missing" if outside[0] == "~" else "is outside the folder"):
            read_list(CARD, str(path), Faults())


@fuzzed
@given(label=json_texts)
def test_labels_in_shards(scratch, label):
    folder = scratch / "shards"
    folder.mkdir(exist_ok=True)
    with tarfile.open(folder / "a.tar", "w") as archive:
        for name, content in (("0.png", b"x"), ("0.json", label), ("1.png", b"x"), ("1.json", b'{"label": "a"}')):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    refused(folder, lambda path: read_shards(CARD, str(path), Faults(gather=True)))


INDEX = [{"kind": {"size": 0, "filter": "bicubic", "format": 2}}]
INDEX += [{"path": "a", "stamp": "1", "sha256": "b", "at": 0, "height": 1, "width": 1, "crc": 0}] * 2


@fuzzed
@given(place=st.lists(st.integers(0, 20), min_size=1, max_size=3), value=values, line=st.none() | json_texts)
def test_the_index_of_an_image_cache(scratch, place, value, line):
    folder = scratch / "cache"
    folder.mkdir(exist_ok=True)
    (folder / "pixels.u8").write_bytes(bytes(3))
    lines = (
        [json.dumps(entry).encode() for entry in changed(INDEX, place, value)] if line is None else [line, line, b""]
    )
    (folder / "index.jsonl").write_bytes(b"\n".join([*lines, b""]))
    refused(folder, lambda path: [CachedImages(str(path)).kind, CachedImages(str(path)).open("a").size])
