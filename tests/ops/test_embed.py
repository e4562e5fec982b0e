from __future__ import annotations

import numpy as np
import pytest
from harness import bits, make_weight, poisoned, rows_step, tokens

from cases import EMBED, LinearCase
from lanner import _core
from reference import dequantize


def embed(packed: _core.Packed, ids: np.ndarray) -> np.ndarray:
    step = rows_step(len(ids))
    step.token_ids[: len(ids)] = ids
    out = poisoned(len(ids), packed.shape[1])
    _core.ops.embed(step, weight=packed, out=tokens(out))
    return out


@pytest.mark.parametrize("case", EMBED, ids=str)
def test_rows_are_dequantized_bit_for_bit(case: LinearCase) -> None:
    weight = make_weight(case)
    table = np.concatenate([dequantize(fmt, rows) for fmt, rows in weight.sources])
    ids = np.random.default_rng(case.seed).integers(0, case.n, case.rows)
    ids[:2] = (0, case.n - 1)
    np.testing.assert_array_equal(bits(embed(weight.packed, ids)), bits(table[ids]))


def test_no_tokens() -> None:
    assert embed(make_weight(EMBED[0]).packed, np.zeros(0, np.int32)).shape == (0, EMBED[0].k)


def test_refuses() -> None:
    packed = make_weight(EMBED[0]).packed  # (37, 32)
    with pytest.raises(ValueError, match="embed: out has 33 columns, wanted 32"):
        _core.ops.embed(rows_step(1), weight=packed, out=tokens(poisoned(1, 33)))
    with pytest.raises(ValueError, match="embed: out has 1 rows, the step has 2"):
        _core.ops.embed(rows_step(2), weight=packed, out=tokens(poisoned(1, 32)))
    with pytest.raises(TypeError, match="embed: weight is missing"):
        _core.ops.embed(rows_step(1), out=tokens(poisoned(1, 32)))
    with pytest.raises(TypeError, match="embed: weight is a ndarray"):
        _core.ops.embed(rows_step(1), weight=np.zeros((37, 32)), out=tokens(poisoned(1, 32)))
    with pytest.raises(TypeError, match=r"embed: unexpected argument among .*scale"):
        _core.ops.embed(rows_step(1), weight=packed, out=tokens(poisoned(1, 32)), scale=1.0)
