"""What a model will take, told before it is loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lanner import _core, catalog, models
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
class Estimate:
    """What a model takes, in bytes.

    `weight_bytes` are the packed weights, `kv_bytes` the cache with `batch` sequences of `context` positions,
    `scratch_bytes` the values of the largest step and the threads' own memory: what `max_memory` of
    `lanner.load` counts. `peak_bytes` is what the process will have at most above what it had before it
    loaded the model: these, and what the library itself and the tokenizer take.
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
        batch: sequences that are in the cache at once.
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
    is_encoder = models.is_encoder(checkpoint.settings)
    max_tokens = max(STEP_TOKENS, context) if is_encoder else min(CHUNK_TOKENS, context)
    if planned.source is not None:  # a target begins with one token
        max_tokens = min(batch, MAX_SEQS)
    pages = -(-(max_tokens if is_encoder else context) // _core.PAGE_POSITIONS)
    kv_bytes = planned.page_bytes * pages * (1 if is_encoder else batch)
    # Of rows of logits, those are touched that somebody asks for: one of each sequence.
    arena_bytes = planned.arena_bytes(n_threads, max_tokens, min(batch, max_tokens))
    if planned.source is not None:
        kv_bytes += planned.source.page_bytes * pages
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


def check_budget(
    checkpoint: Checkpoint,
    max_memory: int | None,
    *,
    context: int | None,
    n_threads: int,
    kv_dtype: str,
    quantize: str | None,
) -> None:
    """Raises OutOfMemoryBudget where weights, cache and scratch need more than `max_memory` bytes."""
    if max_memory is None:
        return
    planned = plan(checkpoint, context=context, kv_dtype=kv_dtype, quantize=quantize)
    told = of_plan(checkpoint, planned, context, 1, n_threads)
    fixed = told.weight_bytes + told.scratch_bytes
    wanted = fixed + told.kv_bytes
    if wanted <= max_memory:
        return
    fits = (max_memory - fixed) // planned.page_bytes * _core.PAGE_POSITIONS
    hint = f"a context of {fits} would fit" if 0 < fits < told.context else "no context would fit"
    raise _core.OutOfMemoryBudget(
        f"load: a context of {told.context} needs {wanted} bytes, max_memory is {max_memory}; {hint}"
    )
