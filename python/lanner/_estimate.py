"""What a model will take, told before it is loaded."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Mapping
from typing import TYPE_CHECKING

from lanner import _core, catalog, models
from lanner._records import dataclass
from lanner._threads import default_threads
from lanner.checkpoint import open_checkpoint
from lanner.decoder import CHUNK_TOKENS, MAX_SEQS, checked_context, checked_kv_dtype, checked_quantize
from lanner.encoder import STEP_TOKENS
from lanner.plan import plan

if TYPE_CHECKING:
    from lanner.checkpoint import Checkpoint
    from lanner.plan import Plan

SCRATCH_BYTES = 1 << 20
"""What a thread touches of its scratch: an unpacked panel, an attention strip with its keys and values."""

LIBRARY_BYTES = 10 << 20
"""Modules that loading imports, the tables of a tokenizer, stacks."""

TOKEN_BYTES = {"gguf": 130, "hf": 330}
"""Per entry of the vocabulary, merges included: its pages of the mapped file, its places in the tables."""


@dataclass(frozen=True)
class Room:
    """How much a decoder may take beside its weights: bytes of its pages, and sequences of a step."""

    cache_bytes: int
    n_seqs: int


@dataclass(frozen=True)
class Estimate:
    """What a model takes, in bytes.

    `weight_bytes` are the packed weights, `kv_bytes` the cache with `batch` sequences of `context` positions,
    of which a layer with a window keeps those that it may still see, `scratch_bytes` the values of a largest
    step and the threads' own memory: what `max_memory` of `lanner.load` counts. `peak_bytes` is what the
    process will have at most above what it had before it loaded the model: these, and what the library
    itself and the tokenizer take.
    """

    architecture: str
    n_params: int
    formats: Mapping[str, int]
    weight_bytes: int
    weight_bytes_per_token: int
    kv_bytes: int
    scratch_bytes: int
    peak_bytes: int
    context: int
    context_length: int
    batch: int

    def __str__(self) -> str:
        counted = self.weight_bytes + self.kv_bytes + self.scratch_bytes
        parts = (
            ("weights", self.weight_bytes),
            ("cache", self.kv_bytes),
            ("scratch", self.scratch_bytes),
            ("library and tokenizer", self.peak_bytes - counted),
        )
        listed = ", ".join(f"{name} {n / 1e6:.1f} MB" for name, n in parts)
        what = f"{self.architecture}, context {self.context} x {self.batch}"
        return f"{what}: {self.peak_bytes / 1e6:.1f} MB ({listed})"


def estimate(
    model: str | os.PathLike[str],
    *,
    context: int | None = None,
    batch: int = 1,
    kv_dtype: str = "f16",
    threads: int | None = None,
    quantize: str | None = None,
) -> Estimate:
    """What `lanner.load` of a model would take, from its headers alone.

    Args:
        model: as `lanner.load` takes it.
        context: positions of each sequence; the model's own if None.
        batch: sequences that are in the cache at once, all of them as long as the context; there are never
            more than 64.
        kv_dtype, threads, quantize: as `lanner.load` takes them.

    Raises:
        OSError, ModelFileError, UnsupportedModelError: as `lanner.load`, but for what only the weights show.
        ValueError: an argument, such as a context beyond the model's.
    """
    for name, value in (("batch", batch), ("threads", threads), ("context", context)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f"estimate: {name} is {value!r:.80}, wanted a whole number of at least 1")
    checked_kv_dtype(kv_dtype), checked_quantize(quantize)
    checkpoint = open_checkpoint(catalog.resolve(model))
    planned = plan(checkpoint, context=context, kv_dtype=kv_dtype, quantize=quantize)
    n_threads = threads or min(default_threads()[0], _core.MAX_THREADS)
    return of_plan(checkpoint, planned, context, batch, n_threads)


def of_plan(
    checkpoint: Checkpoint, planned: Plan, context: int | None, batch: int, n_threads: int
) -> Estimate:
    """The estimate of a model that was planned, for a context."""
    cfg = planned.config
    context = checked_context(getattr(cfg, "longest", cfg.context_length), context or cfg.context_length)
    is_encoder, n_seqs = models.is_encoder(checkpoint.settings), min(batch, MAX_SEQS)
    max_tokens = max(STEP_TOKENS, context) if is_encoder else min(CHUNK_TOKENS, context)
    if planned.source is not None:  # a target begins with one token
        max_tokens = n_seqs
    shape = planned.shape(max_tokens if is_encoder else context)
    kv_bytes = shape.sequence_bytes * (1 if is_encoder else n_seqs)
    # Of rows of logits, those are touched that somebody asks for: one of each sequence.
    arena_bytes = planned.arena_bytes(n_threads, max_tokens, min(n_seqs, max_tokens))
    if planned.source is not None:
        kv_bytes += planned.source.page_bytes * shape.n_kept(0)
        arena_bytes += planned.source.arena_bytes(n_threads, context)
    scratch_bytes = arena_bytes + SCRATCH_BYTES * n_threads
    fixed = LIBRARY_BYTES + TOKEN_BYTES[checkpoint.kind] * cfg.vocab_size
    return Estimate(
        architecture=cfg.architecture,
        n_params=planned.n_params,
        formats=planned.formats,
        weight_bytes=planned.weight_bytes,
        weight_bytes_per_token=planned.weight_bytes_per_token,
        kv_bytes=kv_bytes,
        scratch_bytes=scratch_bytes,
        peak_bytes=planned.weight_bytes + kv_bytes + scratch_bytes + fixed,
        context=context,
        context_length=cfg.context_length,
        batch=batch,
    )


def room_within(
    checkpoint: Checkpoint,
    max_memory: int | None,
    *,
    context: int | None,
    n_threads: int,
    kv_dtype: str,
    quantize: str | None,
) -> Room | None:
    """What is left of `max_memory` bytes beside the weights; None without a limit.

    Raises OutOfMemoryBudget where weights, scratch and the cache of one sequence need more.
    """
    if max_memory is None:
        return None
    planned = plan(checkpoint, context=context, kv_dtype=kv_dtype, quantize=quantize)
    one = of_plan(checkpoint, planned, context, 1, n_threads)
    fixed = one.weight_bytes + one.scratch_bytes
    surplus = max_memory - fixed - one.kv_bytes
    if surplus < 0:
        hint = _shorter(planned, one.context, max_memory - fixed)
        raise _core.OutOfMemoryBudget(
            f"load: a context of {one.context} needs {max_memory - surplus} bytes, "
            f"max_memory is {max_memory}; {hint}"
        )

    def growth(n_seqs: int) -> int:
        return of_plan(checkpoint, planned, context, n_seqs, n_threads).scratch_bytes - one.scratch_bytes

    # Rows of logits take no more than half of what is left, unless pages need less than the other half.
    other_caches = one.kv_bytes - planned.shape(one.context).sequence_bytes
    n_seqs = MAX_SEQS
    while growth(n_seqs) > max(surplus // 2, surplus - (n_seqs - 1) * one.kv_bytes):
        n_seqs //= 2
    return Room(max_memory - fixed - other_caches - growth(n_seqs), n_seqs)


def _shorter(planned: Plan, context: int, n_bytes: int) -> str:
    """Which context the cache would have room for in n_bytes."""
    contexts = range(_core.PAGE_POSITIONS, context, _core.PAGE_POSITIONS)
    n_fit = bisect_right(contexts, n_bytes, key=lambda n: planned.shape(n).sequence_bytes)
    return f"a context of {contexts[n_fit - 1]} would fit" if n_fit else "no context would fit"
