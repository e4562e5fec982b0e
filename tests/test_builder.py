"""Barriers where threads would meet half-made values, and handles that may not be used again."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lanner import _core
from lanner.builder import Builder, Instruction, Rope, Value
from lanner.program import Program
from reference import gamma, moe, random_rows, route
from tiny_llama import EPS, MODELS, make

REPLICABLE = {"gather_rows", "rms_norm", "layer_norm", "add", "scale", "add_positions", "add_gated",
              "quantize_rows", "rope_table", "route"}  # fmt: skip
WRITES = {"quantize_rows": ("int8", "int16"), "quantize_cols": ("int8", "int16"), "rope_append": ("qkv",),
          "append": ("kv",), "head_norm": ("qkv",), "qk_norm": ("qkv",), "sample": ("out",),
          "activate": ("x",), "softcap": ("x",), "route": ("ids", "weights")}  # fmt: skip
OWN = {
    "quantize_cols": ("x", "int8", "int16"),
    "rope_append": ("qkv",),
    "append": ("kv",),
    "head_norm": ("qkv",),
    "linear": ("out",),
    "gate_up": ("out",),
    "activate": ("x",),
    "softcap": ("x",),
    "experts_gate_up": ("out",),
    "experts_down": ("out",),
}
"""Values of which a unit of work touches its own columns alone."""


def unit_of(i: Instruction) -> int:
    """Columns of a unit of work of an operation that is cut by columns (of the parts of a row)."""
    if i.op == "quantize_cols":
        return 32
    if i.op in ("activate", "softcap"):
        return i.args["unit_cols"]
    return DIM if i.op in ("rope_append", "append", "head_norm") else i.args["unit_rows"]


def rows_of(i: Instruction) -> str:
    """The kind of rows that an operation on single rows writes."""
    return next(i.args[name].kind for name in WRITES.get(i.op, ("out",)) if name in i.args)


def conflict(i: Instruction, j: Instruction) -> bool:
    """Whether j, in the phase of i and after it, may meet a value that another thread is still busy with."""
    for a, x in i.args.items():
        for b, y in j.args.items():
            if not (isinstance(x, Value) and isinstance(y, Value) and x.place is y.place):
                continue
            i_writes, j_writes = a in WRITES.get(i.op, ("out",)), b in WRITES.get(j.op, ("out",))
            if not (i_writes or j_writes):
                continue
            if i.op in REPLICABLE and j.op in REPLICABLE and rows_of(i) == rows_of(j):
                continue  # every thread has its own copy, or the same rows
            if i.op in REPLICABLE and j.op not in REPLICABLE and not j_writes:
                continue  # every thread has its own copy, or they met before j
            if a in OWN.get(i.op, ()) and b in OWN.get(j.op, ()) and unit_of(i) == unit_of(j):
                continue
            return True
    return False


def check_phases(instructions: list[Instruction]) -> None:
    for n, j in enumerate(instructions):
        for i in reversed(instructions[:n]):
            if i.phase != j.phase:
                break
            assert not conflict(i, j), (i.name, j.name)
    for i, j in pairwise(instructions):
        assert j.phase - i.phase == j.barrier


@pytest.mark.parametrize("name", MODELS)
def test_phases_of_a_model(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    check_phases(
        make(MODELS[name], tmp_path_factory.mktemp("tiny") / "t.gguf").decoder().program.instructions
    )


# ---- any program ---------------------------------------------------------------------------------

N_HEADS, N_KV_HEADS, DIM, HIDDEN, MAX_LAYERS = 4, 2, 16, 64, 6
ROPE = Rope(10000.0 ** (-np.arange(0, DIM, 2) / DIM))
NARROW = Rope(ROPE.inv_freq[:3], 1.25)


def packed(*segments: tuple[str, int]) -> _core.Packed:
    rng = np.random.default_rng(len(segments))
    return _core.Packed([(random_rows(f, n, HIDDEN, rng).ravel(), f, n, HIDDEN, 0) for f, n in segments])


def packed_of_width(k: int, fmt: str) -> _core.Packed:
    """Four experts of HIDDEN rows over k inputs, one segment."""
    rows = random_rows(fmt, 4 * HIDDEN, k, np.random.default_rng(k))
    return _core.Packed([(rows.ravel(), fmt, 4 * HIDDEN, k, 0)])


SQUARE = {fmt: packed((fmt, HIDDEN)) for fmt in ("f32", "q4_0", "q8_0")}
QKV = {"f32": packed(("f32", 128)), "mixed": packed(("q4_0", 64), ("q8_0", 32), ("f32", 32))}
GATE_UP = {fmt: packed((fmt, HIDDEN), (fmt, HIDDEN)) for fmt in ("f32", "q4_0")}
# Segments that end inside a panel: units of such a matmul are no ranges of columns.
UNEVEN = packed(("q4_0", 24), ("f32", 40))
GATE = packed(("f32", 1))
NORM = np.linspace(0.5, 1.5, HIDDEN, dtype=np.float32)
TABLE = np.random.default_rng(8).standard_normal((10, HIDDEN)).astype(np.float32)
ROUTER = packed(("f32", 4))
EXPERTS = {m: packed(*[("q4_0" if m == 32 else "f32", m)] * 8) for m in (32, 20)}
"""Gate and up of four experts, in codes and in units of 16."""
DOWN = {m: packed_of_width(m, "q8_0" if m == 32 else "f32") for m in (32, 20)}
FUNCTIONS = ("silu", "gelu", "gelu_tanh", "relu", "tanh", "sigmoid")

Q_NORM, K_NORM = (np.linspace(0.5, 1.5, n * DIM, dtype=np.float32) for n in (N_HEADS, N_KV_HEADS))
BIAS = np.linspace(-2, 2, N_HEADS * 7, dtype=np.float32)
KINDS: list[dict[str, Any]] = [
    {}, {"window": 3}, {"softcap": 0.5}, {"bias": BIAS, "window": 5}, {"causal": False},
]  # fmt: skip

# An operation, the values it takes (counted from the newest), and which of its weights.
Choice = tuple[str, int, int, int]
OPS = ("norm", "linear", "add", "gate_up", "attend", "rows", "columns", "mlp", "moe")
choices = st.tuples(st.sampled_from(OPS), st.integers(0, 3), st.integers(0, 3), st.integers(0, 5))


CROSS = packed(("f32", 32), ("q8_0", 32))


def positioned(b: Builder, qkv: Value, layer: int, at: str, norm: int, rope: int) -> Value:
    """Norms or none, then a rotation, part of one, or none."""
    if norm == 1:
        qkv = b.head_norm(qkv, Q_NORM[:DIM], K_NORM[:DIM], EPS, f"{at}head_norm")
    elif norm == 2:
        qkv = b.qk_norm(qkv, Q_NORM, K_NORM, EPS, f"{at}qk_norm")
    if rope == 0:
        return b.append(qkv, layer, f"{at}append")
    return b.rope_append(qkv, layer, ROPE if rope == 1 else NARROW, f"{at}rope")


def rows_of_rows(b: Builder, x: Value, y: Value, which: int, name: str) -> Value:
    """One of the operations that make rows from rows."""
    if which == 0:
        return b.layer_norm(x, NORM, TABLE[0], EPS, f"{name}.layer_norm")
    if which == 1:
        return b.add(x, y, f"{name}.sum", 0.5)
    if which == 2:
        return b.scale(x, 0.7, f"{name}.scale")
    if which == 3:
        return b.add_positions(x, TABLE, 2, f"{name}.positions")
    return b.add_gated(x, y, b.linear(x if which == 4 else y, GATE, f"{name}.gate"), f"{name}.gated")


def build(plan: list[Choice], n_threads: int) -> Program:
    cache, cross_cache = (_core.KvCache("f16", n, 1, N_KV_HEADS, DIM) for n in (MAX_LAYERS, 1))
    b = Builder(cache, N_HEADS, DIM, cross_cache)
    values, layer = [b.embed(SQUARE["f32"])], 0
    for n, (op, first, second, weight) in enumerate(plan):
        x, y = values[-1 - first % len(values)], values[-1 - second % len(values)]
        square = list(SQUARE.values())[weight % 3]
        if op == "attend" and layer < MAX_LAYERS:
            h = b.linear(x, list(QKV.values())[weight % 2], f"{n}.qkv", by_heads=weight < 3)
            values.append(b.linear(y, square, f"{n}.beside"))
            q = positioned(b, h, layer, f"{n}.", second, first)
            values.append(b.attention(q, layer, 0.25, f"{n}.attn", **KINDS[(first + second) % len(KINDS)]))
            if first == 3:
                b.append(b.linear(x, CROSS, f"{n}.kv", by_heads=True), 0, f"{n}.append", cross=True)
                values.append(b.attention(values[-1], 0, 0.25, f"{n}.across", cross=True))
            layer += 1
        elif op == "gate_up":
            h, two = b.rms_norm(x, NORM, EPS, f"{n}.norm"), list(GATE_UP.values())[weight % 2]
            h = b.gate_up(h, two, f"{n}.gate_up", FUNCTIONS[weight])
            values.append(b.linear(h, square, f"{n}.down"))
        elif op == "rows":
            values.append(rows_of_rows(b, x, y, weight, str(n)))
        elif op == "columns":
            values.append(b.softcap(x, 2.0, f"{n}.cap") if weight % 2 else b.activate(x, "tanh", f"{n}.tanh"))
            values.remove(x)
        elif op == "moe":
            to = None if x is y or weight % 2 else y
            m = (20, 32)[weight // 3]
            h = b.moe(x, ROUTER, EXPERTS[m], DOWN[m], 1 + first, weight < 2, f"{n}.moe", add_to=to)
            values.append(h)
            if to:
                values.remove(to)
        elif op == "mlp":
            first = UNEVEN if weight == 5 else square
            h = b.linear(x, first, f"{n}.up", bias=NORM, by_blocks=weight > 1)
            h = b.activate(h, FUNCTIONS[weight], f"{n}.act")
            values.append(b.linear(h, square, f"{n}.down", bias=NORM))
        elif op == "add" and x is not y:
            values.append(b.linear(x, square, f"{n}.add", add_to=y))
            values.remove(y)
        elif op == "linear":
            values.append(b.linear(x, square, f"{n}.linear"))
        else:
            values.append(b.rms_norm(x, NORM, EPS, f"{n}.norm"))
    last = b.rms_norm(b.gather_rows(values[-1], "last"), NORM, EPS, "norm")
    logits = b.linear(last, SQUARE["q8_0"], "head")
    return Program(b, [logits, b.sample(logits)], n_threads, 8, 8)


# Up to four rows every thread has its own copy of a norm, beyond they share the rows: all pairs of the two.
@pytest.mark.parametrize(
    ("n_tokens", "rows"), [(1, [0]), (4, [3, 1, 0, 1, 2]), (8, [7, 0]), (8, [*range(8)])]
)
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(choices, min_size=1, max_size=8))
def test_any_program_gives_what_its_interpreter_gives(
    n_tokens: int, rows: list[int], plan: list[Choice]
) -> None:
    step = _core.Step(8, 1, 8, 1, 1)
    step.n_tokens, step.n_seqs, step.n_outputs = n_tokens, 1, len(rows)
    step.token_ids[:], step.positions[:], step.output_rows[: len(rows)] = np.arange(8) * 7, np.arange(8), rows
    step.seq_starts[:], step.kv_lens[:], step.cross_lens[:] = (0, n_tokens), n_tokens, 8
    program = build(plan, 3)
    check_phases(program.instructions)
    wanted = build(plan, 1).interpret(step)["head"]
    for _ in range(2):
        assert program.core.run(step)
        np.testing.assert_array_equal(program.array(program.kept[0], len(rows)), wanted)


def test_a_matmul_its_activation_and_the_codes_of_its_columns_share_a_phase() -> None:
    """The MLP of GPT-2: no barrier from the first matmul to the second."""
    for square, phases in ((SQUARE["q4_0"], [1, 1, 1, 1, 2]), (UNEVEN, [1, 1, 2, 3, 3])):
        b = Builder(_core.KvCache("f16", 1, 1, N_KV_HEADS, DIM), N_HEADS, DIM)
        h = b.linear(b.embed(SQUARE["f32"]), square, "up", bias=NORM, by_blocks=True)
        b.linear(b.activate(h, "gelu", "gelu"), SQUARE["q4_0"], "down")
        ops = ["quantize_rows", "linear", "activate", "quantize_cols", "linear"]
        if square is UNEVEN:
            ops[3] = "quantize_rows"
        assert [i.op for i in b.instructions[1:]] == ops
        assert [i.phase for i in b.instructions[1:]] == phases


def test_a_mixture_of_experts_has_two_barriers_after_its_router() -> None:
    b = Builder(_core.KvCache("f16", 1, 1, N_KV_HEADS, DIM), N_HEADS, DIM)
    x = b.embed(SQUARE["f32"])
    b.moe(b.rms_norm(x, NORM, EPS, "norm"), ROUTER, EXPERTS[32], DOWN[32], 2, True, "moe", add_to=x)
    ops = [(i.op, i.phase) for i in b.instructions]
    assert ops == [("embed", 0), ("rms_norm", 1), ("linear", 1), ("route", 2), ("quantize_rows", 2),
                   ("experts_gate_up", 2), ("quantize_cols", 2), ("experts_down", 3)]  # fmt: skip


@pytest.mark.parametrize("normalise", [True, False])
def test_a_mixture_of_experts_is_close_to_float64(normalise: bool) -> None:
    n_experts, m, k, rng = 5, 37, 2, np.random.default_rng(3)
    shapes = ((n_experts, HIDDEN), *[(n_experts, m, HIDDEN)] * 2, (n_experts, HIDDEN, m), (40, HIDDEN))
    router, gate, up, down, x = (rng.standard_normal(s).astype(np.float32) / s[-1] ** 0.5 for s in shapes)

    def f32(*parts: np.ndarray) -> _core.Packed:
        return _core.Packed([(p.view(np.uint8).ravel(), "f32", *p.shape, 0) for p in parts])

    b = Builder(_core.KvCache("f16", 1, 1, N_KV_HEADS, DIM), N_HEADS, DIM)
    two = f32(*(w[e] for e in range(n_experts) for w in (gate, up)))
    y = b.moe(b.embed(f32(x)), f32(router), two, f32(*down), k, normalise, "moe")
    logits = b.linear(b.gather_rows(y, "last"), SQUARE["f32"], "head")
    step = _core.Step(40, 1, 1, 2)
    step.n_tokens, step.n_seqs, step.token_ids[:], step.positions[:] = 40, 1, np.arange(40), np.arange(40)
    step.seq_starts[:], step.kv_lens[:] = (0, 40), 40
    values = Program(b, [logits, b.sample(logits)], 2, 40, 1).interpret(step)
    # Three matmuls, each off by gamma of its length of the sum of its magnitudes, beside some thirty
    # roundings; a weight is off by those of the logits, twice.
    ids, weights = route(x @ router.T.astype(float), k, normalise)
    size, a, bound = np.abs(x).astype(float), np.abs, np.zeros((40, HIDDEN))
    for t, slot in np.ndindex(ids.shape):
        e = ids[t, slot]
        h = 1.1 * (size[t] @ a(gate[e]).T) * (size[t] @ a(up[e]).T)
        bound[t] += weights[t, slot] * (h @ a(down[e]).T)
    bound *= gamma(2 * HIDDEN + m + 100) + 4 * gamma(HIDDEN) * (size @ a(router).T).max(axis=1, keepdims=True)
    wanted = moe(x, router, gate, up, down, k, normalise)
    assert (np.abs(values["moe.down"] - wanted) <= bound).all()
    assert bound.max() < 0.01 * np.abs(wanted).max()


def test_a_cap_follows_the_head_without_a_barrier() -> None:
    b = Builder(_core.KvCache("f16", 1, 1, N_KV_HEADS, DIM), N_HEADS, DIM)
    b.softcap(b.linear(b.embed(SQUARE["f32"]), SQUARE["f32"], "head"), 30.0, "cap")
    assert [i.barrier for i in b.instructions] == [False, True, False]


@pytest.mark.parametrize("n_rows", [1, 2, 3])
def test_steps_of_fewer_rows_than_threads_copy(n_rows: int) -> None:
    """Copies of a value need no room for rows that no step has: the last one may end where memory does."""
    b = Builder(_core.KvCache("f16", 1, 1, N_KV_HEADS, DIM), N_HEADS, DIM)
    h = b.rms_norm(b.embed(SQUARE["f32"]), NORM, EPS, "norm")
    logits = b.linear(b.gather_rows(h, "last"), SQUARE["q4_0"], "head")
    program = Program(b, [logits], 3, n_rows, n_rows)
    step = _core.Step(n_rows, 1, n_rows, 1)
    step.n_tokens, step.n_seqs, step.n_outputs, step.token_ids[:] = n_rows, 1, n_rows, 5
    step.output_rows[:] = np.arange(n_rows)
    assert program.core.run(step)
    np.testing.assert_array_equal(program.array(logits, n_rows), program.interpret(step)["head"])


# ---- handles -------------------------------------------------------------------------------------


def small_builder() -> tuple[Builder, _core.Packed, _core.Packed]:
    square = _core.Packed([(np.zeros(64 * 64 * 4, np.uint8), "f32", 64, 64, 0)])
    qkv = _core.Packed([(np.zeros(128 * 64 * 4, np.uint8), "f32", 128, 64, 0)])
    return Builder(_core.KvCache("f16", 1, 1, 2, 16), 4, 16), square, qkv


def test_builder_refuses_a_value_that_was_overwritten() -> None:
    b, square, qkv_weight = small_builder()
    x = b.embed(square)
    h = b.rms_norm(x, np.ones(64, np.float32), EPS, "norm")
    y = b.linear(h, square, "o", add_to=x)
    for use in (lambda: b.rms_norm(x, np.ones(64, np.float32), EPS, "n"), lambda: b.gather_rows(x, "g"),
                lambda: b.linear(x, square, "l"), lambda: b.gate_up(x, square, "l")):  # fmt: skip
        with pytest.raises(ValueError, match="reads embed, which was overwritten in place"):
            use()
    qkv = b.linear(y, qkv_weight, "qkv")
    b.rope_append(qkv, 0, Rope(np.ones(8)), "rope")
    with pytest.raises(ValueError, match="attention: attn reads qkv, which was overwritten in place"):
        b.attention(qkv, 0, 1.0, "attn")


def test_builder_refuses_to_overwrite_twice() -> None:
    """The old handle stands for a value that is gone: adding to it would change another one."""
    b, square, qkv_weight = small_builder()
    x = b.embed(square)
    h = b.rms_norm(x, np.ones(64, np.float32), EPS, "norm")
    b.linear(h, square, "o", add_to=x)
    with pytest.raises(ValueError, match=r"linear: again .* embed, which was overwritten in place"):
        b.linear(h, square, "again", add_to=x)
    qkv, rope = b.linear(h, qkv_weight, "qkv"), Rope(np.ones(8))
    b.rope_append(qkv, 0, rope, "rope")
    with pytest.raises(ValueError, match=r"rope_append: again .* qkv, which was overwritten in place"):
        b.rope_append(qkv, 0, rope, "again")
