"""A stand-in of the Hugging Face Hub: models in memory, behind the part of its HTTP interface that is used here."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class Hub(ThreadingHTTPServer):
    """`models`: {user/name: {file: content}}; `refused`: the status of every request that writes, 0 for none."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Request)
        self.models, self.refused, self.private = {}, 0, {}
        self.url = f"http://127.0.0.1:{self.server_port}"


class Request(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def answer(self, content=b"", status=200, **headers):
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(content), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        models, name = self.server.models, "/".join(self.path.split("/")[3:5])
        if self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif self.server.refused:
            self.answer({"error": "no"}, self.server.refused)
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            models.setdefault(name, {})
            self.server.private[name] = asked.get("private") or asked.get("visibility") == "private"
            self.answer({"url": f"{self.server.url}/{name}"})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            self.answer(
                {"files": [{"path": each["path"], "uploadMode": "regular", "shouldIgnore": False} for each in files]}
            )
        else:  # a commit, one JSON object per line
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    models[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.answer({"commitUrl": f"{self.server.url}/{name}/commit/1", "commitOid": "1" * 40})

    def do_GET(self):
        found = re.match(r"/(?:api/models/)?([^/]+/[^/]+)(?:/revision/[^/]+)?(?:/resolve/[^/]+/(.+))?", self.path)
        name, file = found.groups() if found else ("", None)
        files = self.server.models.get(name)
        if self.path == "/":
            self.answer()
        elif files is None:
            self.answer({"error": "none"}, 404, X_Error_Code="RepoNotFound")
        elif "/tree/" in self.path:
            tree = [(each, hashlib.sha1(content).hexdigest(), len(content)) for each, content in files.items()]
            self.answer([{"type": "file", "path": each, "oid": oid, "size": size} for each, oid, size in tree])
        elif file is None:
            siblings = [{"rfilename": each} for each in files]
            self.answer({"id": name, "modelId": name, "sha": "1" * 40, "private": False, "siblings": siblings})
        elif file not in files:
            self.answer({"error": "none"}, 404, X_Error_Code="EntryNotFound", X_Repo_Commit="1" * 40)
        else:
            etag = f'"{hashlib.sha1(files[file]).hexdigest()}"'
            self.answer(files[file], ETag=etag, X_Repo_Commit="1" * 40)

    do_HEAD = do_GET


@pytest.fixture
def offline(monkeypatch):
    """Hugging Face's client of this process asks no Hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub without models, which the client of this process takes for the Hub, with a cache of its own."""
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    constants = {
        "ENDPOINT": server.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(tmp_path / "hub"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_PROGRESS_BARS": True,
    }
    for name, value in constants.items():
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield server
    server.shutdown()
    server.server_close()
