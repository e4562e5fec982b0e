"""A loaded encoder-decoder: two programs, their caches, and the sources that a step's targets attend to."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from lanner import _core, models
from lanner._outputs import OutputRows
from lanner.builder import Builder
from lanner.decoder import MAX_OUTPUTS, MAX_SEQS, checked_context, checked_kv_dtype, checked_quantize
from lanner.kv_cache import page_groups
from lanner.program import Program, weight_bytes_per_token
from lanner.target_rules import TargetRules, read_rules
from lanner.weights import Weights

if TYPE_CHECKING:
    from types import ModuleType

    import numpy as np
    import numpy.typing as npt

    from lanner.checkpoint import Checkpoint
    from lanner.models._seq2seq import Seq2SeqConfig
    from lanner.phases import Value

SOURCE_TOKENS = 512
"""Tokens of a step of the encoder, unless one source is longer."""


class Target(Protocol):
    """A sequence that the decoder continues; `lanner.sequence` has the rest of it."""

    source_ids: array[int]

    @property
    def is_finished(self) -> bool:
        """Whether it will be in no further step."""


@dataclass
class _Place:
    """Which share of the cross cache has the keys and values of a source."""

    index: int
    is_encoded: bool = False


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

    A source is encoded in the first step that has its target: the encoder leaves the keys and values of every
    decoder layer in the cross cache, where all steps of the target read them. One thread at a time may call
    `prepare` and `run`.

    Args:
        checkpoint: the opened model; it may be dropped afterwards.
        context: positions of a source, and of a target; by default what the model was trained for.
        n_threads: threads of a step.
        kv_dtype: "f16", "f32" or "q8", the type of the decoder's cached keys and values.
        max_memory: bytes that weights, caches and activations may take together, or None.
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
        self.page_groups = page_groups([0], self.context, 1, MAX_SEQS)
        from lanner._estimate import check_budget

        check_budget(
            checkpoint, max_memory, context=context, n_threads=n_threads, kv_dtype=kv_dtype, quantize=quantize
        )
        loaded = module.load(c, weights, self.rules.forbidden_ids)
        weights.finish(module.HF_IGNORED)
        self.n_params = weights.n_params
        self.formats = weights.n_bytes_by_format
        self._build(module, loaded)
        self._places: dict[Target, _Place] = {}
        self._free = list(range(MAX_SEQS))
        self._targets: list[Target] = []

    def _build(self, module: ModuleType, loaded: object) -> None:
        pages, source_tokens = self._pages_each, max(SOURCE_TOKENS, self.context)
        n_source_pages = -(-source_tokens // _core.PAGE_POSITIONS) + MAX_SEQS
        n_pages = self.page_groups[0].n_pages
        made = emit(module, self.config, loaded, self.kv_dtype, n_pages, n_source_pages)
        self._cache = made.cache
        self._hidden, self._logits, self._sampled = made.hidden, made.logits, made.sampled
        self._forbidden = made.forbidden
        self.encoder = Program(made.source, [made.hidden], self.n_threads, source_tokens, 1)
        self.source_step = _core.Step(source_tokens, MAX_SEQS, 1, pages, pages)
        self.program = Program(made.target, made.kept, self.n_threads, MAX_OUTPUTS, MAX_OUTPUTS)
        self.step = _core.Step(MAX_OUTPUTS, MAX_SEQS, MAX_OUTPUTS, pages, pages)

    # --- steps ----------------------------------------------------------------------------------------------
    def prepare(self, chunks: Iterable[Any]) -> None:
        """Tells which targets a step has before it runs: the `sequence` of each chunk, in their order."""
        for target in [target for target in self._places if target.is_finished]:
            self._free.append(self._places.pop(target).index)
        self._targets = [chunk.sequence for chunk in chunks]
        for row, target in enumerate(self._targets):
            if target not in self._places:
                self._places[target] = _Place(self._free.pop())
            self._point(self.step, row, target)

    def run(self) -> bool:
        """Encode the sources that are new, and run the step; False where `cancel` stopped it."""
        new = [target for target in self._targets if not self._places[target].is_encoded]
        for batch in self._batches(new):
            if not self._encode(batch):
                return False
        return self.program.core.run(self.step)

    def cancel(self) -> None:
        """From any thread: the running step, and later ones until `clear_cancel`, end between two layers."""
        self.encoder.core.cancel()
        self.program.core.cancel()

    def clear_cancel(self) -> None:
        """Let steps run again."""
        self.encoder.core.clear_cancel()
        self.program.core.clear_cancel()

    def forbidden_logits(self, n_outputs: int) -> npt.NDArray[np.float32] | None:
        """(R, n) float32: what the model gave the n forbidden ids, ascending; None where there are none."""
        return None if self._forbidden is None else self.program.array(self._forbidden, n_outputs)

    def hidden(self, n_tokens: int) -> npt.NDArray[np.float32]:
        """(T, hidden_size) float32: the encoder's last output, a view that its next step overwrites."""
        return self.encoder.array(self._hidden, n_tokens)

    def copy_pages(self, copies: Iterable[tuple[int, int, int]]) -> None:
        """Copies (group, source, target) of pages, before a step that writes to `target`."""
        for _, source, target in copies:
            self._cache.copy_page(source, target)

    # --- sources --------------------------------------------------------------------------------------------
    def _batches(self, targets: list[Target]) -> Iterator[list[Target]]:
        """Sources that the encoder takes in one step."""
        batch: list[Target] = []
        n_tokens = 0
        for target in targets:
            if batch and n_tokens + len(target.source_ids) > self.source_step.max_tokens:
                yield batch
                batch, n_tokens = [], 0
            batch.append(target)
            n_tokens += len(target.source_ids)
        if batch:
            yield batch

    def _encode(self, batch: list[Target]) -> bool:
        """One step of whole sources; False where it was stopped."""
        step, views = self.source_step, self.source_step.memoryviews()
        tables = views["block_tables"].cast("B").cast("i")
        n_tokens = n_pages = 0
        for row, target in enumerate(batch):
            start, n_tokens = n_tokens, n_tokens + len(target.source_ids)
            length = n_tokens - start
            views["token_ids"][start:n_tokens] = target.source_ids
            views["positions"][start:n_tokens] = array("i", range(length))
            views["token_seqs"][start:n_tokens] = array("i", [row]) * length
            views["seq_starts"][row] = start
            views["kv_lens"][row] = length
            for page in range(-(-length // _core.PAGE_POSITIONS)):
                tables[row * self._pages_each + page] = n_pages
                n_pages += 1
            self._point(step, row, target)
        views["seq_starts"][len(batch)] = n_tokens
        step.n_tokens, step.n_seqs, step.n_outputs = n_tokens, len(batch), 0
        if not self.encoder.core.run(step):
            return False
        for target in batch:
            self._places[target].is_encoded = True
        return True

    def _point(self, step: _core.Step, row: int, target: Target) -> None:
        """Leads sequence `row` of a step to the keys and values of its source."""
        views, each, first = (
            step.memoryviews(),
            self._pages_each,
            self._places[target].index * self._pages_each,
        )
        views["cross_lens"][row] = len(target.source_ids)
        tables = views["cross_tables"].cast("B").cast("i")
        tables[row * each : (row + 1) * each] = array("i", range(first, first + each))

    # --- sizes ----------------------------------------------------------------------------------------------
    @property
    def weight_bytes_per_token(self) -> int:
        """Bytes of weights that a step of the decoder reads: all of its own but the embedding."""
        return weight_bytes_per_token(self.program.instructions)
