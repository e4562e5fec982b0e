from __future__ import annotations

import numpy as np
import pytest
from harness import bits

from cases import INTERLEAVED, PACK
from lanner import _core
from reference import (
    CODES,
    FLOATS,
    FORMATS,
    HALVES,
    block_of,
    dequantize,
    fit,
    half_split,
    random_rows,
    read_blocks,
    read_parts,
)


def packed(fmt: str, rows: np.ndarray, k: int, head_dim: int = 0, n_threads: int = 1) -> _core.Packed:
    return _core.Packed([(rows.ravel(), fmt, len(rows), k, head_dim)], n_threads=n_threads)


@pytest.mark.parametrize("extreme", [False, True])
@pytest.mark.parametrize(("fmt", "n", "k"), PACK)
def test_unpack_is_dequantization_bit_for_bit(fmt: str, n: int, k: int, extreme: bool) -> None:
    rows = random_rows(fmt, n, k, np.random.default_rng(n * k), extreme=extreme)
    weight = packed(fmt, rows, k)
    assert (weight.shape, weight.formats) == ((n, k), [fmt])
    np.testing.assert_array_equal(bits(weight.unpack()), bits(dequantize(fmt, rows)))


@pytest.mark.parametrize("fmt", [f for f in FORMATS if f not in FLOATS])
def test_every_code_at_every_place(fmt: str) -> None:
    k, n_bytes = 2 * block_of(fmt)[0], block_of(fmt)[1]
    rows = random_rows(fmt, 256, k, np.random.default_rng(3))
    scales = {at + i for at in HALVES[fmt] for i in (0, 1)} | ({0} if fmt == "mxfp4" else set())
    for at in set(range(n_bytes)) - scales:
        rows[:, at] = np.arange(256)
    np.testing.assert_array_equal(bits(packed(fmt, rows, k).unpack()), bits(dequantize(fmt, rows)))


def test_every_finite_half() -> None:
    halves = np.arange(65536, dtype=np.uint16)
    halves = halves[(halves & 0x7C00) != 0x7C00].reshape(-1, 62)
    rows = halves.view(np.uint8)
    np.testing.assert_array_equal(
        bits(packed("f16", rows, 62).unpack()), bits(halves.view(np.float16).astype("f4"))
    )


@pytest.mark.parametrize("fmt", [*CODES, "q8_0"])
def test_the_fields_of_the_reference_are_those_of_the_format(fmt: str) -> None:
    rows = random_rows(fmt, 33, 96, np.random.default_rng(4), extreme=True)
    np.testing.assert_array_equal(read_blocks(fmt, rows).values().astype(np.float32), dequantize(fmt, rows))


@pytest.mark.parametrize("fmt", [f for f in FORMATS if f not in FLOATS])
def test_the_parts_of_the_reference_sum_to_the_values(fmt: str) -> None:
    rows = random_rows(fmt, 33, fit(fmt, 96), np.random.default_rng(4), extreme=True)
    parts = read_parts(fmt, rows)
    np.testing.assert_array_equal((parts.above + parts.minimum).astype(np.float32), dequantize(fmt, rows))


@pytest.mark.parametrize(("fmt", "n_heads", "head_dim"), INTERLEAVED)
def test_rotary_pairs_move_to_half_split_order(fmt: str, n_heads: int, head_dim: int) -> None:
    rows = random_rows(fmt, n_heads * head_dim, 32, np.random.default_rng(head_dim))
    weight = packed(fmt, rows, 32, head_dim)
    np.testing.assert_array_equal(weight.unpack(), half_split(dequantize(fmt, rows), head_dim))


@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_fused_weight_keeps_the_formats(n_threads: int) -> None:
    rng = np.random.default_rng(5)
    sources = [(fmt, random_rows(fmt, n, 96, rng), dim) for fmt, n, dim in
               (("q4_1", 40, 20), ("q8_0", 20, 20), ("f16", 20, 0), ("q5_0", 1, 0))]  # fmt: skip
    weight = _core.Packed([(r.ravel(), fmt, len(r), 96, d) for fmt, r, d in sources], n_threads=n_threads)
    wanted = [half_split(dequantize(fmt, r), d) if d else dequantize(fmt, r) for fmt, r, d in sources]
    np.testing.assert_array_equal(weight.unpack(), np.concatenate(wanted))
    assert weight.shape == (81, 96)
    assert weight.formats == ["q4_1", "q8_0", "f16", "q5_0"]
    assert weight.inputs == ["int8", "int16", "float", "int8"]
    assert weight.segment_rows == [40, 20, 20, 1]
    assert weight.nbytes == 3 * (3 * 320 + 2 * 544 + 352) + 2 * 96 * 32


def test_slices_of_many_threads() -> None:
    # 9 MB of float32 are more than two slices of 4 MB.
    rows = random_rows("f32", 700, 3333, np.random.default_rng(6))
    for n_threads in (1, 4):
        weight = packed("f32", rows, 3333, n_threads=n_threads)
        np.testing.assert_array_equal(bits(weight.unpack()), rows)


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(fmt: str, value: float) -> None:
    if fmt == "mxfp4":
        pytest.skip("E8M0 scales have a test of their own")
    fields = {"f32": "<f4", "f16": "<f2", "bf16": "<u2"}
    as_bits = np.array(value, "<f4").view("<u4") >> 16 if fmt == "bf16" else value
    stored = np.frombuffer(np.array(as_bits, fields.get(fmt, "<f2")).tobytes(), np.uint8)
    k = 2 * max(block_of(fmt)[0], 32)
    for field in HALVES.get(fmt, (0,)):
        for row in (0, 16, 18):
            rows = random_rows(fmt, 19, k, np.random.default_rng(7))
            at = rows.shape[1] // 2 + field
            rows[row, at : at + len(stored)] = stored
            what = "value" if fmt in FLOATS else "scale"
            message = rf"pack: a {fmt} weight of shape \(19, {k}\) holds an infinite or NaN {what}"
            with pytest.raises(_core.ModelFileError, match=message):
                packed(fmt, rows, k)


def test_scales_of_mxfp4_that_leave_float32_are_refused() -> None:
    rows = random_rows("mxfp4", 19, 64, np.random.default_rng(7))
    rows[18, 17] = 252
    assert np.isfinite(packed("mxfp4", rows, 64).unpack()).all()
    rows[18, 17] = 253
    with pytest.raises(_core.ModelFileError, match=r"pack: a mxfp4 weight .* holds an infinite or NaN scale"):
        packed("mxfp4", rows, 64)


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([], "pack: no weight was given"),
        ([(20, "q9_9", 1, 32, 0)], "format 'q9_9' is none that this library knows"),
        ([(144, "q4_k", 1, 128, 0)], r"pack: shape is \(1, 128\), wanted .* the last a multiple of 256"),
        (
            [(20, "q4_1", 1, 33, 0)],
            r"pack: shape is \(1, 33\), wanted positive numbers .* the last a multiple of 32",
        ),
        ([(0, "f32", 0, 4, 0)], r"pack: shape is \(0, 4\)"),
        ([(0, "f32", 4, 0, 0)], r"pack: shape is \(4, 0\)"),
        ([(20, "q4_1", -1, 32, 0)], r"pack: shape is \(-1, 32\)"),
        ([(19, "q4_1", 1, 32, 0)], r"pack: q4_1 of shape \(1, 32\) has 19 bytes, wanted 20"),
        ([(20, "q4_1", 2**31 - 1, 32, 0)], "has 20 bytes, wanted 42949672940"),
        ([(32, "f32", 2, 4, 3)], "pack: 2 rows do not divide into heads of 3"),
        ([(32, "f32", 2, 4, -2)], "pack: 2 rows do not divide into heads of -2"),
        ([(96, "f32", 6, 4, 4)], "pack: 6 rows do not divide into heads of 4"),
        ([(16, "f32", 1, 4, 0), (20, "f32", 1, 5, 0)], "fused have 4 and 5 input features"),
    ],
)
def test_refuses(sources: list[tuple[int, str, int, int, int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _core.Packed([(np.zeros(n_bytes, np.uint8), *rest) for n_bytes, *rest in sources])


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(TypeError):
        _core.Packed([(np.zeros(4, np.uint8), "f32", 1, 1, 0)], threads=1)
