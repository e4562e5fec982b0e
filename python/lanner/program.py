"""A program: the instructions of a builder, with memory, ready to run in C++ or to be read in Python."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lanner import _core
from lanner.arena import Span, assign
from lanner.builder import Builder, Instruction
from lanner.phases import Place, Value

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

ITEM_BYTES = {"float32": 4, "int32": 4, "uint8": 1}
"""Element types of values."""


class Program:
    """The flat list of a model.

    Args:
        builder: the instructions, in the order in which they run.
        kept: the values that are read after a run.
        n_threads: threads of every run; further copies of replicable values are reserved for them.
        max_tokens, max_outputs: the largest step.
    """

    def __init__(
        self,
        builder: Builder,
        kept: Sequence[Value],
        n_threads: int,
        max_tokens: int,
        max_outputs: int,
    ) -> None:
        self.instructions = builder.instructions
        self.kept = tuple(kept)
        self._slots, n_bytes = lay_out(builder, kept, n_threads, max_tokens, max_outputs)
        self.core = _core.Program(n_bytes, n_threads, max_tokens, max_outputs)
        for i in self.instructions:
            values = {k: self._slots[v.place] if isinstance(v, Value) else v for k, v in i.args.items()}
            self.core.add(i.op, i.name, values, i.barrier)

    def array(self, kept: Value, n_rows: int) -> npt.NDArray[np.float32]:
        """The first rows (n_rows, cols) of a kept float32 value, a view that the next run overwrites."""
        return self.core.view(self._slots[kept.place], n_rows)

    def memoryview(self, kept: Value, n_rows: int) -> memoryview[float]:
        """The same without NumPy; it does not keep the program alive."""
        return self.core.memoryview(self._slots[kept.place], n_rows)

    def ids(self, kept: Value, n_rows: int) -> list[int]:
        """The first rows of a kept value of token ids."""
        return self.core.read_ids(self._slots[kept.place], n_rows)

    def dump(self, step: _core.Step | None = None) -> str:
        """A line per instruction: name, operation, bytes, FLOPs and shapes of a step (default: one token)."""
        step = step or _one_token_step()
        lines = []
        for index, i in enumerate(self.instructions):
            if i.barrier:
                lines.append("-- barrier")
            n_bytes, n_flops = self.core.cost(index, step)
            lines.append(f"{i.name:<24} {i.op:<14} {n_bytes:>12.0f} B {n_flops:>12.0f} FLOP  {_describe(i)}")
        return "\n".join(lines)

    def interpret(self, step: _core.Step) -> dict[str, npt.NDArray[Any]]:
        """Run the list in Python, one operation after the other on NumPy arrays, on this thread.

        The values agree with `core.run` to the last bit: this is the debugger, and the
        oracle of the executor.

        Returns:
            Every value by its name, as the last operation that wrote it left it.
        """
        import numpy as np

        rows = {"tokens": step.n_tokens, "outputs": step.n_outputs}
        arrays: dict[Place, _core.Buffer] = {}
        for place in self._slots:
            arrays[place] = _core.Buffer(np.zeros((rows[place.kind], place.cols), place.dtype), place.kind)
        for i in self.instructions:
            values = {k: arrays[v.place] if isinstance(v, Value) else v for k, v in i.args.items()}
            getattr(_core.ops, i.op)(step, **values)
        return {place.name: buffer.array for place, buffer in arrays.items()}


def weight_bytes(instructions: Sequence[Instruction]) -> int:
    """Bytes of all weights, as packed."""
    return sum({id(w): w.nbytes for i in instructions if (w := _weight(i)) is not None}.values())


def weight_bytes_per_token(instructions: Sequence[Instruction]) -> int:
    """Bytes of weights that one token reads: of the embedding a row, of experts those it goes to."""
    read: dict[int, int] = {}
    for i in instructions:
        w = _weight(i)
        if w is None or i.op == "embed":
            continue
        share = i.args["ids"].cols / i.args["n_experts"] if "n_experts" in i.args else 1
        read[id(w)] = round(w.nbytes * share)
    return sum(read.values())


def _weight(i: Instruction) -> Any:
    """The packed weight of an instruction, or a plan of one; norms have a vector by that name."""
    w = i.args.get("weight")
    return w if hasattr(w, "segment_rows") else None


def lay_out(
    builder: Builder, kept: Sequence[Value], n_threads: int, max_tokens: int, max_outputs: int
) -> tuple[dict[Place, _core.Slot], int]:
    """Where every value of a program lies in its arena, and the bytes of that; arguments as in Program."""
    rows = {"tokens": max_tokens, "outputs": max_outputs}
    n_phases = builder.instructions[-1].phase + 1
    for value in kept:
        value.place.last = n_phases  # outlives the run
    spans, copies = [], []
    for place in builder.places:
        row_bytes = place.cols * ITEM_BYTES[place.dtype]
        shared = _lines(row_bytes * rows[place.kind])
        n_copied = min(_core.REPLICATED_ROWS, rows[place.kind]) if place.replicable else 0
        copy = _lines(row_bytes * n_copied)
        copies.append((shared, copy))
        spans.append(Span(shared + copy * (n_threads - 1), place.first, place.last))
    n_bytes = assign(spans)
    slots = {
        place: _core.Slot(span.offset, place.dtype, place.cols, place.kind, shared if copy else 0, copy)
        for place, span, (shared, copy) in zip(builder.places, spans, copies, strict=True)
    }
    return slots, n_bytes


def _lines(n_bytes: int) -> int:
    """Whole cache lines: neighbouring copies never share one."""
    return (n_bytes + 63) // 64 * 64


def _describe(i: Instruction) -> str:
    parts = []
    for key, value in i.args.items():
        if isinstance(value, Value):
            rows = "T" if value.kind == "tokens" else "R"
            parts.append(f"{key}=({rows}, {value.cols}) {value.place.dtype}")
        elif isinstance(value, _core.Packed):
            parts.append(f"{key}={value.shape} {value.format}")
        elif isinstance(value, (int, float, bool, str)):
            parts.append(f"{key}={value}")
    return " ".join(parts)


def _one_token_step() -> _core.Step:
    step = _core.Step(1, 1, 1, 1)
    step.n_tokens = step.n_seqs = step.n_outputs = 1
    views = step.memoryviews()
    views["seq_starts"][1] = 1
    views["kv_lens"][0] = 1
    return step
