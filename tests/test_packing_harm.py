"""Packed weights that are kept, and what may go wrong: models that change or are refused, planted and broken
files, other users and writers, a full disk. None may fail a load or give other weights."""

from __future__ import annotations

import os
import pwd
import resource
import signal
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import lanner
from lanner import _core, _packing
from lanner._cache import locked_if_free
from lanner.checkpoint import open_checkpoint
from lanner.decoder import Decoder
from stepping import step_logits
from test_bench_model import tiny_file
from test_packing import IDS, MODEL, damaged, is_used, kept_of, logits, made, opened


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LANNER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(_packing, "LEAST_BYTES", 1)
    return made(MODEL, tmp_path / "model.gguf")


def with_another_code(path: Path) -> bytes:
    """The contents of the model, but for a code of one weight."""
    contents = bytearray(path.read_bytes())
    contents[open_checkpoint(path).tensors["blk.0.attn_q.weight"].offset + 10] ^= 1
    return bytes(contents)


def test_a_refused_model_is_refused_again(path: Path, tmp_path: Path) -> None:
    file = tiny_file(tmp_path / "tiny.gguf")
    lanner.load(file).close()
    good = kept_of(file).read_bytes()
    contents = bytearray(file.read_bytes())
    at = open_checkpoint(file).tensors["blk.0.attn_q.weight"].offset
    contents[at : at + 2] = np.float16(np.nan).tobytes()  # the scale of a block of q4_1
    file.write_bytes(contents)
    for _ in range(2):
        with pytest.raises(lanner.ModelFileError, match="infinite or NaN scale"):
            lanner.load(file)
        assert kept_of(file).read_bytes() == good
    decoder = Decoder(open_checkpoint(file), waits=False)
    with pytest.raises(lanner.ModelFileError):
        decoder.wait()
    decoder.wait()
    decoder.keep()
    assert kept_of(file).read_bytes() == good


def test_a_model_that_is_written_to_in_place(path: Path) -> None:
    """Of the same size, and with its time set back, as `cp -p` and `rsync -t --inplace` do."""
    first = logits(path)
    assert is_used(path)
    before, contents = path.stat(), with_another_code(path)
    with path.open("r+b") as file:
        file.write(contents)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (
        before.st_size,
        before.st_mtime_ns,
        before.st_ino,
    )
    assert not is_used(path)
    assert not np.array_equal(logits(path), first)


def test_a_model_that_is_replaced_once_it_is_open(path: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(path)
    other = tmp_path / "other.gguf"
    other.write_bytes(with_another_code(path))
    wanted = logits(other)
    os.replace(other, path)
    decoder = Decoder(checkpoint, waits=False)  # of the first file
    decoder.wait()
    decoder.keep()
    assert kept_of(path).exists() and not is_used(path)
    assert np.array_equal(logits(path), wanted)


def test_a_library_that_is_replaced_while_it_runs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is stated as it was loaded, not as what lies in its place."""
    logits(path)
    monkeypatch.setattr(_core, "__file__", str(path))
    assert is_used(path)
    monkeypatch.setattr(_core, "LIBRARY_STATE", "of another build")
    assert not is_used(path)
    monkeypatch.setattr(_core, "LIBRARY_STATE", "")
    assert _packing.kept_path(open_checkpoint(path)) is None


def test_waiting_again_changes_nothing(path: Path) -> None:
    wanted = logits(path)
    for is_damaged in (False, True):
        if is_damaged:
            damaged(kept_of(path), 100)
        decoder = opened(path)
        for _ in range(2):
            decoder.wait()
            assert np.array_equal(step_logits(decoder, IDS, 64), wanted)
        assert decoder._packer is not None and decoder._packer._packer.is_complete is not is_damaged


@pytest.mark.parametrize("name", ["", ".{pid}.tmp"])
def test_a_planted_link_leads_nowhere(path: Path, tmp_path: Path, name: str) -> None:
    wanted = logits(path)
    kept = kept_of(path)
    victim = tmp_path / "victim"
    os.replace(kept, victim)
    before = victim.read_bytes()
    kept.with_name(kept.name + name.format(pid=os.getpid())).symlink_to(victim)
    assert not is_used(path)
    assert np.array_equal(logits(path), wanted)
    assert victim.read_bytes() == before and not kept.is_symlink()
    assert is_used(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_file_of_another_user_is_not_used(path: Path) -> None:
    wanted = logits(path)
    assert kept_of(path).parent.name.endswith(f"-{os.geteuid()}")
    os.chown(kept_of(path), 54321, -1)
    assert not is_used(path)
    assert np.array_equal(logits(path), wanted)
    assert is_used(path) and kept_of(path).stat().st_uid == os.geteuid()


def test_a_child_after_fork_writes_nothing(path: Path) -> None:
    """It ends what the threads that are not in it were part of; the parent writes."""
    decoder = opened(path)
    if (pid := os.fork()) == 0:
        signal.alarm(20)
        decoder.keep()
        del decoder
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert not kept_of(path).exists()
    decoder.keep()
    assert is_used(path)


def test_of_several_writers_one_writes(path: Path) -> None:
    first, second, third = opened(path), opened(path), opened(path)
    with locked_if_free(kept_of(path).parent.with_suffix(".lock")) as is_locked:
        assert is_locked
        third.keep()  # while another writes
    assert not kept_of(path).exists()
    first.keep()
    written = kept_of(path).stat()
    second.keep()
    assert kept_of(path).stat() == written
    assert is_used(path)


def test_a_full_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was not written to its end leaves nothing behind, nor what a killed writer left."""
    wanted = logits(path)
    kept = kept_of(path)
    good = kept.read_bytes()
    abandoned = kept.with_name("another.gguf-0123456789abcdef.AbCdEf.tmp")
    abandoned.write_bytes(b"half of it")
    kept.write_bytes(b"damaged")
    decoder = opened(path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(good) // 2, limits[1]))
    try:
        decoder.keep()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(kept.parent.iterdir()) == [kept]
    assert kept.read_bytes() == b"damaged"
    with monkeypatch.context() as patch:
        patch.setattr(_packing, "free_bytes", lambda folder: 2 * path.stat().st_size - 1)
        assert np.array_equal(logits(path), wanted)
    assert kept.read_bytes() == b"damaged"
    assert np.array_equal(logits(path), wanted)
    assert is_used(path)


def with_index(kept: Path, change: Callable[[list[list[int]]], None]) -> None:
    """Changes the (offset, size) of the blobs, with all checksums right."""
    contents = kept.read_bytes()
    n_data, n_index = struct.unpack_from("<2Q", contents, len(contents) - 24)
    index = bytearray(contents[n_data : n_data + n_index])
    places, ats = [], []
    at = 8 + struct.unpack_from("<Q", index)[0] + 8 * -(-n_data // (4 << 20))
    while at < n_index:
        at += 8 + struct.unpack_from("<Q", index, at)[0]
        places.append(list(struct.unpack_from("<2Q", index, at)))
        ats.append(at)
        at += 16
    change(places)
    for at, place in zip(ats, places, strict=True):
        struct.pack_into("<2Q", index, at, *place)
    end = struct.pack("<8s3Q", b"lannerp1", n_data, n_index, _core.checksum(bytes(index)))
    kept.write_bytes(contents[:n_data] + index + end)


def shorter(places: list[list[int]]) -> None:
    places[1][1] -= 64


def overlapping(places: list[list[int]]) -> None:
    places[1][0] = places[0][0]


def same(places: list[list[int]]) -> None:
    """Nothing: what `with_index` writes is what it read."""


@pytest.mark.parametrize("change", [shorter, overlapping, same])
def test_an_index_that_is_wrong_heals(path: Path, change: Callable[[list[list[int]]], None]) -> None:
    wanted = logits(path)
    before = kept_of(path).read_bytes()
    with_index(kept_of(path), change)
    assert (kept_of(path).read_bytes() == before) is (change is same)
    assert is_used(path) is (change is same)
    assert np.array_equal(logits(path), wanted)
    assert is_used(path)


def test_an_index_larger_than_memory_is_not_read(path: Path) -> None:
    wanted = logits(path)
    n_index = 1 << 42
    end = struct.pack("<8s3Q", b"lannerp1", 64, n_index, 0)
    with kept_of(path).open("wb") as file:
        file.seek(64 + n_index)
        file.write(end)
    assert np.array_equal(logits(path), wanted)
    assert is_used(path)


def test_a_user_without_a_home(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = logits(path)

    def unknown(uid: int) -> None:
        raise KeyError(uid)

    for name in ("HOME", "LANNER_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(RuntimeError):
        Path.home()
    assert _packing.kept_path(open_checkpoint(path)) is None
    assert np.array_equal(logits(path), wanted)


def test_a_relative_path_is_kept_after_chdir(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    decoder = opened(Path(path.name))
    monkeypatch.chdir("/")
    decoder.keep()
    assert is_used(path)


@pytest.mark.parametrize("value", ["", "no", "2"])
def test_a_setting_that_is_neither_on_nor_off(
    path: Path, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANNER_KEEP_PACKED", value)
    with pytest.raises(ValueError, match=f"LANNER_KEEP_PACKED is '{value}', wanted 0 or 1"):
        lanner.load(path)
