from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

import reference
from lanner import _core
from lanner.ops._quantization import FORMATS, QUANTIZABLE, dequantize, quantize

CODED = [f for f in QUANTIZABLE if f not in ("f32", "f16", "bf16")]


def same_bits(a: np.ndarray, b: np.ndarray) -> None:
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
    np.testing.assert_array_equal(a.view(np.uint8), np.ascontiguousarray(b).view(np.uint8))


def rows_of(fmt: str, n: int, blocks: int, *, extreme: bool = False) -> np.ndarray:
    return reference.random_rows(
        fmt, n, blocks * FORMATS[fmt][0], np.random.default_rng(n * 97 + blocks), extreme=extreme
    )


def some_floats(shape: tuple[int, ...], seed: int, spread: float = 2.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) * 10 ** rng.uniform(-spread, spread, shape)).astype(np.float32)


def test_the_blocks_are_those_of_gguf() -> None:
    sizes = {t.name.lower(): size for t, size in gguf.GGML_QUANT_SIZES.items()}
    assert {name: sizes[name] for name in FORMATS} == FORMATS


@pytest.mark.parametrize("extreme", [False, True])
@pytest.mark.parametrize("blocks", [1, 2, 3, 5, 33])
@pytest.mark.parametrize("fmt", FORMATS)
def test_dequantize_is_that_of_gguf(fmt: str, blocks: int, extreme: bool) -> None:
    data = rows_of(fmt, 7, blocks, extreme=extreme)
    same_bits(dequantize(data, fmt), reference.dequantize(fmt, data))


@pytest.mark.parametrize("fmt", FORMATS)
def test_dequantize_of_every_byte_at_every_place(fmt: str) -> None:
    n_bytes = FORMATS[fmt][1]
    data = np.tile(rows_of(fmt, 1, 1), (n_bytes, 256, 1))
    data[np.arange(n_bytes), :, np.arange(n_bytes)] = np.arange(256)
    with np.errstate(all="ignore"):
        values, wanted = dequantize(data, fmt), reference.dequantize(fmt, data)
    known = ~np.isnan(wanted)  # of NaN, only that it stays one
    np.testing.assert_array_equal(np.isnan(values), ~known)
    np.testing.assert_array_equal(values[known].view(np.uint32), wanted[known].view(np.uint32))


@pytest.mark.parametrize("fmt", ["f16", "bf16"])
def test_dequantize_of_every_half(fmt: str) -> None:
    data = np.arange(65536, dtype=np.uint16).view(np.uint8)
    np.testing.assert_array_equal(dequantize(data, fmt), reference.dequantize(fmt, data))


@pytest.mark.parametrize("length", [*range(33), 37, 257])
@pytest.mark.parametrize("fmt", ["f32", "f16", "bf16"])
def test_floats_of_every_length_there_and_back(fmt: str, length: int) -> None:
    x = some_floats((3, length), length)
    data = quantize(x, fmt)
    if length:
        same_bits(data, reference.quantized(fmt, x))
        same_bits(dequantize(data, fmt), reference.dequantize(fmt, data))
    assert dequantize(data, fmt).shape == x.shape


@pytest.mark.parametrize("shape", [(1, 32), (7, 96), (3, 5, 64), (640,), (300, 576)])
@pytest.mark.parametrize("fmt", CODED)
def test_quantize_is_that_of_gguf(fmt: str, shape: tuple[int, ...]) -> None:
    x = some_floats(shape, len(shape) + shape[-1])
    same_bits(quantize(x, fmt), reference.quantized(fmt, x))


@pytest.mark.parametrize("fmt", CODED)
def test_quantize_of_weights_with_outliers(fmt: str) -> None:
    """As trained matrices are: small, with heavy tails, some columns and single values far larger."""
    rng = np.random.default_rng(5)
    x = rng.standard_t(3, (96, 576)) * 0.02 * np.exp(rng.standard_normal(576))
    x[rng.random(x.shape) < 1e-3] *= 50
    same_bits(quantize(x.astype(np.float32), fmt), reference.quantized(fmt, x.astype(np.float32)))


def test_the_tensors_of_a_model(smollm2_path: Path) -> None:
    file = _core.GgufFile(smollm2_path)
    for name in ("blk.0.attn_q.weight", "blk.3.ffn_down.weight", "blk.9.ffn_up.weight", "output_norm.weight"):
        info, data = file.tensors()[name], file.tensor_data(name)
        values = dequantize(data, info.format, shape=info.shape)
        block_bytes = FORMATS[info.format][1]
        same_bits(values.ravel(), reference.dequantize(info.format, data.reshape(-1, block_bytes)).ravel())
        for coded in CODED:
            same_bits(quantize(values[:64], coded), reference.quantized(coded, values[:64]))


@pytest.mark.parametrize("fmt", CODED)
def test_quantize_of_ties_zeros_and_ends(fmt: str) -> None:
    rng = np.random.default_rng(8)
    blocks = [
        np.zeros(32),
        np.full(32, -0.0),
        np.full(32, 3.5),
        np.full(32, -3.5),
        np.arange(32),
        -np.arange(32),
    ]
    blocks += [rng.choice([-1.0, 1.0], 32) for _ in range(8)]  # the first of the largest decides
    blocks += [rng.integers(-127, 128, 32) / 2 for _ in range(8)]  # halves
    blocks += [rng.standard_normal(32) * 10.0**e for e in (-44, -40, -38, -37, -30, -8, -5, 3, 4)]
    blocks += [np.where(np.arange(32) == at, -65000.0, 1e-3) for at in (0, 15, 16, 31)]
    x = np.array(blocks, np.float32)
    with np.errstate(all="ignore"):
        same_bits(quantize(x, fmt), reference.quantized(fmt, x))


@pytest.mark.parametrize(
    ("fmt", "low", "high"),
    [("q4_0", -8, 7), ("q5_0", -16, 15), ("q4_1", 0, 15), ("q5_1", 0, 31), ("q8_0", -127, 127)],
)
def test_quantize_of_values_between_two_codes(fmt: str, low: int, high: int) -> None:
    """A scale that is a power of two makes exact halves, of which each format has a rule."""
    x = np.random.default_rng(1).integers(low, high, (200, 32)) + 0.5
    x[:, 3], x[:, 20] = low, high
    for scale in (1, 0.25, -0.5 if low else 2):
        scaled = (x * scale).astype(np.float32)
        data = quantize(scaled, fmt)
        same_bits(data, reference.quantized(fmt, scaled))
        assert (np.abs(dequantize(data, fmt) - scaled) >= np.abs(scale) / 2)[:, :3].all()


@pytest.mark.parametrize("fmt", CODED)
def test_quantize_keeps_its_bound(fmt: str) -> None:
    x = some_floats((200, 96), 3, spread=1.0)
    blocks = x.reshape(-1, 32).astype(np.float64)
    largest, span = np.abs(blocks).max(axis=1), np.ptp(blocks, axis=1)
    step = {
        "q4_0": largest / 8,
        "q5_0": largest / 16,
        "q4_1": span / 15,
        "q5_1": span / 31,
        "q8_0": largest / 127,
    }
    error = np.abs(dequantize(quantize(x, fmt), fmt).reshape(-1, 32) - blocks).max(axis=1)
    assert (error <= step[fmt] + 4 * 2.0**-11 * largest).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("at", [0, 15, 16, 31, 95])
@pytest.mark.parametrize("fmt", CODED)
def test_quantize_refuses_what_the_scale_cannot_hold(fmt: str, at: int, value: float) -> None:
    x = some_floats((2, 96), 5)
    x[1, at] = value
    with pytest.raises(ValueError, match=f"quantize: x holds infinite or NaN values, or .* scales of {fmt}"):
        quantize(x, fmt)


@pytest.mark.parametrize("fmt", ["f16", "bf16"])
def test_floats_keep_what_is_not_finite(fmt: str) -> None:
    x = np.array([np.nan, np.inf, -np.inf, 3.4e38, -3.4e38, 1e-45, -0.0], np.float32)
    with np.errstate(over="ignore"):
        wanted = reference.dequantize(fmt, reference.quantized(fmt, x))
    np.testing.assert_array_equal(dequantize(quantize(x, fmt), fmt), wanted)


@pytest.mark.parametrize("fmt", FORMATS)
def test_rows_threads_and_places_change_no_bit(fmt: str) -> None:
    data = rows_of(fmt, 40, 3)
    # Enough blocks for several slices.
    many = np.tile(data, (-(-200_000 // (40 * 3 * FORMATS[fmt][0])), 1))
    whole = dequantize(many, fmt)
    before = _core.array.get_threads()
    try:
        for n_threads in (1, 2, 3, 4):
            _core.array.set_threads(n_threads)
            same_bits(dequantize(many, fmt), whole)
    finally:
        _core.array.set_threads(before)
    for n in range(1, 41):
        same_bits(dequantize(data[:n], fmt), whole[:n])
    for shift in range(1, 8):
        room = np.zeros(data.size + 8, np.uint8)
        moved = room[shift : shift + data.size].reshape(data.shape)
        moved[...] = data
        same_bits(dequantize(moved, fmt), whole[:40])
    if fmt in QUANTIZABLE:
        x = some_floats((40, 96), 9)
        made = quantize(x, fmt)
        for n in range(1, 41):
            same_bits(quantize(x[-n:], fmt), made[-n:])


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (
            (np.zeros((2, 17), np.uint8), "q4_0"),
            {},
            ValueError,
            "data has rows of 17 bytes, wanted a multiple of 18",
        ),
        ((np.zeros((2, 18)), "q4_0"), {}, TypeError, "dequantize: data is float64, wanted uint8"),
        (([1, 2], "q4_0"), {}, TypeError, "dequantize: data is a list, wanted an array of uint8"),
        ((np.zeros((), np.uint8), "f32"), {}, ValueError, "dequantize: data has no axes"),
        ((np.zeros(18, np.uint8), "q4_o"), {}, ValueError, "format is 'q4_o'; did you mean 'q4_"),
        ((np.zeros(18, np.uint8), "Q6_K"), {}, ValueError, "format is 'Q6_K'; did you mean 'q6_k'"),
        ((np.zeros(18, np.uint8), "zip"), {}, ValueError, "format is 'zip'; wanted one of f32"),
        ((np.zeros(18, np.uint8), 2), {}, TypeError, "format is a int"),
        (
            (np.zeros(18, np.uint8), "q4_0"),
            {"shape": (33,)},
            ValueError,
            r"shape is \(33,\), wanted a last axis",
        ),
        (
            (np.zeros(18, np.uint8), "q4_0"),
            {"shape": (64,)},
            ValueError,
            r"18 bytes, q4_0 of shape \(64,\) has 36",
        ),
        ((np.zeros(18, np.uint8), "q4_0"), {"out": np.zeros(31, "f4")}, ValueError, r"out has shape \(31,\)"),
        (
            (np.zeros(18, np.uint8), "q4_0"),
            {"out": np.zeros(32)},
            TypeError,
            "out is float64, wanted an array of",
        ),
    ],
)
def test_dequantize_refuses(arguments, options, error, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=message):
        dequantize(*arguments, **options)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (
            (np.zeros((2, 33), "f4"), "q4_0"),
            {},
            ValueError,
            "x has 33 columns, wanted a multiple of 32 for q4_0",
        ),
        ((np.zeros((2, 32)), "q4_0"), {}, TypeError, "quantize: x is float64, wanted float32"),
        ((np.zeros((), "f4"), "q4_0"), {}, ValueError, "quantize: x has no axes"),
        (
            (np.zeros(256, "f4"), "q4_k"),
            {},
            ValueError,
            "format 'q4_k' can be read, not made; wanted one of f32",
        ),
        ((np.zeros(32, "f4"), "q8-0"), {}, ValueError, "format is 'q8-0'; did you mean 'q8_0'"),
        (
            (np.zeros(32, "f4"), "q4_0"),
            {"out": np.zeros(17, "u1")},
            ValueError,
            r"out has shape \(17,\), wanted \(18,\)",
        ),
    ],
)
def test_quantize_refuses(arguments, options, error, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=message):
        quantize(*arguments, **options)
