"""How tensors become weights: names, transforms, experts, quantization at load."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import lanner
from gguf_writer import Encoded, gguf_bytes
from lanner import _core
from lanner.checkpoint import Checkpoint, open_checkpoint
from lanner.decoder import Decoder
from lanner.weights import Source, Weights
from reference import dequantize, half_split, quantized
from stepping import step_logits
from tiny_folder import Stored, folder_contents, write_folder
from tiny_llama import IDS, MODELS, Tiny, contents, make

RNG = np.random.default_rng(9)
NAMES = ("token_embd", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
HALVES = Tiny(16, 160, dict.fromkeys(NAMES, "f16"))
DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}


def folder(path: Path, **arrays: tuple[str, np.ndarray]) -> Checkpoint:
    """A folder with these tensors; float32 values are rounded to their dtype."""
    stored: dict[str, Stored] = {
        name.replace("__", "."): (dtype, values.shape, as_stored(dtype, values).tobytes())
        for name, (dtype, values) in arrays.items()
    }
    return open_checkpoint(write_folder(path, {"model_type": "llama"}, stored))


def as_stored(dtype: str, values: np.ndarray) -> np.ndarray:
    if dtype == "BF16":
        return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return values.astype(DTYPES[dtype])


def as_float32(dtype: str, values: np.ndarray) -> np.ndarray:
    stored = as_stored(dtype, values)
    return (stored.astype(np.uint32) << 16).view(np.float32) if dtype == "BF16" else stored.astype(np.float32)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def unpacked(weights: Weights, *sources: Source) -> np.ndarray:
    weight = weights.packed(*sources)
    weights.packer.wait()
    return weight.unpack()


# ---- names and shapes -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_names_transforms_and_vectors(dtype: str, tmp_path: Path) -> None:
    """A transposed matrix, split rows, a shifted norm: what converters do to GGUF files."""
    matrix, norm, bias = normal(40, 24), normal(24), normal(24)
    checkpoint = folder(
        tmp_path, h__3__w=("F32", normal(2, 2)), transformer__h__3__fc__weight=(dtype, matrix),
        transformer__h__3__norm__weight=(dtype, norm), transformer__h__3__fc__bias=(dtype, bias),
    )  # fmt: skip
    names = {
        "blk.{}.up": "transformer.h.{}.fc",
        "blk.{}.norm": "transformer.h.{}.norm",
        "blk.{}.x.weight": "h.{}.w",
    }
    w = Weights(checkpoint, 2, names)
    assert w.has("blk.3.up.bias") and not w.has("blk.2.up.bias") and not w.has("output.weight")
    assert w.shape("blk.3.up.weight") == (40, 24)
    packed = w.packed(Source("blk.3.up.weight", (24, 40), interleaved=24, hf=lambda a: a.T))
    w.packer.wait()
    assert np.array_equal(packed.unpack(), as_float32(dtype, matrix).T)
    assert packed.formats == [dtype.lower()]
    given = w.vector(Source("blk.3.norm.weight", (24,), hf=lambda a: a + 1))
    assert np.array_equal(np.asarray(given), as_float32(dtype, norm) + 1)
    assert np.array_equal(np.asarray(w.vector(Source("blk.3.up.bias", (24,)))), as_float32(dtype, bias))
    with pytest.raises(_core.UnsupportedModelError, match=r"1 tensors .* such as 'h\.3\.w'"):
        w.finish()
    w.finish(ignored=["h.*.w"])
    with pytest.raises(_core.ModelFileError, match=r"'transformer\.h\.3\.fc\.weight' gives shape \(24, 40\)"):
        w.packed(Source("blk.3.up.weight", (40, 24), hf=lambda a: a.T))
    with pytest.raises(_core.ModelFileError, match=r"tensor 'transformer\.h\.4\.fc\.weight' is missing"):
        w.packed(Source("blk.4.up.weight", (40, 24)))


def test_tables_have_their_shape(tmp_path: Path) -> None:
    table = normal(7, 5)
    w = Weights(folder(tmp_path, wpe__weight=("F16", table)), 1, {"position_embd": "wpe"})
    given = w.vector(Source("position_embd.weight", (7, 5)))
    assert (given.shape, given.format) == ((7, 5), "f")
    assert np.array_equal(np.asarray(given), as_float32("F16", table))


def test_a_prefix_that_the_file_lacks(tmp_path: Path) -> None:
    for part, name in (("with", "bert__norm__weight"), ("without", "norm__weight")):
        w = Weights(
            folder(tmp_path / part, **{name: ("F32", normal(4))}), 1, {"norm": "bert.norm"}, prefix="bert."
        )
        assert len(w.vector(Source("norm.weight", (4,)))) == 4
        w.finish()


def test_experts_of_a_folder_and_of_a_file(tmp_path: Path) -> None:
    experts = normal(3, 20, 32).astype(np.float16)
    arrays = {f"l__0__e__{i}__w__weight": ("F16", experts[i].astype(np.float32)) for i in range(3)}
    one_by_one = Weights(folder(tmp_path / "a", **arrays), 1, {"blk.{}.ffn_up_exps": "l.{}.e.{}.w"})
    together = folder(tmp_path / "b", l__0__w__weight=("F16", experts.astype(np.float32)))
    (tmp_path / "t.gguf").write_bytes(
        gguf_bytes({"general.architecture": "llama"}, {"blk.0.ffn_up_exps.weight": experts})
    )
    for w in (
        one_by_one,
        Weights(together, 1, {"blk.{}.ffn_up_exps": "l.{}.w"}),
        Weights(open_checkpoint(tmp_path / "t.gguf"), 1),
    ):
        sources = [Source("blk.0.ffn_up_exps.weight", (20, 32), index=i) for i in range(3)]
        w.packed(*sources[:2])
        with pytest.raises(_core.UnsupportedModelError, match=r"experts, 2 are used|l\.0\.e\.2\.w\.weight"):
            w.finish()
        assert np.array_equal(unpacked(w, *sources), experts.reshape(60, 32).astype(np.float32))
        w.finish()
        assert w.n_params == experts.size
        turned = Source("blk.0.ffn_up_exps.weight", (32, 20), index=1, hf=lambda a: a.T)
        if w.checkpoint.kind == "hf":
            assert np.array_equal(unpacked(w, turned), experts[1].T.astype(np.float32))
        with pytest.raises(_core.ModelFileError, match=r"missing|has shape \(3, 20, 32\)"):
            w.packed(Source("blk.0.ffn_up_exps.weight", (20, 32), index=3))


def test_ranges_that_lie_are_refused_in_the_core(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(128))
    file = _core.MappedFile(tmp_path / "f")
    assert _core.Packed.from_files([(file, 0, "f32", 4, 8, 0, "f32")]).shape == (4, 8)
    for source, error in (
        ((file, 1, "f32", 4, 8, 0, "f32"), _core.ModelFileError),
        ((file, 2**64 - 1, "f32", 4, 8, 0, "f32"), _core.ModelFileError),
        ((file, 0, "f32", 2**31 - 1, 2**31 - 1, 0, "f32"), _core.ModelFileError),
        ((file, 0, "f32", 2**31, 1, 0, "f32"), ValueError),
        ((file, 0, "f32", -4, -8, 0, "f32"), ValueError),
        ((file, 0, "f32", 0, 8, 0, "f32"), ValueError),
        ((file, 0, "q8_0", 1, 33, 0, "q8_0"), ValueError),
        ((file, 0, "q8_0", 1, 32, 0, "q4_0"), ValueError),
        ((file, 0, "f32", 1, 32, 0, "q4_k"), ValueError),
        ((file, 0, "f33", 1, 32, 0, "f33"), ValueError),
        ((file, 0, "f32", 1, 32, 24, "f32"), ValueError),
        ((np.zeros(128, np.uint8), 4, "f32", 4, 8, 0, "f32"), ValueError),
    ):
        with pytest.raises(error):
            _core.Packed.from_files([source])


# ---- quantization at load -------------------------------------------------------------------------


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("format", ["q8_0", "q4_0"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_quantized_as_the_gguf_package_does(dtype: str, format: str, n_threads: int, tmp_path: Path) -> None:
    """More rows than a slice of 4 MB, the last panel not whole; an array transform; a width that stays."""
    wide, odd = normal(2100, 1056), normal(33, 40)
    checkpoint = folder(tmp_path, a__weight=(dtype, wide), b__weight=(dtype, odd))
    w = Weights(checkpoint, n_threads, {"a": "a", "b": "b"}, quantize=format)
    want = dequantize(format, quantized(format, as_float32(dtype, wide)))
    assert w.packed(Source("a.weight", wide.shape)).formats == [format]
    assert np.array_equal(unpacked(w, Source("a.weight", wide.shape)), want)
    turned = Source("a.weight", wide.shape, hf=lambda a: a[::-1])
    assert np.array_equal(unpacked(w, turned), want[::-1])
    kept = w.packed(Source("b.weight", odd.shape))
    w.packer.wait()
    assert kept.formats == [dtype.lower()] and np.array_equal(kept.unpack(), as_float32(dtype, odd))
    assert w.packed(Source("a.weight", wide.shape), keep=True).formats == [dtype.lower()]


@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_weights_are_packed_while_others_come(n_threads: int, tmp_path: Path) -> None:
    """The same bytes from any number of threads; of several that are damaged the first is named."""
    tensors = {f"{i}": normal(700, 1024) for i in range(12)}
    path = tmp_path / "t.gguf"
    path.write_bytes(gguf_bytes({"general.architecture": "llama"}, tensors))
    w = Weights(open_checkpoint(path), n_threads)
    made = [w.packed(Source(name, (700, 1024))) for name in tensors]
    w.packer.wait()
    for weight, values in zip(made, tensors.values(), strict=True):
        assert np.array_equal(weight.unpack(), values)
    w.packed(Source("3", (700, 1024)))  # what nobody waits for
    del w
    for name in ("4", "9"):
        tensors[name][600, 1000] = np.nan
    path.write_bytes(gguf_bytes({"general.architecture": "llama"}, tensors))
    w = Weights(open_checkpoint(path), n_threads)
    for name in tensors:
        w.packed(Source(name, (700, 1024)))
    with pytest.raises(_core.ModelFileError, match=r"t\.gguf: tensor '4': .* infinite or NaN"):
        w.packer.wait()


def test_interleaved_rows_are_quantized_alike(tmp_path: Path) -> None:
    rows = normal(40, 64).astype(np.float16)
    tensors = {"a": rows, "b": half_split(rows, 20)}
    (tmp_path / "t.gguf").write_bytes(gguf_bytes({"general.architecture": "llama"}, tensors))
    w = Weights(open_checkpoint(tmp_path / "t.gguf"), 1, quantize="q8_0")
    a, b = w.packed(Source("a", (40, 64), interleaved=20)), w.packed(Source("b", (40, 64)))
    w.packer.wait()
    assert np.array_equal(a.unpack(), b.unpack())


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e9])
def test_values_that_no_block_holds(bad: float, tmp_path: Path) -> None:
    """1e9 / 127 is beyond the float16 scale."""
    values = normal(20, 64)
    values[17, 3] = bad
    w = Weights(folder(tmp_path, a__weight=("F32", values)), 1, {"a": "a"}, quantize="q8_0")
    with pytest.raises(
        _core.ModelFileError, match=r"'a\.weight': pack: a f32 weight .* beyond the scales of q8_0"
    ):
        unpacked(w, Source("a.weight", (20, 64)))


@pytest.mark.parametrize("format", ["q8_0", "q4_0"])
def test_a_quantized_folder_is_the_quantized_file(format: str, tmp_path: Path) -> None:
    """Bit for bit what a GGUF file gives whose matrices the gguf package has quantized."""
    config, tensors = folder_contents(HALVES)
    path = write_folder(tmp_path / "hf", config, tensors)
    decoder = Decoder(open_checkpoint(path), quantize=format)
    metadata, stored, _ = contents(HALVES)
    type = {"q8_0": 8, "q4_0": 2}[format]
    for name, tensor in stored.items():
        if isinstance(tensor, Encoded):
            values = np.frombuffer(tensor.data, np.float16).reshape(tensor.shape).astype(np.float32)
            stored[name] = Encoded(type, tensor.shape, quantized(format, values).tobytes())
    (tmp_path / "q.gguf").write_bytes(gguf_bytes(metadata, stored))
    theirs = Decoder(open_checkpoint(tmp_path / "q.gguf"))
    assert np.array_equal(step_logits(decoder, IDS[:70], 64), step_logits(theirs, IDS[:70], 64))
    assert decoder.formats == theirs.formats and set(decoder.formats) == {"f32", format}
    assert decoder.weight_bytes == theirs.weight_bytes
    # A GGUF file of halves is quantized too.
    same = Decoder(open_checkpoint(make(HALVES, tmp_path / "h.gguf").path), quantize=format)
    assert np.array_equal(step_logits(same, IDS[:70], 64), step_logits(theirs, IDS[:70], 64))


def test_what_is_quantized_already_stays(tmp_path: Path) -> None:
    path = make(MODELS["heads_of_16"], tmp_path / "t.gguf").path
    assert Decoder(open_checkpoint(path), quantize="q4_0").formats == Decoder(open_checkpoint(path)).formats


def test_quantize_is_checked(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "hf", *folder_contents(HALVES))
    with pytest.raises(ValueError, match="load: quantize is 'q5_1', wanted one of q8_0, q4_0, or None"):
        Decoder(open_checkpoint(path), quantize="q5_1")
    with pytest.raises(TypeError, match="the nearest is 'quantize'"):
        lanner.load(path, quantise="q8_0")
