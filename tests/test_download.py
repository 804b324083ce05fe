"""`data download` and `data prepare`: from addresses, collections of the Hub, and torchvision."""

import gzip
import hashlib
import json
import shutil

import numpy as np
import pytest
import yaml
from archive_server import COMMIT, MEMBERS, zipped
from torchvision import datasets

from promptvision.data.cards import load_card
from promptvision.data.readers import read

FACTS = {"title": "A test", "source": "me", "licence": "CC0", "where": "ask me", "template": "a photo of a {}."}


@pytest.fixture
def card(tmp_path):
    """A card of these facts, as a file of your own."""

    def write(**facts):
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump({**FACTS, "reader": "coop_split", **SPLIT, **facts}))
        return path

    return write


SPLIT = {"folders": ["dtd"], "images": "images", "split": "split.json"}


def test_download_and_prepare_from_addresses(tool, server, card, tmp_path):
    zipped(tmp_path / "d.zip", MEMBERS)
    content = (tmp_path / "d.zip").read_bytes()
    server.files = {"d.zip": content, "split.json": b'{"train": [], "val": [], "test": []}'}
    sha = hashlib.sha256(content).hexdigest()
    own = card(
        download=[
            {"url": f"{server.url}/d.zip", "file": "d.zip", "sha256": sha, "size": len(content)},
            {"url": f"{server.url}/split.json", "file": "dtd/split.json"},
        ]
    )
    root = tmp_path / "root"
    status, _, err = tool("data", "prepare", own, "--root", root)
    assert status == 2 and f"there is no archive {root / 'd.zip'}; ask me" in err
    status, out, err = tool("data", "download", own, "--root", root)
    assert status == 0 and str(root / "d.zip") in out and "tools/data.py prepare" in out, err
    status, out, err = tool("data", "prepare", own, "--root", root)
    assert status == 0 and "mine: 3 new files" in out, err
    assert (root / "dtd/images/banded/1.jpg").read_bytes() == b"one"
    assert "everything was in place already" in tool("data", "prepare", own, "--root", root)[1]
    (root / "d.zip").unlink()
    assert tool("data", "prepare", own, "--root", root)[0] == 0


def test_a_dead_address_names_the_collection(tool, server, card, tmp_path):
    own = card(
        download=[{"url": f"{server.url}/d.zip", "file": "d.zip"}], hub={"repo": "owner/images", "files": ["d.zip"]}
    )
    status, _, err = tool("data", "download", own, "--root", tmp_path)
    assert (
        status == 2 and f"{server.url}/d.zip answers 404 Not Found; owner/images holds it too: take --source hub" in err
    )
    status, _, err = tool("data", "download", card(download=[{"url": f"{server.url}/x", "file": "../x"}]))
    assert status == 2 and "its card would write ../x, outside the root" in err


def test_what_cannot_be_fetched_is_said(tool, card, tmp_path):
    status, _, err = tool("data", "download", card(), "--root", tmp_path)
    assert status == 2 and err == "error: dataset 'mine' cannot be downloaded by this tool: ask me"
    status, _, err = tool("data", "download", "digits")
    assert status == 2 and "dataset 'digits' needs no download" in err
    status, _, err = tool("data", "download", card(), "--source", "hub")
    assert status == 2
    status, _, err = tool("data", "prepare", card(), "--root", tmp_path)
    assert status == 2 and "its card names no archive to unpack; ask me" in err


def test_download_through_torchvision(tool, server, tmp_path, monkeypatch):
    """MNIST's own code, its mirror on this machine."""

    def idx(array):
        shape = b"".join(int(n).to_bytes(4, "big") for n in array.shape)
        return gzip.compress(bytes([0, 0, 8, array.ndim]) + shape + array.astype(np.uint8).tobytes())

    rng = np.random.default_rng(0)
    for part, n in (("train", 30), ("t10k", 10)):
        server.files[f"{part}-images-idx3-ubyte.gz"] = idx(rng.integers(0, 256, (n, 28, 28)))
        server.files[f"{part}-labels-idx1-ubyte.gz"] = idx(np.arange(n) % 10)
    sums = [(name, hashlib.md5(content).hexdigest()) for name, content in server.files.items()]
    monkeypatch.setattr(datasets.MNIST, "mirrors", [f"{server.url}/"])
    monkeypatch.setattr(datasets.MNIST, "resources", sums)
    status, out, err = tool("data", "download", "mnist", "--root", tmp_path)
    assert status == 0 and str(tmp_path / "MNIST/raw") in out, err
    assert len(read(load_card("mnist"), tmp_path).test) == 10
    server.files.clear()
    assert tool("data", "download", "mnist", "--root", tmp_path)[0] == 0
    shutil.rmtree(tmp_path / "MNIST")
    status, _, err = tool("data", "download", "mnist", "--root", tmp_path)
    assert status == 2 and "dataset 'mnist': torchvision could not download it" in err


@pytest.fixture
def hub(server, monkeypatch):
    """Hugging Face's own code, the Hub on this machine: `hub(name, kind, files)` puts a collection there."""
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
    )

    def put(name, kind, files):
        api = f"api/{kind}s/{name}"
        told = [{"type": "file", "oid": "b" * 40, "size": len(data), "path": path} for path, data in files.items()]
        info = {"_id": "1", "id": name, "sha": COMMIT, "siblings": [{"rfilename": path} for path in files]}
        server.files[f"{api}/revision/main"] = json.dumps(info).encode()
        server.files[f"{api}/tree/{COMMIT}?recursive=true&expand=false"] = json.dumps(told).encode()
        prefix = f"{name}/resolve/{COMMIT}" if kind == "model" else f"{kind}s/{name}/resolve/{COMMIT}"
        server.files.update({f"{prefix}/{path}": data for path, data in files.items()})

    return put


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_download_and_prepare_from_a_collection(tool, hub, card, tmp_path, kind):
    zipped(tmp_path / "d.zip", MEMBERS)
    hub("owner/images", kind, {"d.zip": (tmp_path / "d.zip").read_bytes(), "other.zip": b"other"})
    root = tmp_path / "root"
    own = card(hub={"repo": "owner/images", "kind": kind, "files": ["d.zip"], "into": "inner"})
    status, out, err = tool("data", "download", own, "--root", root)
    assert status == 0 and str(root / "inner/d.zip") in out, err
    assert not (root / "inner/other.zip").exists()
    assert tool("data", "prepare", own, "--root", root)[0] == 0
    assert (root / "inner/dtd/images/banded/1.jpg").read_bytes() == b"one"
    own = card(hub={"repo": "owner/images", "kind": kind, "files": ["gone.zip"]})
    status, _, err = tool("data", "download", own, "--root", root)
    assert status == 2 and "the collection owner/images on the Hugging Face Hub has no gone.zip; ask me" in err


def test_a_collection_that_cannot_be_reached_is_said(tool, card, tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    own = card(hub={"repo": "owner/images", "files": ["dtd.zip"]})
    status, _, err = tool("data", "download", own, "--root", tmp_path / "root")
    assert status == 2
    error = err[err.index("error: ") :]
    assert "the collection owner/images on the Hugging Face Hub cannot be reached" in error and error.endswith("ask me")
