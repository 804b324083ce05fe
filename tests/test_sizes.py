"""Sizes are checked before memory is taken, and memory that is exhausted is one sentence."""

import contextlib
import io
import json
import os
import pickle
import socket
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from safetensors import safe_open

import coop
from promptvision.backbones.clip import EMBEDDED, load_clip
from promptvision.backbones.conversion import fill_from_npz
from promptvision.backbones.weights import read_weights
from promptvision.config import load_config
from promptvision.config.families import FAMILIES
from promptvision.data.card import Card
from promptvision.data.decode import open_image
from promptvision.data.image_cache import build_cache
from promptvision.data.readers.checks import Faults
from promptvision.data.readers.folder import read_folder
from promptvision.data.readers.list import read_list
from promptvision.data.readers.shards import read_shards
from promptvision.data.scan import leave_out_bad
from promptvision.errors import InputError, lacks_memory
from promptvision.experiment.memory import naming_sizes

pytestmark = pytest.mark.fault("memory")
CARD = Card("own", "t", "s", "l", "get it", "folder", "a {}.")


@pytest.fixture
def refused(tmp_path):
    """`refused(read, content)`: the one sentence by which a file of this content is refused; it names the file."""

    def check(read, content, name="w.pth"):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(InputError) as error:
            read(path)
        said = str(error.value)
        assert str(path) in said and "\n" not in said
        assert not any(word in said for word in ("weights_only", "allow_pickle", "pickle_module")), said
        return said

    return check


def saved(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def repacked(content, compression=zipfile.ZIP_DEFLATED, **entries):
    """A zip file again, compressed, with some entries replaced by their last names."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, entries.get(name.rpartition("/")[2].replace(".", "_"), old.read(name)))
    return buffer.getvalue()


READERS = {"backbone": read_weights, "official": lambda path: coop.load_checkpoint(path)}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_tensors_larger_than_what_is_stored(refused, little_memory, read):
    for shape, stride in (((1 << 33,), (0,)), ((1 << 20, 64), (0, 0)), ((1 << 12, 1 << 12), (0, 1))):
        endless = torch.zeros(1 << 12).as_strided(shape, stride)
        for content in ({"ctx": endless}, {"state_dict": {"ctx": endless}}, {"a": 1, "ctx": endless}):
            said = refused(read, saved(content))
            assert "is larger than what the file stores" in said or "holds no named tensors" in said


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_entries_that_unpack_to_far_more_than_their_file(refused, read):
    content = repacked(saved({"ctx": torch.zeros(4)}), **{"0": bytes(80 << 20)})
    assert "would unpack to 83,88" in refused(read, content)


def test_a_number_in_a_pickle_reserves_no_memory(refused, little_memory):
    """LONG_BINPUT with a large index: the unpickler in C fills as many places."""
    opcodes = pickle.PROTO + b"\x02" + b"N" + b"r\xff\xff\xff\x7f" + b"."
    for read in READERS.values():
        refused(read, repacked(saved({"ctx": torch.zeros(4)}), zipfile.ZIP_STORED, data_pkl=opcodes))


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def header(shape, dtype="<f4"):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": dtype, "fortran_order": False, "shape": shape})
    return buffer.getvalue() + bytes(16)


@pytest.mark.parametrize("shape", [(1 << 37,), (2,), (0,), (1 << 62, 1 << 62)])
def test_arrays_larger_or_smaller_than_their_entry(refused, vit, little_memory, shape):
    content = repacked(npz(a=np.zeros(1)), a_npy=header(shape))
    assert "is not as large as what the file stores" in refused(lambda path: fill_from_npz(vit.model, path), content)


def test_npz_files_of_objects_bombs_and_other_kinds(refused, vit):
    def read(path):
        fill_from_npz(vit.model, path)

    assert "would unpack to" in refused(read, npz(a=np.zeros(20 << 20, np.float32)), "a.npz")
    for content in (b"", b"PK\x03\x04", pickle.dumps([1]), npz(a=np.array([{}], dtype=object)), saved({"a": 1})):
        assert "is not an .npz of the published ViT layout" in refused(read, content, "a.npz")


def test_weight_files_with_other_keys_and_values(refused):
    for content in ({1: torch.zeros(2)}, {"model": {2: torch.zeros(2), (): 1}}, [], {"a": [torch.zeros(1)]}):
        assert "holds no named tensors" in refused(read_weights, saved(content))
    assert "cannot read weights" in refused(read_weights, pickle.dumps(os.getcwd))
    assert read_weights_of(refused, {1: torch.ones(1), "a": torch.ones(1)}) == {"a"}


def read_weights_of(refused, content):
    """Names of the tensors that are read of what torch saved."""
    found = {}
    with contextlib.suppress(pytest.fail.Exception):
        refused(lambda path: found.update(read_weights(path)[0]), saved(content))
    return set(found)


def test_a_described_clip_is_no_larger_than_its_file_tells(refused, little_memory):
    with safe_open(EMBEDDED, "pt") as file:
        facts = file.metadata()
    config = json.loads(facts["open_clip_config"])
    wrong = [{**config, "embed_dim": 10**8}, {**config, "vision_cfg": {**config["vision_cfg"], "layers": 10**9}}]
    wrong += [
        {**config, "text_cfg": {**config["text_cfg"], key: value}} for key, value in (("width", 10**6), ("width", "x"))
    ]
    wrong += [
        {**config, tower: {**config[tower], key: value}}
        for tower, key, value in (
            ("vision_cfg", "image_size", {"a": 1}),
            ("vision_cfg", "patch_size", 0),
            ("vision_cfg", "timm_model_name", "resnet18"),
            ("text_cfg", "hf_model_name", "someone/anything"),
        )
    ]
    for text in ("[", "[" * 9000, "[1]", "{}", *map(json.dumps, wrong)):
        content = safetensors.torch.save({"a": torch.ones(9)}, {**facts, "open_clip_config": text})
        assert "open_clip_config" in refused(load_clip, content, "c.safetensors")


def test_a_clip_in_openais_layout_is_no_larger_than_its_tensors(refused, little_memory):
    """Its sizes are read from shapes, which tensors without elements have too."""
    with safe_open(EMBEDDED, "pt") as file:
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    state |= {"vocab_size": torch.tensor(49408), "input_resolution": torch.tensor(64)}
    for wrong in (
        {"visual.conv1.weight": torch.empty(1 << 20, 3, 8, 0)},
        {"text_projection": torch.empty(0, 1 << 34)},
        {"visual.conv1.weight": torch.ones(1 << 20, 1, 1, 1)},
    ):
        said = refused(lambda path: load_clip(path), saved({**state, **wrong}), "clip.pt")
        assert "is not a CLIP checkpoint in OpenAI's layout" in said


def test_a_text_tower_with_fewer_tokens_than_its_tokenizer(tmp_path):
    with safe_open(EMBEDDED, "pt") as file:
        facts, state = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    config = json.loads(facts["open_clip_config"])
    width = state.pop("token_embedding.rows").shape[1]
    state = {**state, "token_embedding.weight": torch.zeros(5, width)}
    del state["token_embedding.ids"]
    facts["open_clip_config"] = json.dumps({**config, "text_cfg": {**config["text_cfg"], "vocab_size": 5}})
    (tmp_path / "c.safetensors").write_bytes(safetensors.torch.save(state, facts))
    with pytest.raises(InputError, match="knows 5 tokens, fewer than its tokenizer writes"):
        load_clip(tmp_path / "c.safetensors").text(["a cat"])


@pytest.fixture
def pipes(tmp_path):
    """Images of two classes, each with a pipe, and red with a socket and a link to a device too."""
    for name in ("red", "blue"):
        (tmp_path / "own" / name).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (2, 2), name).save(tmp_path / "own" / name / f"{number}.png")
        os.mkfifo(tmp_path / "own" / name / "pipe.png")
    (tmp_path / "own/red/zero.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as bound, contextlib.chdir(tmp_path / "own/red"):
        bound.bind("socket.png")
    return tmp_path / "own"


SPECIAL = ["blue/pipe.png", "red/pipe.png", "red/socket.png", "red/zero.png"]


def test_pipes_and_devices_among_images_are_bad_images(pipes, tmp_path):
    with pytest.raises(InputError, match="red/pipe.png cannot be read: it is no file but a pipe or device"):
        open_image(str(pipes), "red/pipe.png")
    images = read_folder(CARD, str(pipes), Faults())
    assert {*SPECIAL} < {*images.paths} and len(images.paths) == 12
    kept, told = leave_out_bad(images)
    assert len(kept.paths) == 8 and len(told) == 4
    assert all("it is no file but a pipe or device" in sentence for sentence in told)
    cache = build_cache(images, tmp_path / "cache")
    with pytest.raises(InputError, match="pipe or device"):
        cache.open("red/zero.png")


def test_pipes_in_lists_are_bad_images(pipes):
    rows = [f"{path},{path.partition('/')[0]}" for path in ["red/0.png", "blue/0.png", *SPECIAL]]
    (pipes / "list.csv").write_text("path,label\n" + "\n".join(rows))
    images = read_list(CARD, str(pipes / "list.csv"), Faults())
    assert len(leave_out_bad(images)[1]) == 4


@pytest.mark.parametrize("name", ["c.yaml", "list.csv", "names.txt", "a.tar"])
def test_pipes_in_place_of_other_files_are_one_sentence(tmp_path, name):
    path = tmp_path / name
    os.mkfifo(path)
    read = {
        "c.yaml": lambda: load_config(path, [], FAMILIES),
        "list.csv": lambda: read_list(CARD, str(path), Faults(), file=""),
        "names.txt": lambda: read_folder(CARD, str(tmp_path), Faults()),
        "a.tar": lambda: read_shards(CARD, str(tmp_path), Faults()),
    }[name]
    with pytest.raises(InputError, match=str(tmp_path)):
        read()


def test_many_bad_images_are_twenty_lines_and_a_number(tmp_path, caplog):
    for number in range(30):
        (tmp_path / "red").mkdir(exist_ok=True)
        (tmp_path / f"red/{number:02d}.png").touch()
    Image.new("RGB", (2, 2)).save(tmp_path / "red/whole.png")
    kept, told = leave_out_bad(read_folder(CARD, str(tmp_path), Faults()))
    assert len(kept.paths) == 1 and len(told) == 30
    assert len(caplog.messages) == 21 and caplog.messages[-1] == "left out: and 10 more"


def failing(error):
    raise error


EXHAUST = {
    "python": lambda: bytearray(1 << 60),
    "numpy": lambda: np.empty(1 << 50),
    "torch": lambda: torch.empty(1 << 50),
    "torch sizes": lambda: torch.empty(1 << 40, 1 << 40),
    "cuda": lambda: failing(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has ...")),
    "cublas": lambda: failing(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling it")),
    "fork": lambda: failing(OSError(12, "Cannot allocate memory")),
}


@pytest.mark.parametrize("kind", EXHAUST)
def test_exhausted_memory_names_the_sizes_to_lower(kind, tmp_path):
    @naming_sizes
    def fail(cfg):
        EXHAUST[kind]()

    (tmp_path / "c.yaml").write_text("OPTIM: {BATCH_SIZE: 77}\nMETHOD: {OPTIONS: {N_CTX: 9}}\n")
    with pytest.raises(InputError) as error:
        fail(load_config(tmp_path / "c.yaml", [], FAMILIES))
    said = str(error.value)
    assert said.startswith("the GPU is out" if kind in ("cuda", "cublas") else "the machine is out")
    assert "OPTIM.BATCH_SIZE (77), TEST.BATCH_SIZE (100), METHOD.OPTIONS.N_CTX (9)" in said and "COMPUTE.CHUNK" in said
    assert "\n" not in said and ("20.00 GiB more were needed" in said) == (kind == "cuda")
    assert lacks_memory(error.value.__cause__)
    with pytest.raises(InputError, match=r"COMPUTE.CHUNK \(auto\)"):
        fail(load_config(tmp_path / "c.yaml", ["COMPUTE.CHUNK", "auto"], FAMILIES))


@pytest.mark.parametrize("words", [("--config", "a" * 5000), ("--config", "c.yaml", "OUTPUT_DIR", "a" * 5000)])
def test_a_name_that_no_system_takes_is_one_sentence(tool, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").touch()
    status, _, err = tool("train", *words)
    assert status == 2 and ": File name too long" in err and "Traceback" not in err


def test_other_errors_keep_their_traceback(tmp_path):
    @naming_sizes
    def fail(cfg):
        raise RuntimeError("a bug")

    (tmp_path / "c.yaml").touch()
    with pytest.raises(RuntimeError, match="a bug"):
        fail(load_config(tmp_path / "c.yaml", [], FAMILIES))
