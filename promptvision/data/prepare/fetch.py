"""Download of a file over HTTP: resumable, checked, and under its own name only when it is whole."""

from __future__ import annotations

import http.client
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from promptvision.atomic import DAMAGE, file_hash
from promptvision.data.prepare.presence import require_space
from promptvision.data.prepare.unpack import SUFFIXES
from promptvision.errors import InputError

BLOCK = 1 << 20
TIMEOUT = 30.0
"""Seconds without a byte after which a connection is closed."""

BROKEN_OFF = -1
"""Size of a file whose connection ended early, if the server did not say it."""

Progress = Callable[[int, int], None]
"""Called with the bytes on disk and the bytes of the whole file (0 if unknown)."""


def fetch(
    url: str, file: Path, *, sha256: str = "", md5: str = "", size: int = 0, progress: Progress = lambda have, of: None
) -> bool:
    """Download `url` as `file`, through `file.part`, which a later call resumes; return False if it exists already.

    A broken connection is resumed as long as each one brings bytes. A file that exists is checked and left alone.
    Without checksum and size an archive is opened before it gets its name. InputError names the file for a wrong
    checksum or size, and the URL for an answer of the server; it leaves no empty folder.
    """
    if file.exists():
        check_file(file, sha256, md5, size)
        return False
    part = file.with_name(f"{file.name}.part")
    try:
        with no_empty_folders(file.parent):
            file.parent.mkdir(parents=True, exist_ok=True)
            Transfer(url, part, progress).complete(size)
            refuse_page(url, part, file)
            check_file(part, sha256, md5, size, remove=True)
            if not (sha256 or md5 or size):
                refuse_broken_archive(url, part, file)
            os.replace(part, file)
    except OSError as error:
        raise InputError(f"file {part} cannot be written: {error.strerror or error}") from None
    return True


@contextmanager
def no_empty_folders(folder: Path) -> Iterator[None]:
    """Remove what an error in this context leaves of `folder`, if it is new: empty folders and empty files."""
    new = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        yield
    except BaseException:
        kept = folder / ".cache" / "huggingface"  # the Hub's notes about a download, of which nothing arrived
        if new and all(path.is_relative_to(kept) for path in folder.rglob("*") if path.is_file()):
            shutil.rmtree(folder / ".cache", ignore_errors=True)
        for place, _, files in os.walk(new[-1] if new else folder, topdown=False) if new or folder.is_dir() else ():
            for name in files if new or place == str(folder) else ():
                if name.endswith(".part") and not os.path.getsize(os.path.join(place, name)):
                    os.unlink(os.path.join(place, name))
            if new and not os.listdir(place):
                os.rmdir(place)
        raise


def refuse_page(url: str, part: Path, file: Path) -> None:
    """Raise InputError, and remove the download, if the server sent a web page in place of the file."""
    with part.open("rb") as data:
        start = data.read(512).removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head")) and file.suffix not in (".html", ".htm"):
        part.unlink()
        advice = f"open it in a browser, perhaps to sign in, and save the file as {file}"
        raise InputError(f"{url} sent a web page (HTML) in place of {file.name}: {advice}")


def refuse_broken_archive(url: str, part: Path, file: Path) -> None:
    """Raise InputError, and remove the download, if it is an archive that is not whole."""
    if not file.name.lower().endswith(SUFFIXES):
        return
    try:
        if file.name.lower().endswith(".zip"):
            with zipfile.ZipFile(part):
                return
        with tarfile.open(part) as packed:
            for _ in packed:
                pass
            end = packed.fileobj
            assert end is not None
            end.seek(packed.offset)
            if end.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise EOFError  # tarfile takes a cut between two members for the end
    except DAMAGE:
        size = part.stat().st_size
        part.unlink()
        reason = f"the {size:,} bytes it sent are no whole archive, and were removed; run the same again"
        raise InputError(f"{url}: {reason}, or save the file as {file} yourself") from None


@dataclass(frozen=True)
class Transfer:
    """The download of a URL into the file `part`, over as many connections as it takes."""

    url: str
    part: Path
    progress: Progress

    @property
    def have(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def complete(self, size: int) -> None:
        """Append to `part` until the server has no more; `size` is the expected one, or 0."""
        while True:
            start = self.have
            if size and start == size:
                return
            whole = self.append(start)
            if self.have == whole or not whole:
                return
            if self.have <= start:
                state = f"{self.url} broke off after {self.have:,}{f' of {whole:,}' if whole > 0 else ''} bytes"
                raise InputError(f"{state}; these are kept, so run the same again")

    def append(self, start: int) -> int:
        """Append what one connection brings, and return the size of the whole file.

        It is 0 if the server does not say, and BROKEN_OFF if the connection ended early too.
        """
        if not self.url.startswith(("http://", "https://")):
            raise InputError(f"{self.url} is no http or https address")
        try:
            request = Request(self.url, headers={"Range": f"bytes={start}-"} if start else {})
            with urlopen(request, timeout=TIMEOUT) as answer:
                resumes = (answer.headers.get("Content-Range") or "").startswith(f"bytes {start}-")
                return self.copy(answer, start if resumes and answer.status == 206 else 0)
        except InputError:
            raise
        except HTTPError as error:
            if error.code != 416 or not start:
                raise InputError(f"{self.url} answers {error.code} {' '.join(str(error.reason).split())}") from None
            if (error.headers.get("Content-Range") or "") == f"bytes */{start}":  # whole already
                return start
            self.part.unlink()
            raise InputError(f"{self.part} is no part of {error.url} and was removed; run the same again") from None
        except URLError as error:
            reason = getattr(error.reason, "strerror", "") or error.reason
            raise InputError(f"{self.url} cannot be reached: {reason}") from None
        except (http.client.HTTPException, ConnectionError, TimeoutError, ValueError) as error:  # or address
            raise InputError(f"{self.url} does not answer as HTTP servers do: {type(error).__name__}") from None

    def copy(self, answer: http.client.HTTPResponse, have: int) -> int:
        """Write an answer after the first `have` bytes of `part`, until its end or until the connection breaks."""
        length = answer.headers.get("Content-Length")
        whole = have + int(length) if length and length.isdecimal() and len(length) < 20 else 0
        require_space(self.part.parent, whole - have, self.url)
        with self.part.open("ab" if have else "wb") as out:
            while True:
                self.progress(have, whole)
                try:
                    block = answer.read(BLOCK)
                except (http.client.HTTPException, TimeoutError, ConnectionError):
                    return whole or BROKEN_OFF
                if not block:
                    return whole
                out.write(block)
                have += len(block)


def check_file(file: Path, sha256: str, md5: str, size: int, *, remove: bool = False) -> None:
    """Raise InputError if size or checksum are not the expected ones; with `remove`, delete the file first."""
    wrong = ""
    if size and file.stat().st_size != size:
        wrong = f"has {file.stat().st_size:,} bytes, expected {size:,}"
    for name, expected in (("sha256", sha256), ("md5", md5)):
        if expected and not wrong:
            found = file_hash(file, name)
            wrong = "" if found == expected.lower() else f"has {name} {found}, expected {expected}"
    if wrong and remove:
        file.unlink()
    if wrong:
        next_step = "it was removed, so run the same again" if remove else "move it away to have it downloaded again"
        raise InputError(f"file {file} {wrong}; {next_step}")
