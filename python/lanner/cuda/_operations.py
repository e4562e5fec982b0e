"""The arguments of each operation of the GPU, by their names in csrc/cuda."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lanner._core import UnsupportedModelError
from lanner.cuda.symbols import CachePart, Launch, Matrix, Order, Place, Rows, StepArray, Vector

if TYPE_CHECKING:
    from lanner.builder import Instruction
    from lanner.cuda.lowering import Lowering, Norm

ENDS = {"store": 0, "logits": 1, "gated": 2, "qkv": 3}
"""How a matmul ends, as csrc/cuda/linear.h numbers it."""

FUNCTIONS = ("silu", "gelu", "gelu_tanh", "relu", "tanh", "sigmoid")
"""Activation functions, as csrc/cuda/activations.h numbers them."""

FLOAT32, BF16 = 0, 1
"""Types of values, as csrc/cuda/rows.h numbers them."""


def linear(
    i: Instruction,
    x: Place,
    kind: Any,
    norm: Norm | None,
    args: dict[str, Any],
    *,
    end: str,
    order: Order = Order(),  # noqa: B008
) -> Launch:
    """A matmul with what stands around it."""
    bias = args.pop("bias", None)
    made = {"x": x, "weight": Matrix(i.args["weight"], order), "end": ENDS[end], "rows": Rows(kind), **args}
    made.setdefault("qkv", {})
    if bias is not None:
        made["bias"] = Vector(bias, "float32", order)
    if norm is not None:
        made |= {"norm_weight": Vector(norm.weight), "norm_eps": norm.eps}
    return Launch(i.name, "linear", made)


def embed(_: Lowering, i: Instruction) -> dict[str, Any]:
    """Rows of the embedding."""
    out = i.args["out"]
    return {
        "token_ids": StepArray("token_ids"),
        "weight": Matrix(i.args["weight"]),
        "out": out.place,
        "rows": Rows(out.kind),
    }


def gather_rows(_: Lowering, i: Instruction) -> dict[str, Any]:
    """Rows whose logits are wanted."""
    return {"output_rows": StepArray("output_rows"), **by_rows(i)}


def rms_norm(_: Lowering, i: Instruction) -> dict[str, Any]:
    """A norm by itself."""
    return {**by_rows(i), "weight": Vector(i.args["weight"]), "eps": i.args["eps"]}


def layer_norm(_: Lowering, i: Instruction) -> dict[str, Any]:
    """A norm that subtracts the mean."""
    made = {**by_rows(i), "weight": Vector(i.args["weight"]), "eps": i.args["eps"]}
    return made if i.args["bias"] is None else made | {"bias": Vector(i.args["bias"])}


def head_norm(low: Lowering, i: Instruction) -> dict[str, Any]:
    """Norms of query and key heads."""
    return {
        "qkv": i.args["qkv"].place,
        "q_weight": Vector(i.args["q_weight"]),
        "k_weight": Vector(i.args["k_weight"]),
        "n_heads": i.args["n_heads"],
        "n_kv_heads": low.n_kv_heads,
        "head_dim": low.head_dim,
        "eps": i.args["eps"],
        "rows": Rows(i.args["qkv"].kind),
    }


def qk_norm(low: Lowering, i: Instruction) -> dict[str, Any]:
    """Norms of all queries and of all keys."""
    k_cols = low.n_kv_heads * low.head_dim
    return {
        "qkv": i.args["qkv"].place,
        "q_weight": Vector(i.args["q_weight"]),
        "k_weight": Vector(i.args["k_weight"]),
        "q_cols": i.args["qkv"].cols - 2 * k_cols,
        "k_cols": k_cols,
        "eps": i.args["eps"],
        "rows": Rows(i.args["qkv"].kind),
    }


def rope_table(_: Lowering, i: Instruction) -> dict[str, Any]:
    """Cosines and sines of the step's positions."""
    out = i.args["out"]
    return {
        "positions": StepArray("positions"),
        "inv_freq": Vector(i.args["inv_freq"], "float64"),
        "cos_sin": out.place,
        "half": out.cols // 2,
        "factor": i.args.get("factor", 1.0),
        "rows": Rows(out.kind),
    }


def rope_append(low: Lowering, i: Instruction) -> dict[str, Any]:
    """Rotation, and keys and values to the cache; without a table they are appended as they are."""
    if i.args.get("cross"):
        raise UnsupportedModelError(
            f"device='cuda': operation append ({i.name}) to a cross cache has no kernel; use device='cpu'"
        )
    qkv = i.args["qkv" if i.op == "rope_append" else "kv"]
    table = i.args.get("table")
    group = i.args["cache"].group
    return {
        "qkv": qkv.place,
        "cos_sin": table.place if table else None,
        "rope_dim": table.cols if table else 0,
        "cache": CachePart(i.args["cache"], i.args["layer"]),
        "page_bytes": i.args["cache"].layer_page_bytes,
        "n_heads": i.args["n_heads"],
        "n_kv_heads": low.n_kv_heads,
        "head_dim": low.head_dim,
        "positions": StepArray("positions"),
        "token_seqs": StepArray("token_seqs"),
        "block_tables": StepArray("block_tables", group),
        "max_pages": StepArray("max_pages", group),
        "rows": Rows(qkv.kind),
    }


def attention(low: Lowering, i: Instruction) -> dict[str, Any]:
    """Attention of a step; which of the two kernels is the program's to say."""
    for option in ("cross", "bias"):
        if i.args.get(option) not in (None, False):
            raise UnsupportedModelError(
                f"device='cuda': operation attention ({i.name}) with {option} has no kernel there; "
                "use device='cpu'"
            )
    q, group = i.args["q"], i.args["cache"].group
    return {
        "q": q.place,
        "out": i.args["out"].place,
        "cache": CachePart(i.args["cache"], i.args["layer"]),
        "page_bytes": i.args["cache"].layer_page_bytes,
        "q_stride": low.q_cols.get(q.place, q.cols),
        "n_heads": i.args["n_heads"],
        "n_kv_heads": low.n_kv_heads,
        "head_dim": low.head_dim,
        "scale": i.args["scale"],
        "softcap": i.args.get("softcap", 0.0),
        "window": i.args.get("window", 0),
        "causal": i.args.get("causal", True),
        "counts": StepArray("counts"),
        "seq_starts": StepArray("seq_starts"),
        "kv_lens": StepArray("kv_lens"),
        "block_tables": StepArray("block_tables", group),
        "max_pages": StepArray("max_pages", group),
    }


def add(_: Lowering, i: Instruction) -> dict[str, Any]:
    """A sum."""
    out = i.args["out"]
    made = {
        "a": i.args["x"].place,
        "b": i.args["y"].place,
        "out": out.place,
        "cols": out.cols,
        "rows": Rows(out.kind),
    }
    return made if i.args["factor"] == 1 else made | {"factor": i.args["factor"]}


def scale(low: Lowering, i: Instruction) -> dict[str, Any]:
    """A product with a number."""
    return {**by_rows(i), "type": typed(low, i.args["out"].place), "factor": i.args["factor"]}


def softcap(low: Lowering, i: Instruction) -> dict[str, Any]:
    """A bound that is reached slowly, in place."""
    return {**in_place(i), "type": typed(low, i.args["x"].place), "cap": i.args["cap"]}


def activate(_: Lowering, i: Instruction) -> dict[str, Any]:
    """An activation function, in place."""
    return {**in_place(i), "function": FUNCTIONS.index(i.args["function"]), "block": 0}


def add_positions(_: Lowering, i: Instruction) -> dict[str, Any]:
    """Learned positions."""
    return {
        **by_rows(i),
        "table": Vector(i.args["table"]),
        "positions": StepArray("positions"),
        "offset": i.args["offset"],
    }


def sample(_: Lowering, i: Instruction) -> dict[str, Any]:
    """The next token of each row."""
    logits = i.args["logits"]
    return {
        "logits": logits.place,
        "sampling": StepArray("sampling"),
        "out": i.args["out"].place,
        "vocab_size": logits.cols,
        "rows": Rows(logits.kind),
    }


def by_rows(i: Instruction) -> dict[str, Any]:
    """What operations on rows have alike."""
    out = i.args["out"]
    return {"x": i.args["x"].place, "out": out.place, "cols": out.cols, "rows": Rows(out.kind)}


def in_place(i: Instruction) -> dict[str, Any]:
    """The same of those that change x."""
    x = i.args["x"]
    return {"x": x.place, "out": x.place, "cols": x.cols, "rows": Rows(x.kind)}


def typed(low: Lowering, place: Place) -> int:
    """The type of a value."""
    return FLOAT32 if place in low.float32 else BF16


OPERATIONS = {
    make.__name__: make
    for make in (
        embed, gather_rows, rms_norm, layer_norm, head_norm, qk_norm, rope_table, rope_append, attention, add,
        scale, softcap, activate, add_positions, sample,
    )
}  # fmt: skip
"""What makes the arguments of each operation but matmuls."""
