"""Every docstring says what a caller must know, and prints the bounds that the tests hold the kernels to."""

from __future__ import annotations

import re

import pytest

from lanner import ops

SETTINGS = {"get_threads", "set_threads"}
OPERATIONS = sorted(set(ops.__all__) - SETTINGS - {"Packed"})

SECTIONS = {
    "shapes": r"\(\.\.\., |any shape|\(N, K\)|\(dims / 2,\)|\(batch, heads",
    "dtypes": r"float32|float64|uint8",
    "arguments": r"\bArgs:",
    "results": r"\bReturns:",
    "errors": r"\bRaises:",
    "accuracy": r"\bError\b|\bExact\b",
    "reproducibility": r"\bReproducible\b",
    "complexity": r"\bComplexity: |[Cc]omplexity: as `",
}
OF_ARRAYS = {
    "strides": r"strided|[Ss]trides",
    "NaN and infinities": r"\bNaN\b",
    "threads": r"the\s+GIL\s+is\s+released|complexity: as `",
    "axes": r"at least one axis|without axes|\(N, K\), both above 0|\(batch, heads",
}

PRINTED = {
    "softmax": ["2^-24 (2.5 (max - x) + 2.5 ln n + 80)", "plus 1.7e-38"],
    "log_softmax": ["2^-24 (2 |y| + 2.5 ln n + 80)"],
    "logsumexp": ["2^-24 (|y| + 2.5 ln n + 80)"],
    "rms_norm": ["2^-24 (n/32 + 10)", "plus 2^-149 (1 + |weight|)"],
    "layer_norm": ["2^-24 ((64 + 26 |z|) |weight| + |bias|) + 2^-148"],
    "silu": ["2^-24 * 7", "plus 1.5e-36"],
    "gelu": ["2^-24 (x^2 + 20)", "2^-24 (4 |w| + 9)", "plus 1e-36"],
    "swiglu": ["2^-24 * 8", "1.5e-36 |up| + 2^-149"],
    "geglu": ["2^-24 (gate^2 + 21)", "2^-24 (4 |w| + 10)", "1e-36 |up| + 2^-149"],
    "rope": ["(2^-24 * 3 + 2^-50 |t|) magnitude (|a| + |b|) + 2^-148"],
    "matmul": ["2^-24 K sum_k |x_k w_k| + 2^-149 K",
               "2^-24 (K/16 + 6) sum_k |x_k| (|w_k| + 2 |m_k|) + 2^-126 K"],
    "sdpa": ["(4 * 2^-24 S + 1e-6) max|v| + 2^-149 kv_len", "(8 * 2^-24 S + 1e-6) w + 1.7e-38"],
    "quantize": ["|dequantize(quantize(x)) - x| <= d + 4 u max|x|"],
}  # fmt: skip
"""As tests/cases_rows.py, cases_matmul.py, cases_attention.py and test_array_quantization.py compute them."""

PAPERS = {
    "softmax": "arXiv:1805.02867",
    "rms_norm": "arXiv:1910.07467",
    "layer_norm": "arXiv:1607.06450",
    "silu": "arXiv:1606.08415",
    "gelu": "arXiv:1606.08415",
    "swiglu": "arXiv:2002.05202",
    "geglu": "arXiv:2002.05202",
    "rope": "arXiv:2104.09864",
    "rope_frequencies": "arXiv:2309.00071",
    "sdpa": "FlashAttention",
    "matmul": "Goto and van de Geijn",
    "topk": "Hoare",
    "dequantize": "OCP Microscaling",
}


def text_of(op: str) -> str:
    return " ".join((getattr(ops, op).__doc__ or "").split())


@pytest.mark.parametrize("op", OPERATIONS)
def test_every_section_is_there(op: str) -> None:
    wanted = SECTIONS if op == "rope_frequencies" else SECTIONS | OF_ARRAYS
    missing = [name for name, pattern in wanted.items() if not re.search(pattern, text_of(op))]
    assert not missing


@pytest.mark.parametrize("op", PRINTED)
def test_the_printed_bound_is_the_tested_one(op: str) -> None:
    assert [bound for bound in PRINTED[op] if bound not in text_of(op)] == []


@pytest.mark.parametrize("op", PAPERS)
def test_the_source_is_named(op: str) -> None:
    assert PAPERS[op] in text_of(op)


@pytest.mark.parametrize("name", ["shape", "format", "nbytes", "unpack"])
def test_packed_describes_itself(name: str) -> None:
    assert "panels of 16 rows" in ops.Packed.__doc__
    assert len(getattr(ops.Packed, name).__doc__) > 20


def test_settings_say_what_they_refuse() -> None:
    for name in SETTINGS:
        assert getattr(ops, name).__doc__
    with pytest.raises(ValueError, match="set_threads: n is 0, wanted 1 to 255"):
        ops.set_threads(0)
    with pytest.raises(ValueError, match="set_threads: n is 256, wanted 1 to 255"):
        ops.set_threads(256)
