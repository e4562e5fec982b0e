"""Packed weights hold the values that were given, in the order that a lane's operands want."""

import numpy as np
import pytest

from lanner.cuda.pack import from_bf16, pack, pack_int4, to_bf16, unpack, unpack_rounded


@pytest.fixture
def rng():
    return np.random.default_rng(0)


SHAPES = [(16, 64), (1, 64), (40, 192), (128, 128)]


def lane_codes(packed, tile, unit, load, lane):
    """The 16 bytes that a lane loads."""
    loads = {"bf16": 4, "int8": 2, "int4": 1}[packed.type]
    at = (((tile * (packed.k // 64) + unit) * loads + load) * 32 + lane) * 16
    return packed.codes[at : at + 16]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("type", ["bf16", "int8", "int4"])
def test_unpack_is_near(rng, shape, type):
    weights = rng.standard_normal(shape).astype(np.float32)
    groups = weights.reshape(shape[0], -1, 32)
    span = {
        "bf16": np.abs(groups) * 2**-7,
        "int8": np.abs(groups).max(2, keepdims=True) / 127,
        "int4": (groups.max(2, keepdims=True) - groups.min(2, keepdims=True)) / 15,
    }[type]
    # Half a step of the code, and the rounding of scale and minimum to float16.
    slack = np.abs(groups).max(2, keepdims=True) * 2**-10
    error = np.abs(unpack(pack(weights, type)).reshape(groups.shape) - groups)
    assert (error <= span / 2 + (0 if type == "bf16" else slack)).all()


def test_given_codes_are_kept(rng):
    n, k = 24, 128
    codes = rng.integers(0, 16, (n, k)).astype(np.uint8)
    scales, minima = rng.standard_normal((2, n, k // 32)).astype(np.float16)
    want = codes * np.repeat(scales, 32, 1).astype(float) + np.repeat(minima, 32, 1).astype(float)
    packed = pack_int4(codes, scales, minima)
    np.testing.assert_array_equal(unpack(packed), want)
    error = np.abs(unpack_rounded(packed) - want)
    assert (error <= np.abs(want) * 2**-8).all()


def test_zero_group():
    for type in ("bf16", "int8", "int4"):
        assert not unpack(pack(np.zeros((16, 64), np.float32), type)).any()


def test_lane_order(rng):
    """Rows g and g + 8, k = 32 j + 8 c + 4 s + 2 p + e, where weights.h says."""
    n, k = 32, 128
    index = np.arange(n)[:, None] * 4 + np.arange(k)[None, :] % 4  # below 128: exact in bf16 and int8
    bf16 = pack(index.astype(np.float32), "bf16")
    for tile, unit, load, lane in [(0, 0, 0, 0), (1, 1, 3, 31), (0, 1, 1, 13), (1, 0, 2, 6)]:
        g, c = lane // 4, lane % 4
        j, s = load // 2, load % 2
        got = from_bf16(lane_codes(bf16, tile, unit, load, lane).view(np.uint16)).reshape(2, 2, 2)
        for p in range(2):
            for h in range(2):
                at = 64 * unit + 32 * j + 8 * c + 4 * s + 2 * p
                np.testing.assert_array_equal(got[p, h], index[16 * tile + 8 * h + g, at : at + 2])


def test_bf16_rounds_to_even():
    values = np.array([1 + 2**-8, 1 + 3 * 2**-8, -(1 + 2**-8 + 2**-20), np.inf, np.nan, 0], np.float32)
    got = from_bf16(to_bf16(values))
    np.testing.assert_array_equal(got, np.array([1, 1 + 2**-6, -(1 + 2**-7), np.inf, np.nan, 0], np.float32))
