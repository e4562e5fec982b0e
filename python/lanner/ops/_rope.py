"""Rotary position embedding and the frequencies of its long-context variants."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from lanner import _core
from lanner.ops._arrays import Array, as_rows, fill_rows, floats, integer, number, output

Pairing = Literal["half", "interleaved"]
Scaling = Literal["none", "linear", "ntk", "yarn", "llama3"]


def rope(
    x: Array,
    positions: Any,
    *,
    theta: float = 10000.0,
    inv_freq: Any = None,
    pairing: Pairing = "half",
    dims: int | None = None,
    magnitude: float = 1.0,
    out: Array | None = None,
) -> Array:
    """Turns pairs of columns by position * inv_freq (Su et al., RoFormer, arXiv:2104.09864).

    A pair (a, b) at angle t becomes magnitude * (a cos t - b sin t, b cos t + a sin t).

    Error: within (2^-24 * 3 + 2^-50 |t|) magnitude (|a| + |b|) + 2^-148 of each result, against exact
    arithmetic on the same x, positions and float64 frequencies: two roundings of cosine and product, one of
    the sum, and those of an angle in float64.

    Special values: NaN and infinities stay within their pair; denormals are numbers like others. Columns that
    do not turn are copied bit by bit.

    Args:
        x: float32 (..., n), at least one axis, such as (batch, heads, length, head_dim); an array that is
            strided or not aligned is copied.
        positions: integers below 2^53 in magnitude, of a shape that broadcasts to x.shape[:-1]: (length,)
            for the second-last axis of x, or one integer for all rows. Negative ones turn backwards.
        theta: base of the frequencies theta^(-2i / dims), where inv_freq is not given.
        inv_freq: (dims / 2,) radians per position, as `rope_frequencies` makes them.
        pairing: "half" pairs columns i and i + dims/2 (Hugging Face, NeoX), "interleaved" 2i and 2i + 1
            (the paper, Llama's own files).
        dims: how many leading columns turn; even. All of them by default, or as many as inv_freq has.
        magnitude: factor of cosines and sines; YaRN wants 0.1 ln(factor) + 1.
        out: float32 of x's shape, or x itself; any strides.

    Returns:
        float32 of x's shape; `out` if given. Empty for an empty x.

    Raises:
        TypeError: x or out is not a float32 array, positions or dims are no integers, magnitude is no number.
        ValueError: dims is odd or larger than n, a shape does not fit, a frequency is not finite, pairing is
            unknown, or out overlaps x.

    Reproducible: a row's bits depend on it, its position, the frequencies and the instruction set alone, not
    on the other rows, their number, the number of threads or alignment.

    Complexity: O(size), and one sine and cosine per pair and element of positions (before broadcasting). Any
    thread may call; the GIL is released.
    """
    x = floats("rope", "x", x)
    if x.ndim == 0:
        raise ValueError("rope: x has no axes, wanted at least 1")
    if pairing not in ("half", "interleaved"):
        raise ValueError(f"rope: pairing is {pairing!r}, wanted 'half' or 'interleaved'")
    frequencies = _frequencies(x.shape[-1], theta, inv_freq, dims)
    magnitude = number("rope", "magnitude", magnitude)
    if not np.isfinite(magnitude):
        raise ValueError(f"rope: magnitude is {magnitude}, wanted a finite number")
    where = _positions(positions, x.shape[:-1])
    out = output("rope", out, x.shape, np.float32, {"x": x})
    if x.size == 0:
        return out
    angles = np.broadcast_to(np.arange(where.size).reshape(where.shape), x.shape[:-1]).reshape(-1)
    angles, rows = np.ascontiguousarray(angles, np.int64), as_rows(x)
    return fill_rows(
        out,
        -1,
        lambda to: _core.array.rope(
            rows, to, where.reshape(-1), angles, frequencies, magnitude, pairing == "interleaved"
        ),
    )


def rope_frequencies(
    dims: int,
    theta: float = 10000.0,
    *,
    scaling: Scaling = "none",
    factor: float = 1.0,
    original_length: int = 4096,
    low_freq_factor: float = 1.0,
    high_freq_factor: float = 4.0,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
) -> Array:
    """Radians per position of each pair, stretched for contexts longer than a model was trained on.

    With f = theta^(-2i / dims):

    - "none": f.
    - "linear": f / factor (Chen et al., arXiv:2306.15595).
    - "ntk": f with theta * factor^(dims / (dims - 2)), which leaves the fastest pair alone and divides the
      slowest by factor (bloc97, 2023; section 3.1 of arXiv:2309.00071).
    - "yarn": f for pairs that turn more than beta_fast times within original_length, f / factor for those
      that turn less than beta_slow times, a linear ramp over i between them (Peng et al., arXiv:2309.00071).
      Its factor on the logits is `rope`'s magnitude, 0.1 ln(factor) + 1.
    - "llama3": f / factor for wavelengths beyond original_length / low_freq_factor, f for those below
      original_length / high_freq_factor, and a blend linear in the number of turns between (Llama 3.1).

    Args:
        dims: columns that turn; even and positive. "ntk" needs more than 2.
        theta: base; positive, for "yarn" above 1.
        scaling: which of the above.
        factor: how many times longer the context becomes; at least 1.
        original_length: tokens of the context that the model was trained on ("yarn", "llama3").
        low_freq_factor: turns within original_length below which a pair is stretched whole ("llama3").
        high_freq_factor: turns above which it is left alone ("llama3"); above low_freq_factor.
        beta_fast: turns above which a pair is left alone ("yarn"); above beta_slow.
        beta_slow: turns below which it is stretched whole ("yarn"); positive.

    Returns:
        float64 (dims / 2,).

    Error: some 2^-50 relative, that of a power in float64. Reproducible: computed by NumPy, without threads.
    Complexity: O(dims).

    Raises:
        TypeError: dims is no int, another argument no number.
        ValueError: an argument is out of range or scaling unknown.
    """
    dims = integer("rope_frequencies", "dims", dims)
    theta, factor, low_freq_factor, high_freq_factor, beta_fast, beta_slow = (
        number("rope_frequencies", name, x)
        for name, x in (
            ("theta", theta), ("factor", factor), ("low_freq_factor", low_freq_factor),
            ("high_freq_factor", high_freq_factor), ("beta_fast", beta_fast), ("beta_slow", beta_slow),
        )
    )  # fmt: skip
    original_length = integer("rope_frequencies", "original_length", original_length)
    _check_scaling(dims, theta, scaling, factor, original_length)
    if scaling == "ntk":
        theta = theta * factor ** (dims / (dims - 2))
    pair = np.arange(dims // 2, dtype=np.float64)
    plain: Array = theta ** (-2 * pair / dims)
    if scaling in ("none", "ntk"):
        return plain
    if scaling == "linear":
        return plain / factor
    if scaling == "yarn":
        if not 0 < beta_slow < beta_fast:
            raise ValueError(
                f"rope_frequencies: beta_slow is {beta_slow}, beta_fast {beta_fast}, wanted 0 < slow < fast"
            )
        low, high = (
            _pair_that_turns(turns, dims, theta, original_length) for turns in (beta_fast, beta_slow)
        )
        low, high = max(np.floor(low), 0.0), min(np.ceil(high), dims - 1.0)
        stretched = np.clip((pair - low) / max(high - low, 1e-3), 0, 1)
    else:
        if not 0 < low_freq_factor < high_freq_factor:
            raise ValueError(
                f"rope_frequencies: low_freq_factor is {low_freq_factor}, "
                f"high_freq_factor {high_freq_factor}, wanted 0 < low < high"
            )
        turns = original_length * plain / (2 * np.pi)
        stretched = 1 - np.clip((turns - low_freq_factor) / (high_freq_factor - low_freq_factor), 0, 1)
    blended: Array = plain * (1 - stretched) + plain / factor * stretched
    return blended


def _pair_that_turns(turns: float, dims: int, theta: float, length: int) -> float:
    """The (fractional) pair whose angle grows by `turns` whole turns within length positions."""
    return float(dims * np.log(length / (turns * 2 * np.pi)) / (2 * np.log(theta)))


def _check_scaling(dims: int, theta: float, scaling: str, factor: float, original_length: int) -> None:
    def refuse(name: str, given: object, wanted: str) -> None:
        raise ValueError(f"rope_frequencies: {name} is {given!r}, wanted {wanted}")

    if scaling not in ("none", "linear", "ntk", "yarn", "llama3"):
        refuse("scaling", scaling, "'none', 'linear', 'ntk', 'yarn' or 'llama3'")
    if dims < 2 or dims % 2 or (scaling == "ntk" and dims == 2):
        refuse("dims", dims, "a positive even number" + " above 2 for ntk" * (scaling == "ntk"))
    if not (1 if scaling == "yarn" else 0) < theta < np.inf:
        refuse("theta", theta, "a finite positive number" + " above 1 for yarn" * (scaling == "yarn"))
    if not 1 <= factor < np.inf:
        refuse("factor", factor, "a finite number, at least 1")
    if not original_length >= 1:
        refuse("original_length", original_length, "at least 1")


def _frequencies(n: int, theta: float, inv_freq: Any, dims: int | None) -> Array:
    if dims is not None:
        dims = integer("rope", "dims", dims)
    if inv_freq is None:
        turning = n if dims is None else dims
    else:
        inv_freq = _numbers(inv_freq)
        if inv_freq.ndim != 1 or not np.isfinite(inv_freq).all():
            raise ValueError("rope: inv_freq is not a vector of finite numbers")
        turning = 2 * inv_freq.size if dims is None else dims
        if turning != 2 * inv_freq.size:
            raise ValueError(
                f"rope: inv_freq has {inv_freq.size} elements, wanted {turning / 2:g} for dims {dims}"
            )
    if turning < 0 or turning % 2 or turning > n:
        raise ValueError(f"rope: dims is {turning}, wanted an even number up to the {n} columns of x")
    if inv_freq is not None:
        return np.asarray(inv_freq)
    return rope_frequencies(turning, theta) if turning else np.empty(0)


def _numbers(inv_freq: Any) -> Array:
    given = np.asarray(inv_freq)
    if given.dtype.kind not in "fiu":
        raise TypeError(f"rope: inv_freq is {given.dtype.name}, wanted numbers")
    return np.ascontiguousarray(given, np.float64).reshape(given.shape)


def _positions(positions: Any, rows: tuple[int, ...]) -> Array:
    where = np.asarray(positions)
    if where.dtype.kind not in "iu" and where.size:
        raise TypeError(f"rope: positions are {where.dtype.name}, wanted integers")
    if where.size and max(abs(int(where.min())), abs(int(where.max()))) > 2**53:
        raise ValueError("rope: a position is beyond 2^53")
    try:
        np.broadcast_to(where, rows)
    except ValueError:
        raise ValueError(
            f"rope: positions have shape {where.shape}, wanted one that broadcasts to {rows}"
        ) from None
    return np.ascontiguousarray(where, np.int64).reshape(where.shape)
