"""The calls of a case: ours, and the same work in NumPy and in PyTorch where they have it.

All contenders of a case read the same memory. Where a contender takes an `out`, it is given one, so that
nobody is timed asking the system for pages.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from lanner import _core, ops
from lanner.bench import numpy_peers
from lanner.bench.cases import Case

Array = npt.NDArray[Any]
Call = Callable[[], Any]
"""One call of the operation; it returns its result, an array or a tensor."""

OURS = "lanner"
PEERS = ("numpy", "torch")


def package(name: str) -> Any:
    """A package that may be missing: the module, or None."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


_MISSING = (AttributeError, NotImplementedError, RuntimeError, TypeError)


def works(call: Call) -> bool:
    """Whether a peer can do what it is asked; its version may lack it."""
    try:
        call()
    except _MISSING:
        return False
    return True


def contenders(case: Case, torch: Any = None) -> dict[str, Call]:
    """Calls by contender, `OURS` first; a peer without the operation or the dtype is left out.

    `torch` is the module of PyTorch, or None to leave it out.
    """
    try:
        calls = _MAKERS[case.op](case, torch)
    except _MISSING:  # this version of PyTorch has another API, or none, for such weights
        calls = _MAKERS[case.op](case, None)
    return {OURS: calls[OURS], **{peer: calls[peer] for peer in PEERS if peer in calls}}


def normal(shape: tuple[int, ...], seed: int) -> Array:
    """float32, normally distributed."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def random_blocks(fmt: str, n: int, k: int) -> Array:
    """(n, row bytes) uint8: rows of a format with random codes, scales and minima, all of them finite.

    Bit 6 of every byte is clear. Wherever a float16 scale stands, its exponent is below 16 of 31 then, and an
    E8M0 scale is not the one that means NaN; what the codes are does not matter to the time.
    """
    block, n_bytes = ops._quantization.FORMATS[fmt]
    rows = np.random.default_rng(n + k).integers(0, 256, (n, k // block * n_bytes), np.uint8)
    rows &= 0xBF
    return rows


# ---- matmul --------------------------------------------------------------------------------------


def _matmul(case: Case, torch: Any) -> dict[str, Call]:
    fmt = case.dtypes["w"]
    x, out = normal(case.shapes["x"], 1), np.zeros(case.shapes["out"], np.float32)
    if fmt not in ("f32", "f16", "bf16"):
        return _matmul_quantized(case, x, out, torch)
    w = normal(case.shapes["w"], 2)
    w *= np.float32(x.shape[1] ** -0.5)
    if fmt == "f16":
        w = w.astype(np.float16)
    elif fmt == "bf16":
        w = (w.view(np.uint32) >> 16).astype(np.uint16)
    packed = case.options["packed"]
    weight = ops.pack(w, fmt) if packed else w
    calls: dict[str, Call] = {OURS: lambda: ops.matmul(x, weight, out=out)}
    if fmt == "f32":
        right, theirs = w.T if packed else w, np.zeros_like(out)
        calls["numpy"] = lambda: np.matmul(x, right, out=theirs)
    if torch:
        calls["torch"] = _torch_matmul(torch, x, w, fmt, packed)
    return calls


def _torch_matmul(torch: Any, x: Array, w: Array, fmt: str, packed: bool) -> Call:
    """A float32 (K, N) as it is; 16-bit weights always (N, K), the order for which PyTorch has kernels."""
    if fmt == "f32" and not packed:
        left, right, product = torch.from_numpy(x), torch.from_numpy(w), torch.zeros(len(x), w.shape[1])
        return lambda: torch.matmul(left, right, out=product)
    rows = w if packed else np.ascontiguousarray(w.T)
    matrix = torch.from_numpy(rows.view(np.int16) if fmt == "bf16" else rows)
    matrix = matrix.view(torch.bfloat16) if fmt == "bf16" else matrix
    given = torch.from_numpy(x).to(matrix.dtype)
    return lambda: torch.nn.functional.linear(given, matrix)


def _matmul_quantized(case: Case, x: Array, out: Array, torch: Any) -> dict[str, Call]:
    fmt, (n, k) = case.dtypes["w"], case.shapes["w"]
    source = (random_blocks(fmt, n, k).reshape(-1), fmt, n, k, 0)
    weight = _core.Packed([source], n_threads=ops.get_threads())
    calls: dict[str, Call] = {OURS: lambda: ops.matmul(x, weight, out=out)}
    if torch and fmt == "q8_0":
        _int8(calls, torch, torch.from_numpy(x), n, k)
    elif torch and fmt == "q4_0":
        _int4(calls, torch, torch.from_numpy(x), n, k)
    return calls


def _int8(calls: dict[str, Call], torch: Any, x: Any, n: int, k: int) -> None:
    """PyTorch's fastest 8-bit weights, a scale per output, with x rounded to 8 bits by its largest value."""
    codes = torch.randint(-127, 128, (n, k), dtype=torch.int8)
    with warnings.catch_warnings():  # it announces that it will go
        warnings.simplefilter("ignore")
        wide = torch._make_per_channel_quantized_tensor(codes, torch.rand(n), torch.zeros(n, dtype=int), 0)
        packed = torch.ops.quantized.linear_prepack(wide, None)
    calls["torch"] = lambda: torch.ops.quantized.linear_dynamic(x, packed)


def _int4(calls: dict[str, Call], torch: Any, x: Any, n: int, k: int) -> None:
    """PyTorch's 4-bit weights, a scale and a zero per 32 values; x in bfloat16, for which it is fastest."""
    convert = torch.ops.aten._convert_weight_to_int4pack_for_cpu
    # In parts: it wants the codes as int32, eight times what they take.
    sizes = [min(4096, n - first) for first in range(0, n, 4096)]
    parts = [convert(torch.randint(0, 16, (size, k), dtype=torch.int32), 1) for size in sizes]
    codes, scales, x = torch.cat(parts), torch.rand(k // 32, n, 2).bfloat16(), x.bfloat16()
    calls["torch"] = lambda: torch.ops.aten._weight_int4pack_mm_for_cpu(x, codes, 32, scales)


# ---- sdpa ----------------------------------------------------------------------------------------


def _sdpa(case: Case, torch: Any) -> dict[str, Call]:
    dtype = case.dtypes["q"]
    q, k, v = (normal(case.shapes[name], i).astype(dtype) for i, name in enumerate("qkv"))
    out, window = np.zeros(case.shapes["out"], dtype), case.options["window"]
    calls: dict[str, Call] = {OURS: lambda: ops.sdpa(q, k, v, causal=True, window=window, out=out)}
    if dtype == "float32" and window is None:
        calls["numpy"] = numpy_peers.sdpa(q, k, v)
    if torch and window is None:
        tensors = [torch.from_numpy(array) for array in (q, k, v)]
        attend = torch.nn.functional.scaled_dot_product_attention
        # PyTorch counts from the first key: one query behind many keys is not causal to it.
        options = {"is_causal": q.shape[2] > 1, "enable_gqa": q.shape[1] != k.shape[1]}
        calls["torch"] = lambda: attend(*tensors, **options)
    return calls


# ---- rows ----------------------------------------------------------------------------------------


def _rows(case: Case, torch: Any) -> dict[str, Call]:
    op, x = case.op, normal(case.shapes["x"], 3)
    weight, bias = normal(x.shape[-1:], 4), normal(x.shape[-1:], 5)
    out, k = np.zeros_like(x), case.options.get("k", 0)
    ours: dict[str, Call] = {
        "softmax": lambda: ops.softmax(x, out=out),
        "log_softmax": lambda: ops.log_softmax(x, out=out),
        "logsumexp": lambda: ops.logsumexp(x),
        "rms_norm": lambda: ops.rms_norm(x, weight, out=out),
        "layer_norm": lambda: ops.layer_norm(x, weight, bias, out=out),
        "topk": lambda: ops.topk(x, k)[0],
    }
    calls = {OURS: ours[op], "numpy": numpy_peers.rows(op, x, weight, bias, k)}
    if torch:
        t, product, (w, b) = torch.from_numpy(x), torch.zeros(x.shape), map(torch.from_numpy, (weight, bias))
        theirs: dict[str, Call] = {
            "softmax": lambda: torch.softmax(t, -1, out=product),
            "log_softmax": lambda: torch.log_softmax(t, -1, out=product),
            "logsumexp": lambda: torch.logsumexp(t, -1),
            "rms_norm": lambda: torch.nn.functional.rms_norm(t, w.shape, w, 1e-6),
            "layer_norm": lambda: torch.nn.functional.layer_norm(t, w.shape, w, b),
            "topk": lambda: torch.topk(t, k).values,
        }
        calls["torch"] = theirs[op]
    return calls


# ---- elements ------------------------------------------------------------------------------------


def _activation(case: Case, torch: Any) -> dict[str, Call]:
    op, form = case.op, case.options.get("approximate", "none")
    inputs = [normal(case.shapes[name], i) for i, name in enumerate(case.shapes) if name != "out"]
    out = np.zeros_like(inputs[0])
    function, options = getattr(ops, op), dict(case.options)
    calls: dict[str, Call] = {OURS: lambda: function(*inputs, out=out, **options)}
    if op in ("silu", "swiglu") or form == "tanh":  # NumPy has no erf
        calls["numpy"] = numpy_peers.activation(op, *inputs)
    if torch:
        product, aten = torch.zeros(out.shape), torch.ops.aten
        x, *up = map(torch.from_numpy, inputs)

        def activate() -> Any:
            if op in ("silu", "swiglu"):
                return aten.silu.out(x, out=product)
            return aten.gelu.out(x, approximate=form, out=product)

        calls["torch"] = (lambda: torch.mul(activate(), up[0], out=product)) if up else activate
    return calls


def _rope(case: Case, torch: Any) -> dict[str, Call]:
    x = normal(case.shapes["x"], 6)
    positions, out = np.arange(x.shape[2]), np.zeros_like(x)
    calls: dict[str, Call] = {
        OURS: lambda: ops.rope(x, positions, out=out),
        "numpy": numpy_peers.rope(x, positions),
    }
    if torch:
        t, where = torch.from_numpy(x), torch.from_numpy(positions).float()
        half = x.shape[-1] // 2
        inv_freq = torch.from_numpy(ops.rope_frequencies(2 * half)).float()

        def turn() -> Any:  # as models on PyTorch write it
            angles = torch.outer(where, inv_freq)
            angles = torch.cat((angles, angles), -1)
            turned = torch.cat((-t[..., half:], t[..., :half]), -1)
            return t * angles.cos() + turned * angles.sin()

        calls["torch"] = turn
    return calls


# ---- blocks of weights ---------------------------------------------------------------------------


def _blocks(case: Case, torch: Any) -> dict[str, Call]:
    fmt, (n, k) = case.options["format"], case.shapes["blocks"]
    values = normal((n, k), 7)
    if case.op == "pack":
        return {OURS: lambda: ops.pack(values, fmt)}
    data = ops.quantize(values, fmt) if fmt in ops._quantization.QUANTIZABLE else random_blocks(fmt, n, k)
    peer = package("gguf.quants")
    kind = peer and importlib.import_module("gguf").GGMLQuantizationType[fmt.upper()]
    if case.op == "quantize":
        calls: dict[str, Call] = {OURS: lambda: ops.quantize(values, fmt, out=data)}
        return calls | ({"numpy": lambda: peer.quantize(values, kind)} if peer else {})
    if case.op == "Packed":
        weight = ops.pack(values, fmt)
        calls = {OURS: lambda: weight.unpack()}
    else:
        calls = {OURS: lambda: ops.dequantize(data, fmt, out=values)}
    return calls | ({"numpy": lambda: peer.dequantize(data, kind)} if peer else {})


_MAKERS: dict[str, Callable[[Case, Any], dict[str, Call]]] = {
    "matmul": _matmul,
    "sdpa": _sdpa,
    **dict.fromkeys(("softmax", "log_softmax", "logsumexp", "rms_norm", "layer_norm", "topk"), _rows),
    **dict.fromkeys(("silu", "swiglu", "gelu", "geglu"), _activation),
    "rope": _rope,
    **dict.fromkeys(("quantize", "dequantize", "pack", "Packed"), _blocks),
}
