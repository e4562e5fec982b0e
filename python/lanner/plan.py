"""A model as it would be loaded, from its headers alone: no weight is read, packed or multiplied."""

from __future__ import annotations

from array import array
from math import prod
from typing import TYPE_CHECKING, Any

from lanner import _core, models
from lanner._records import dataclass
from lanner.builder import Builder
from lanner.decoder import CHUNK_TOKENS
from lanner.kv_cache import CacheShape
from lanner.program import lay_out, weight_bytes, weight_bytes_per_token
from lanner.seq2seq import emit
from lanner.target_rules import read_rules
from lanner.weights import Source, Weights

if TYPE_CHECKING:
    from lanner.checkpoint import Checkpoint
    from lanner.seq2seq import Emitted


@dataclass(frozen=True, eq=False)
class PlannedPacked:
    """What a builder asks of a packed weight."""

    shape: tuple[int, int]
    formats: tuple[str, ...]
    segment_rows: list[int]
    nbytes: int

    @property
    def inputs(self) -> list[str]:
        """Forms of the input that its formats read."""
        return [_core.input_of(format) for format in self.formats]


class PlannedWeights(Weights):
    """Weights that checks names, shapes and formats, and gives numbers that mean nothing."""

    def packed(self, *sources: Source, keep: bool = False) -> Any:
        """See Weights."""
        formats, rows, n_bytes = [], [], 0
        for source in sources:
            info = self._take(source)[0]
            self._check_format(info, _core.array.FORMATS)
            n, k = source.shape
            if source.rows is not None:
                n = source.rows[1] - source.rows[0]
            format = info.format if keep else self._target(info.format, k)
            block, block_bytes = _core.array.FORMATS[format]
            panels = -(-n // _core.PANEL_ROWS)
            n_bytes += panels * _core.PANEL_ROWS * (k // int(block)) * int(block_bytes)
            formats.append(format)
            rows.append(n)
        return PlannedPacked((sum(rows), sources[0].shape[1]), tuple(formats), rows, n_bytes)

    def vector(self, source: Source) -> memoryview[float]:
        """See Weights; ones."""
        self._take(source)
        ones = memoryview(array("f", [1.0]) * prod(source.shape)).cast("B")
        return ones.cast("f", source.shape)


@dataclass(frozen=True)
class SourcePlan:
    """What the encoder takes that stands beside a decoder."""

    builder: Builder
    kept: tuple[Any, ...]
    page_bytes: int

    def arena_bytes(self, n_threads: int, max_tokens: int) -> int:
        """Bytes of the values of the largest step."""
        return lay_out(self.builder, self.kept, n_threads, max_tokens, 1)[1]


@dataclass(frozen=True)
class Plan:
    """What a model takes. Bytes of weights are those of distinct ones; `config` is its architecture's.

    `page_bytes` is what a page of positions takes in the caches of one layer, `windows` has the window of
    every layer with a cache; beside a decoder that attends to one there is the encoder `source`.
    """

    config: Any
    n_params: int
    formats: dict[str, int]
    weight_bytes: int
    weight_bytes_per_token: int
    page_bytes: int
    windows: tuple[int, ...]
    builder: Builder
    kept: tuple[Any, ...]
    source: SourcePlan | None = None

    def shape(self, context: int) -> CacheShape:
        """What the caches of a sequence depend on."""
        return CacheShape(self.windows, self.page_bytes, context, min(CHUNK_TOKENS, context))

    def arena_bytes(self, n_threads: int, max_tokens: int, max_outputs: int) -> int:
        """Bytes of the values of the largest step."""
        return lay_out(self.builder, self.kept, n_threads, max_tokens, max_outputs)[1]


def plan(checkpoint: Checkpoint, *, context: int | None, kv_dtype: str, quantize: str | None) -> Plan:
    """The plan of a model; errors as loading has them."""
    settings = checkpoint.settings
    settings.context = context
    module = models.find(settings)
    weights = PlannedWeights(checkpoint, 1, models.hf_names(module, settings), quantize, module.HF_PREFIX)
    cfg = module.config(settings, weights)
    rules = read_rules(checkpoint, cfg.vocab_size) if models.is_seq2seq(settings) else None
    settings.finish()
    loaded = module.load(cfg, weights) if rules is None else module.load(cfg, weights, rules.forbidden_ids)
    weights.finish(module.HF_IGNORED)
    if rules is not None:
        return _of_both(weights, cfg, emit(module, cfg, loaded, kv_dtype, 1, 1))
    is_encoder = models.is_encoder(settings)
    windows, kv_dtype = ((0,), "f32") if is_encoder else (cfg.windows, kv_dtype)
    cache = _core.KvCache(kv_dtype, len(windows), 1, cfg.n_kv_heads, cfg.head_dim)
    builder = Builder(cache, cfg.n_heads, cfg.head_dim)
    built = module.build(builder, cfg, loaded)
    kept = tuple(value for value in built if value) if is_encoder else (built, builder.sample(built))
    return Plan(
        config=cfg,
        n_params=weights.n_params,
        formats=weights.n_bytes_by_format,
        weight_bytes=weight_bytes(builder.instructions),
        weight_bytes_per_token=weight_bytes_per_token(builder.instructions),
        page_bytes=cache.page_bytes // len(windows),
        windows=windows,
        builder=builder,
        kept=kept,
    )


def _of_both(weights: Weights, cfg: Any, made: Emitted) -> Plan:
    """The plan of an encoder-decoder, whose targets have a page of their own for each of their source."""
    assert made.target.cross_cache is not None
    return Plan(
        config=cfg,
        n_params=weights.n_params,
        formats=weights.n_bytes_by_format,
        weight_bytes=weight_bytes([*made.source.instructions, *made.target.instructions]),
        weight_bytes_per_token=weight_bytes_per_token(made.target.instructions),
        page_bytes=(made.cache.page_bytes + made.target.cross_cache.page_bytes) // cfg.n_layers,
        windows=(0,) * cfg.n_layers,
        builder=made.target,
        kept=made.kept,
        source=SourcePlan(made.source, (made.hidden,), made.source_cache.page_bytes),
    )
