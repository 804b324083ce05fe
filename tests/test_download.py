"""Fetching and unpacking, against a server on this machine that breaks off, forgets, lies and refuses."""

import gzip
import hashlib
import io
import json
import re
import shutil
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import StreamRequestHandler, ThreadingTCPServer
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from scipy.io import savemat
from torchvision import datasets

from promptvision.data.cards import load_card
from promptvision.data.prepare.fetch import fetch
from promptvision.data.prepare.unpack import unpack
from promptvision.data.readers import read
from promptvision.errors import InputError

CONTENT = np.random.default_rng(0).integers(0, 256, 3_000_000, dtype=np.uint8).tobytes()
SHA = hashlib.sha256(CONTENT).hexdigest()
COMMIT = "a" * 40
FACTS = {"title": "A test", "source": "me", "licence": "CC0", "where": "ask me", "template": "a photo of a {}."}


@pytest.fixture
def server():
    """`files`: name -> bytes; `breaks`: after how many bytes the next connections end; `asked`: what was asked for."""
    state = SimpleNamespace(files={}, breaks=[], asked=[], ranges=True, silent=())

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            content = state.files.get(self.path.strip("/"), b"")
            self.send_response(200 if content else 404)
            for name, value in (("ETag", '"1"'), ("X-Repo-Commit", COMMIT), ("Content-Length", str(len(content)))):
                self.send_header(name, value)
            self.end_headers()

        def do_GET(self):
            asked = self.headers.get("Range", "")
            state.asked.append((self.path, asked))
            content = state.files.get(self.path.strip("/"))
            if content is None:
                self.send_error(404)
                return
            start = int(re.match(r"bytes=(\d+)-", asked)[1]) if asked and state.ranges else 0
            if start and start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            if state.silent:
                self.send_header(*state.silent)
                self.end_headers()
                stop = start + state.breaks.pop(0) if state.breaks else len(content)
                chunked = state.silent[0] == "Transfer-Encoding"
                self.wfile.write((b"%x\r\n" % len(content) if chunked else b"") + content[start:stop])
                return
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            stop = start + state.breaks.pop(0) if state.breaks else len(content)
            self.wfile.write(content[start:stop])

        def log_message(self, *words):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    state.url = f"http://127.0.0.1:{httpd.server_port}"
    yield state
    httpd.shutdown()
    httpd.server_close()


def refused(*args, **kwargs):
    with pytest.raises(InputError) as caught:
        fetch(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# fetch


def test_a_file_is_fetched_once_and_checked(server, tmp_path):
    server.files["a.zip"] = CONTENT
    steps = []
    args = (f"{server.url}/a.zip", tmp_path / "inner/a.zip")
    assert fetch(*args, sha256=SHA.upper(), size=len(CONTENT), progress=lambda have, of: steps.append((have, of)))
    assert args[1].read_bytes() == CONTENT and [file.name for file in args[1].parent.iterdir()] == ["a.zip"]
    assert steps[0] == (0, len(CONTENT)) and steps[-1] == (len(CONTENT), len(CONTENT))
    assert not fetch(*args, md5=hashlib.md5(CONTENT).hexdigest()) and len(server.asked) == 1


def test_broken_connections_are_taken_up_where_they_ended(server, tmp_path):
    server.files["a.zip"], server.breaks = CONTENT, [1_000_000, 500_000]
    assert fetch(f"{server.url}/a.zip", tmp_path / "a.zip", sha256=SHA)
    assert [asked for _, asked in server.asked] == ["", "bytes=1000000-", "bytes=1500000-"]
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_an_interrupted_fetch_goes_on_in_the_next_call(server, tmp_path):
    server.files["a.zip"], server.breaks = CONTENT, [1_000_000, 0]
    message = refused(f"{server.url}/a.zip", tmp_path / "a.zip", sha256=SHA)
    assert "broke off after 1,000,000 of 3,000,000 bytes; these are kept" in message
    assert (tmp_path / "a.zip.part").stat().st_size == 1_000_000 and not (tmp_path / "a.zip").exists()
    assert fetch(f"{server.url}/a.zip", tmp_path / "a.zip", sha256=SHA)
    assert server.asked[-1][1] == "bytes=1000000-" and not (tmp_path / "a.zip.part").exists()


def test_ctrl_c_keeps_what_there_is(server, tmp_path):
    server.files["a.zip"] = CONTENT

    def impatient(have, of):
        if have > 1_000_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(f"{server.url}/a.zip", tmp_path / "a.zip", progress=impatient)
    assert 1_000_000 < (tmp_path / "a.zip.part").stat().st_size < len(CONTENT)
    assert fetch(f"{server.url}/a.zip", tmp_path / "a.zip", sha256=SHA)


def test_a_server_without_ranges_starts_anew(server, tmp_path):
    server.files["a.zip"], server.ranges = CONTENT, False
    (tmp_path / "a.zip.part").write_bytes(b"something else")
    assert fetch(f"{server.url}/a.zip", tmp_path / "a.zip", sha256=SHA)


@pytest.mark.parametrize("size", [0, len(CONTENT)])
def test_a_part_that_is_whole_already_is_checked_and_named(server, tmp_path, size):
    server.files["a.zip"] = CONTENT
    (tmp_path / "a.zip.part").write_bytes(CONTENT)
    assert fetch(f"{server.url}/a.zip", tmp_path / "a.zip", sha256=SHA, size=size)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


@pytest.mark.fault("results")
def test_a_part_longer_than_the_file_is_removed(server, tmp_path):
    server.files["a.zip"] = CONTENT
    (tmp_path / "a.zip.part").write_bytes(CONTENT + b"more")
    assert "a.zip.part is no part of http" in refused(f"{server.url}/a.zip", tmp_path / "a.zip")
    assert fetch(f"{server.url}/a.zip", tmp_path / "a.zip", sha256=SHA)


@pytest.mark.fault("results")
def test_wrong_checksums_and_sizes_are_named_and_nothing_stays(server, tmp_path):
    server.files["a.zip"] = CONTENT
    wrong = {"sha256": "0" * 64, "md5": "0" * 32, "size": 7}
    for key, value in wrong.items():
        message = refused(f"{server.url}/a.zip", tmp_path / "a.zip", **{key: value})
        assert "a.zip.part has" in message and "expected" in message and "it was removed" in message
        assert list(tmp_path.iterdir()) == []


@pytest.mark.fault("files")
def test_a_file_that_is_there_and_wrong_is_left_alone(server, tmp_path):
    (tmp_path / "a.zip").write_text("mine")
    message = refused(f"{server.url}/a.zip", tmp_path / "a.zip", sha256=SHA)
    assert f"file {tmp_path / 'a.zip'} has sha256" in message and "move it away" in message
    assert (tmp_path / "a.zip").read_text() == "mine" and not server.asked


@pytest.mark.fault("parsing")
def test_servers_that_refuse_are_quoted(server, tmp_path):
    assert refused(f"{server.url}/gone.zip", tmp_path / "a.zip") == f"{server.url}/gone.zip answers 404 Not Found"
    assert "127.0.0.1:9/a.zip cannot be reached: Connection refused" in refused(
        "http://127.0.0.1:9/a.zip", tmp_path / "a"
    )
    assert "file:///etc/passwd is no http or https address" in refused("file:///etc/passwd", tmp_path / "a")
    (tmp_path / "file").touch()
    assert "cannot be written" in refused(f"{server.url}/a.zip", tmp_path / "file/a.zip")


@pytest.mark.fault("results")
@pytest.mark.parametrize("ranges", [True, False])
def test_chunks_that_end_early_are_an_error(server, tmp_path, ranges):
    """Without Content-Length only the transfer coding says that the connection ended before the file did."""
    server.files["a.zip"], server.breaks, server.ranges = CONTENT, [1000, 1000, 1000], ranges
    server.silent = ("Transfer-Encoding", "chunked")
    assert "a.zip broke off after 0 bytes" in refused(f"{server.url}/a.zip", tmp_path / "new/inner/a.zip")
    assert not (tmp_path / "new").exists()


@pytest.mark.fault("results")
@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tgz", "a.zip"])
def test_an_archive_of_unknown_length_is_opened_before_it_gets_its_name(server, tmp_path, name):
    members = {f"d/{n}.bin": CONTENT[n * 1000 : n * 1000 + 1024] for n in range(5)}
    if name == "a.zip":
        zipped(tmp_path / "whole", members)
    else:
        tar(tmp_path / "whole", members, "w" if name == "a.tar" else "w:gz")
    whole = (tmp_path / "whole").read_bytes()
    server.silent = ("Connection", "close")
    for cut in (len(whole) // 2, 1536 if name == "a.tar" else len(whole) - 30, 0):
        server.files[name] = whole[:cut] or b"x"
        sentence = f"{name}: the {cut or 1:,} bytes it sent are no whole archive, and were removed"
        assert sentence in refused(f"{server.url}/{name}", tmp_path / "new" / name)
        assert not (tmp_path / "new").exists()
    server.files[name] = whole
    assert fetch(f"{server.url}/{name}", tmp_path / "new" / name)
    assert (tmp_path / "new" / name).read_bytes() == whole


@pytest.mark.fault("results")
@pytest.mark.parametrize("page", ["<html><p>Sign in</p></html>", "\n<!DOCTYPE html>\n<p>", "\ufeff<HTML>"])
@pytest.mark.parametrize("sums", [{}, {"sha256": SHA}])
def test_a_page_in_place_of_an_archive_is_named(server, tmp_path, page, sums):
    server.files["a.zip"] = page.encode()
    message = refused(f"{server.url}/a.zip", tmp_path / "new/a.zip", **sums)
    assert f"{server.url}/a.zip sent a web page (HTML) in place of a.zip" in message and "perhaps to sign in" in message
    assert not (tmp_path / "new").exists()


@pytest.mark.fault("parsing")
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"nonsense\r\n\r\n", "does not answer as HTTP servers do: BadStatusLine"),
        (b"HTTP/1.1 abc OK\r\n\r\n", "does not answer as HTTP servers do: BadStatusLine"),
        (b"", "does not answer as HTTP servers do: RemoteDisconnected"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: 1\r\n" * 200 + b"\r\n", "does not answer as HTTP servers do: HTTPException"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000 + b"\r\n\r\n", "does not answer as HTTP servers do: LineTooLong"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: abc\r\n\r\ncut", "the 3 bytes it sent are no whole archive"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\ncut", "the 3 bytes it sent are no whole archive"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc", "broke off after 0 bytes"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://[::1/x\r\n\r\n", "does not answer as HTTP servers do: ValueError"),
        (b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\n\r\n", "answers 302 Found"),
        (b"HTTP/1.1 302 Found\r\nLocation: /a.zip\r\n\r\n", "answers 302 The HTTP server returned a redirect error"),
    ],
)
def test_answers_that_are_no_http_are_one_sentence(tmp_path, answer, reason):
    class Handler(StreamRequestHandler):
        def handle(self):
            self.request.recv(1 << 16)
            self.wfile.write(answer)

    with ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/a.zip"
        message = refused(url, tmp_path / "new/a.zip")
        server.shutdown()
    assert message.startswith(url) and reason in message
    assert not (tmp_path / "new").exists()


def test_a_full_disk_is_said_before_anything_is_written(server, tmp_path, monkeypatch):
    server.files["a.zip"] = CONTENT
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=1000))
    message = refused(f"{server.url}/a.zip", tmp_path / "new/a.zip")
    assert "a.zip needs 3,000,000 bytes, but" in message and "has 1,000 free: make room" in message
    assert not (tmp_path / "new").exists()
    zipped(tmp_path / "b.zip", {"d/1.bin": CONTENT[:2000]})
    with pytest.raises(InputError, match=r"archive .*b.zip needs 2,\d+ bytes, but .* has 1,000 free"):
        unpack(tmp_path / "b.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_failed_download_leaves_no_empty_folder(server, tmp_path):
    (tmp_path / "mine").mkdir()
    for url in (f"{server.url}/gone.zip", "http://127.0.0.1:9/a.zip", "file:///etc/passwd"):
        refused(url, tmp_path / "new/inner/a.zip")
        refused(url, tmp_path / "mine/a.zip")
        assert [path.name for path in tmp_path.iterdir()] == ["mine"] and not list((tmp_path / "mine").iterdir())


# unpack


def tar(path, members, mode="w:gz"):
    with tarfile.open(path, mode) as packed:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if content is None:
                info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            else:
                info.size = len(content)
            packed.addfile(info, io.BytesIO(content or b""))


def zipped(path, members):
    with zipfile.ZipFile(path, "w") as packed:
        for name, content in members.items():
            packed.writestr(name, content)


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


MEMBERS = {"dtd/images/banded/1.jpg": b"one", "dtd/images/dotted/ü 2.jpg": b"two", "dtd/labels.txt": b""}


@pytest.mark.parametrize("name", ["d.tar", "d.tar.gz", "d.tgz", "d.tar.xz", "d.zip"])
def test_archives_are_unpacked_beside_what_is_there(tmp_path, name):
    modes = {"d.tar": "w", "d.tar.xz": "w:xz"}
    (tmp_path / "dtd/images").mkdir(parents=True)
    (tmp_path / "dtd/images/mine.txt").write_text("mine")
    archive = tmp_path / "archives" / name
    archive.parent.mkdir()
    zipped(archive, MEMBERS) if name == "d.zip" else tar(archive, MEMBERS, modes.get(name, "w:gz"))
    assert unpack(archive, tmp_path) == 3
    shutil.rmtree(archive.parent) if name == "d.tar" else None
    found = {path: data for path, data in tree(tmp_path).items() if not path.startswith("archives")}
    assert found == {**MEMBERS, "dtd/images/mine.txt": b"mine"}
    if name != "d.tar":
        before = (tmp_path / "dtd/images/banded/1.jpg").stat().st_mtime_ns
        assert unpack(archive, tmp_path) == 0
        assert (tmp_path / "dtd/images/banded/1.jpg").stat().st_mtime_ns == before


def test_unpacking_goes_on_after_an_interruption(tmp_path):
    archive = tmp_path / "d.zip"
    zipped(archive, MEMBERS)

    def impatient(name):
        if name.endswith("2.jpg"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unpack(archive, tmp_path, progress=impatient)
    assert not (tmp_path / "dtd").exists()
    assert unpack(archive, tmp_path) == 3
    assert {path: data for path, data in tree(tmp_path).items() if path != "d.zip"} == MEMBERS


def test_a_part_of_an_archive_goes_where_the_card_says(tmp_path):
    tar(tmp_path / "a.tar.gz", {"fgvc/data/images/1.jpg": b"one", "fgvc/evaluation.m": b"no"})
    assert unpack(tmp_path / "a.tar.gz", tmp_path / "aircraft", part="fgvc/data") == 1
    assert tree(tmp_path / "aircraft") == {"images/1.jpg": b"one"}


@pytest.mark.fault("code")
@pytest.mark.parametrize("name", ["../evil.txt", "/tmp/evil.txt", "a/../../evil.txt", "..\\evil.txt", "C:\\evil.txt"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_paths_that_leave_the_folder_are_refused(tmp_path, name, kind):
    archive = tmp_path / f"a.{kind}"
    (zipped if kind == "zip" else tar)(archive, {"good.txt": b"good", name: b"evil"})
    (tmp_path / "into").mkdir()
    with pytest.raises(InputError, match="which is outside its folder; nothing was unpacked"):
        unpack(archive, tmp_path / "into")
    assert tree(tmp_path / "into") == {} and not list(tmp_path.rglob("evil.txt"))


@pytest.mark.fault("code")
def test_links_and_broken_archives_are_refused(tmp_path):
    tar(tmp_path / "a.tar", {"link": None})
    with pytest.raises(InputError, match="holds 'link', a link or device"):
        unpack(tmp_path / "a.tar", tmp_path)
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr(link, "/etc/passwd")
    with pytest.raises(InputError, match="holds 'link', a link or device"):
        unpack(tmp_path / "a.zip", tmp_path)
    big = {"a.bin": CONTENT}
    tar(tmp_path / "b.tar.gz", big)
    zipped(tmp_path / "b.zip", big)
    for name, cut in (("b.tar.gz", -100_000), ("b.zip", -10), ("b.tar.gz", 5)):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / f"cut_{name}").write_bytes(whole[:cut])
        with pytest.raises(InputError, match=f"archive .*cut_{name} cannot be unpacked"):
            unpack(tmp_path / f"cut_{name}", tmp_path)
    flipped = bytearray((tmp_path / "b.zip").read_bytes())
    flipped[1_000_000] ^= 255
    (tmp_path / "b.zip").write_bytes(flipped)
    with pytest.raises(InputError, match="b.zip cannot be unpacked into .*: Bad CRC-32"):
        unpack(tmp_path / "b.zip", tmp_path)
    assert not (tmp_path / "a.bin").exists()


@pytest.mark.fault("files")
def test_another_file_in_place_is_not_overwritten(tmp_path):
    zipped(tmp_path / "a.zip", {"1.txt": b"theirs"})
    (tmp_path / "1.txt").write_text("mine, and longer")
    with pytest.raises(InputError, match="1.txt exists, but is not the file in .*a.zip; move it away"):
        unpack(tmp_path / "a.zip", tmp_path)
    assert (tmp_path / "1.txt").read_text() == "mine, and longer"


# the tool


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
    assert status == 2 and err == "error: data set 'mine' cannot be downloaded by this tool: ask me"
    status, _, err = tool("data", "download", "digits")
    assert status == 2 and "data set 'digits' needs no download" in err
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
    assert status == 2 and "data set 'mnist': torchvision could not download it" in err


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


def plant_imagenet(top, monkeypatch):
    """The three archives in miniature, whose checksums torchvision is told, as it knows those of the real ones."""
    top.mkdir(parents=True)
    synsets = {"n01440764": "tench, Tinca tinca", "n01443537": "goldfish"}
    inner = {}
    for synset in synsets:
        tar(top / "class.tar", {f"{synset}_{n}.JPEG": synset.encode() for n in range(3)}, "w")
        inner[f"{synset}.tar"] = (top / "class.tar").read_bytes()
    (top / "class.tar").unlink()
    rows = [(n, synset, words, "gloss", 0) for n, (synset, words) in enumerate(synsets.items(), 1)]
    kinds = [("ILSVRC2012_ID", "i4"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "i4")]
    savemat(top / "meta.mat", {"synsets": np.array([*rows, (3, "n0", "parent", "gloss", 2)], dtype=kinds)})
    kit = "ILSVRC2012_devkit_t12/data"
    truth = b"2\n1\n2\n"
    meta = {f"{kit}/meta.mat": (top / "meta.mat").read_bytes(), f"{kit}/ILSVRC2012_validation_ground_truth.txt": truth}
    tar(top / "ILSVRC2012_devkit_t12.tar.gz", meta)
    tar(top / "ILSVRC2012_img_train.tar", inner, "w")
    val = {f"ILSVRC2012_val_0000000{n}.JPEG": str(n).encode() for n in (1, 2, 3)}
    tar(top / "ILSVRC2012_img_val.tar", val, "w")
    (top / "meta.mat").unlink()
    for key, (name, _) in dict(datasets.imagenet.ARCHIVE_META).items():
        md5 = hashlib.md5((top / name).read_bytes()).hexdigest()
        monkeypatch.setitem(datasets.imagenet.ARCHIVE_META, key, (name, md5))


def test_imagenet_is_unpacked_into_synsets(tool, tmp_path, monkeypatch):
    top = tmp_path / "imagenet"
    status, _, err = tool("data", "prepare", "imagenet", "--root", tmp_path)
    assert status == 2 and "ILSVRC2012_img_train.tar is not present" in err
    plant_imagenet(top, monkeypatch)
    status, out, err = tool("data", "prepare", "imagenet", "--root", tmp_path)
    assert status == 0, err
    found = {path: data for path, data in tree(top / "images").items() if path.startswith("val/")}
    assert found == {
        "val/n01443537/ILSVRC2012_val_00000001.JPEG": b"1",
        "val/n01440764/ILSVRC2012_val_00000002.JPEG": b"2",
        "val/n01443537/ILSVRC2012_val_00000003.JPEG": b"3",
    }
    assert len(tree(top / "images/train/n01440764")) == 3
    assert "everything was in place already" in tool("data", "prepare", "imagenet", "--root", tmp_path)[1]
