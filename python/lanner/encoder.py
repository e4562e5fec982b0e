"""A loaded encoder: its configuration, program, and the steps that many texts of any lengths share."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from lanner import _core, models
from lanner.builder import Builder
from lanner.decoder import checked_context, checked_quantize
from lanner.program import Program, weight_bytes_per_token
from lanner.weights import Weights

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from lanner.checkpoint import Checkpoint
    from lanner.models._encoders import EncoderConfig

STEP_TOKENS = 1024
"""Tokens of a step, unless one text is longer. With fewer, threads wait for each other more often (two are
13% slower at 512); with more, values do not stay in caches (one thread is 5% slower at 2048)."""

MAX_SEQS = 128
"""Texts of a step: 128 of 8 tokens fill it, and each takes at least one page of 32 positions."""


class Encoder:
    """A model that gives a vector for every token of whole texts. Every method may be called from any thread.

    There is no padding: the tokens of several texts stand behind each other in one step, and each attends to
    those of its own text. So a text's vectors do not depend on what it is computed with, to the last bit.

    Args:
        checkpoint: the opened model; it may be dropped once the encoder exists.
        context: most tokens of a text, by default as many as the model has positions.
        n_threads: threads of a step.
        max_memory: bytes that weights and activations may take together, or None.
        quantize: None, or "q8_0" or "q4_0": the format that float matrices get.

    Raises:
        UnsupportedModelError: an architecture, format or option of the model that has no kernel here.
        ModelFileError: a model that contradicts itself.
        ValueError: a context beyond the model's, an unknown quantize.
        OutOfMemoryBudget: `max_memory` is too small.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        context: int | None = None,
        n_threads: int = 1,
        max_memory: int | None = None,
        quantize: str | None = None,
    ) -> None:
        checked_quantize(quantize)
        settings = checkpoint.settings
        module = models.find(settings)
        weights = Weights(
            checkpoint, n_threads, models.hf_names(module, settings), quantize, module.HF_PREFIX
        )
        self.config: EncoderConfig = module.config(settings, weights)
        settings.finish()
        self.context = checked_context(self.config.context_length, context)
        self.n_threads = n_threads
        self.max_tokens = max(STEP_TOKENS, self.context)
        from lanner._estimate import room_within

        room_within(
            checkpoint, max_memory, context=context, n_threads=n_threads, kv_dtype="f32", quantize=quantize
        )
        loaded = module.load(self.config, weights)
        weights.finish(module.HF_IGNORED)
        weights.packer.wait()
        self.n_params = weights.n_params
        self.formats = weights.n_bytes_by_format
        self._build(module, loaded)
        self._lock = threading.Lock()
        _encoders.add(self)

    def _build(self, module: object, loaded: object) -> None:
        c = self.config
        max_pages = -(-self.context // _core.PAGE_POSITIONS)
        n_pages = n_pages_of_step(self.max_tokens)
        # One layer: a layer's keys and values are not needed when the next one begins.
        self.cache = _core.KvCache("f32", 1, n_pages, c.n_kv_heads, c.head_dim)
        builder = Builder(self.cache, c.n_heads, c.head_dim)
        self._hidden, self._scores = module.build(builder, c, loaded)  # type: ignore[attr-defined]
        kept = [self._hidden] if self._scores is None else [self._hidden, self._scores]
        self.program = Program(builder, kept, self.n_threads, self.max_tokens, MAX_SEQS)
        self.step = _core.Step(self.max_tokens, MAX_SEQS, MAX_SEQS, max_pages)

    # --- what it computes -----------------------------------------------------------------------------------
    def hidden_states(
        self, texts: Sequence[Sequence[int]], take: Callable[[int, npt.NDArray[np.float32]], None]
    ) -> None:
        """Calls take(i, rows) for every text i, in any order, with its last hidden states.

        Args:
            texts: token ids, 1 to `context` of them each.
            take: rows are float32 (len(texts[i]), hidden_size), a view that is valid during the call.
        """
        for batch in _batches(texts, self.max_tokens):
            with self._lock:
                self._run([texts[i] for i in batch], n_outputs=0)
                rows = self.program.array(self._hidden, self.step.n_tokens)
                end = 0
                for i in batch:
                    start, end = end, end + len(texts[i])
                    take(i, rows[start:end])

    def scores(self, texts: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
        """(len(texts), n_labels) float32: what the head gives for every label, before any softmax.

        texts as in `hidden_states`; only for a model with labels.
        """
        import numpy as np

        assert self._scores is not None
        out = np.empty((len(texts), len(self.config.labels)), np.float32)
        for batch in _batches(texts, self.max_tokens):
            with self._lock:
                self._run([texts[i] for i in batch], n_outputs=len(batch))
                out[batch] = self.program.array(self._scores, len(batch))
        return out

    def _run(self, texts: list[Sequence[int]], n_outputs: int) -> None:
        """One step of whole texts; outputs are their first tokens."""
        import numpy as np

        step, n_seqs = self.step, len(texts)
        lengths = np.array([len(ids) for ids in texts], np.int32)
        n_pages = -(-lengths // _core.PAGE_POSITIONS)
        ends = lengths.cumsum()
        n_tokens = int(ends[-1])
        step.n_tokens, step.n_seqs, step.n_outputs = n_tokens, n_seqs, n_outputs
        step.token_ids[:n_tokens] = np.concatenate([np.asarray(ids, np.int32) for ids in texts])
        step.token_seqs[:n_tokens] = np.repeat(np.arange(n_seqs), lengths)
        step.positions[:n_tokens] = np.arange(n_tokens) - np.repeat(ends - lengths, lengths)
        step.seq_starts[0], step.seq_starts[1 : n_seqs + 1] = 0, ends
        step.kv_lens[:n_seqs] = lengths
        # Pages behind those of the text are not read.
        first_pages = n_pages.cumsum() - n_pages
        step.block_tables[:n_seqs] = first_pages[:, None] + np.arange(step.max_pages)
        step.output_rows[:n_outputs] = (ends - lengths)[:n_outputs]
        self.program.core.run(step)

    # --- sizes ----------------------------------------------------------------------------------------------
    @property
    def weight_bytes_per_token(self) -> int:
        """Bytes of weights that a step reads whole: all but the embedding."""
        return weight_bytes_per_token(self.program.instructions)

    def restart_in_child(self) -> None:
        """A lock for a process that has only the thread that called fork."""
        self._lock = threading.Lock()


def n_pages_of_step(max_tokens: int) -> int:
    """Pages of the cache: those of all tokens, and one that every text of a step may begin."""
    return -(-max_tokens // _core.PAGE_POSITIONS) + MAX_SEQS


def _batches(texts: Sequence[Sequence[int]], max_tokens: int) -> Iterator[list[int]]:
    """Which texts share a step: neighbours in length, so that threads share the attention evenly."""
    batch: list[int] = []
    n_tokens = 0
    for i in sorted(range(len(texts)), key=lambda i: -len(texts[i])):
        if batch and (n_tokens + len(texts[i]) > STEP_TOKENS or len(batch) == MAX_SEQS):
            yield batch
            batch, n_tokens = [], 0
        batch.append(i)
        n_tokens += len(texts[i])
    if batch:
        yield batch


_encoders: weakref.WeakSet[Encoder] = weakref.WeakSet()


def _restart_all_in_child() -> None:
    for encoder in list(_encoders):
        encoder.restart_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_restart_all_in_child)
