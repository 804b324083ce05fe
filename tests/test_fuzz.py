"""Files from elsewhere, made by chance: refused by name, quickly, in little memory, and nothing in them runs.

`PROMPTVISION_FUZZ=2000` tries that many files of each kind.
"""

import contextlib
import io
import json
import os
import pickle
import resource
import subprocess
import sys
import tarfile
import zipfile
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from timm.models.vision_transformer import VisionTransformer

import coop
import vpt
from promptvision.atomic import read_json
from promptvision.backbones.conversion import fill_from_npz
from promptvision.backbones.weights import read_weights
from promptvision.config import load_config
from promptvision.data.card import Card
from promptvision.data.cards import load_card
from promptvision.data.image_cache import CachedImages
from promptvision.data.readers.checks import Faults
from promptvision.data.readers.coop_split import read_coop_split
from promptvision.data.readers.list import read_list
from promptvision.data.readers.list_rows import read_rows
from promptvision.data.readers.shards import read_shards
from promptvision.engine import metrics_file
from promptvision.engine.best_epoch import kept
from promptvision.engine.checkpoint import load_checkpoint, load_learned, save_checkpoint, save_learned
from promptvision.engine.optim import build_optimizer
from promptvision.engine.resume import Saver, check_identity
from promptvision.engine.run_folder import RunFolder
from promptvision.errors import InputError
from promptvision.experiment import feature_file
from promptvision.method import Method
from promptvision.report.report import load_report
from promptvision.report.tables.writers import markdown
from promptvision.sweep.benchmark import load_cells
from promptvision.sweep.search import load_search

FAMILIES = {"vpt": vpt, "coop": coop}
MANY = int(os.environ.get("PROMPTVISION_FUZZ", "40"))
fuzzed = settings(
    max_examples=MANY,
    deadline=timedelta(seconds=10),
    derandomize="PROMPTVISION_FUZZ" not in os.environ,
    database=None,
    suppress_health_check=list(HealthCheck),
)
WORDS = [
    "RUNS",
    "GRID",
    "SEEDS",
    "EVAL",
    "CONFIG",
    "PROTOCOL",
    "METHOD",
    "NAME",
    "OPTIONS",
    "DATASET",
    "SHOTS",
    "_BASE_",
]
WORDS += [
    "title",
    "reader",
    "names",
    "classes",
    "counts",
    "domains",
    "template",
    "folders",
    "coop_split",
    "train",
    "<<",
]
WORDS += ["position", "identity", "state", "vtab", "c.yaml", "OPTIM", "LR", "SEED", "CACHE_DIR", "download", "hub"]
words = st.sampled_from(WORDS) | st.text(max_size=8)
plain = st.none() | st.booleans() | st.integers() | st.floats() | words
values = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=5), max_leaves=20
)
mappings = st.dictionaries(words, values, max_size=6)
TAGS = ["!!int", "!!float", "!!bool", "!!timestamp", "!!binary", "!!set", "!!omap", "!!python/object/apply:os.abort"]
tagged = st.builds("{}: {} {}".format, words, st.sampled_from(TAGS), st.sampled_from(["x", "''", "[]", "{}", "[[a]]"]))
yaml_texts = st.one_of(
    st.binary(max_size=60),
    mappings.map(lambda value: yaml.safe_dump(value, allow_unicode=True).encode("utf-8", "surrogatepass")),
    tagged.map(lambda text: text.encode("utf-8", "surrogatepass")),
)
GOOD = {
    "config": {"METHOD": {"NAME": "coop", "OPTIONS": {"N_CTX": 4}}, "DATASET": {"SHOTS": 4}, "OPTIM": {"STEPS": [1]}},
    "card": dict.fromkeys(("title", "source", "licence", "where"), "x")
    | {"reader": "coop_split", "template": "a {}.", "folders": ["a"], "split": "s.json", "images": "i", "classes": 1}
    | {"counts": {"train": 1}, "domains": {"d": {"images": "i"}}, "download": [{"url": "u", "file": "f"}]},
    "benchmark": {"RUNS": {"a": {"CONFIG": "c.yaml", "SEED": 1}}, "GRID": {"A B": [[1, 2]]}, "SEEDS": [1]}
    | {"EVAL": {"e": {"DATASET.SHOTS": 1}}, "SET": [{"WHEN": {"A": 1}, "SEED": 2}]},
    "grid": {"PROTOCOL": "vtab", "GRID": {"OPTIM.LR": [1.0, 2.0]}, "SEEDS": [1]},
}


def changed(inner, path, value):
    """A mapping or list with the value at some place in it replaced."""
    if not isinstance(inner, dict | list) or not inner or not path:
        return value
    keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
    key, copy = keys[path[0] % len(keys)], inner.copy()
    copy[key] = changed(inner[key], path[1:], value)
    return copy


edits = st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=4)
cuts = st.none() | st.integers(0, 1 << 20)


def damaged(content, changes, length):
    """Some bytes set to others, and perhaps the end cut off."""
    found = bytearray(content)
    for place, value in changes:
        found[place % len(found)] = value
    return bytes(found[: length % len(found)] if length is not None else found)


def refused(path, read):
    """Return whether `read(path)` refuses the file, which it may do only with an InputError that names it."""
    try:
        read(path)
    except InputError as error:
        assert path.name in str(error) and "\n" not in str(error), error
        return True
    return False


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


YAML_READERS = {
    "config": lambda path: load_config(path, [], FAMILIES),
    "card": lambda path: load_card(str(path)),
    "benchmark": lambda path: load_cells(path),
    "grid": lambda path: load_search(path).settings(),
}


@pytest.mark.fault("parsing")
@pytest.mark.parametrize("kind", YAML_READERS)
@fuzzed
@given(content=yaml_texts)
def test_yaml(scratch, kind, content):
    path = scratch / f"{kind}.yaml"
    path.write_bytes(content)
    refused(path, YAML_READERS[kind])


@pytest.mark.fault("parsing")
@pytest.mark.parametrize("kind", YAML_READERS)
@fuzzed
@given(path=st.lists(st.integers(0, 20), min_size=1, max_size=4), value=values)
def test_yaml_with_one_wrong_value(scratch, kind, path, value):
    file = scratch / f"{kind}.yaml"
    file.write_text(yaml.safe_dump(GOOD[kind]))
    assert not refused(file, YAML_READERS[kind])
    text = yaml.safe_dump(changed(GOOD[kind], path, value), allow_unicode=True)
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    refused(file, YAML_READERS[kind])


@pytest.mark.fault("memory")
@pytest.mark.parametrize("kind", YAML_READERS)
def test_yaml_bombs_are_refused(scratch, kind):
    path = scratch / f"{kind}.yaml"
    laughs = "\n".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}], k{n}: 1}}" for n in range(1, 30))
    lists = "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30))
    bombs = [
        f"a0: &a0 {{k: 1}}\n{laughs}",
        f"a0: &a0 [1]\n{lists}\nRUNS: {{a: {{CONFIG: a}}}}\nGRID: {{a: *a29}}",
        "[" * 100_000,
        "a: " + "{a: " * 100_000,
        "a: &a [*a]",
        "x" * (2 << 20),
    ]
    for bomb in [
        *bombs,
        "a: !!python/object/apply:os.abort []",
        "? [a]\n: b",
        "a: 1" + "0" * 5000,
        "a: 59" + ":59" * 3000,
        'a: "\\0"',
    ]:
        path.write_text(bomb)
        assert refused(path, YAML_READERS[kind]), bomb[:40]


CARD = Card("own", "t", "s", "l", "get it", "coop_split", "a {}.")


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


class NotNamed(Exception):
    """A data set's error about images that are missing names the folder."""


def whole(read):
    def other(path):
        try:
            read(path)
        except InputError as error:
            if path.name not in str(error) and "data set" in str(error):
                raise NotNamed from error
            raise

    return other


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
        with pytest.raises(InputError):
            read_list(CARD, str(path), Faults())


class Tiny(Method):
    def __init__(self):
        super().__init__(torch.nn.Identity(), ["a", "b"])
        self.prompt = torch.nn.Parameter(torch.ones(2, 3))


def saver(folder, name="adam"):
    method = Tiny()
    optimizer = build_optimizer(name, method.named_parameters(), 0.1, 0.1)
    method.prompt.grad = torch.ones(2, 3)
    optimizer.step()
    return Saver(folder, method, optimizer, torch.amp.GradScaler("cpu", enabled=False), 3, 2, {"METHOD": {"X": [1]}})


@pytest.fixture(scope="module")
def checkpoint(scratch):
    with RunFolder(scratch / "good") as folder:
        saver(folder).save()
    return (scratch / "good/last.ckpt").read_bytes()


def go_on(path):
    """As `fit` does: all of a checkpoint is taken over, or none; then a step can be taken."""
    with RunFolder(path.parent, resume=True) as folder:
        ours = saver(folder)
        ours.restore()
        ours.optimizer.step()


@pytest.mark.fault("parsing")
@fuzzed
@given(changes=edits, length=cuts)
def test_damaged_checkpoints(scratch, checkpoint, changes, length):
    path = scratch / "last.ckpt"
    path.write_bytes(damaged(checkpoint, changes, length))
    refused(path, go_on)


tensors = st.sampled_from([torch.zeros(2, 3), torch.zeros(()), torch.zeros(9), torch.zeros(2, 3, dtype=torch.int64)])
tensors |= st.just(torch.zeros(1).expand(1 << 40)) | st.just(torch.eye(3).to_sparse())
PLACES = [
    (),
    ("optimizer",),
    ("optimizer", "state"),
    ("optimizer", "state", 0),
    ("learned",),
    ("scaler",),
    ("identity",),
]


@pytest.mark.fault("parsing")
@fuzzed
@given(place=st.sampled_from(PLACES), which=st.integers(0, 9), value=values | tensors, drop=st.booleans())
def test_checkpoints_with_foreign_contents(scratch, checkpoint, place, which, value, drop):
    path = scratch / "last.ckpt"
    path.write_bytes(checkpoint)
    state = load_checkpoint(path)
    inner = state
    for name in place:
        inner = inner[name]
    names = [*inner, "new"]
    name = names[which % len(names)]
    inner.pop(name, None) if drop else inner.update({name: value})
    state.setdefault("format", "promptvision checkpoint 1")
    save_checkpoint(path, state)
    refused(path, go_on)


@pytest.mark.fault("memory")
def test_a_checkpoint_that_never_ends_is_refused(scratch, checkpoint):
    """Shared parts that look like 2^60 values when they are walked through."""
    path = scratch / "last.ckpt"
    path.write_bytes(checkpoint)
    state, endless = load_checkpoint(path), {"a": 1}
    for _ in range(60):
        endless = {"a": endless, "b": endless}
    for place in ("identity", "optimizer", "learned", "scaler", "position", "best", "training"):
        save_checkpoint(path, {**state, place: endless})
        refused(path, go_on)
    with pytest.raises(InputError, match="its identity is"):
        check_identity([endless], {"METHOD": 1})


@pytest.mark.fault("parsing")
@fuzzed
@given(changes=edits, length=cuts)
def test_damaged_learned_tensors(scratch, changes, length):
    path = scratch / "learned.safetensors"
    state, facts = {"prompt": torch.arange(6.0)}, {"classes": ["a"], "kept": '{"epoch": 1, "accuracy": 2.0}'}
    save_learned(path, state, facts)
    good = load_learned(path)[1]
    path.write_bytes(damaged(path.read_bytes(), changes, length))
    named = b'"sha256"' in path.read_bytes()  # else it is a file without a checksum
    if not refused(path, load_learned) and named:
        found, metadata = load_learned(path)
        assert torch.equal(found["prompt"], state["prompt"]) and metadata == good
    refused(path, kept)


headers = st.dictionaries(
    words | st.just("__metadata__"),
    values | st.fixed_dictionaries({"dtype": words, "shape": st.lists(st.integers()), "data_offsets": values}),
    max_size=3,
)


@pytest.mark.fault("parsing")
@fuzzed
@given(header=headers, size=st.none() | st.integers(0, (1 << 64) - 1), metadata=st.dictionaries(words, st.text()))
def test_safetensors_made_up(scratch, header, size, metadata):
    path = scratch / "best.safetensors"
    text = json.dumps(header).encode()
    path.write_bytes((len(text) if size is None else size).to_bytes(8, "little") + text + bytes(16))
    for read in (load_learned, kept, lambda file: feature_file.read(file, "key")):
        refused(path, read)
    made = {"classes": '["a"]', "kept": "{}", **{k: v for k, v in metadata.items() if k != "sha256"}}
    path.write_bytes(save({"a": torch.ones(1)}, {k.encode("utf-8", "replace").decode(): v for k, v in made.items()}))
    refused(path, kept)


@pytest.mark.fault("results")
@fuzzed
@given(changes=edits, length=cuts)
def test_damaged_features_are_not_used(scratch, changes, length):
    path, features = scratch / "features.safetensors", torch.arange(12.0).reshape(3, 4)
    feature_file.write(path, "key", 3, iter([features[:2], features[2:]]))
    path.write_bytes(damaged(path.read_bytes(), changes, length))
    found = feature_file.read(path, "key")
    assert found is None or torch.equal(found, features)


@pytest.mark.fault("parsing")
@fuzzed
@given(content=st.binary(max_size=40) | values.map(json.dumps).map(str.encode))
def test_json(scratch, content):
    path = scratch / "stream.json"
    path.write_bytes(content)
    refused(path, lambda file: check_identity({"stream.json": read_json(file)}, {"stream.json": {"a": 1}}))


@pytest.fixture(scope="module")
def weight_files(tmp_path_factory):
    """Files of weights: as torch saves them, as numpy does, compressed and not."""
    folder, arrays = tmp_path_factory.mktemp("weights"), {"embedding/kernel": np.ones((2, 2), np.float32)}
    torch.save({"state_dict": {"ctx": torch.ones(2, 3), "b": torch.ones(3)}, "epoch": 1}, folder / "w.pth")
    torch.save({"a": torch.ones(2, 3)}, folder / "old.pt", _use_new_zipfile_serialization=False)
    np.savez(folder / "w.npz", **arrays)
    np.savez_compressed(folder / "packed.npz", **arrays)
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def read_any_weights(path):
    if path.suffix == ".npz":
        fill_from_npz(TINY_VIT, path)
    else:
        read_weights(path)


TINY_VIT = VisionTransformer(img_size=8, patch_size=4, embed_dim=4, depth=1, num_heads=1, num_classes=0)


@pytest.mark.parametrize("name", ["w.pth", "old.pt", "w.npz", "packed.npz"])
@fuzzed
@given(changes=edits, length=cuts)
def test_damaged_weights(scratch, weight_files, name, changes, length):
    path = scratch / name
    path.write_bytes(damaged(weight_files[name], changes, length))
    refused(path, read_any_weights)
    refused(path, coop.load_checkpoint)


@fuzzed
@given(content=values | tensors | st.dictionaries(words | st.integers(), values | tensors, max_size=4))
def test_weights_with_foreign_contents(scratch, content):
    path = scratch / "foreign.pth"
    for whole in (content, {"state_dict": content}):
        torch.save(whole, path)
        refused(path, read_weights)
        refused(path, coop.load_checkpoint)


json_texts = st.binary(max_size=40) | values.map(json.dumps).map(str.encode)
json_texts |= st.sampled_from(
    [b"[" * 9000, b"1" + b"0" * 5000, b'"\xc3"', b'"\\ud800"', b'"\\u0000"', b"1e999", b"-Infinity"]
)


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


@fuzzed
@given(lines_of_rows=st.lists(json_texts, max_size=4))
def test_metrics(scratch, lines_of_rows):
    path = scratch / "metrics.jsonl"
    path.write_bytes(b"\n".join([*lines_of_rows, b'{"step": 3}', b""]))
    assert metrics_file.read_rows(path)[-1] == {"step": 3}


RESULT = {"accuracy": 60.0, "method": "l2p", "family": "vpt", "backbone": "b", "dataset": "d", "seed": 1, "options": {}}
RESULT |= {"classes": ["a", "b"], "n": 2, "test_hash": "t", "protocol": {"SOURCE": "", "SHOTS": 1}, "bad_pictures": 1}
RESULT |= {"continual": {"JOINT": False}, "matrix": [[9], [8, 7]], "tasks": [{"name": "1"}, {"name": "2"}], "shots": 2}


@fuzzed
@given(place=st.lists(st.integers(0, 40), min_size=1, max_size=3), value=values, text=st.none() | json_texts)
def test_results_in_a_report(scratch, place, value, text):
    path = scratch / "runs/result.json"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(json.dumps(changed(RESULT, place, value)).encode() if text is None else text)
    refused(path, lambda file: markdown_of(load_report(file.parent)))


def markdown_of(report):
    return "".join(map(markdown, report.tables))


def bombs(folder):
    """Files that would fill the memory."""
    with zipfile.ZipFile(folder / "zip.ckpt", "w", zipfile.ZIP_DEFLATED) as file, file.open("a/data.pkl", "w") as entry:
        for _ in range(150):
            entry.write(bytes(10 << 20))
    torch.save({"format": "promptvision checkpoint 1", "learned": torch.zeros(4)}, folder / "whole.ckpt")
    content = (folder / "whole.ckpt").read_bytes()
    (folder / "longs.ckpt").write_bytes(content.replace((4).to_bytes(1, "little") * 2, b"\xff\xff"))
    (folder / "header.safetensors").write_bytes((1 << 60).to_bytes(8, "little") + b"{}")
    shape = {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}
    text = json.dumps({"a": shape}).encode()
    (folder / "huge.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    opcodes = pickle.PROTO + b"\x02" + b"]" + b"(" * (1 << 20)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("a/data.pkl", opcodes)
        file.writestr("a/version", "3")
    (folder / "stack.ckpt").write_bytes(buffer.getvalue())
    return sorted(str(file) for file in folder.iterdir() if file.name != "whole.ckpt")


READ_ALL = """
import resource, sys
from promptvision.engine.checkpoint import load_checkpoint, load_learned
from promptvision.errors import InputError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for name in sys.argv[1:]:
    try:
        (load_checkpoint if name.endswith("ckpt") else load_learned)(name)
    except InputError as error:
        assert name in str(error)
    else:
        assert "longs" in name, name
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.fault("memory")
@pytest.mark.slow
def test_bombs_take_less_than_a_gigabyte(tmp_path):
    files = bombs(tmp_path)
    limit = 12 << 30  # of addresses, of which torch takes several without using them
    said = subprocess.run(
        [sys.executable, "-c", READ_ALL, *files],
        capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[1],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
    assert int(said.stdout) < 1000
