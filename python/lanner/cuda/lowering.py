"""From the flat list of a model to launches of the GPU.

The list is the one that the CPU runs. What follows a matmul there in the same thread is the end of a launch
here: SwiGLU, the residual, rotation and the cache. In decoding, where a matmul reads all of its few rows in
every block anyway, the norm before it is part of it as well. A layer of Llama becomes five launches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lanner._core import UnsupportedModelError
from lanner._records import dataclass
from lanner.cuda._operations import FUNCTIONS, OPERATIONS, linear
from lanner.cuda.limits import ROTATED, check_launch
from lanner.cuda.symbols import Launch, Order, Place
from lanner.phases import Value

if TYPE_CHECKING:
    from lanner.builder import Instruction

END = 1 << 30
"""Stands for the reader of what is kept when the list has ended."""

IN_PLACE = {
    "rope_append": "qkv",
    "head_norm": "qkv",
    "qk_norm": "qkv",
    "append": "kv",
    "activate": "x",
    "softcap": "x",
}
"""Operations that change a value, and its name among their arguments."""


@dataclass(frozen=True)
class Norm:
    """The norm that a matmul computes of its input."""

    x: Place
    weight: Any
    eps: float


class Lowering:
    """Makes launches of the instructions of a program.

    Args:
        instructions: in the order in which they run.
        logits: what the program is for, float32 on the GPU too.
        sampled: ids that are chosen by them.
        n_kv_heads, head_dim: of a layer.
    """

    def __init__(
        self,
        instructions: Sequence[Instruction],
        logits: Value,
        sampled: Value,
        n_kv_heads: int,
        head_dim: int,
    ) -> None:
        self.n_kv_heads, self.head_dim = n_kv_heads, head_dim
        self.sources = {
            code.place: i.args["x"].place
            for i in instructions
            if i.op.startswith("quantize_")
            for name, code in i.args.items()
            if name not in ("x", "parts")
        }
        kept = [i for i in instructions if not i.op.startswith("quantize_")]
        # Rotations depend on positions alone; first, they stand between no matmul and its end.
        self.list = sorted(kept, key=lambda i: i.op != "rope_table")
        for i in self.list:
            if i.op not in OPERATIONS and i.op not in ("linear", "gate_up", "append"):
                raise UnsupportedModelError(
                    f"device='cuda': operation {i.op} ({i.name}) has no kernel there; use device='cpu'"
                )
        self.kept = {logits.place, sampled.place}
        self.reads = [self._reads(i) for i in self.list]
        self.writes = [self._writes(i) for i in self.list]
        self.float32 = self._float32(logits.place)
        self.q_cols: dict[Place, int] = {}  # of queries that stand alone

    def launches(self, *, decode: bool) -> list[Launch]:
        """The list; `decode`: for steps of few rows, in which every sequence has one token.

        Raises UnsupportedModelError where an operation has no code for the sizes of the model.
        """
        norms: dict[int, Norm] = {}
        done: set[int] = set()
        made: list[Launch] = []
        self.q_cols = {}
        for at, i in enumerate(self.list):
            if at in done:
                continue
            if i.op == "rms_norm" and decode and (reader := self._matmul_behind(at)) is not None:
                norms[reader] = Norm(i.args["x"].place, i.args["weight"], i.args["eps"])
                continue
            if i.op in ("linear", "gate_up"):
                launch, also = self._matmul(at, norms.get(at))
                made.append(launch)
                done.update(also)
            elif i.op == "append":
                made.append(Launch(i.name, "rope_append", OPERATIONS["rope_append"](self, i)))
            else:
                op = f"attention_{'decode' if decode else 'prefill'}" if i.op == "attention" else i.op
                made.append(Launch(i.name, op, OPERATIONS[i.op](self, i)))
        for launch in made:
            check_launch(launch)
        return made

    # --- matmuls --------------------------------------------------------------------------------------------
    def _matmul_behind(self, at: int) -> int | None:
        """The matmul that alone reads what the norm at `at` made, if it can compute the norm itself."""
        norm = self.list[at]
        readers = self._readers(at, norm.args["out"].place)
        if len(readers) != 1 or readers[0] == END:
            return None
        reader, x = readers[0], norm.args["x"].place
        is_matmul = self.list[reader].op in ("linear", "gate_up")
        # A block that has finished would change what others still norm.
        changes = any(x in self.writes[j] for j in range(at + 1, reader + 1))
        return reader if is_matmul and not changes else None

    def _matmul(self, at: int, norm: Norm | None) -> tuple[Launch, list[int]]:
        """The launch of a matmul, and the instructions behind it that it does as well."""
        i = self.list[at]
        x = norm.x if norm else self._input(i)
        kind = i.args["out"].kind
        if i.op == "gate_up":
            return self._gate_up(i, x, kind, norm), []
        out: Place = i.args["out"].place
        args: dict[str, Any] = {"out": out, "bias": i.args.get("bias")}
        if out in self.float32:
            return linear(i, x, kind, norm, {"logits": out, "bias": args["bias"]}, end="logits"), []
        if i.args["add"]:
            return linear(i, x, kind, norm, args | {"residual": out}, end="store"), []
        end = self._append_behind(at)
        if end is None:
            return linear(i, x, kind, norm, args, end="store"), []
        append = self.list[end]
        rope_dim = append.args["table"].cols if append.op == "rope_append" else 0
        order = Order("qkv", append.args["n_heads"], self.n_kv_heads, self.head_dim, rope_dim)
        self.q_cols[out] = order.n_heads * order.head_dim
        args["qkv"] = OPERATIONS["rope_append"](self, append) | {"n_heads": order.n_heads}
        for name in ("qkv", "rows", "page_bytes"):
            del args["qkv"][name]
        return linear(i, x, kind, norm, args, end="qkv", order=order), [end]

    def _gate_up(self, i: Instruction, x: Place, kind: Any, norm: Norm | None) -> Launch:
        out, function = i.args["out"].place, i.args["function"]
        if out.cols % 8:
            raise UnsupportedModelError(
                f"device='cuda': gate_up ({i.name}) has {out.cols} columns, wanted a multiple of 8; "
                "use device='cpu'"
            )
        args = {"out": out, "function": FUNCTIONS.index(function)}
        return linear(i, x, kind, norm, args, end="gated", order=Order("gated"))

    def _append_behind(self, at: int) -> int | None:
        """The rotation and append that alone read what the matmul at `at` made."""
        readers = self._readers(at, self.list[at].args["out"].place)
        if len(readers) != 1 or readers[0] == END:
            return None
        i = self.list[readers[0]]
        if i.op not in ("rope_append", "append") or i.args.get("cross") or self.head_dim % ROTATED:
            return None
        rotates = i.op == "rope_append"
        return readers[0] if not rotates or i.args["table"].cols % ROTATED == 0 else None

    def _input(self, i: Instruction) -> Place:
        for name in ("x", "int8", "int16"):
            if name in i.args:
                place: Place = i.args[name].place
                source: Place = self.sources.get(place, place)
                return source
        raise AssertionError(i.op)

    # --- who reads what -------------------------------------------------------------------------------------
    def _reads(self, i: Instruction) -> set[Place]:
        changed = IN_PLACE.get(i.op)
        names = [n for n, v in i.args.items() if isinstance(v, Value) and (n != "out" or i.args.get("add"))]
        places = [i.args[n].place for n in (*names, *((changed,) if changed else ()))]
        return {self.sources.get(place, place) for place in places}

    def _writes(self, i: Instruction) -> set[Place]:
        return {i.args[IN_PLACE.get(i.op, "out")].place}

    def _readers(self, at: int, place: Place) -> list[int]:
        """Who reads what the instruction at `at` left in a place."""
        readers = []
        for j in range(at + 1, len(self.list)):
            if place in self.reads[j]:
                readers.append(j)
            if place in self.writes[j]:
                return readers
        return [*readers, END] if place in self.kept else readers

    def _float32(self, logits: Place) -> set[Place]:
        """The places of logits on their way through what changes them."""
        found = {logits}
        for i, reads, writes in zip(
            reversed(self.list), reversed(self.reads), reversed(self.writes), strict=True
        ):
            if i.op in ("scale", "softcap") and writes & found:
                found |= reads
        return found
