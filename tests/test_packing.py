"""Packed weights that are kept: used for the same file, packed anew for another or where they are damaged."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from lanner import _core, _packing
from lanner._packing import WeightPacker, kept_path
from lanner.checkpoint import open_checkpoint
from lanner.decoder import Decoder
from stepping import step_logits
from tiny_llama import MODELS, Tiny, make

IDS = [3, 5, 8, 13, 21]
MODEL = MODELS["heads_of_16"]


def made(tiny: Tiny, path: Path) -> Path:
    return make(tiny, path).path


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small model, of a size that is kept in a cache of its own."""
    monkeypatch.setenv("LANNER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(_packing, "LEAST_BYTES", 1)
    return made(MODEL, tmp_path / "model.gguf")


def kept_of(path: Path) -> Path:
    found = kept_path(open_checkpoint(path))
    assert found is not None
    return found


def opened(path: Path, n_threads: int = 2) -> Decoder:
    """As `lanner.load` opens it."""
    decoder = Decoder(open_checkpoint(path), n_threads=n_threads, waits=False)
    decoder.wait()
    return decoder


def logits(path: Path, n_threads: int = 2) -> np.ndarray:
    decoder = opened(path, n_threads)
    found = step_logits(decoder, IDS, 64)
    decoder.keep()
    return found


def is_used(path: Path) -> bool:
    """Whether loading finds all of its weights kept, and undamaged."""
    packer = opened(path)._packer
    return packer is not None and packer._packer.is_complete


@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_kept_weights_give_the_same_bits(path: Path, n_threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANNER_KEEP_PACKED", "0")
    wanted = logits(path)
    assert not (path.parent / "cache").exists()
    monkeypatch.delenv("LANNER_KEEP_PACKED")
    assert np.array_equal(logits(path, n_threads), wanted)  # packs, and keeps when it is closed
    assert [file.name for file in kept_of(path).parent.iterdir()] == [kept_of(path).name]
    before = kept_of(path).stat().st_ino
    assert is_used(path)
    assert np.array_equal(logits(path, n_threads), wanted)
    assert kept_of(path).stat().st_ino == before


def damaged(kept: Path, at: int) -> None:
    contents = bytearray(kept.read_bytes())
    contents[at] ^= 0x10
    kept.write_bytes(contents)


@pytest.mark.parametrize("n_threads", [1, 2])
def test_a_damaged_file_is_found_and_replaced(path: Path, n_threads: int) -> None:
    """Wherever a bit is wrong: in the weights, their checksums, the index, the trailer."""
    wanted = logits(path)
    kept = kept_of(path)
    size = kept.stat().st_size
    for at in (*np.random.default_rng(1).integers(0, size, 30), 0, size - 1, size - 9, size - 17, size - 25):
        damaged(kept, int(at))
        assert not is_used(path), at
        assert np.array_equal(logits(path, n_threads), wanted)
        assert is_used(path)


@pytest.mark.parametrize("n_bytes", [0, 1, 31, 32, 1000])
def test_a_file_that_was_cut_is_replaced(path: Path, n_bytes: int) -> None:
    wanted = logits(path)
    kept = kept_of(path)
    kept.write_bytes(kept.read_bytes()[:n_bytes])
    assert np.array_equal(logits(path), wanted)
    assert is_used(path)


def test_another_file_in_the_place_of_the_model(path: Path, tmp_path: Path) -> None:
    """Of the same name and size, with other weights."""
    logits(path)
    contents = bytearray(path.read_bytes())
    contents[open_checkpoint(path).tensors["blk.0.attn_q.weight"].offset + 10] ^= 1  # a code of q4_1
    other = tmp_path / "other.gguf"
    other.write_bytes(contents)
    wanted = logits(other)
    os.replace(other, path)
    assert np.array_equal(logits(path), wanted)
    assert is_used(path)
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert not is_used(path)


def test_links_and_copies_have_their_own(path: Path, tmp_path: Path) -> None:
    wanted = logits(path)
    link = tmp_path / "link.gguf"
    link.symlink_to(path)
    copy = tmp_path / "copy.gguf"
    shutil.copy2(path, copy)
    for other in (link, copy):
        assert kept_of(other) != kept_of(path) and not is_used(other)
        assert np.array_equal(logits(other), wanted)
    assert all(map(is_used, (path, link, copy)))


def test_what_is_not_kept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for options in ({"quantize": "q8_0", "waits": False}, {}):
        decoder = Decoder(open_checkpoint(path), **options)
        decoder.wait()
        decoder.keep()
    assert not kept_of(path).exists()
    monkeypatch.setattr(_packing, "LEAST_BYTES", path.stat().st_size + 1)
    assert kept_path(open_checkpoint(path)) is None
    monkeypatch.setattr(_packing, "LEAST_BYTES", 1)
    monkeypatch.setattr(_packing, "MOST_BYTES", path.stat().st_size)
    assert kept_path(open_checkpoint(path)) is None


def test_a_folder_that_cannot_be_written_costs_nothing(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("a file in the place of the folder")
    found = [logits(path), logits(path)]
    monkeypatch.setenv("LANNER_KEEP_PACKED", "0")
    wanted = logits(path)
    assert all(np.array_equal(each, wanted) for each in found)


def test_the_oldest_make_room(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logits(path)
    size = kept_of(path).stat().st_size
    monkeypatch.setattr(_packing, "MOST_BYTES", int(3.5 * size))
    copies = [tmp_path / f"{i}.gguf" for i in range(4)]
    for age, copy in enumerate(copies):
        shutil.copy2(path, copy)
        logits(copy)
        os.utime(kept_of(copy), (age, age))
    assert not kept_of(copies[0]).exists()
    assert kept_of(copies[3]).exists()
    total = sum(file.stat().st_size for file in kept_of(path).parent.iterdir())
    assert total <= 3.5 * size


def test_weights_that_are_not_kept_are_packed_beside_those_that_are(path: Path) -> None:
    """Another version of the library may fuse others: what has the same key is taken, the rest packed."""
    checkpoint = open_checkpoint(path)
    names = [name for name, tensor in checkpoint.tensors.items() if len(tensor.shape) == 2][:4]

    def packed(wanted: list[str]) -> tuple[WeightPacker, list[np.ndarray]]:
        packer = WeightPacker(checkpoint, 2, keeps=True)
        made = []
        for name in wanted:
            t = checkpoint.tensors[name]
            made.append(packer.pack([(t.file, t.offset, t.format, *t.shape, 0, t.format)], name))
        packer.wait()
        return packer, [weight.unpack() for weight in made]

    packer, first = packed(names[:3])
    packer.keep()
    packer, second = packed(names[1:])
    assert not packer._packer.is_complete
    assert all(np.array_equal(a, b) for a, b in zip(first[1:], second, strict=False))
    packer.keep()
    assert packed(names[1:])[0]._packer.is_complete
    damaged(packer._kept, 100)  # type: ignore[arg-type]
    packer, third = packed(names)
    assert not packer._packer.is_complete
    assert all(np.array_equal(a, b) for a, b in zip(first, third, strict=False))
    assert all(np.array_equal(a, b) for a, b in zip(second, third[1:], strict=True))


def test_checksums_tell_bytes_apart() -> None:
    rng = np.random.default_rng(0)
    seen = set()
    for n in (0, 1, 7, 8, 63, 64, 65, 127, 128, 1000):
        data = bytearray(rng.bytes(n))
        seen.add(_core.checksum(bytes(data)))
        for at in range(n):
            data[at] ^= 1 << at % 8
            seen.add(_core.checksum(bytes(data)))
            data[at] ^= 1 << at % 8
        seen.add(_core.checksum(bytes(data) + b"\0"))
    assert len(seen) == sum(n + 2 for n in (0, 1, 7, 8, 63, 64, 65, 127, 128, 1000))
