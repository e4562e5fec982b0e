"""The operations at the shapes that are benchmarked, those of real models among them, against float64."""

from __future__ import annotations

import numpy as np
import pytest

import cases_rows
from cases import RowsCase
from cases_attention import SdpaCase, answer
from lanner import ops
from lanner.bench.cases import CASES, Case
from reference import U

MODERATE = [case for case in CASES if case.n_bytes < 30e6 and case.n_flops < 5e8]


def of(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", [c for c in MODERATE if c.op in names], ids=str)


def inputs(case: Case, name: str) -> np.ndarray:
    shape = case.shapes[name]
    return cases_rows.rows(RowsCase(int(np.prod(shape[:-1])), shape[-1])).reshape(shape)


@of("softmax", "log_softmax", "logsumexp")
def test_rows(case: Case) -> None:
    x = inputs(case, "x")
    getattr(cases_rows, case.op)(x).check(getattr(ops, case.op)(x))


@of("rms_norm", "layer_norm")
def test_norms(case: Case) -> None:
    x, weights = inputs(case, "x"), [inputs(case, name) for name in case.shapes if name in ("weight", "bias")]
    getattr(cases_rows, case.op)(x, *weights).check(getattr(ops, case.op)(x, *weights))


@of("topk")
def test_topk(case: Case) -> None:
    x, k = inputs(case, "x"), case.options["k"]
    values, ids = ops.topk(x, k)
    np.testing.assert_array_equal(ids, np.argsort(-x, axis=-1, kind="stable")[..., :k])
    np.testing.assert_array_equal(values, np.take_along_axis(x, ids, -1))


@of("silu", "gelu", "swiglu", "geglu")
def test_activations(case: Case) -> None:
    arrays = [inputs(case, name)[:64] for name in case.shapes if name != "out"]
    form = "gelu_tanh" if case.options.get("approximate") == "tanh" else "gelu"
    oracle = cases_rows.ELEMENTWISE[form if case.op.startswith("ge") else "silu"](arrays[0])
    factor = arrays[1].astype(np.float64) if len(arrays) == 2 else 1.0
    got = getattr(ops, case.op)(*arrays, **case.options)
    wanted = oracle.wanted * factor  # the product is rounded once more
    assert (np.abs(got - wanted) <= oracle.bound * np.abs(factor) + U * np.abs(wanted) + 1e-36).all()


@of("rope")
def test_rope(case: Case) -> None:
    x = inputs(case, "x")
    *_, length, head_dim = x.shape
    positions = np.arange(length)
    angles = positions[:, None] * 10000.0 ** (-np.arange(0, head_dim, 2) / head_dim)
    cases_rows.rope(x, angles, "half").check(ops.rope(x, positions))


@pytest.mark.parametrize(
    "case", [c for c in MODERATE if c.op == "matmul" and c.dtypes["w"] == "f32"], ids=str
)
def test_matmul(case: Case) -> None:
    x, w = inputs(case, "x"), inputs(case, "w")
    columns = (w.T if case.options["packed"] else w).astype(np.float64)
    got = ops.matmul(x, ops.pack(w) if case.options["packed"] else w)
    assert (np.abs(got - x @ columns) <= x.shape[-1] * U * (np.abs(x) @ np.abs(columns))).all()


def attention(case: Case) -> SdpaCase:
    (batch, heads, q_len, head_dim), (_, kv_heads, kv_len, _) = case.shapes["q"], case.shapes["k"]
    options = {"batch": batch, "dtype": case.dtypes["q"], "causal": True, "window": case.options["window"]}
    return SdpaCase(heads, kv_heads, q_len, kv_len, head_dim, **options)


@of("sdpa")
def test_sdpa(case: Case) -> None:
    same = attention(case)
    wanted = answer(same)
    got = ops.sdpa(*same.arrays, **same.options)
    assert (np.abs(got - wanted.out) <= np.minimum(wanted.printed, wanted.bound)).all()


@of("sdpa")
def test_bytes_and_flops_of_sdpa(case: Case) -> None:
    same = attention(case)
    assert (case.n_bytes, case.n_flops) == (same.n_bytes, same.n_flops)
