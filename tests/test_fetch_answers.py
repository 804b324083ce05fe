"""Servers that refuse, break off, send a page in place of a file, or speak no HTTP."""

import threading
from socketserver import StreamRequestHandler, ThreadingTCPServer

import pytest
from archive_server import CONTENT, SHA, refused, tar, zipped

from promptvision.data.prepare.fetch import fetch


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
