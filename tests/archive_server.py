"""A server on this machine that breaks off, forgets, lies and refuses, and archives for it."""

import hashlib
import io
import re
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest

from promptvision.data.prepare.fetch import fetch
from promptvision.errors import InputError

CONTENT = np.random.default_rng(0).integers(0, 256, 3_000_000, dtype=np.uint8).tobytes()
SHA = hashlib.sha256(CONTENT).hexdigest()
COMMIT = "a" * 40


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
