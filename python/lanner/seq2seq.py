"""A loaded encoder-decoder: two programs, their caches, and the sources that a step's targets attend to."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from lanner import _core, models
from lanner._outputs import OutputRows
from lanner._records import dataclass
from lanner.builder import Builder
from lanner.decoder import (
    MAX_OUTPUTS,
    MAX_SEQS,
    checked_context,
    checked_kv_dtype,
    checked_quantize,
    free_cache_bytes,
)
from lanner.kv_cache import CacheShape, PageGroup, page_bytes
from lanner.program import Program, weight_bytes_per_token
from lanner.sources import Places, Source
from lanner.target_rules import TargetRules, read_rules
from lanner.weights import Weights

if TYPE_CHECKING:
    from types import ModuleType

    import numpy as np
    import numpy.typing as npt

    from lanner.checkpoint import Checkpoint
    from lanner.models._seq2seq import Seq2SeqConfig
    from lanner.phases import Value

CrossViews = tuple["memoryview[int]", "memoryview[int]"]
"""cross_lens and cross_tables of a step, the tables in one row."""

SOURCE_TOKENS = 512
"""Tokens of a step of the encoder, unless one source is longer."""


@dataclass(frozen=True)
class Emitted:
    """The two lists of an encoder-decoder, and the values that are read after their runs."""

    cache: _core.KvCache
    source: Builder
    source_cache: _core.KvCache
    hidden: Value
    target: Builder
    logits: Value
    forbidden: Value | None
    sampled: Value

    @property
    def kept(self) -> tuple[Value, ...]:
        """Values of the target's list that are read after a run."""
        return tuple(value for value in (self.logits, self.forbidden, self.sampled) if value is not None)


def emit(
    module: ModuleType,
    c: Seq2SeqConfig,
    loaded: object,
    kv_dtype: str,
    n_pages: int,
    n_source_pages: int,
) -> Emitted:
    """The lists of a model, over new caches: n_pages of targets, and as many of what they attend to."""
    heads = (c.n_kv_heads, c.head_dim)
    cross = _core.KvCache(kv_dtype, c.n_layers, n_pages, *heads)
    # One layer: the next one overwrites keys and values that nothing reads any more.
    source_cache = _core.KvCache("f32", 1, n_source_pages, *heads)
    source = Builder(source_cache, c.n_heads, c.head_dim, cross)
    hidden = module.encode(source, c, loaded)
    cache = _core.KvCache(kv_dtype, c.n_layers, n_pages, *heads)
    target = Builder(cache, c.n_heads, c.head_dim, cross)
    logits, forbidden = module.decode(target, c, loaded)
    sampled = target.sample(logits)
    return Emitted(cache, source, source_cache, hidden, target, logits, forbidden, sampled)


class Seq2Seq(OutputRows):
    """An encoder-decoder that can run steps. To the engine it is a `lanner.decoder.Decoder` of its targets.

    A source is encoded in the first step that has a target of it: the encoder leaves the keys and values of
    every decoder layer in the cross cache, where all steps of its targets read them. Where sources wait that
    have more of them than there is room for, some are encoded again, with the same bits. One thread at a time
    may call `prepare` and `run`.

    Args:
        checkpoint: the opened model; it may be dropped afterwards.
        context: positions of a source, and of a target; by default what the model was trained for.
        n_threads: threads of a step.
        kv_dtype: "f16", "f32" or "q8", the type of the decoder's cached keys and values.
        max_memory: bytes that weights, caches and activations may take together, or None, as in Decoder.
        quantize: None, or "q8_0" or "q4_0": the format that float matrices get.

    Raises:
        UnsupportedModelError: an architecture, format or option of the model that has no kernel here.
        ModelFileError: a model that contradicts itself.
        ValueError: a context beyond the model's, an unknown kv_dtype or quantize.
        OutOfMemoryBudget: `max_memory` is too small.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        context: int | None = None,
        n_threads: int = 1,
        kv_dtype: str = "f16",
        max_memory: int | None = None,
        quantize: str | None = None,
    ) -> None:
        checked_quantize(quantize)
        settings = checkpoint.settings
        module = models.find(settings)
        weights = Weights(
            checkpoint, n_threads, models.hf_names(module, settings), quantize, module.HF_PREFIX
        )
        self.config: Seq2SeqConfig = module.config(settings, weights)
        self.rules: TargetRules = read_rules(checkpoint, self.config.vocab_size)
        settings.finish()
        c = self.config
        self.context = c.context_length if context is None else checked_context(c.longest, context)
        self.n_threads = n_threads
        self.kv_dtype = checked_kv_dtype(kv_dtype)
        self._pages_each = -(-self.context // _core.PAGE_POSITIONS)
        from lanner._estimate import room_within

        room = room_within(
            checkpoint, max_memory, context=context, n_threads=n_threads, kv_dtype=kv_dtype, quantize=quantize
        )
        loaded = module.load(c, weights, self.rules.forbidden_ids)
        weights.finish(module.HF_IGNORED)
        weights.packer.wait()
        self.n_params = weights.n_params
        self.formats = weights.n_bytes_by_format
        n_bytes, max_seqs = (room.cache_bytes, room.n_seqs) if room else (free_cache_bytes(), MAX_SEQS)
        # A target has pages of its own, and its source as many in the cross cache, reserved as a whole.
        page = 2 * page_bytes(self.kv_dtype, c.n_kv_heads, c.head_dim)
        shape = CacheShape((0,) * c.n_layers, page, self.context, 1)
        n_places = shape.page_groups(n_bytes, max_seqs)[0].n_pages // self._pages_each
        self.page_groups = [PageGroup(n_places * self._pages_each, self._pages_each, 0)]
        self._build(module, loaded, n_places)
        self._places = Places(n_places)
        self._sources: list[Source] = []  # of the step, one for every target

    def _build(self, module: ModuleType, loaded: object, max_seqs: int) -> None:
        pages, source_tokens = self._pages_each, max(SOURCE_TOKENS, self.context)
        n_source_pages = -(-source_tokens // _core.PAGE_POSITIONS) + max_seqs
        n_pages = self.page_groups[0].n_pages
        made = emit(module, self.config, loaded, self.kv_dtype, n_pages, n_source_pages)
        self._cache = made.cache
        self._hidden, self._logits, self._sampled = made.hidden, made.logits, made.sampled
        self._forbidden, self._forbidden_ids = made.forbidden, tuple(sorted(self.rules.forbidden_ids))
        self.encoder = Program(made.source, [made.hidden], self.n_threads, source_tokens, 1)
        self.source_step = _core.Step(source_tokens, max_seqs, 1, pages, pages)
        self.program = Program(made.target, made.kept, self.n_threads, MAX_OUTPUTS, max_seqs)
        self.step = _core.Step(MAX_OUTPUTS, max_seqs, max_seqs, pages, pages)
        self._views, self._source_views = _cross_views(self.step), _cross_views(self.source_step)

    def keep(self) -> None:
        """Called when the model is closed. Nothing: its weights are packed each time."""

    # --- steps ----------------------------------------------------------------------------------------------
    def prepare(self, chunks: Iterable[Any]) -> None:
        """Tells which targets a step has before it runs: the `sequence` of each chunk, in their order."""
        self._sources = [chunk.sequence.source for chunk in chunks]
        self._places.deal(self._sources)
        for row, source in enumerate(self._sources):
            self._point(self._views, row, source)

    def run(self, deadline_s: float = math.inf) -> bool:
        """Encode the sources that are new, and run the step; False where it was stopped, as in Decoder."""
        new = [source for source in dict.fromkeys(self._sources) if not self._places[source].is_encoded]
        for batch in self._batches(new):
            if not self._encode(batch, deadline_s):
                return False
        return self.program.core.run(self.step, deadline_s)

    def cancel(self) -> None:
        """From any thread: the running step, and later ones until `clear_cancel`, end between two layers."""
        self.encoder.core.cancel()
        self.program.core.cancel()

    def clear_cancel(self) -> None:
        """Let steps run again."""
        self.encoder.core.clear_cancel()
        self.program.core.clear_cancel()

    def hidden(self, n_tokens: int) -> npt.NDArray[np.float32]:
        """(T, hidden_size) float32: the encoder's last output, a view that its next step overwrites."""
        return self.encoder.array(self._hidden, n_tokens)

    def copy_pages(self, copies: Iterable[tuple[int, int, int]]) -> None:
        """Copies (group, source, target) of pages, before a step that writes to `target`."""
        for _, source, target in copies:
            self._cache.copy_page(source, target)

    # --- sources --------------------------------------------------------------------------------------------
    def _batches(self, sources: list[Source]) -> Iterator[list[Source]]:
        """Sources that the encoder takes in one step."""
        batch: list[Source] = []
        n_tokens = 0
        for source in sources:
            if batch and n_tokens + len(source.token_ids) > self.source_step.max_tokens:
                yield batch
                batch, n_tokens = [], 0
            batch.append(source)
            n_tokens += len(source.token_ids)
        if batch:
            yield batch

    def _encode(self, batch: list[Source], deadline_s: float) -> bool:
        """One step of whole sources; False where it was stopped."""
        step, views = self.source_step, self.source_step.memoryviews()
        tables = views["block_tables"].cast("B").cast("i")
        n_tokens = n_pages = 0
        for row, source in enumerate(batch):
            start, n_tokens = n_tokens, n_tokens + len(source.token_ids)
            length = n_tokens - start
            views["token_ids"][start:n_tokens] = source.token_ids
            views["positions"][start:n_tokens] = array("i", range(length))
            views["token_seqs"][start:n_tokens] = array("i", [row]) * length
            views["seq_starts"][row] = start
            views["kv_lens"][row] = length
            for page in range(-(-length // _core.PAGE_POSITIONS)):
                tables[row * self._pages_each + page] = n_pages
                n_pages += 1
            self._point(self._source_views, row, source)
        views["seq_starts"][len(batch)] = n_tokens
        step.n_tokens, step.n_seqs, step.n_outputs = n_tokens, len(batch), 0
        if not self.encoder.core.run(step, deadline_s):
            return False
        for source in batch:
            self._places[source].is_encoded = True
        return True

    def _point(self, views: CrossViews, row: int, source: Source) -> None:
        """Leads sequence `row` of a step to the keys and values of its source."""
        (lens, tables), each = views, self._pages_each
        first = self._places[source].index * each
        lens[row] = len(source.token_ids)
        tables[row * each : (row + 1) * each] = array("i", range(first, first + each))

    # --- sizes ----------------------------------------------------------------------------------------------
    @property
    def weight_bytes_per_token(self) -> int:
        """Bytes of weights that a step of the decoder reads: all of its own but the embedding."""
        return weight_bytes_per_token(self.program.instructions)


def _cross_views(step: _core.Step) -> CrossViews:
    views = step.memoryviews()
    return views["cross_lens"], views["cross_tables"].cast("B").cast("i")
