"""Fetching files over HTTP: resumable, checked, and under their own name only when they are whole."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
from collections.abc import Callable
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from promptvision.errors import InputError

BLOCK = 1 << 20
TIMEOUT = 30.0
"""Seconds without a byte after which a connection is given up."""

Progress = Callable[[int, int], None]
"""Called with the bytes there are and the bytes there will be (0 where unknown)."""


def fetch(
    url: str, file: Path, *, sha256: str = "", md5: str = "", size: int = 0, progress: Progress = lambda have, of: None
) -> bool:
    """Get `url` as `file`, through `file.part`, which a later call goes on with; whether anything was fetched.

    A connection that breaks is taken up again as long as each one brings bytes. A file that is there already is
    checked and left alone. InputError names the file for a wrong checksum or size, the URL for whatever a server
    says.
    """
    if file.exists():
        _check(file, sha256, md5, size)
        return False
    part = file.with_name(f"{file.name}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        _complete(url, part, size, progress)
        _check(part, sha256, md5, size, remove=True)
        os.replace(part, file)
    except OSError as error:
        raise InputError(f"file {part} cannot be written: {error.strerror or error}") from None
    return True


def _complete(url: str, part: Path, size: int, progress: Progress) -> None:
    """Append to `part` until the server has no more to give."""
    while True:
        start = _length(part)
        if size and start == size:
            return
        whole = _append(url, part, start, progress)
        if _length(part) == whole or not whole:
            return
        if _length(part) <= start:
            told = f"{url} broke off after {_length(part):,} of {whole:,} bytes; these are kept, so run the same again"
            raise InputError(told)


def _append(url: str, part: Path, start: int, progress: Progress) -> int:
    """One connection's worth of bytes; the size of the whole file, 0 where the server does not tell it."""
    if not url.startswith(("http://", "https://")):
        raise InputError(f"{url} is no http or https address")
    request = Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        with urlopen(request, timeout=TIMEOUT) as answer:
            goes_on = answer.status == 206 and _first_byte(answer) == start
            have = start if goes_on else 0
            length = answer.headers.get("Content-Length")
            whole = have + int(length) if length else 0
            with part.open("ab" if goes_on else "wb") as out:
                _copy(answer, out.write, have, whole, progress)
            return whole
    except HTTPError as error:
        if error.code == 416 and start:  # nothing after `start`: whole already, or of a file that has changed since
            return _refused_range(error, part, start)
        raise InputError(f"{url} answers {error.code} {error.reason}") from None
    except URLError as error:
        raise InputError(f"{url} cannot be reached: {getattr(error.reason, 'strerror', '') or error.reason}") from None


def _copy(answer: http.client.HTTPResponse, write: Callable, have: int, whole: int, progress: Progress) -> None:
    """Read until the end, or until the connection breaks, which the length then tells."""
    while True:
        progress(have, whole)
        try:
            block = answer.read(BLOCK)
        except (http.client.HTTPException, TimeoutError, ConnectionError):
            return
        if not block:
            return
        write(block)
        have += len(block)


def _first_byte(answer: http.client.HTTPResponse) -> int:
    found = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    return int(found[1]) if found else -1


def _refused_range(error: HTTPError, part: Path, start: int) -> int:
    """The size a server names when it has nothing from `start` on; a part of another size starts anew."""
    found = re.match(r"bytes \*/(\d+)", error.headers.get("Content-Range", ""))
    if found and int(found[1]) == start:
        return start
    part.unlink()
    raise InputError(f"{part} does not fit what {error.url} offers and was removed; run the same again")


def _length(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _check(file: Path, sha256: str, md5: str, size: int, *, remove: bool = False) -> None:
    """InputError if size or checksum are not the expected ones; with `remove`, the file goes."""
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
        next_step = "it was removed, so run the same again" if remove else "move it away to have it fetched again"
        raise InputError(f"file {file} {wrong}; {next_step}")


def checksum(file: Path, name: str) -> str:
    """Hexadecimal digest of a file by the hash of this name."""
    digest = hashlib.new(name)
    with file.open("rb") as data:
        while block := data.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
