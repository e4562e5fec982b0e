"""A loaded decoder: its configuration, program, cache and the arrays of a step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lanner import _core, models
from lanner._outputs import OutputRows
from lanner.builder import Builder
from lanner.checkpoint import Checkpoint
from lanner.config import DecoderConfig
from lanner.kv_cache import CacheShape, PageGroup, make_caches, page_bytes
from lanner.program import Program, weight_bytes, weight_bytes_per_token
from lanner.weights import QUANTIZE, Weights

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lanner._packing import WeightPacker

CHUNK_TOKENS = 512
"""Tokens of the largest step: weights are unpacked once for every 128 rows, which costs a hundredth of their
product, and a request that is cancelled waits for one layer of 512."""

MAX_OUTPUTS = 64
"""Rows of logits of a step: 64 rows of 262144 float32 are 64 MB, reserved and touched only when asked for."""

MAX_SEQS = 64
"""Sequences of a step: with one row of logits each they are MAX_OUTPUTS."""

KV_TYPES = ("f16", "f32", "q8")
"""Types of cached keys and values; q8 has int8 codes and a float32 scale for each token and head."""


class Decoder(OutputRows):
    """A model that can run steps. One thread at a time may call `run`.

    Args:
        checkpoint: the opened model; it may be dropped once the decoder exists.
        context: positions of a sequence, by default what the model was trained for.
        n_threads: threads of a step.
        kv_dtype: "f16", "f32" or "q8", the type of cached keys and values.
        max_memory: bytes that weights, cache and activations may take together; if None, the cache may take
            half of the memory that is available once the weights are loaded.
        quantize: None, or "q8_0" or "q4_0": the format that float matrices get.
        waits: whether the weights are packed when this returns; else `wait` must be called before `run`, and
            they are kept for the next time by `keep`.

    Raises:
        UnsupportedModelError: an architecture, format or option of the file that has no kernel here.
        ModelFileError: a file that contradicts itself.
        ValueError: a context beyond the model's, an unknown kv_dtype or quantize.
        OutOfMemoryBudget: `max_memory` is too small; the message says which context would fit.
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
        waits: bool = True,
    ) -> None:
        checked_quantize(quantize)
        settings = checkpoint.settings
        settings.context = context
        module = models.find(settings)
        weights = Weights(
            checkpoint,
            n_threads,
            models.hf_names(module, settings),
            quantize,
            module.HF_PREFIX,
            keeps=not waits and quantize is None,
        )
        self.config: DecoderConfig = module.config(settings, weights)
        settings.finish()
        self.context = checked_context(self.config.context_length, context)
        self.n_threads = n_threads
        self.kv_dtype = checked_kv_dtype(kv_dtype)
        room = None
        if max_memory is not None:
            from lanner._estimate import room_within

            room = room_within(
                checkpoint,
                max_memory,
                context=context,
                n_threads=n_threads,
                kv_dtype=kv_dtype,
                quantize=quantize,
            )
        n_bytes, max_seqs = (
            (room.cache_bytes, room.n_seqs) if room else (free_cache_bytes(weights.n_bytes), MAX_SEQS)
        )
        loaded = module.load(self.config, weights)
        weights.finish(module.HF_IGNORED)
        self.n_params = weights.n_params
        self.formats = weights.n_bytes_by_format
        self._build(module, loaded, n_bytes, max_seqs)
        self._packer: WeightPacker | None = weights.packer  # until `keep`
        if waits:
            self.wait()
            self.keep()

    def wait(self) -> None:
        """Returns once the weights are packed; ModelFileError where one holds what is not finite."""
        if self._packer is not None:
            self._packer.wait()

    def keep(self) -> None:
        """Brings the packed weights to the cache folder, where they are wanted there and new."""
        if self._packer is not None:
            self._packer.keep()
            self._packer = None

    def _build(self, module: object, loaded: object, n_bytes: int, max_seqs: int) -> None:
        c = self.config
        max_tokens = min(CHUNK_TOKENS, self.context)
        page = page_bytes(self.kv_dtype, c.n_kv_heads, c.head_dim)
        shape = CacheShape(c.windows, page, self.context, max_tokens)
        groups = shape.page_groups(n_bytes, max_seqs)
        self.caches = make_caches(self.kv_dtype, shape.group_windows, groups, c.n_kv_heads, c.head_dim)
        builder = Builder(self.caches.layers, c.n_heads, c.head_dim)
        self._logits = module.build(builder, c, loaded)  # type: ignore[attr-defined]
        self._sampled = builder.sample(self._logits)
        max_outputs = min(MAX_OUTPUTS, max_seqs, max_tokens)
        self.program = Program(
            builder, [self._logits, self._sampled], self.n_threads, max_tokens, max_outputs
        )
        max_pages = -(-self.context // _core.PAGE_POSITIONS)
        self.step = _core.Step(max_tokens, max_seqs, max_outputs, max_pages, n_groups=len(groups))

    # --- steps ----------------------------------------------------------------------------------------------
    def prepare(self, chunks: Iterable[object]) -> None:
        """Called with the sequences of a step before it runs. Nothing: all that it needs is in its arrays."""

    def run(self, deadline_s: float = math.inf) -> bool:
        """Run the step that `self.step` describes.

        False where `cancel` stopped it between two layers, or a time on the clock of time.perf_counter.
        """
        return self.program.core.run(self.step, deadline_s)

    def cancel(self) -> None:
        """From any thread: the running step, and later ones until `clear_cancel`, end between two layers."""
        self.program.core.cancel()

    def clear_cancel(self) -> None:
        """Let steps run again."""
        self.program.core.clear_cancel()

    # --- cache ----------------------------------------------------------------------------------------------
    @property
    def page_groups(self) -> list[PageGroup]:
        """What is to be known of the pages that the step's tables lead to, by group."""
        return self.caches.groups

    def copy_pages(self, copies: Iterable[tuple[int, int, int]]) -> None:
        """Copies (group, source, target) of pages, before a step that writes to `target`."""
        self.caches.copy_pages(copies)

    # --- sizes ----------------------------------------------------------------------------------------------
    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights, as packed."""
        return weight_bytes(self.program.instructions)

    @property
    def weight_bytes_per_token(self) -> int:
        """Bytes of weights that one decode step reads."""
        return weight_bytes_per_token(self.program.instructions)


def free_cache_bytes(n_to_come: int = 0) -> int:
    """Half of the memory that will be available when so many bytes more are taken.

    The rest is for activations, and for the rest of the process.
    """
    from lanner._memory import available_bytes

    return max(0, (available_bytes() or 0) - n_to_come) // 2


def checked_context(context_length: int, context: int | None) -> int:
    """`context` where the model has so many positions, all of them if None."""
    if context is None:
        return context_length
    if isinstance(context, bool) or not isinstance(context, int):
        raise TypeError(f"load: context is a {type(context).__name__}, wanted an int")
    if not 1 <= context <= context_length:
        raise ValueError(f"load: context is {context}, the model was trained for {context_length}")
    return context


def checked_kv_dtype(kv_dtype: str) -> str:
    """It, if it is a type of cached keys and values."""
    if not isinstance(kv_dtype, str) or kv_dtype not in KV_TYPES:
        raise ValueError(f"load: kv_dtype is {kv_dtype!r}, wanted one of {', '.join(KV_TYPES)}")
    return kv_dtype


def checked_quantize(quantize: str | None) -> str | None:
    """It, if it is a format that float matrices can be given as they are packed."""
    if quantize is not None and quantize not in QUANTIZE:
        raise ValueError(f"load: quantize is {quantize!r:.80}, wanted one of {', '.join(QUANTIZE)}, or None")
    return quantize
