"""Mixture of experts: the operations that a builder emits for one layer of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lanner import _core
from lanner._builder_rows import Function, RowOperations, divides

if TYPE_CHECKING:
    from lanner._builder_rows import Vector
    from lanner.phases import Value


class ExpertOperations(RowOperations):
    """The part of `lanner.builder.Builder` that sends rows to experts."""

    if TYPE_CHECKING:

        def linear(
            self, x: Value, weight: _core.Packed, name: str, *, bias: Vector | None = None
        ) -> Value: ...
        def _inputs(self, x: Value, weight: _core.Packed, name: str) -> dict[str, Value]: ...

    def moe(
        self,
        x: Value,
        router: _core.Packed,
        gate_up: _core.Packed,
        down: _core.Packed,
        k: int,
        normalise: bool,
        name: str,
        *,
        add_to: Value | None = None,
        function: Function = "silu",
    ) -> Value:
        """(rows, hidden_size): what the k likeliest of E experts make of each row of x, weighted by softmax.

        Experts are added up in ascending id; only those that a row of the step goes to are read.

        Args:
            router: (E, K).
            gate_up: (E * 2M, K), for each expert M rows of gate, then M rows of up, as 2 E segments.
            down: (E * hidden_size, M), a segment for each expert; one for all where hidden_size % 16 == 0.
            k: experts of a row.
            normalise: the weights of a row are divided by their sum.
            add_to: a value to which the result is added in place.
            function: on the gate half.
        """
        n_experts = router.shape[0]
        logits = self.linear(x, router, f"{name}.router")
        ids = self._value(k, "int32", x.kind, f"{name}.ids")
        weights = self._value(k, "float32", x.kind, f"{name}.weights")
        args = {"x": logits, "ids": ids, "weights": weights, "normalise": normalise}
        self._emit("route", f"{name}.route", args, reads=[logits], writes=[ids, weights])
        h = self._experts_gate_up(x, gate_up, ids, n_experts, function, f"{name}.gate_up")
        return self._experts_down(h, down, ids, weights, n_experts, add_to, f"{name}.down")

    def _experts_gate_up(
        self, x: Value, weight: _core.Packed, ids: Value, n_experts: int, function: Function, name: str
    ) -> Value:
        inputs = self._inputs(x, weight, name)
        width = weight.shape[0] // (2 * n_experts)
        out = self._value(ids.cols * width, "float32", x.kind, name, parts=ids.cols)
        whole = divides([width, *weight.segment_rows], _core.BLOCK)
        unit_rows = _core.BLOCK if whole else _core.PANEL_ROWS
        args = {"weight": weight, **inputs, "ids": ids, "out": out, "n_experts": n_experts}
        self._emit(
            "experts_gate_up",
            name,
            args | {"unit_rows": unit_rows, "function": function},
            reads=[*inputs.values(), ids],
            writes=[out],
            # A unit makes the same columns of every part of a row, as the codes of such a value are cut.
            unit=unit_rows if whole else -1,
        )
        return out

    def _experts_down(
        self,
        x: Value,
        weight: _core.Packed,
        ids: Value,
        weights: Value,
        n_experts: int,
        add_to: Value | None,
        name: str,
    ) -> Value:
        inputs = self._inputs(x, weight, name)
        width = weight.shape[0] // n_experts
        out = (
            self._overwrite(add_to, "experts_down", name)
            if add_to
            else self._value(width, "float32", x.kind, name)
        )
        args = {"weight": weight, **inputs, "ids": ids, "weights": weights, "out": out}
        self._emit(
            "experts_down",
            name,
            args | {"add": add_to is not None, "n_experts": n_experts, "unit_rows": _core.PANEL_ROWS},
            reads=[*inputs.values(), ids, weights],
            writes=[out],
            unit=_core.PANEL_ROWS if divides([width], _core.PANEL_ROWS) else -1,
        )
        return out
