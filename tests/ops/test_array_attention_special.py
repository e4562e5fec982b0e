"""What `sdpa` does with NaN, infinities, denormals, large scores and with arguments that make no sense."""

from __future__ import annotations

import numpy as np
import pytest

from cases_attention import SdpaCase
from lanner.ops._attention import sdpa

INF = np.inf


def assert_same_bits(x: np.ndarray, y: np.ndarray) -> None:
    np.testing.assert_array_equal(x.view(np.uint32), y.view(np.uint32))


@pytest.mark.parametrize("value", [np.nan, INF, -INF])
@pytest.mark.parametrize(
    ("how", "q_len"),
    [("causal", 70), ("window", 1), ("window", 70), ("bool", 1), ("bool", 70), ("add", 1), ("add", 70)],
)
def test_what_may_not_be_seen_contributes_nothing(how: str, q_len: int, value: float) -> None:
    case = SdpaCase(2, 1, q_len, 130, 20)
    q, k, v = (x.copy() for x in case.arrays)
    hidden = {"causal": slice(100, 130), "window": slice(0, 30)}.get(how, slice(40, 90, 3))
    options: dict[str, object] = {"causal": how in ("causal", "window")}
    rows = np.s_[:, :, : q_len - 30] if how == "causal" else np.s_[:]
    if how == "window":
        options["window"] = 31
    if how in ("bool", "add"):
        may = np.ones(130, bool)
        may[hidden] = False
        options["mask"] = may if how == "bool" else np.where(may, 0, -INF).astype(np.float32)
    clean = sdpa(q, k, v, **options)
    k[:, :, hidden], v[:, :, hidden] = value, value
    out, weights = sdpa(q, k, v, **options, return_weights=True)
    assert_same_bits(np.ascontiguousarray(out[rows]), np.ascontiguousarray(clean[rows]))
    assert np.isfinite(weights[rows]).all()


@pytest.mark.parametrize("mask", [np.zeros(70, bool), np.full(70, -INF, np.float32)])
def test_no_valid_key_gives_zeros(mask: np.ndarray) -> None:
    q, k, v = SdpaCase(2, 1, 20, 70, 20).arrays
    rows = np.tile(mask, (20, 1))
    rows[1::2] = True if mask.dtype == np.bool_ else 0
    out, weights = sdpa(q, k, v, mask=rows, return_weights=True)
    assert not out[:, :, ::2].any()
    assert not weights[:, :, ::2].any()
    assert_same_bits(out[:, :, 1::2].copy(), sdpa(q, k, v)[:, :, 1::2].copy())


def test_the_least_float_as_mask_is_a_number() -> None:
    """Frameworks mask with it; a row that has nothing else then weighs all keys alike."""
    q, k, v = SdpaCase(1, 1, 3, 300, 8).arrays
    out = sdpa(q, k, v, mask=np.full((3, 300), np.finfo(np.float32).min))
    np.testing.assert_allclose(out, np.broadcast_to(v.mean(axis=2, keepdims=True), out.shape), atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, INF])
def test_nan_stays_in_its_row(bad: float) -> None:
    q, k, v = (x.copy() for x in SdpaCase(2, 1, 70, 130, 20).arrays)
    q[0, 1, 33, 4], k[0, 0, :, 4] = bad, np.abs(k[0, 0, :, 4])
    out = sdpa(q, k, v, causal=True)
    assert np.isnan(out[0, 1, 33]).all()
    q[0, 1, 33, 4] = 0
    others = sdpa(q, k, v, causal=True)
    assert np.isfinite(others).all()
    out[0, 1, 33] = others[0, 1, 33]
    assert_same_bits(out, others)


def test_an_infinite_value_spreads_to_those_who_see_it() -> None:
    q, k, v = (x.copy() for x in SdpaCase(1, 1, 70, 70, 20).arrays)
    v[0, 0, 40, 3] = INF
    out = sdpa(q, k, v, causal=True)
    assert (out[0, 0, 40:, 3] == INF).all()
    assert np.isfinite(np.delete(out, 3, axis=-1)).all()
    assert np.isfinite(out[0, 0, :40]).all()


def test_a_score_of_minus_infinity_weighs_nothing() -> None:
    q, k, v = (np.ones((1, 1, n, 4), np.float32) for n in (2, 130, 130))
    q *= 1e20
    k[0, 0, :70] = -1e20
    k[0, 0, 70:] = 0
    v[0, 0, :70] = 5
    np.testing.assert_array_equal(sdpa(q, k, v), np.ones_like(q))
    np.testing.assert_array_equal(sdpa(q, k[:, :, :70], v[:, :, :70]), np.zeros_like(q))


def test_scores_of_any_size() -> None:
    """Far beyond the range of exp: the largest takes all, nothing overflows."""
    rng = np.random.default_rng(0)
    q, k = np.ones((1, 1, 3, 1), np.float32), rng.permutation(300).astype(np.float32).reshape(1, 1, 300, 1)
    v = rng.standard_normal((1, 1, 300, 8)).astype(np.float32)
    for scale in (1e3, -1e3, 1e30):
        winner = k.argmax() if scale > 0 else k.argmin()
        np.testing.assert_array_equal(
            sdpa(q, k, v, scale=scale), np.broadcast_to(v[:, :, winner], (1, 1, 3, 8))
        )


def test_denormals_are_numbers() -> None:
    tiny = np.float32(1e-40)
    v = np.full((1, 1, 70, 8), tiny, np.float32)
    q = np.zeros((1, 1, 3, 4), np.float32)
    np.testing.assert_allclose(sdpa(q, np.ones((1, 1, 70, 4), np.float32), v), tiny, rtol=1e-4)
    big = np.full((1, 1, 70, 4), 1e38, np.float32)
    big[0, 0, 5] = -big[0, 0, 5]
    out, weights = sdpa(np.full_like(q, tiny), big, v, scale=1.0, return_weights=True)
    assert weights[0, 0, 0, 5] < weights[0, 0, 0, 4]
    assert (out > 0).all()


# ---- refusals ------------------------------------------------------------------------------------

Q = np.ones((1, 4, 3, 8), np.float32)
KV = np.ones((1, 2, 5, 8), np.float32)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"q": Q.tolist()}, TypeError, "sdpa: q is a list, wanted an array of float32 or float16"),
        ({"q": Q.astype(np.float64)}, TypeError, "sdpa: q is float64, wanted float32 or float16"),
        ({"k": KV.astype(np.float16)}, TypeError, "sdpa: k is float16, q is float32, wanted the same"),
        ({"q": Q[0, 0, 0]}, ValueError, "sdpa: q has 1 axes, wanted 2, 3 or 4"),
        ({"k": KV[0]}, ValueError, "sdpa: k has 3 axes, q has 4, wanted as many"),
        ({"q": np.repeat(Q, 2, 0)}, ValueError, "sdpa: k has a batch of 1, q of 2"),
        ({"k": KV[..., :7]}, ValueError, "sdpa: k has a head_dim of 7, q of 8"),
        ({"v": KV[:, :, :4]}, ValueError, r"sdpa: v has shape \(1, 2, 4, 8\), k \(1, 2, 5, 8\)"),
        ({"q": Q[:, :3]}, ValueError, "sdpa: q has 3 heads, wanted a multiple of the 2 heads of k"),
        ({"q": np.ones((1, 4, 3, 513), "f4"), "k": np.ones((1, 2, 5, 513), "f4")}, ValueError,
         "sdpa: head_dim of q is 513, wanted 1 to 512"),
        ({"v": np.ones((1, 2, 5, 0), "f4")}, ValueError, "sdpa: head_dim of v is 0, wanted 1 to 512"),
        ({"mask": np.ones((4, 5), bool)}, ValueError,
         r"sdpa: mask has shape \(4, 5\), wanted what broadcasts to \(1, 4, 3, 5\)"),
        ({"mask": np.ones(5, int)}, TypeError, "sdpa: mask is int64, wanted bool or float32"),
        ({"window": 3}, ValueError, "sdpa: window needs causal=True"),
        ({"window": 0, "causal": True}, ValueError, "sdpa: window is 0, wanted at least 1"),
        ({"window": 2.0, "causal": True}, TypeError, "sdpa: window is a float, wanted an int"),
        ({"scale": "1"}, TypeError, "sdpa: scale is a str, wanted a number"),
        ({"scale": np.nan}, ValueError, "sdpa: scale is nan, wanted a finite float32"),
        ({"softcap": 0.0}, ValueError, "sdpa: softcap is 0.0, wanted a positive finite float32"),
        ({"softcap": True}, TypeError, "sdpa: softcap is a bool, wanted a number"),
        ({"out": np.ones((1, 4, 3, 7), "f4")}, ValueError,
         r"sdpa: out has shape \(1, 4, 3, 7\), wanted \(1, 4, 3, 8\)"),
        ({"out": np.ones((1, 4, 3, 8))}, TypeError, "sdpa: out is float64, wanted an array of float32"),
        ({"causal": 1}, TypeError, "sdpa: causal is a int, wanted a bool"),
    ],
)  # fmt: skip
def test_refuses(change: dict[str, object], error: type[Exception], message: str) -> None:
    given: dict[str, object] = {"q": Q, "k": KV, "v": KV} | change
    with pytest.raises(error, match=message):
        sdpa(given.pop("q"), given.pop("k"), given.pop("v"), **given)  # type: ignore[arg-type, call-overload]


@pytest.mark.parametrize("name", ["k", "v"])
def test_refuses_to_write_over_what_it_reads(name: str) -> None:
    arrays = {
        "q": np.ones((1, 1, 5, 8), "f4"),
        "k": np.ones((1, 1, 5, 8), "f4"),
        "v": np.ones((1, 1, 5, 8), "f4"),
    }
    with pytest.raises(ValueError, match=f"sdpa: out overlaps {name}, which is read while out is written"):
        sdpa(*arrays.values(), out=arrays[name])
