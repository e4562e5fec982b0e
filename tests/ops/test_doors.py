"""What every operation refuses: rows counted by the wrong kind, and steps that point outside."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from harness import make_weight, outputs, poisoned, rows_step, tokens

from cases import LinearCase
from lanner import _core


def arguments(op: str) -> dict[str, Any]:
    """Good arguments for two tokens and one output; every array has room for two rows of either kind."""
    x, codes = tokens(poisoned(2, 32)), tokens(poisoned(2, 44, "uint8"))
    cache = _core.KvCache("f16", 1, 1, 1, 16)
    halves = make_weight(LinearCase((("f32", 16), ("f32", 16)), 32, 2)).packed
    experts = make_weight(LinearCase((("f32", 16),) * 6, 32, 2)).packed
    ids, x_of_2 = tokens(np.array([[0, 2], [1, 2]], np.int32)), tokens(poisoned(2, 2))
    return {
        "embed": {"weight": halves, "out": x},
        "gather_rows": {"x": x, "out": outputs(poisoned(2, 32))},
        "rms_norm": {"x": x, "weight": np.ones(32, np.float32), "out": tokens(poisoned(2, 32)), "eps": 1.0},
        "quantize_rows": {"x": x, "int8": codes},
        "quantize_cols": {"x": x, "int8": codes},
        "linear": {"weight": halves, "x": x, "out": tokens(poisoned(2, 32))},
        "gate_up": {"weight": halves, "x": x, "out": tokens(poisoned(2, 16))},
        "activate": {"function": "gelu", "x": x},
        "softcap": {"cap": 30.0, "x": x},
        "layer_norm": {"x": x, "weight": np.ones(32, np.float32), "bias": np.ones(32, np.float32),
                       "out": tokens(poisoned(2, 32)), "eps": 1.0},
        "add": {"x": x, "y": x, "out": tokens(poisoned(2, 32)), "factor": 0.5},
        "scale": {"x": x, "out": tokens(poisoned(2, 32)), "factor": 0.5},
        "add_positions": {"x": x, "table": np.ones((5, 32), np.float32), "offset": 2,
                          "out": tokens(poisoned(2, 32))},
        "add_gated": {"x": x, "y": x, "gate": tokens(poisoned(2, 1)), "out": tokens(poisoned(2, 32))},
        "route": {"x": x, "ids": tokens(poisoned(2, 3, "int32")), "weights": tokens(poisoned(2, 3)),
                  "normalise": True},
        "experts_gate_up": {"weight": experts, "x": x, "ids": ids, "out": tokens(poisoned(2, 32)),
                            "n_experts": 3},
        "experts_down": {"weight": experts, "x": tokens(poisoned(2, 64)), "ids": ids, "weights": x_of_2,
                         "out": tokens(poisoned(2, 32)), "n_experts": 3},
        "rope_table": {"inv_freq": np.ones(8), "out": tokens(poisoned(2, 16))},
        "rope_append": {"qkv": tokens(poisoned(2, 64)), "table": tokens(poisoned(2, 16)), "cache": cache,
                        "layer": 0, "n_heads": 2},
        "append": {"kv": tokens(poisoned(2, 64)), "cache": cache, "layer": 0, "n_heads": 2},
        "head_norm": {"qkv": tokens(poisoned(2, 64)), "q_weight": np.ones(16, np.float32),
                      "k_weight": np.ones(16, np.float32), "n_heads": 2, "eps": 1.0},
        "qk_norm": {"qkv": tokens(poisoned(2, 64)), "q_weight": np.ones(32, np.float32),
                    "k_weight": np.ones(16, np.float32), "eps": 1.0},
        "attention": {"q": x, "out": tokens(poisoned(2, 32)), "cache": cache, "layer": 0, "n_heads": 2,
                      "scale": 1.0},
        "sample": {"logits": outputs(poisoned(2, 32)), "out": outputs(poisoned(2, 1, "int32"))},
    }[op]  # fmt: skip


WRONG_KIND = [
    ("embed", "out", outputs), ("gather_rows", "out", tokens), ("rms_norm", "out", outputs),
    ("quantize_rows", "int8", outputs), ("quantize_cols", "int8", outputs), ("linear", "out", outputs),
    ("gate_up", "out", outputs), ("rope_table", "out", outputs), ("rope_append", "table", outputs),
    ("rope_append", "qkv", outputs), ("append", "kv", outputs), ("head_norm", "qkv", outputs),
    ("qk_norm", "qkv", outputs), ("attention", "q", outputs), ("attention", "out", outputs),
    ("sample", "logits", tokens), ("sample", "out", tokens),
    ("layer_norm", "out", outputs),
    ("add", "y", outputs), ("add", "out", outputs), ("scale", "out", outputs),
    ("add_positions", "x", outputs), ("add_positions", "out", outputs), ("add_gated", "y", outputs),
    ("route", "ids", outputs), ("route", "weights", outputs), ("experts_gate_up", "out", outputs),
    ("experts_gate_up", "ids", outputs), ("experts_down", "ids", outputs), ("experts_down", "out", outputs),
    ("experts_down", "weights", outputs), ("add_gated", "gate", outputs), ("add_gated", "out", outputs),
]  # fmt: skip


@pytest.mark.parametrize(("op", "name", "kind"), WRONG_KIND)
def test_rows_of_the_wrong_kind_are_refused(op: str, name: str, kind: Any) -> None:
    """An output with a row per wanted logit has no room for a row per token."""
    good = arguments(op)
    with pytest.raises(ValueError, match=rf"{op}: {name} .*(tokens|outputs)"):
        getattr(_core.ops, op)(rows_step(2, [0]), **(good | {name: kind(good[name].array)}))


ALL = [name for name in dir(_core.ops) if not name.startswith("_")]


@pytest.mark.parametrize("op", ALL)
def test_the_arguments_above_are_good(op: str) -> None:
    getattr(_core.ops, op)(rows_step(2, [0]), **arguments(op))


@pytest.mark.parametrize("op", ALL)
def test_a_step_is_required(op: str) -> None:
    with pytest.raises(TypeError):
        getattr(_core.ops, op)(**arguments(op))


def test_arrays_that_are_only_read_may_be_read_only() -> None:
    good = arguments("rms_norm")
    good["x"].array.flags.writeable = False
    _core.ops.rms_norm(rows_step(2), **good)


@pytest.mark.parametrize(
    ("op", "change", "message"),
    [
        ("embed", "step.token_ids[1] = 1 << 30", "embed: token id 1073741824 "),
        ("embed", "step.token_ids[1] = -(1 << 30)", "embed: token id -1073741824 "),
        ("gather_rows", "step.output_rows[0] = 1 << 30", "gather_rows: output row 1073741824 "),
        (
            "add_positions",
            "step.positions[1] = 3",
            "add_positions: position 3 of token 1 is outside the table of 3",
        ),
        ("add_positions", "step.positions[1] = -3", "add_positions: position -3 of token 1 "),
        ("rope_append", "step.block_tables[0, 0] = 1 << 24", "rope_append: page 16777216 "),
        ("attention", "step.block_tables[0, 0] = 1 << 24", "attention: page 16777216 "),
        ("attention", "step.positions[1] = 1 << 24", "attention: "),
        ("rope_append", "step.token_seqs[1] = 1 << 24", "rope_append: "),
        ("append", "step.block_tables[0, 0] = 1 << 24", "append: page 16777216 "),
        ("append", "step.positions[1] = 1 << 24", "append: "),
        ("attention", "step.n_seqs = 0", "attention: "),
    ],
)
def test_a_step_that_points_outside_is_refused(op: str, change: str, message: str) -> None:
    """In a child: the kernel that trusted such a step would read or write anywhere."""
    code = f"""
import sys
sys.path[:0] = {sys.path!r}
from lanner import _core
from harness import rows_step
from test_doors import arguments
step = rows_step(2, [0])
{change}
_core.ops.{op}(step, **arguments({op!r}))
"""
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"ValueError: {message}" in child.stderr, (child.returncode, child.stderr[-300:])
