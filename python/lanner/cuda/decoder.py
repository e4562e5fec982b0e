"""A decoder on the GPU, with the interface of lanner.decoder.Decoder."""

from __future__ import annotations

import math
import time
from bisect import bisect_right
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from lanner import _core, models
from lanner._outputs import OutputRows
from lanner.builder import Builder
from lanner.config import DecoderConfig
from lanner.cuda.kv_cache import make_caches, page_bytes
from lanner.cuda.library import library
from lanner.cuda.program import CudaProgram
from lanner.cuda.weights import DeviceWeights
from lanner.decoder import MAX_OUTPUTS, MAX_SEQS, checked_context, checked_quantize
from lanner.kv_cache import CacheShape, PageGroup
from lanner.program import weight_bytes_per_token

if TYPE_CHECKING:
    from lanner.checkpoint import Checkpoint

CHUNK_TOKENS = 2048
"""Tokens of the largest step: rows enough for every multiprocessor, and who waits, waits for one step."""

KV_TYPE = "bf16"

USED_SHARE = 0.9
"""Of the free device memory, what a model may take."""


class CudaDecoder(OutputRows):
    """A model on the GPU that can run steps. One thread at a time may call `run`.

    Args:
        checkpoint: the opened model; it may be dropped once the decoder exists.
        context: positions of a sequence, by default what the model was trained for.
        n_threads: threads of the host, for what it computes of logits.
        kv_dtype: "bf16" or None, which means it.
        max_memory: bytes of device memory that weights, cache and activations may take together; if None, the
            cache may take most of what is free once the weights are there.
        quantize: None, or "q8_0" or "q4_0": the format that float matrices get.

    Raises:
        DeviceError: lanner was built without CUDA, or there is no driver or GPU.
        UnsupportedModelError: an architecture, format or option of the file that has no kernel here.
        ModelFileError: a file that contradicts itself.
        ValueError: a context beyond the model's, an unknown kv_dtype or quantize.
        OutOfMemoryBudget: `max_memory` or the GPU is too small; the message says which context would fit.
    """

    device = "cuda"

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        context: int | None = None,
        n_threads: int = 1,
        kv_dtype: str | None = None,
        max_memory: int | None = None,
        quantize: str | None = None,
    ) -> None:
        checked_quantize(quantize)
        if kv_dtype not in (None, KV_TYPE):
            raise ValueError(f"load: kv_dtype is {kv_dtype!r}, wanted {KV_TYPE!r} with device='cuda'")
        device = library()
        device.device_info()
        settings = checkpoint.settings
        settings.context = context
        module = models.find(settings)
        names = models.hf_names(module, settings)
        weights = DeviceWeights(checkpoint, 1, names, quantize, module.HF_PREFIX)
        self.config: DecoderConfig = module.config(settings, weights)
        settings.finish()
        self.context = checked_context(self.config.context_length, context)
        self.n_threads = n_threads
        self.kv_dtype = KV_TYPE
        loaded = module.load(self.config, weights)
        weights.finish(module.HF_IGNORED)
        self.n_params = weights.n_params
        self.formats = weights.n_bytes_by_format
        self._is_cancelled = False
        self._build(device, module, loaded, max_memory)

    def _build(self, device: Any, module: object, loaded: object, max_memory: int | None) -> None:
        c = self.config
        max_tokens = min(CHUNK_TOKENS, self.context)
        max_outputs = min(MAX_OUTPUTS, MAX_SEQS, max_tokens)
        shape = CacheShape(c.windows, page_bytes(c.n_kv_heads, c.head_dim), self.context, max_tokens)
        self._caches = make_caches(shape.group_windows, c.n_kv_heads, c.head_dim)
        builder = Builder(self._caches.layers, c.n_heads, c.head_dim)
        self._logits = module.build(builder, c, loaded)  # type: ignore[attr-defined]
        self._sampled = builder.sample(self._logits)
        self.program = CudaProgram(  # type: ignore[assignment]
            builder,
            self._logits,
            self._sampled,
            c.n_kv_heads,
            c.head_dim,
            max_tokens,
            max_outputs,
            device.GRAPH_ROWS,
        )
        self._groups = shape.page_groups(self._cache_bytes(device, shape, max_memory), MAX_SEQS)
        self._caches.allocate(device, self._groups)
        n_pages = -(-self.context // _core.PAGE_POSITIONS)
        self.step = _core.Step(max_tokens, MAX_SEQS, max_outputs, n_pages, n_groups=len(self._groups))
        limits = [(group.n_pages, group.window) for group in self._groups]
        self.program.place(device, self._caches, self.step, self.context, limits)  # type: ignore[attr-defined]

    def _cache_bytes(self, device: Any, shape: CacheShape, max_memory: int | None) -> int:
        """What the cache may take. Raises OutOfMemoryBudget where one sequence has no room."""
        others: int = self.weight_bytes + self.program.arena_bytes  # type: ignore[attr-defined]
        free = int(device.free_bytes() * USED_SHARE)
        room = (free if max_memory is None else min(max_memory, free)) - others
        if room < shape.sequence_bytes:
            raise _core.OutOfMemoryBudget(
                f"load: weights and activations take {others / 1e6:.0f} MB and a sequence of {self.context} "
                f"positions {shape.sequence_bytes / 1e6:.0f} MB, more than the "
                + (f"{free / 1e6:.0f} MB that the GPU has free" if max_memory is None or free < max_memory
                   else f"max_memory of {max_memory / 1e6:.0f} MB")
                + f"; {shorter_context(shape, room)}"
            )  # fmt: skip
        # Copies of weights may take half of what other sequences would have.
        most = (room - shape.sequence_bytes) // 2
        return room - int(self.program.keep_plain(device, most))  # type: ignore[attr-defined]

    def wait(self) -> None:
        """For weights that are on their way: none are."""

    def keep(self) -> None:
        """Keeps weights for the next time: those of the GPU are not kept."""

    # --- steps ----------------------------------------------------------------------------------------------
    def prepare(self, chunks: Iterable[object]) -> None:
        """Called with the sequences of a step before it runs. Nothing: all that it needs is in its arrays."""

    def run(self, deadline_s: float = math.inf) -> bool:
        """Run the step that `self.step` describes; False if it was cancelled or late before it began."""
        if self._is_cancelled or time.perf_counter() >= deadline_s:
            return False
        self.program.run()  # type: ignore[attr-defined]
        return True

    def cancel(self) -> None:
        """From any thread: steps do not begin until `clear_cancel`."""
        self._is_cancelled = True

    def clear_cancel(self) -> None:
        """Let steps run again."""
        self._is_cancelled = False

    # --- cache ----------------------------------------------------------------------------------------------
    @property
    def page_groups(self) -> list[PageGroup]:
        """What is to be known of the pages that the step's tables lead to, by group."""
        return self._groups

    def copy_pages(self, copies: Iterable[tuple[int, int, int]]) -> None:
        """Copies (group, source, target) of pages, before a step that writes to `target`."""
        self._caches.copy_pages(copies, self.program.core)

    # --- sizes ----------------------------------------------------------------------------------------------
    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights in device memory."""
        return self.program.weight_bytes  # type: ignore[attr-defined,no-any-return]

    @property
    def weight_bytes_per_token(self) -> int:
        """Bytes of weights that one decode step reads."""
        return weight_bytes_per_token(self.program.instructions)


def shorter_context(shape: CacheShape, n_bytes: int) -> str:
    """What to do where a sequence does not fit into n_bytes."""
    page = _core.PAGE_POSITIONS
    contexts = range(page, shape.context, page)

    def sequence_bytes(context: int) -> int:
        chunk = min(shape.chunk, context)
        return CacheShape(shape.windows, shape.page_bytes, context, chunk).sequence_bytes

    n_fit = bisect_right(contexts, n_bytes, key=sequence_bytes)
    return f"load with a context of at most {contexts[n_fit - 1]}" if n_fit else "no context would fit"
