"""Operations of the builder that know heads: norms of queries and keys, rotation, the cache, attention."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lanner import _core
from lanner._builder_rows import RowOperations
from lanner.phases import Value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lanner._builder_rows import Vector
    from lanner.builder import Rope
    from lanner.kv_cache import LayerCache


ORDINARY = {"window": 0, "softcap": 0.0, "causal": True, "cross": False}
"""Options of `attention` that are not written into the list."""


class AttentionOperations(RowOperations):
    """Part of `Builder`, which has the rest."""

    cache: _core.KvCache | Sequence[LayerCache]
    cross_cache: _core.KvCache | None
    n_heads: int
    head_dim: int
    _tables: dict[tuple[int, float], Value]

    def head_norm(self, qkv: Value, q_weight: Vector, k_weight: Vector, eps: float, name: str) -> Value:
        """In place, x / sqrt(mean(x^2) + eps) * weight over each query and key head; weights (head_dim,)."""
        out = self._overwrite(qkv, "head_norm", name)
        args = {"qkv": out, "q_weight": q_weight, "k_weight": k_weight, "n_heads": self.n_heads, "eps": eps}
        self._emit("head_norm", name, args, writes=[out], unit=self.head_dim)
        return out

    def qk_norm(self, qkv: Value, q_weight: Vector, k_weight: Vector, eps: float, name: str) -> Value:
        """In place, x / sqrt(mean(x^2) + eps) * weight over all query columns, and over all key columns.

        Weights (n_heads * head_dim,) and (n_kv_heads * head_dim,).
        """
        out = self._overwrite(qkv, "qk_norm", name)
        args = {"qkv": out, "q_weight": q_weight, "k_weight": k_weight, "eps": eps}
        self._emit("qk_norm", name, args, writes=[out])
        return out

    def rope_append(self, qkv: Value, layer: int, rope: Rope, name: str) -> Value:
        """Rotates the query heads of qkv in place and writes its keys and values to the cache.

        A `rope` of fewer than head_dim / 2 frequencies rotates the first dimensions of a head alone.
        """
        table = self._rope_table(rope)
        out = self._overwrite(qkv, "rope_append", name)
        args = {
            "table": table,
            **self._place(layer, "rope_append", name),
            "n_heads": self.n_heads,
            "qkv": out,
        }
        self._emit("rope_append", name, args, reads=[table], writes=[out], unit=self.head_dim)
        return out

    def append(self, kv: Value, layer: int, name: str, *, cross: bool = False) -> Value:
        """Writes the keys and values of kv to the cache as they are; its query heads, if any, stay.

        `cross`: to the cross cache, by the step's cross_tables at the positions of the tokens; then kv has no
        query heads.
        """
        place, n_heads = self._place(layer, "append", name, cross), 0 if cross else self.n_heads
        out = self._overwrite(kv, "append", name)
        args: dict[str, Any] = {"kv": out, **place, "n_heads": n_heads}
        self._emit("append", name, args | _unlike({"cross": cross}), writes=[out], unit=self.head_dim)
        return out

    def attention(
        self,
        q: Value,
        layer: int,
        scale: float,
        name: str,
        *,
        window: int = 0,
        softcap: float = 0.0,
        causal: bool = True,
        bias: Vector | None = None,
        cross: bool = False,
    ) -> Value:
        """(T, n_heads * head_dim): attention of the query heads of q over the cache.

        Args:
            q: query heads in its first columns, as `rope_append` or `append` left them.
            layer: of the model; of the cross cache for `cross`.
            scale: factor of the products q k.
            name: of the instruction.
            window: a query at i sees the keys at j with 0 <= i - j < window; 0: all up to its own.
            softcap: scores s become softcap * tanh(s / softcap), before bias and mask; 0: they stay.
            causal: False: a query sees all positions of its sequence, which must be in the step whole.
            bias: float32 (n_heads * (2 * reach + 1),): the score of query i and key j of head h gains
                bias[h][clamp(j - i, -reach, reach) + reach].
            cross: keys and values come from the cross cache, by the step's cross_tables and cross_lens, and
                every query sees them all.
        """
        place = self._place(layer, "attention", name, cross)
        out = self._value(self.n_heads * self.head_dim, "float32", "tokens", name)
        args = {
            "q": q,
            "out": out,
            **place,
            "n_heads": self.n_heads,
            "scale": scale,
        }
        args |= _unlike(
            {"window": window, "softcap": softcap, "causal": causal and not cross, "cross": cross}
        )
        if bias is not None:
            args["bias"] = bias
        self._emit("attention", name, args, reads=[q], writes=[out])
        return out

    def _place(self, layer: int, op: str, name: str, cross: bool = False) -> dict[str, Any]:
        """The cache of a layer, and the layer inside it."""
        if cross and self.cross_cache is None:
            raise ValueError(f"{op}: {name} is cross, the builder has no cross_cache")
        if cross or isinstance(self.cache, _core.KvCache):
            return {"cache": self.cross_cache if cross else self.cache, "layer": layer}
        return self.cache[layer]._asdict()

    def _rope_table(self, rope: Rope) -> Value:
        key = id(rope.inv_freq), rope.factor
        if key not in self._tables:
            table = self._value(2 * len(rope.inv_freq), "float32", "tokens", "rope")
            args: dict[str, Any] = {"inv_freq": rope.inv_freq, "out": table}
            args |= {"factor": rope.factor} if rope.factor != 1 else {}
            self._emit("rope_table", "rope", args, writes=[table])
            self._tables[key] = table
        return self._tables[key]


def _unlike(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value != ORDINARY[name]}
