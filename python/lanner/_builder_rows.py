"""Operations of a builder on the rows and columns of values: norms, sums, activations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from lanner import _core

if TYPE_CHECKING:
    from array import array

    import numpy as np
    import numpy.typing as npt

    from lanner.phases import Kind, Phase, Value

    Vector = memoryview[float] | array[float] | npt.NDArray[np.float32]

Function = Literal["silu", "gelu", "gelu_tanh", "relu", "tanh", "sigmoid"]
"""Activation functions; gelu is the exact one, gelu_tanh its approximation."""


def divides(segment_rows: list[int], unit_rows: int) -> bool:
    """Whether units of `unit_rows` are whole panels and none crosses from one segment to the next."""
    return unit_rows % _core.PANEL_ROWS == 0 and all(n % unit_rows == 0 for n in segment_rows)


class RowOperations:
    """The part of `lanner.builder.Builder` that makes rows from rows."""

    if TYPE_CHECKING:
        _phase: Phase

        def _value(self, cols: int, dtype: str, kind: Kind, name: str, parts: int = 1) -> Value: ...
        def _overwrite(self, value: Value, op: str, name: str) -> Value: ...
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
        ) -> None: ...

    def rms_norm(self, x: Value, weight: Vector, eps: float, name: str) -> Value:
        """Like x: x / sqrt(mean(x^2) + eps) * weight, weight (cols,)."""
        return self._by_rows("rms_norm", name, {"x": x}, weight=weight, eps=eps)

    def layer_norm(self, x: Value, weight: Vector, bias: Vector | None, eps: float, name: str) -> Value:
        """Like x: (x - mean(x)) / sqrt(variance(x) + eps) * weight + bias, both (cols,)."""
        return self._by_rows("layer_norm", name, {"x": x}, weight=weight, bias=bias, eps=eps)

    def add(self, x: Value, y: Value, name: str, factor: float = 1.0) -> Value:
        """Like x: x + factor * y."""
        return self._by_rows("add", name, {"x": x, "y": y}, factor=factor)

    def scale(self, x: Value, factor: float, name: str) -> Value:
        """Like x: factor * x."""
        return self._by_rows("scale", name, {"x": x}, factor=factor)

    def add_positions(self, x: Value, table: Vector, offset: int, name: str) -> Value:
        """Like x: x + table[position + offset] for a table (n, cols) of learned positions.

        A step with a position that the table does not have is refused.
        """
        return self._by_rows("add_positions", name, {"x": x}, table=table, offset=offset)

    def add_gated(self, x: Value, y: Value, gate: Value, name: str) -> Value:
        """Like x: x + sigmoid(gate) * y, gate (rows, 1)."""
        return self._by_rows("add_gated", name, {"x": x, "y": y, "gate": gate})

    def activate(self, x: Value, function: Function, name: str) -> Value:
        """x = function(x) in place, by the thread that made the columns where that was in this phase."""
        return self._by_columns("activate", x, name, function=function)

    def softcap(self, x: Value, cap: float, name: str) -> Value:
        """x = cap * tanh(x / cap) in place, as `activate`."""
        return self._by_columns("softcap", x, name, cap=cap)

    def _by_rows(self, op: str, name: str, values: dict[str, Value], **options: Any) -> Value:
        """A new value like x from operands whose rows match its rows."""
        x = values["x"]
        out = self._value(x.cols, "float32", x.kind, name)
        self._emit(op, name, {**values, "out": out, **options}, reads=list(values.values()), writes=[out])
        return out

    def _by_columns(self, op: str, x: Value, name: str, **options: Any) -> Value:
        out = self._overwrite(x, op, name)
        unit = self._phase.written.get(x.place, 0)
        unit = unit if unit > 0 else _core.PANEL_ROWS
        self._emit(op, name, {"x": out, **options, "unit_cols": unit}, writes=[out], unit=unit)
        return out
