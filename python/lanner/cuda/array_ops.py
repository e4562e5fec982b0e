"""The functions of lanner.ops on the GPU: for tests. Arrays are copied there and back in every call.

Inputs are rounded to bfloat16, which is what the kernels read, but for those of softmax; results are float32
or, where a kernel gives bfloat16, that as float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lanner import _core
from lanner.cuda import pack
from lanner.cuda.library import library

Array = npt.NDArray[Any]

FLOAT32 = 0
LINEAR_LOGITS = 1


class Device:
    """Arrays of one call in device memory."""

    def __init__(self, n_rows: int) -> None:
        self.library = library()
        self.n_rows = n_rows
        counts = self.put(np.array([n_rows, 1, n_rows], np.int32))
        self.rows = "tokens", counts
        self.bounds = {"n_tokens": n_rows, "n_seqs": 1, "n_outputs": n_rows}

    def put(self, values: Array) -> Any:
        """A copy of values there."""
        array = self.new(values.nbytes)
        array.upload(np.ascontiguousarray(values))
        return array

    def put_bf16(self, values: Array) -> Any:
        """Values rounded to bfloat16."""
        return self.put(pack.to_bf16(values))

    def new(self, n_bytes: int) -> Any:
        """Memory there."""
        return self.library.DeviceArray(max(n_bytes, 16))

    def floats(self, array: Any, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """Float32 from there."""
        n = int(np.prod(shape))
        values: npt.NDArray[np.float32] = np.frombuffer(array.download(0, 4 * n), np.float32)
        made: npt.NDArray[np.float32] = values.reshape(shape).copy()
        return made

    def bf16(self, array: Any, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """Bfloat16 from there, as float32."""
        n = int(np.prod(shape))
        values: npt.NDArray[np.float32] = pack.from_bf16(np.frombuffer(array.download(0, 2 * n), np.uint16))
        made: npt.NDArray[np.float32] = values.reshape(shape)
        return made

    def run(self, op: str, **args: Any) -> None:
        """One operation on all rows."""
        getattr(self.library.ops, op)(self.bounds, **{"rows": self.rows, **args})


def softmax(x: Array, *, logarithm: bool) -> Array:
    """Of the rows (rows, n)."""
    n_rows, cols = x.shape
    d = Device(n_rows)
    out, parts = d.new(4 * x.size), d.new(4 * n_rows * d.library.SOFTMAX_PARTS * 2)
    types = {"x_type": FLOAT32, "out_type": FLOAT32}
    d.run("softmax", x=d.put(x), out=out, parts=parts, **types, cols=cols, logarithm=logarithm)
    return d.floats(out, x.shape)


def rms_norm(x: Array, weight: Array | None, eps: float) -> Array:
    """Of the rows (rows, n)."""
    n_rows, cols = x.shape
    d = Device(n_rows)
    out = d.new(2 * x.size)
    w = None if weight is None else d.put(weight)
    d.run("rms_norm", x=d.put_bf16(x), weight=w, out=out, cols=cols, eps=eps)
    return d.bf16(out, x.shape)


def activate(function: int, x: Array, up: Array | None) -> Array:
    """A function of a vector, or that times another vector."""
    cols = -(-len(x) // 8) * 8
    padded = np.zeros((1 if up is None else 2, cols), np.float32)
    padded[0, : len(x)] = x
    if up is not None:
        padded[1, : len(x)] = up
    d = Device(1)
    out = d.new(2 * cols)
    args = {"function": function, "cols": cols, "block": 0 if up is None else cols}
    d.run("activate", x=d.put_bf16(padded), out=out, **args)
    return d.bf16(out, (cols,))[: len(x)]


def matmul(x: Array, w: Array | _core.Packed, bias: Array | None) -> Array:
    """x (rows, K) @ w for an array w (K, N), x @ w.T for a packed one."""
    if isinstance(w, _core.Packed):
        weights = w.unpack()
    else:
        weights = pack.from_bf16(w).T if w.dtype == np.uint16 else w.T.astype(np.float32)
    n_rows, k = x.shape
    n, n_missing = weights.shape[0], -k % pack.UNIT_K
    packed = pack.pack(np.pad(weights, ((0, 0), (0, n_missing))), "bf16")
    d = Device(n_rows)
    out = d.new(4 * n_rows * n)
    weight = d.library.WeightType.bf16, n, packed.k, d.put(packed.codes), None
    args = {"x": d.put_bf16(np.pad(x, ((0, 0), (0, n_missing)))), "weight": weight, "end": LINEAR_LOGITS}
    if bias is not None:
        args["bias"] = d.put(np.pad(bias, (0, -n % pack.TILE_ROWS)))
    d.run("linear", **args, logits=out, qkv={})
    return d.floats(out, (n_rows, n))


def sdpa(q: Array, k: Array, v: Array, *, causal: bool, scale: float, window: int, softcap: float) -> Array:
    """Of arrays with four axes, (batch, heads, length, head_dim)."""
    batch, n_heads, q_len, head_dim = q.shape
    n_kv_heads, kv_len = k.shape[1:3]
    if v.shape != k.shape:
        raise ValueError(f"sdpa: v has shape {v.shape}, k {k.shape}, wanted the same with device='cuda'")
    if not 0 < q_len <= kv_len:
        raise ValueError(
            f"sdpa: {q_len} queries and {kv_len} keys, wanted no more queries with device='cuda'"
        )
    page = _core.PAGE_POSITIONS
    n_pages, n_tokens = -(-kv_len // page), batch * q_len
    pages = np.zeros((batch * n_pages, 2, n_kv_heads, page, head_dim), np.float32)
    for part, values in enumerate((k, v)):
        padded = np.pad(values.astype(np.float32), ((0, 0), (0, 0), (0, n_pages * page - kv_len), (0, 0)))
        split = padded.reshape(batch, n_kv_heads, n_pages, page, head_dim).transpose(0, 2, 1, 3, 4)
        pages[:, part] = split.reshape(-1, n_kv_heads, page, head_dim)
    d = Device(n_tokens)
    arrays = {
        "counts": [n_tokens, batch, n_tokens],
        "seq_starts": np.arange(batch + 1) * q_len,
        "kv_lens": np.full(batch, kv_len),
        "block_tables": np.arange(batch * n_pages),
    }
    step = {name: d.put(np.asarray(values, np.int32)) for name, values in arrays.items()}
    out = d.new(2 * q.size)
    d.library.ops.attention_prefill(
        {"n_tokens": n_tokens, "n_seqs": batch, "n_outputs": 1, "n_keys": kv_len},
        q=d.put_bf16(q.transpose(0, 2, 1, 3).astype(np.float32)),
        out=out,
        cache=d.put_bf16(pages),
        page_bytes=2 * pages[0].size,
        q_stride=n_heads * head_dim,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        scale=scale,
        softcap=softcap,
        window=window,
        causal=causal,
        max_pages=n_pages,
        **step,
    )
    made = d.bf16(out, (batch, q_len, n_heads, head_dim))
    return np.ascontiguousarray(made.transpose(0, 2, 1, 3)).astype(q.dtype)
