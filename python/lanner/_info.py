"""What `lanner info` prints of a model that is not loaded."""

from __future__ import annotations

import os
from collections.abc import Iterator

from lanner import _core
from lanner._estimate import of_plan
from lanner._threads import default_threads
from lanner.checkpoint import Checkpoint, open_checkpoint
from lanner.plan import Plan, plan

SHOWN_CONTEXTS = (512, 2048, 8192, 32768, 131072)
"""Contexts whose memory is told, where the model has so many positions."""


def info_lines(path: str | os.PathLike[str]) -> Iterator[tuple[str, str]]:
    """Label and value of each line; of a model that is not supported, what is known and why it is not.

    Raises ModelFileError, OSError: as loading does.
    """
    checkpoint = open_checkpoint(path)
    yield "architecture", checkpoint.architecture
    try:
        planned = plan(checkpoint, context=None, kv_dtype="f16", quantize=None)
    except _core.UnsupportedModelError as error:
        yield from _tensors(checkpoint)
        yield "not supported", str(error)
        return
    yield "parameters", f"{planned.n_params / 1e6:.1f} million"
    yield "weights", _formats(planned.formats)
    yield "bytes per token", f"{planned.weight_bytes_per_token / 1e6:.1f} MB"
    yield from _sizes(planned)
    yield from _memory(checkpoint, planned)
    yield from _tokenizer(checkpoint)


def _tensors(checkpoint: Checkpoint) -> Iterator[tuple[str, str]]:
    """What the headers say without knowing the architecture."""
    n_values, n_bytes = 0, dict[str, int]()
    for tensor in checkpoint.tensors.values():
        n = 1
        for size in tensor.shape:
            n *= size
        n_values += n
        n_bytes[tensor.format] = n_bytes.get(tensor.format, 0) + tensor.n_bytes
    yield "parameters", f"{n_values / 1e6:.1f} million"
    yield "weights", _formats(n_bytes)


def _formats(n_bytes: dict[str, int]) -> str:
    return ", ".join(f"{name} {n / 1e6:.1f} MB" for name, n in n_bytes.items())


def _sizes(planned: Plan) -> Iterator[tuple[str, str]]:
    c = planned.config
    yield "context", f"{c.context_length} tokens"
    windows = sorted({window for window in getattr(c, "windows", ()) if window})
    if windows:
        n = sum(window > 0 for window in c.windows)
        yield "window", f"{', '.join(map(str, windows))} tokens in {n} of {c.n_layers} layers"
    yield "vocabulary", str(c.vocab_size)
    yield "layers", f"{c.n_layers}, hidden size {c.hidden_size}"
    yield "heads", f"{c.n_heads} of {c.head_dim}, {c.n_kv_heads} for keys and values"


def _memory(checkpoint: Checkpoint, planned: Plan) -> Iterator[tuple[str, str]]:
    """Peaks at contexts that the model has, its own the last."""
    n_threads = min(default_threads()[0], _core.MAX_THREADS)
    most = planned.config.context_length
    for context in (*(n for n in SHOWN_CONTEXTS if n < most), most):
        told = of_plan(checkpoint, planned, context, 1, n_threads)
        cache = f"{told.kv_bytes / 1e6:.1f} MB of it cache"
        yield f"memory at {context}", f"{told.peak_bytes / 1e6:.0f} MB, {cache}"


def _tokenizer(checkpoint: Checkpoint) -> Iterator[tuple[str, str]]:
    from lanner.tokenizer_files import tokenizer_of

    try:
        tokenizer, name = tokenizer_of(checkpoint)
    except (_core.UnsupportedModelError, _core.ModelFileError, ImportError) as error:
        yield "not supported", str(error)
        return
    yield "tokenizer", name
    yield "chat template", "yes" if tokenizer.chat_template else "none"
