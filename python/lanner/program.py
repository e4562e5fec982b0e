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
        self._rows = {"tokens": max_tokens, "outputs": max_outputs}
        n_phases = builder.instructions[-1].phase + 1
        for value in kept:
            value.place.last = n_phases  # outlives the run
        self._slots, n_bytes = self._lay_out(builder.places, n_threads)
        self.core = _core.Program(n_bytes, n_threads, max_tokens, max_outputs)
        for i in self.instructions:
            values = {k: self._slots[v.place] if isinstance(v, Value) else v for k, v in i.args.items()}
            self.core.add(i.op, i.name, values, i.barrier)

    def _lay_out(self, places: list[Place], n_threads: int) -> tuple[dict[Place, _core.Slot], int]:
        spans, copies = [], []
        for place in places:
            row_bytes = place.cols * ITEM_BYTES[place.dtype]
            shared = _lines(row_bytes * self._rows[place.kind])
            copy = (
                _lines(row_bytes * min(_core.REPLICATED_ROWS, self._rows[place.kind]))
                if place.replicable
                else 0
            )
            copies.append((shared, copy))
            spans.append(Span(shared + copy * (n_threads - 1), place.first, place.last))
        n_bytes = assign(spans)
        slots = {
            place: _core.Slot(span.offset, place.dtype, place.cols, place.kind, shared if copy else 0, copy)
            for place, span, (shared, copy) in zip(places, spans, copies, strict=True)
        }
        return slots, n_bytes

    def array(self, kept: Value, n_rows: int) -> npt.NDArray[np.float32]:
        """The first rows (n_rows, cols) of a kept float32 value, a view that the next run overwrites."""
        return self.core.view(self._slots[kept.place], n_rows)

    def ids(self, kept: Value, n_rows: int) -> list[int]:
        """The first rows of a kept value of token ids."""
        return self.core.read_ids(self._slots[kept.place], n_rows)

    def weight_bytes(self, skip: str = "") -> int:
        """Bytes of all weights, as packed, but for those that only the operation `skip` reads."""
        packed = (i.args.get("weight") for i in self.instructions if i.op != skip)
        return sum({id(w): w.nbytes for w in packed if isinstance(w, _core.Packed)}.values())

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
