from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from harness import EMULATED, fewer

from cases_attention import SDPA, SdpaCase, answer
from lanner import _core
from lanner.ops._attention import sdpa


def run(case: SdpaCase) -> np.ndarray:
    return sdpa(*case.arrays, **case.options)


def bits(x: np.ndarray) -> np.ndarray:
    return x.view(np.uint16 if x.itemsize == 2 else np.uint32)


def assert_same_bits(x: np.ndarray, y: np.ndarray, message: str = "") -> None:
    np.testing.assert_array_equal(bits(x), bits(y), err_msg=message)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = _core.array.get_threads()
    yield
    _core.array.set_threads(before)


# ---- accuracy ------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", SDPA, ids=str)
def test_close_to_float64(case: SdpaCase) -> None:
    wanted = answer(case)
    out, weights = sdpa(*case.arrays, **case.options, return_weights=True)
    assert out.dtype == case.dtype
    assert weights.dtype == np.float32
    assert (np.abs(out - wanted.out) <= wanted.bound).all()
    assert (np.abs(out - wanted.out) <= wanted.printed).all()
    assert (np.abs(weights - wanted.weights) <= wanted.weight_bound).all()
    assert (weights[wanted.weights == 0] == 0).all()
    assert_same_bits(run(case), out, "without weights")


def random_case(seed: int, spread: float) -> SdpaCase:
    rng = np.random.default_rng(seed)
    kv_heads, group, causal = int(rng.integers(1, 3)), int(rng.integers(1, 4)), bool(rng.integers(2))
    q_len, kv_len, dim = (int(rng.integers(1, n)) for n in (20, 300, 130))
    window = int(rng.integers(1, 150)) if causal and rng.integers(3) == 0 else None
    cap = 20.0 if rng.integers(5) == 0 else None
    mask = str(rng.choice(["", "", "bool-qk", "add-hqk"]))
    return SdpaCase(kv_heads * group, kv_heads, q_len, kv_len, dim, causal=causal, window=window, softcap=cap,
                    mask=mask, spread=spread, seed=seed)  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_every_head_dim(dtype: str) -> None:
    for dim in range(1, 513, 8 if EMULATED else 1):
        case = SdpaCase(2, 1, 1 + dim % 5, 17 + dim % 7, dim, 513 - dim, dtype=dtype, causal=True)
        assert (np.abs(run(case) - answer(case).out) <= answer(case).printed).all(), dim


@pytest.mark.parametrize("spread", [1.0, 30.0])
def test_within_the_printed_bound(spread: float) -> None:
    for seed in range(fewer(500)):
        case = random_case(seed, spread)
        wanted = answer(case)
        out, weights = sdpa(*case.arrays, **case.options, return_weights=True)
        assert (np.abs(out - wanted.out) <= wanted.printed).all(), case
        assert (np.abs(weights - wanted.weights) <= wanted.printed_weights).all(), case


# ---- one arithmetic ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("mask", ["", "bool-hqk", "add-qk"])
@pytest.mark.parametrize("window", [None, 70])
def test_the_number_of_rows_changes_no_bit(window: int | None, mask: str, dtype: str) -> None:
    """Rows 0 to n - 1, and the last n, of 40 queries over 300 keys."""
    case = SdpaCase(6, 2, 40, 300, 20, dtype=dtype, causal=True, window=window, mask=mask)
    _core.array.set_threads(1)
    (q, k, v), whole, m = case.arrays, run(case), case.mask_array
    for n in range(1, 41, 7 if EMULATED else 1):
        _core.array.set_threads(1 + n % 4)
        last = slice(40 - n, None)
        part = sdpa(q[:, :, last], k, v, **case.options | {"mask": None if m is None else m[:, :, last]})
        assert_same_bits(part, np.ascontiguousarray(whole[:, :, last]), f"last {n}")
        seen = 300 - 40 + n
        first = None if m is None else m[:, :, :n, :seen]
        part = sdpa(q[:, :, :n], k[:, :, :seen], v[:, :, :seen], **case.options | {"mask": first})
        assert_same_bits(part, np.ascontiguousarray(whole[:, :, :n]), f"first {n}")


@pytest.mark.parametrize("q_len", [1, 3, 200])
def test_threads_batch_and_heads_change_no_bit(q_len: int) -> None:
    case = SdpaCase(6, 2, q_len, 700, 32, batch=2, causal=True)
    q, k, v = case.arrays
    _core.array.set_threads(1)
    whole, weights = sdpa(q, k, v, causal=True, return_weights=True)
    for n_threads in (2, 3, 4):
        _core.array.set_threads(n_threads)
        out, w = sdpa(q, k, v, causal=True, return_weights=True)
        assert_same_bits(out, whole)
        assert_same_bits(w, weights)
    for b in range(2):
        for head in range(6):
            one = sdpa(q[b, head], k[b, head // 3], v[b, head // 3], causal=True)
            assert_same_bits(one, whole[b, head])


# ---- shapes --------------------------------------------------------------------------------------


def test_fewer_axes_are_one_head_and_one_batch() -> None:
    q, k, v = SdpaCase(6, 2, 5, 70, 20).arrays
    whole, weights = sdpa(q, k, v, return_weights=True)
    out, w = sdpa(q[0], k[0], v[0], return_weights=True)
    assert_same_bits(out, whole[0])
    assert_same_bits(w, weights[0])
    assert_same_bits(sdpa(q[0, 4], k[0, 1], v[0, 1]), whole[0, 4])
    may = np.random.default_rng(0).random((5, 70)) < 0.5
    assert_same_bits(sdpa(q, k, v, mask=may[0]), sdpa(q, k, v, mask=np.tile(may[0], (5, 1))))
    assert_same_bits(sdpa(q, k, v, mask=np.array(True)), whole)
    assert_same_bits(sdpa(q[0], k[0], v[0], mask=may), sdpa(q, k, v, mask=may)[0])


@pytest.mark.parametrize("shape", [(0, 2, 3, 5), (1, 0, 3, 5), (1, 2, 0, 5), (1, 2, 3, 0)])
def test_zero_sizes(shape: tuple[int, ...]) -> None:
    batch, heads, q_len, kv_len = shape
    q, k = np.ones((batch, heads, q_len, 4), np.float32), np.ones((batch, heads, kv_len, 4), np.float32)
    for causal in (False, True):
        out, weights = sdpa(q, k, np.ones((batch, heads, kv_len, 7), np.float32), causal=causal,
                            return_weights=True)  # fmt: skip
        np.testing.assert_array_equal(out, np.zeros((batch, heads, q_len, 7)))
        assert weights.shape == shape


def test_out_may_be_q() -> None:
    case = SdpaCase(4, 2, 150, 150, 20, causal=True)
    wanted, (q, k, v) = run(case), case.arrays
    q = q.copy()
    assert sdpa(q, k, v, causal=True, out=q) is q
    assert_same_bits(q, wanted)


def test_a_mask_is_not_materialised() -> None:
    """It takes no time, where 2^28 elements would be written; a window leaves few scores."""
    n = 1 << 14
    q = np.ones((1, 1, n, 4), np.float32)
    mask = np.broadcast_to(np.array(True), (1, 1, n, n))
    np.testing.assert_array_equal(sdpa(q, q, q, causal=True, window=3, mask=mask), q)


@pytest.mark.parametrize("mask", ["", "bool-qk"])
def test_many_rows_give_the_bits_of_few(mask: str) -> None:
    """Heads together fill strips of 192 rows; one alone has a strip of 96."""
    case = SdpaCase(34, 34, 190, 200, 16, causal=True, mask=mask)
    (q, k, v), options = (x.copy() for x in case.arrays), case.options
    v[0, 5, 17] = np.inf  # what a row may not see does not touch it, whoever shares its strip
    whole = sdpa(q, k, v, **options)
    for head in (0, 5, 33):
        one = slice(head, head + 1)
        np.testing.assert_array_equal(sdpa(q[:, one], k[:, one], v[:, one], **options), whole[:, one])
