"""The same weights through GGUF, split GGUF and Hugging Face folders give the same bits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gguf_writer import Encoded, gguf_bytes
from lanner import _core
from lanner.checkpoint import Checkpoint, open_checkpoint
from lanner.decoder import Decoder
from stepping import step_logits
from tiny_folder import folder_contents, safetensors_bytes, write_folder
from tiny_llama import IDS, MODELS, Tiny, contents, make

N_IDS = 70
FLOATS = MODELS["heads_of_20"]  # f16, bf16 and f32 side by side, an own head
NAMES = ("token_embd", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
HALVES = Tiny(16, 160, dict.fromkeys(NAMES, "f16"))


def logits(checkpoint: Checkpoint, **options: object) -> np.ndarray:
    return step_logits(Decoder(checkpoint, **options), IDS[:N_IDS], 64)


def gguf_of(tiny: Tiny, path: Path) -> Checkpoint:
    return open_checkpoint(make(tiny, path).path)


@pytest.mark.parametrize("n_shards", [1, 3])
@pytest.mark.parametrize("tiny", [FLOATS, HALVES], ids=["mixed", "f16"])
def test_gguf_and_folder_give_the_same_bits(tiny: Tiny, n_shards: int, tmp_path: Path) -> None:
    """Interleaved rotary rows there, half-split ones here."""
    folder = open_checkpoint(write_folder(tmp_path / "hf", *folder_contents(tiny), n_shards))
    gguf = gguf_of(tiny, tmp_path / "t.gguf")
    assert (folder.kind, gguf.kind, folder.architecture) == ("hf", "gguf", gguf.architecture)
    ours, theirs = Decoder(folder, n_threads=2), Decoder(gguf, n_threads=1)
    assert np.array_equal(step_logits(ours, IDS[:N_IDS], 64), step_logits(theirs, IDS[:N_IDS], 64))
    assert (ours.n_params, ours.formats) == (theirs.n_params, theirs.formats)
    # GGUF stores epsilon in float32, as the kernels take it.
    assert replace(ours.config, norm_eps=float(np.float32(ours.config.norm_eps))) == theirs.config


def test_norms_in_half_precision(tmp_path: Path) -> None:
    """They become float32 exactly, so a GGUF file with the rounded values gives the same bits."""
    folder = open_checkpoint(write_folder(tmp_path / "hf", *folder_contents(HALVES, norms="F16")))
    metadata, tensors, _ = contents(HALVES)
    for name, values in tensors.items():
        if isinstance(values, np.ndarray):
            tensors[name] = values.astype(np.float16).astype(np.float32)
    (tmp_path / "t.gguf").write_bytes(gguf_bytes(metadata, tensors))
    assert np.array_equal(logits(folder), logits(open_checkpoint(tmp_path / "t.gguf")))


@pytest.mark.parametrize("head", ["same", "other"])
def test_a_tied_head_that_is_stored(head: str, tmp_path: Path) -> None:
    """It is the embedding's where its bytes are; otherwise it counts, as in transformers."""
    config, tensors = folder_contents(HALVES)
    dtype, shape, data = tensors["model.embed_tokens.weight"]
    other = bytearray(data)
    other[-1] ^= 0x80  # the sign of the last value
    stored = tensors | {"lm_head.weight": (dtype, shape, data if head == "same" else bytes(other))}
    decoder = Decoder(open_checkpoint(write_folder(tmp_path / "stored", config, stored)))
    tied = logits(open_checkpoint(write_folder(tmp_path / "tied", config, tensors)))
    given = step_logits(decoder, IDS[:N_IDS], 64)
    assert np.array_equal(given[:, :-1], tied[:, :-1])
    assert np.array_equal(given[:, -1], tied[:, -1]) == (head == "same")
    assert (decoder.weight_bytes_per_token == decoder.weight_bytes) == (head == "same")


def test_a_file_of_the_folder_stands_for_it(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "hf", *folder_contents(HALVES))
    for name in ("config.json", "model.safetensors"):
        assert open_checkpoint(folder / name).folder == folder
    (folder / "adapter.safetensors").write_bytes(safetensors_bytes({}))
    with pytest.raises(
        _core.ModelFileError, match=r"adapter\.safetensors: is none of the weights of its folder"
    ):
        open_checkpoint(folder / "adapter.safetensors")
    with pytest.raises(FileNotFoundError):
        open_checkpoint(folder / "absent.safetensors")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt"])
def test_pickles_are_refused_with_the_safe_route(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(b"\x80\x04cos\nsystem\n")
    with pytest.raises(_core.UnsupportedModelError, match=rf"{name}: is a pickle, .*safetensors"):
        open_checkpoint(path)


def test_links_into_another_folder_are_followed(tmp_path: Path) -> None:
    """The hub's cache is made of them."""
    blobs = write_folder(tmp_path / "blobs", *folder_contents(HALVES), n_shards=2)
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for path in blobs.iterdir():
        (snapshot / path.name).symlink_to(path)
    assert np.array_equal(logits(open_checkpoint(snapshot)), logits(open_checkpoint(blobs)))


# ---- split GGUF ------------------------------------------------------------------------------------


def split_gguf(tiny: Tiny, folder: Path, per_part: int = 9) -> list[Path]:
    """The parts of a file, as the gguf package splits it."""
    import gguf

    metadata, tensors, _ = contents(tiny)
    writer = gguf.GGUFWriter(folder / "t.gguf", "llama", split_max_tensors=per_part)
    for key, value in metadata.items():
        if key != "general.architecture":
            writer.add_float32(key, value) if isinstance(value, float) else writer.add_uint32(key, value)
    for name, tensor in tensors.items():
        if isinstance(tensor, Encoded):
            rows = np.frombuffer(tensor.data, np.uint8).reshape(tensor.shape[0], -1)
            writer.add_tensor(name, rows, raw_dtype=gguf.GGMLQuantizationType(tensor.type))
        else:
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(folder.glob("t-*.gguf"))


def test_split_gguf_is_the_whole_file(tmp_path: Path) -> None:
    tiny = MODELS["heads_of_16"]
    parts = split_gguf(tiny, tmp_path)
    assert [path.name for path in parts] == [f"t-{i:05d}-of-00003.gguf" for i in (1, 2, 3)]
    whole = gguf_of(tiny, tmp_path / "whole.gguf")
    for path in parts:
        checkpoint = open_checkpoint(path)
        assert checkpoint.path == str(parts[0])
        assert checkpoint.n_bytes == sum(part.stat().st_size for part in parts)
    assert np.array_equal(logits(checkpoint), logits(whole))


def rewritten(path: Path, key: str, old: int, new: int) -> None:
    """A u16 or i32 of the metadata."""
    data = path.read_bytes()
    at = data.index(key.encode()) + len(key) + 4
    size = 4 if key.endswith("tensors.count") else 2
    assert int.from_bytes(data[at : at + size], "little") == old
    path.write_bytes(data[:at] + new.to_bytes(size, "little") + data[at + size :])


@pytest.mark.parametrize(
    ("part", "key", "old", "new", "message"),
    [
        (1, "split.no", 1, 2, "t-00002-of-00003.gguf: split.no is 2, wanted 1"),
        (2, "split.count", 3, 4, "t-00003-of-00003.gguf: split.count is 4, wanted 3"),
        (0, "split.count", 3, 65535, "split.count is 65535, which does not fit its name"),
        (0, "split.count", 3, 0, "split.count is 0, which does not fit its name"),
        (0, "split.count", 3, 1, "token_embd.weight' is missing|is missing"),
        (0, "split.tensors.count", 20, 21, "split.tensors.count is 21, its parts have 20 tensors"),
    ],
)
def test_parts_that_contradict(part: int, key: str, old: int, new: int, message: str, tmp_path: Path) -> None:
    parts = split_gguf(MODELS["heads_of_16"], tmp_path)
    rewritten(parts[part], key, old, new)
    with pytest.raises(_core.ModelFileError, match=message):
        Decoder(open_checkpoint(parts[0]))


def test_parts_that_are_missing_or_double(tmp_path: Path) -> None:
    parts = split_gguf(MODELS["heads_of_16"], tmp_path)
    third = parts[2].read_bytes()
    parts[2].unlink()
    with pytest.raises(_core.ModelFileError, match=r"part 3 of 3 is missing, t-00003-of-00003\.gguf"):
        open_checkpoint(parts[0])
    parts[2].write_bytes(third)
    renamed = parts[0].rename(tmp_path / "model.gguf")
    with pytest.raises(_core.ModelFileError, match=r"split\.count is 3, which does not fit its name"):
        open_checkpoint(renamed)
    renamed.rename(parts[0])
    parts[1].write_bytes(third)
    rewritten(parts[1], "split.no", 2, 1)
    with pytest.raises(
        _core.ModelFileError, match=r"t-00003-of-00003.gguf: tensor '.*' is in another part too"
    ):
        open_checkpoint(parts[0])
