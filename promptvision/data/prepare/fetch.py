"""Download of a file over HTTP: resumable, checked, and under its own name only when it is whole."""

from __future__ import annotations

import hashlib
import http.client
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from promptvision.errors import InputError

BLOCK = 1 << 20
TIMEOUT = 30.0
"""Seconds without a byte after which a connection is closed."""

Progress = Callable[[int, int], None]
"""Called with the bytes on disk and the bytes of the whole file (0 if unknown)."""


def fetch(
    url: str, file: Path, *, sha256: str = "", md5: str = "", size: int = 0, progress: Progress = lambda have, of: None
) -> bool:
    """Download `url` as `file`, through `file.part`, which a later call resumes; return False if it exists already.

    A broken connection is resumed as long as each one brings bytes. A file that exists is checked and left alone.
    InputError names the file for a wrong checksum or size, and the URL for an answer of the server.
    """
    if file.exists():
        check_file(file, sha256, md5, size)
        return False
    part = file.with_name(f"{file.name}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        Transfer(url, part, progress).complete(size)
        check_file(part, sha256, md5, size, remove=True)
        os.replace(part, file)
    except OSError as error:
        raise InputError(f"file {part} cannot be written: {error.strerror or error}") from None
    return True


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
                state = f"{self.url} broke off after {self.have:,} of {whole:,} bytes"
                raise InputError(f"{state}; these are kept, so run the same again")

    def append(self, start: int) -> int:
        """Append what one connection brings, and return the size of the whole file, or 0 if the server does not say."""
        if not self.url.startswith(("http://", "https://")):
            raise InputError(f"{self.url} is no http or https address")
        request = Request(self.url, headers={"Range": f"bytes={start}-"} if start else {})
        try:
            with urlopen(request, timeout=TIMEOUT) as answer:
                resumes = (answer.headers.get("Content-Range") or "").startswith(f"bytes {start}-")
                return self.copy(answer, start if resumes and answer.status == 206 else 0)
        except HTTPError as error:
            if error.code != 416 or not start:
                raise InputError(f"{self.url} answers {error.code} {error.reason}") from None
            if (error.headers.get("Content-Range") or "") == f"bytes */{start}":  # whole already
                return start
            self.part.unlink()
            raise InputError(f"{self.part} is no part of {error.url} and was removed; run the same again") from None
        except URLError as error:
            reason = getattr(error.reason, "strerror", "") or error.reason
            raise InputError(f"{self.url} cannot be reached: {reason}") from None

    def copy(self, answer: http.client.HTTPResponse, have: int) -> int:
        """Write an answer after the first `have` bytes of `part`, until its end or until the connection breaks."""
        length = answer.headers.get("Content-Length")
        whole = have + int(length) if length else 0
        with self.part.open("ab" if have else "wb") as out:
            while True:
                self.progress(have, whole)
                try:
                    block = answer.read(BLOCK)
                except (http.client.HTTPException, TimeoutError, ConnectionError):
                    return whole
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
            found = checksum(file, name)
            wrong = "" if found == expected.lower() else f"has {name} {found}, expected {expected}"
    if wrong and remove:
        file.unlink()
    if wrong:
        next_step = "it was removed, so run the same again" if remove else "move it away to have it downloaded again"
        raise InputError(f"file {file} {wrong}; {next_step}")


def checksum(file: Path, name: str) -> str:
    """Return the hexadecimal digest of a file by the hash of this name."""
    digest = hashlib.new(name)
    with file.open("rb") as data:
        while block := data.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
