"""Cases for runner.cpp: the fields that it reads, and what this process makes of the same ones."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gguf
import numpy as np
from harness import (
    input_rows,
    make_weight,
    matmul,
    outputs,
    poisoned,
    quantize_rows,
    rows_step,
    tokens,
)

import cases_rows
from cases import GATE_UP, KV_FORMATS, LINEAR, SAMPLE, AttentionCase, LinearCase, RowsCase
from cases_attention import SDPA, SdpaCase
from lanner import _core, ops
from lanner.ops._quantization import FORMATS, QUANTIZABLE
from reference import dequantize, random_rows, rope_table

Array = np.ndarray
Fields = dict[str, Any]
"""Arrays, integers, floats and text by name."""

SPECIAL = np.array([np.nan, np.inf, -np.inf, 3.4e38, -3.4e38, 1e-45, -1e-45, 1e-39, 0.0, -0.0], np.float32)


@dataclass(frozen=True)
class Recorded:
    """One case of runner.cpp; `wanted` computes in this process what its results must be, to the bit."""

    name: str
    fields: Fields
    wanted: Callable[[], dict[str, Array]]

    def __str__(self) -> str:
        return self.name


# ---- the files -----------------------------------------------------------------------------------


def as_bytes(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bool | int):
        return struct.pack("<q", value)
    if isinstance(value, float):
        return struct.pack("<d", value)
    return np.ascontiguousarray(value).tobytes()


def write_record(fields: Fields) -> bytes:
    parts = [struct.pack("<q", len(fields))]
    for name, value in fields.items():
        data = as_bytes(value)
        parts += [struct.pack("<q", len(name)), name.encode(), struct.pack("<q", len(data)), data]
    return b"".join(parts)


def read_records(data: bytes) -> Iterator[dict[str, bytes]]:
    file = io.BytesIO(data)

    def number() -> int:
        return struct.unpack("<q", file.read(8))[0]

    while file.tell() < len(data):
        yield {file.read(number()).decode(): file.read(number()) for _ in range(number())}


# ---- weights -------------------------------------------------------------------------------------


def recorded_matmul(case: LinearCase, gate_up: bool) -> Recorded:
    weight, x = make_weight(case), input_rows(case)
    fields: Fields = {
        "op": "matmul", "k": case.k, "n_tokens": case.rows, "x": x,
        "formats": " ".join(fmt for fmt, _ in case.segments),
        "n_rows": np.array([n for _, n in case.segments]),
        "data": np.concatenate([rows.ravel() for _, rows in weight.sources]),
    }  # fmt: skip

    def wanted() -> dict[str, Array]:
        codes = quantize_rows(x, "int8", "int16") if case.k % 32 == 0 else {}
        made = {
            "unpacked": np.concatenate([dequantize(fmt, rows) for fmt, rows in weight.sources]),
            "linear": matmul("linear", weight.packed, x, poisoned(case.rows, case.n)),
        }
        if gate_up:
            made["gate_up"] = matmul("gate_up", weight.packed, x, poisoned(case.rows, case.n // 2))
        return codes | made

    if gate_up:
        fields["gate_up"] = True
    return Recorded(f"{'gate_up' if gate_up else 'linear'}-{case}", fields, wanted)


def recorded_blocks(fmt: str) -> Recorded:
    """Every finite value of a block's fields, and floats of every size."""
    n, rng = 64 * FORMATS[fmt][0], np.random.default_rng(5)
    data = random_rows(fmt, 7, n, rng, extreme=True)
    x = (rng.standard_normal(n) * 10 ** rng.uniform(-6, 3, n)).astype(np.float32)
    fields: Fields = {"op": "quantize", "format": fmt, "n": data.size // FORMATS[fmt][1] * FORMATS[fmt][0]}
    quantizable = fmt in QUANTIZABLE
    fields |= {"data": data} | ({"x": np.tile(x, 7)} if quantizable else {})

    def wanted() -> dict[str, Array]:
        made = {"values": dequantize(fmt, data)}
        if quantizable:
            blocks = gguf.quants.quantize(np.tile(x, (7, 1)), gguf.GGMLQuantizationType[fmt.upper()])
            made |= {"blocks": blocks, "finite": np.array([1])}
        return made

    return Recorded(f"quantize-{fmt}", fields, wanted)


def recorded_halves() -> Iterator[Recorded]:
    """Every float16 to float32; to float16 what lies on, between and beside two neighbours."""
    halves = np.arange(65536, dtype=np.uint16).view(np.float16)
    up = halves[:0x7C01].astype(np.float32)
    up[-1] = 65536  # where infinity stands
    middles = (up[:-1] + up[1:]) / 2
    near = np.concatenate([up, middles, *(np.nextafter(middles, to) for to in (-SPECIAL[1], SPECIAL[1]))])
    x = np.concatenate([near, -near, SPECIAL]).astype(np.float32)
    widen = {"op": "quantize", "format": "f16", "n": 65536, "data": halves}
    yield Recorded("widen-f16", widen, lambda: {"values": halves.astype(np.float32)})
    narrow = {"op": "quantize", "format": "f16", "n": x.size, "x": x}
    with np.errstate(over="ignore"):
        wanted = x.astype(np.float16)
    yield Recorded("narrow-f16", narrow, lambda: {"blocks": wanted})


# ---- rows ----------------------------------------------------------------------------------------


def special_rows() -> Array:
    """Rows that have a special value at every place of two vectors, and one of nothing else."""
    x = np.tile(cases_rows.rows(RowsCase(1, 37)), (33 * SPECIAL.size + 1, 1))
    for i, value in enumerate(SPECIAL):
        x[np.arange(33) + 33 * i, np.arange(33)] = value
    x[-1] = np.resize(SPECIAL, 37)
    return x


def recorded_softmax(x: Array) -> Recorded:

    def wanted() -> dict[str, Array]:
        y = ops.softmax(x)
        return {
            "softmax": y,
            "softmax_twice": y,
            "log_softmax": ops.log_softmax(x),
            "logsumexp": ops.logsumexp(x),
        }

    n_rows, n = x.shape
    return Recorded(f"softmax-{n_rows}x{n}", {"op": "softmax", "n_rows": n_rows, "n": n, "x": x}, wanted)


def recorded_norms(x: Array) -> Recorded:
    n_rows, n = x.shape
    weight, bias = cases_rows.rows(RowsCase(2, n))
    fields: Fields = {"op": "norms", "n_rows": n_rows, "n": n, "x": x, "eps": 1e-5}

    def wanted() -> dict[str, Array]:
        rms = ops.rms_norm(x, weight, eps=1e-5)
        return {"rms_norm": rms, "layer_norm": ops.layer_norm(x, weight, bias, eps=1e-5)}

    return Recorded(f"norms-{n_rows}x{n}", fields | {"weight": weight, "bias": bias}, wanted)


def recorded_rope(head_dim: int, n: int) -> Recorded:
    x, positions = cases_rows.rows(RowsCase(9, n)), np.array([0, 1, 2, 3, 100, 4095, 131071, 7, 15], np.int32)
    inv_freq = 10000.0 ** (-np.arange(0, head_dim, 2) / head_dim)
    fields = {"op": "rope", "n_rows": 9, "n": n, "half": head_dim // 2, "x": x, "positions": positions,
              "inv_freq": inv_freq}  # fmt: skip

    def wanted() -> dict[str, Array]:
        pairings = ("half", "interleaved")
        return {pairing: ops.rope(x, positions, inv_freq=inv_freq, pairing=pairing) for pairing in pairings}

    return Recorded(f"rope-{head_dim}of{n}", fields, wanted)


def recorded_activations(x: Array) -> Recorded:
    n, up = x.size, cases_rows.rows(RowsCase(1, x.size))[0]

    def wanted() -> dict[str, Array]:
        made = {"silu": ops.silu(x), "gelu": ops.gelu(x), "gelu_tanh": ops.gelu(x, "tanh")}
        gated = {"silu": ops.swiglu(x, up), "gelu": ops.geglu(x, up), "gelu_tanh": ops.geglu(x, up, "tanh")}
        return made | {f"{name}_gated": y for name, y in gated.items()}

    return Recorded(f"activate-{n}", {"op": "activate", "n": n, "x": x, "up": up}, wanted)


def recorded_top_k(n: int, k: int) -> Recorded:
    x = np.random.default_rng(n).integers(-40, 40, n).astype(np.float32)  # many ties

    def wanted() -> dict[str, Array]:
        order = np.lexsort((np.arange(n), -x))[:k]
        return {"values": x[order], "ids": order}

    return Recorded(f"top_k-{k}of{n}", {"op": "top_k", "n": n, "k": k, "x": x}, wanted)


def recorded_sample(vocab_size: int) -> Recorded:
    """Every way of sampling that SAMPLE has, on one distribution."""
    logits = np.tile(SAMPLE[3].logits()[:vocab_size], (len(SAMPLE) + 1, 1))
    uniforms = np.random.default_rng(6).random(len(logits))
    ways = [(0.0, 0, 1.0, 0.0, 1.0), *(c.settings for c in SAMPLE)]
    settings = np.array([(*way, u) for way, u in zip(ways, uniforms, strict=True)], np.float32)

    def wanted() -> dict[str, Array]:
        step, ids = rows_step(1, [0] * len(logits)), poisoned(len(logits), 1, "int32")
        step.sampling[:] = settings
        _core.ops.sample(step, logits=outputs(logits), out=outputs(ids))
        return {"ids": ids}

    fields = {"op": "sample", "n_rows": len(logits), "n": vocab_size, "x": logits, "sampling": settings}
    return Recorded(f"sample-{vocab_size}", fields, wanted)


# ---- attention -----------------------------------------------------------------------------------


def recorded_sdpa(case: SdpaCase) -> Recorded:
    q, k, v = case.arrays
    scale = case.head_dim**-0.5 if case.scale is None else case.scale
    fields: Fields = {
        "op": "sdpa", "format": "f16" if case.dtype == "float16" else "f32", "batch": case.batch,
        "heads": case.heads, "kv_heads": case.kv_heads, "q_len": case.q_len, "kv_len": case.kv_len,
        "head_dim": q.shape[3], "value_dim": v.shape[3], "scale": float(scale),
        "softcap": float(case.softcap or 0), "window": case.window or 0, "causal": case.causal,
        "q": q, "k": k, "v": v,
    }  # fmt: skip
    if case.mask_array is not None:
        shape = (case.batch, case.heads, case.q_len, case.kv_len)
        kind = 1 if case.mask_array.dtype == np.bool_ else 2
        fields |= {"mask": np.broadcast_to(case.mask_array, shape), "mask_kind": kind}

    def wanted() -> dict[str, Array]:
        out, weights = ops.sdpa(q, k, v, **case.options, return_weights=True)
        return {"out": out, "chunked": out, "weights": weights}

    return Recorded(f"sdpa-{case}", fields, wanted)


def recorded_attention(case: AttentionCase) -> Recorded:
    """One sequence, rotated into a cache whose pages lie in random order."""
    ((n, n_new),) = case.sequences
    rng = np.random.default_rng(case.seed)
    pages = rng.permutation(-(-n // _core.PAGE_POSITIONS)).astype(np.int32)
    qkv = rng.standard_normal((n, (case.n_heads + 2 * case.n_kv_heads) * case.head_dim)).astype(np.float32)
    inv_freq = 10000.0 ** (-np.arange(0, case.head_dim, 2) / case.head_dim)
    table = rope_table(np.arange(n), inv_freq).astype(np.float32)
    fields: Fields = {
        "op": "attention", "kv_format": case.kv_format, "n_heads": case.n_heads,
        "n_kv_heads": case.n_kv_heads,
        "head_dim": case.head_dim, "n_tokens": n, "n_new": n_new, "scale": 0.25, "qkv": qkv, "table": table,
        "pages": pages, "window": case.window, "softcap": case.softcap, "causal": case.causal,
    }  # fmt: skip
    options = case.options
    if "bias" in options:
        options["bias"] = options["bias"].ravel()
        fields |= {"bias": options["bias"], "bias_size": options["bias"].size}

    def step(first: int) -> _core.Step:
        s = _core.Step(n - first, 1, 1, len(pages))
        s.n_tokens, s.n_seqs, s.kv_lens[0], s.block_tables[0] = n - first, 1, n, pages
        s.positions[:], s.token_seqs[:], s.seq_starts[:] = np.arange(first, n), 0, (0, n - first)
        return s

    def wanted() -> dict[str, Array]:
        cache = _core.KvCache(case.kv_format, 1, len(pages), case.n_kv_heads, case.head_dim)
        made, out = qkv.copy(), poisoned(n_new, case.n_heads * case.head_dim)
        shared = {"cache": cache, "layer": 0, "n_heads": case.n_heads}
        _core.ops.rope_append(step(0), qkv=tokens(made), table=tokens(table), **shared)
        _core.ops.attention(
            step(n - n_new), q=tokens(made[n - n_new :]), out=tokens(out), scale=0.25, **shared, **options
        )
        return {"out": out}

    return Recorded(f"attention-{case}", fields, wanted)


def recorded_rows() -> Iterator[Recorded]:
    wide = [cases_rows.rows(RowsCase(3, n), 30.0) for n in (33, 5000)]  # beyond exp(-87)
    for x in (*(cases_rows.rows(case) for case in cases_rows.ROW_CASES), *wide, special_rows()):
        yield recorded_softmax(x)
        yield recorded_norms(x)
    for x in (
        *(cases_rows.rows(RowsCase(1, n), 20.0) for n in range(1, 34)),
        np.linspace(-120, 120, 4096),
        SPECIAL,
    ):
        yield recorded_activations(x.astype(np.float32).ravel())


def all_cases() -> list[Recorded]:
    attention = [AttentionCase(6, 2, dim, ((n, new),), fmt) for dim in (16, 20, 64) for fmt in KV_FORMATS
                 for n, new in ((1, 1), (33, 33), (300, 2), (520, 1), (130, 70))]  # fmt: skip
    attention += [
        AttentionCase(6, 2, 20, ((n, new),), **options)  # type: ignore[arg-type]
        for n, new in ((520, 1), (300, 130))
        for options in ({"window": 70}, {"softcap": 2.0}, {"reach": 20}, {"window": 300, "reach": 3})
    ]
    attention += [AttentionCase(6, 2, 20, ((70, 70),), causal=False, reach=reach) for reach in (-1, 8)]
    return [
        *(recorded_matmul(case, False) for case in LINEAR if not (case.add or case.bias)),
        *(recorded_matmul(case, True) for case in GATE_UP),
        *(recorded_blocks(fmt) for fmt in FORMATS),
        *recorded_halves(),
        *recorded_rows(),
        *(recorded_rope(dim, n) for dim in range(2, 34, 2) for n in (dim, dim + 5)),
        *(recorded_top_k(n, k) for n in (1, 15, 16, 17, 1000, 5000) for k in (1, 7, 600) if k <= n),
        *(recorded_sample(n) for n in (17, 1000)),
        *(recorded_sdpa(case) for case in SDPA),
        *(recorded_attention(case) for case in attention),
    ]
