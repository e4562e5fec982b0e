"""What stands for addresses in launches until there is memory: values, weights, the step, caches."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from lanner._records import dataclass
from lanner.phases import Place

__all__ = ["CachePart", "Launch", "Matrix", "Order", "Place", "Rows", "StepArray", "Vector"]


class Order(NamedTuple):
    """In which order the rows of a matrix lie; see csrc/cuda/linear.h.

    `kind` is plain, gated or qkv, the sizes are of qkv alone.
    """

    kind: Literal["plain", "gated", "qkv"] = "plain"
    n_heads: int = 0
    n_kv_heads: int = 0
    head_dim: int = 0
    rope_dim: int = 0


class Matrix(NamedTuple):
    """A weight, in an order of its rows."""

    weight: Any
    order: Order = Order()


class Vector(NamedTuple):
    """Numbers of a model, such as the weight of a norm; in the order of a matrix's rows, padded like them."""

    values: Any
    dtype: Literal["float32", "float64"] = "float32"
    order: Order | None = None


class StepArray(NamedTuple):
    """An array of the step as csrc/cuda/op.h names it, or its only number; `group` is that of the cache."""

    name: str
    group: int = 0


class Rows(NamedTuple):
    """The count of rows: one for each token of the step, or for each wanted output."""

    kind: Literal["tokens", "outputs"]


class CachePart(NamedTuple):
    """Keys and values of a layer."""

    cache: Any
    layer: int


@dataclass(frozen=True)
class Launch:
    """An operation of the GPU: name in the model, operation, and arguments by their names in csrc/cuda."""

    name: str
    op: str
    args: dict[str, Any]
