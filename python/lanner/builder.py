"""The builder: an architecture file calls it once per operation, in the order in which they run.

What is written is what runs. The builder notes which operation needs all of a value that several threads
make, and puts a barrier there; the arena then gives every value a place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lanner import _core
from lanner._builder_attention import AttentionOperations
from lanner._builder_experts import ExpertOperations
from lanner._builder_rows import Function, divides
from lanner._records import dataclass
from lanner.phases import REPLICABLE, Kind, Phase, Place, Value

if TYPE_CHECKING:
    from array import array
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

    from lanner._builder_rows import Vector
    from lanner.kv_cache import LayerCache


@dataclass(frozen=True)
class Instruction:
    """One operation: its name in the model, operation and arguments, and whether a barrier precedes it."""

    name: str
    op: str
    args: dict[str, Any]
    barrier: bool
    phase: int


@dataclass(frozen=True)
class Rope:
    """Rotary embedding: `inv_freq` float64 (rotated dimensions / 2,), any scaling applied.

    Cosines and sines are multiplied by `factor`, and scores by its square (YaRN, longrope).
    """

    inv_freq: array[float] | npt.NDArray[np.float64]
    factor: float = 1.0


class Builder(ExpertOperations, AttentionOperations):
    """Collects the instructions of one program.

    Args:
        cache: the keys and values that `rope_append` and `append` write and `attention` reads: one cache for
            all layers, or for each its cache and the layer inside it.
        n_heads, head_dim: query heads of a layer.
        cross_cache: keys and values of a source, for the `append` and `attention` that are `cross`.
    """

    def __init__(
        self,
        cache: _core.KvCache | Sequence[LayerCache],
        n_heads: int,
        head_dim: int,
        cross_cache: _core.KvCache | None = None,
    ) -> None:
        self.cache = cache
        self.cross_cache = cross_cache
        self.n_heads = n_heads
        self.head_dim = head_dim
        self.instructions: list[Instruction] = []
        self.places: list[Place] = []
        self.scope = ""
        self._phase = Phase(-1)
        self._tables: dict[tuple[int, float], Value] = {}

    # --- operations, each under its name ------------------------------------------------------------------
    def embed(self, weight: _core.Packed, name: str = "embed") -> Value:
        """(T, hidden_size): the row of `weight` (vocab_size, hidden_size) that each token id names."""
        out = self._value(weight.shape[1], "float32", "tokens", name)
        self._emit("embed", name, {"weight": weight, "out": out}, writes=[out])
        return out

    def gather_rows(self, x: Value, name: str) -> Value:
        """(R, cols): the rows of x whose logits are wanted."""
        out = self._value(x.cols, "float32", "outputs", name)
        self._emit("gather_rows", name, {"x": x, "out": out}, reads=[x], writes=[out])
        return out

    def linear(
        self,
        x: Value,
        weight: _core.Packed,
        name: str,
        *,
        bias: Vector | None = None,
        add_to: Value | None = None,
        by_heads: bool = False,
        by_blocks: bool = False,
    ) -> Value:
        """x @ weight.T + bias, (rows, N) for a weight (N, K); with `add_to`, added to that value in place.

        Args:
            bias: (N,), or None.
            by_heads: one thread makes whole heads, so that `rope_append` can follow without a barrier.
            by_blocks: one thread makes whole blocks of 32 columns, so that a matmul can follow whose input is
                quantized by the thread that made it.
        """
        inputs = self._inputs(x, weight, name)
        out = (
            self._overwrite(add_to, "linear", name)
            if add_to
            else self._value(weight.shape[0], "float32", x.kind, name)
        )
        wish = self.head_dim if by_heads else _core.BLOCK if by_blocks else _core.PANEL_ROWS
        unit_rows = wish if divides(weight.segment_rows, wish) else _core.PANEL_ROWS
        args = {"weight": weight, **inputs, "out": out, "add": add_to is not None, "unit_rows": unit_rows}
        if bias is not None:
            args["bias"] = bias
        # Between segments that end inside a panel, a unit is no range of columns that others would share.
        unit = unit_rows if divides(weight.segment_rows[:-1], unit_rows) else -1
        self._emit("linear", name, args, reads=list(inputs.values()), writes=[out], unit=unit)
        return out

    def gate_up(self, x: Value, weight: _core.Packed, name: str, function: Function = "silu") -> Value:
        """function(x @ gate.T) * (x @ up.T), (T, M), for the fused weight (2M, K)."""
        inputs = self._inputs(x, weight, name)
        out = self._value(weight.shape[0] // 2, "float32", x.kind, name)
        whole = divides([out.cols, *weight.segment_rows], _core.BLOCK)
        unit_rows = _core.BLOCK if whole else _core.PANEL_ROWS
        args = {"weight": weight, **inputs, "out": out, "unit_rows": unit_rows, "function": function}
        unit = unit_rows if whole else -1
        self._emit("gate_up", name, args, reads=list(inputs.values()), writes=[out], unit=unit)
        return out

    def sample(self, logits: Value, name: str = "sample") -> Value:
        """(R, 1) int32: the next token of each row."""
        out = self._value(1, "int32", "outputs", name)
        self._emit("sample", name, {"logits": logits, "out": out}, reads=[logits], writes=[out])
        return out

    # --- what an operation reads --------------------------------------------------------------------------
    def _inputs(self, x: Value, weight: _core.Packed, name: str) -> dict[str, Value]:
        """The forms of x that the formats of a weight read; codes are made once per value and phase."""
        forms = sorted(set(weight.inputs) - {"float"})
        missing = [form for form in forms if form not in x.codes]
        if missing:
            self._quantize(x, missing, name)
        inputs = {form: x.codes[form] for form in forms}
        return {"x": x, **inputs} if "float" in weight.inputs else inputs

    def _quantize(self, x: Value, forms: list[str], name: str) -> None:
        for form in forms:
            cols = x.cols // _core.BLOCK * _core.CODE_BYTES[form]
            x.codes[form] = self._value(cols, "uint8", x.kind, f"{name}.{form}")
        # Where a thread made whole blocks of columns in this phase, it quantizes them.
        by_cols = self._phase.written.get(x.place) == _core.BLOCK
        args: dict[str, Any] = {"x": x} | {form: x.codes[form] for form in forms}
        if x.place.parts > 1:
            args["parts"] = x.place.parts
        self._emit(
            "quantize_cols" if by_cols else "quantize_rows",
            f"{name}.quantize",
            args,
            reads=[] if by_cols else [x],
            reads_own=[x] if by_cols else [],
            writes=[x.codes[form] for form in forms],
            unit=_core.BLOCK if by_cols else 0,
        )

    # --- values and barriers -------------------------------------------------------------------------------
    def _value(self, cols: int, dtype: str, kind: Kind, name: str, parts: int = 1) -> Value:
        place = Place(cols, dtype, kind, self.scope + name, parts)
        self.places.append(place)
        return Value(place)

    def _overwrite(self, value: Value, op: str, name: str) -> Value:
        """A new handle on the memory of `value`, whose old handle may not be used any more."""
        self._check_current(op, name, value)
        value.retired = True
        return Value(value.place)

    def _check_current(self, op: str, name: str, value: Value) -> None:
        if value.retired:
            raise ValueError(
                f"{op}: {self.scope}{name} reads {value.place.name}, which was overwritten in place"
            )

    def _emit(
        self,
        op: str,
        name: str,
        args: dict[str, Any],
        *,
        reads: list[Value] | None = None,
        reads_own: list[Value] | None = None,
        writes: list[Value],
        unit: int = -1,
    ) -> None:
        """Append an instruction.

        Args:
            reads: values of which a thread may need any part.
            reads_own: values of which a thread needs only the columns that it made itself in this phase.
            writes: values that it makes, or changes in place.
            unit: columns that one unit of work makes, -1 where units are not columns.
        """
        reads, reads_own = reads or [], reads_own or []
        for value in (*reads, *reads_own):
            self._check_current(op, name, value)
        unit = 0 if op in REPLICABLE else unit
        own = [value.place for value in (*reads_own, *writes)]
        barrier = self._phase.must_end_before([v.place for v in reads], own, [v.place for v in writes], unit)
        if barrier or self._phase.index < 0:
            self._phase = Phase(self._phase.index + 1)
        phase = self._phase
        phase.has_main |= unit != 0
        if unit == 0:
            phase.kind = writes[0].kind
        for value in writes:
            phase.written[value.place] = unit
            value.place.replicable = unit == 0
        phase.read.update(value.place for value in reads)
        for value in (*reads, *reads_own, *writes):
            value.place.first = phase.index if value.place.first < 0 else value.place.first
            value.place.last = phase.index
        self.instructions.append(Instruction(self.scope + name, op, args, barrier, phase.index))
