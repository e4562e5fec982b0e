"""The two engines behind one small interface; each runs in a process of its own (see _worker.py).

Both do the same work: the ids are given, keys and values are f16, logits are made for the last token alone,
the next token is the argmax. `seconds` is wall-clock time seen from Python, calls included.
"""

from __future__ import annotations

import ctypes
import re
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from _report import Contender

BATCH_TOKENS = 512
"""Tokens of the largest step on both sides: n_batch and n_ubatch of llama.cpp, the chunk of Lanner."""


class Engine(Protocol):
    """A loaded model. `variant` is one of `variants`: a setting of the engine that is compared on its own."""

    name: str
    version: str
    features: str
    variants: tuple[str, ...]

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text, special tokens as the file asks for them."""

    def prefill(self, ids: list[int], variant: str) -> tuple[float, list[int]]:
        """(seconds, [next token]) of a prompt into an empty cache."""

    def decode(self, ids: list[int], n_tokens: int, variant: str) -> tuple[float, list[int]]:
        """(seconds, tokens) of `n_tokens` greedy steps of one token behind a prompt that is not timed.

        A prompt of one id is itself the first step: decoding from an empty context.
        """

    def parallel(self, ids: list[int], n_tokens: int, variant: str) -> tuple[float, list[int]]:
        """(seconds, first tokens) of len(ids) sequences, each n_tokens greedy tokens behind one of the ids.

        Together they are len(ids) * n_tokens tokens.
        """


class LannerEngine:
    """Lanner through its public interface: the engine thread and the detokenizer are part of the time."""

    variants: tuple[str, ...] = ("",)

    def __init__(self, path: str, n_threads: int, n_positions: int) -> None:
        import lanner

        self._model = lanner.load(path, context=n_positions, threads=n_threads)
        self.name = "Lanner"
        self.version = lanner.__version__
        self.features = lanner.isa()

    def tokenize(self, text: str) -> list[int]:
        return list(self._model.tokenizer.encode(text))

    def prefill(self, ids: list[int], variant: str) -> tuple[float, list[int]]:
        start = time.perf_counter()
        result = self._model.generate(ids, max_tokens=1, ignore_eos=True)
        seconds = time.perf_counter() - start
        if result.usage.cached_tokens:
            raise RuntimeError(f"{result.usage.cached_tokens} tokens of the prompt were in the cache already")
        return seconds, list(result.tokens)

    def decode(self, ids: list[int], n_tokens: int, variant: str) -> tuple[float, list[int]]:
        if len(ids) == 1:
            start = time.perf_counter()
            result = self._model.generate(ids, max_tokens=n_tokens, ignore_eos=True)
            return time.perf_counter() - start, list(result.tokens)
        # The first token comes out of the prompt's own step; decode_s counts from there.
        result = self._model.generate(ids, max_tokens=n_tokens + 1, ignore_eos=True)
        return result.timings.decode_s, list(result.tokens[1:])

    def parallel(self, ids: list[int], n_tokens: int, variant: str) -> tuple[float, list[int]]:
        """A thread for each sequence, as callers are who do not know of each other."""
        results: dict[int, list[int]] = {}
        ready = threading.Barrier(len(ids) + 1)

        def call(index: int) -> None:
            ready.wait()
            result = self._model.generate([ids[index]], max_tokens=n_tokens, ignore_eos=True)
            results[index] = result.tokens

        threads = [threading.Thread(target=call, args=(index,)) for index in range(len(ids))]
        for thread in threads:
            thread.start()
        ready.wait()
        start = time.perf_counter()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - start
        if {len(tokens) for tokens in results.values()} != {n_tokens}:
            raise RuntimeError("a sequence ended early")
        return seconds, [results[index][0] for index in range(len(ids))]


class LlamaCppEngine:
    """llama.cpp through the C interface that llama-cpp-python wraps, with flash attention on and off."""

    variants: tuple[str, ...] = ("flash attention on", "flash attention off")

    def __init__(self, path: str, n_threads: int, n_positions: int) -> None:
        import llama_cpp as c

        self._c: Any = c
        self._quiet = c.llama_log_callback(lambda *_: None)  # kept alive: C calls it later
        c.llama_log_set(self._quiet, ctypes.c_void_p(0))
        c.llama_backend_init()
        self._model = c.llama_model_load_from_file(path.encode(), c.llama_model_default_params())
        if not self._model:
            raise RuntimeError(f"llama.cpp cannot load {path}")
        self._vocab = c.llama_model_get_vocab(self._model)
        self._contexts = {
            variant: self._new_context(n_threads, n_positions, flash_attention=variant.endswith("on"))
            for variant in self.variants
        }
        self._n_threads = n_threads
        self._held: dict[str, tuple[list[int], int]] = {}  # the prompt of each context, and what follows it
        self.name = "llama.cpp"
        self.version = f"llama-cpp-python {c.__version__}"
        info = c.llama_print_system_info().decode()  # "CPU : SSE3 = 1 | AVX2 = 1 | ..."
        self.features = " ".join(re.findall(r"(\w+) = 1\b", info))

    def _new_context(
        self, n_threads: int, n_positions: int, *, flash_attention: bool, n_seqs: int = 1
    ) -> Any:
        params = self._c.llama_context_default_params()
        params.n_ctx = n_positions * n_seqs
        params.n_seq_max = n_seqs
        params.n_batch = params.n_ubatch = BATCH_TOKENS
        params.n_threads = params.n_threads_batch = n_threads
        params.flash_attn_type = int(flash_attention)  # 0 disabled, 1 enabled
        context = self._c.llama_init_from_model(self._model, params)
        if not context:
            raise RuntimeError(f"llama.cpp cannot make a context of {n_positions} positions")
        return context

    def tokenize(self, text: str) -> list[int]:
        raw = text.encode()
        room = len(raw) + 8  # a token has at least a byte; a few special tokens come on top
        ids = (self._c.llama_token * room)()
        n = self._c.llama_tokenize(self._vocab, raw, len(raw), ids, room, True, True)
        return list(ids[: max(0, n)])

    def prefill(self, ids: list[int], variant: str) -> tuple[float, list[int]]:
        context = self._cleared(variant)
        start = time.perf_counter()
        token = self._prompt(context, ids)
        return time.perf_counter() - start, [token]

    def decode(self, ids: list[int], n_tokens: int, variant: str) -> tuple[float, list[int]]:
        context = self._contexts[variant]
        if len(ids) == 1:
            self._cleared(variant)
        token = ids[0] if len(ids) == 1 else self._behind(variant, ids)
        tokens = []
        start = time.perf_counter()
        for _ in range(n_tokens):
            token = self._step(context, [token])
            tokens.append(token)
        return time.perf_counter() - start, tokens

    def parallel(self, ids: list[int], n_tokens: int, variant: str) -> tuple[float, list[int]]:
        """One batch per step with a token of every sequence, through `llama_batch`."""
        c, n_seqs = self._c, len(ids)
        context = self._new_context(
            self._n_threads, 2 * n_tokens, flash_attention=variant.endswith("on"), n_seqs=n_seqs
        )
        batch = c.llama_batch_init(n_seqs, 0, 1)
        try:
            first, tokens = [], ids
            start = time.perf_counter()
            for position in range(n_tokens):
                batch.n_tokens = n_seqs
                for i, token in enumerate(tokens):
                    batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, position, 1
                    batch.seq_id[i][0], batch.logits[i] = i, 1
                if status := c.llama_decode(context, batch):
                    raise RuntimeError(f"llama_decode of {n_seqs} sequences gave status {status}")
                tokens = [self._argmax(context, i) for i in range(n_seqs)]
                first = first or tokens
            return time.perf_counter() - start, first
        finally:
            c.llama_batch_free(batch)
            c.llama_free(context)

    def _behind(self, variant: str, ids: list[int]) -> int:
        """The token that follows a prompt. Its context keeps the prompt, as Lanner's cache does."""
        held, token = self._held.get(variant, ([], -1))
        memory = self._c.llama_get_memory(self._contexts[variant])
        if held != ids or not self._c.llama_memory_seq_rm(memory, 0, len(ids), -1):
            token = self._prompt(self._cleared(variant), ids)
            self._held[variant] = ids, token
        return token

    def _cleared(self, variant: str) -> Any:
        self._held.pop(variant, None)
        context = self._contexts[variant]
        self._c.llama_memory_clear(self._c.llama_get_memory(context), False)
        return context

    def _prompt(self, context: Any, ids: list[int]) -> int:
        token = -1
        for first in range(0, len(ids), BATCH_TOKENS):
            token = self._step(context, ids[first : first + BATCH_TOKENS])
        return token

    def _step(self, context: Any, ids: list[int]) -> int:
        """Positions follow on by themselves; logits are made for the last token alone."""
        tokens = (self._c.llama_token * len(ids))(*ids)  # the batch only points at it
        if status := self._c.llama_decode(context, self._c.llama_batch_get_one(tokens, len(ids))):
            raise RuntimeError(f"llama_decode of {len(ids)} tokens gave status {status}")
        return self._argmax(context, -1)

    def _argmax(self, context: Any, row: int) -> int:
        import numpy as np

        shape = (self._c.llama_vocab_n_tokens(self._vocab),)
        return int(np.argmax(np.ctypeslib.as_array(self._c.llama_get_logits_ith(context, row), shape)))


ENGINES: dict[str, Callable[[str, int, int], Engine]] = {"lanner": LannerEngine, "llama.cpp": LlamaCppEngine}


def machine_limits(n_threads: int) -> dict[str, float]:
    """Bytes per second that the threads read from memory, and their float32 multiply-adds per second."""
    from lanner import _core

    return {
        "read_bandwidth": _core.probe_read_bandwidth(n_threads, 1 << 28, n_runs=20),
        "fma": _core.probe_fma(n_threads),
    }


def model_costs(path: str) -> dict[str, float]:
    """What a step must read and multiply, from the file alone: the same numbers for both engines.

    Returns:
        file_bytes; weight_bytes: of all matrices that a decode step reads (not an untied embedding, which
        gives one row); layer_macs: multiply-adds of the layers' matrices per token; head_macs: of the head,
        once per step that wants logits; pair_macs: of attention per (query, key) pair.
    """
    from lanner.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(path)
    matrices = {name: t for name, t in checkpoint.tensors.items() if len(t.shape) == 2}
    head = "output.weight" if "output.weight" in matrices else "token_embd.weight"
    read = {name: t for name, t in matrices.items() if name != "token_embd.weight" or name == head}
    meta = checkpoint.settings
    n_heads = meta.positive("attention.head_count")
    head_dim = meta.positive("attention.key_length", meta.positive("embedding_length") // n_heads)
    macs = {name: float(t.shape[0] * t.shape[1]) for name, t in read.items()}
    return {
        "file_bytes": checkpoint.n_bytes,
        "weight_bytes": sum(t.n_bytes for t in read.values()),
        "layer_macs": sum(n for name, n in macs.items() if name != head),
        "head_macs": macs[head],
        "pair_macs": 2.0 * n_heads * head_dim * meta.positive("block_count"),
    }


FIRST_TOKEN = {
    Contender("lanner"): """
import sys, lanner
with lanner.load(sys.argv[1], threads=int(sys.argv[2])) as model:
    print(next(iter(model.stream(sys.argv[3], max_tokens=1, ignore_eos=True))).token, flush=True)
""",
    Contender("llama.cpp", "its class Llama"): """
import sys
from llama_cpp import Llama
n_threads = int(sys.argv[2])
model = Llama(sys.argv[1], n_threads=n_threads, n_threads_batch=n_threads, verbose=False)
ids = model.tokenize(sys.argv[3].encode(), special=True)
print(next(iter(model.generate(ids, temp=0.0))), flush=True)
""",
    Contender("llama.cpp", "its C interface"): """
import ctypes, sys
import numpy as np, llama_cpp as c
quiet = c.llama_log_callback(lambda *_: None)
c.llama_log_set(quiet, ctypes.c_void_p(0))
c.llama_backend_init()
model = c.llama_model_load_from_file(sys.argv[1].encode(), c.llama_model_default_params())
params = c.llama_context_default_params()
params.n_ctx = params.n_batch = params.n_ubatch = 512
params.n_threads = params.n_threads_batch = int(sys.argv[2])
context = c.llama_init_from_model(model, params)
vocab = c.llama_model_get_vocab(model)
prompt = sys.argv[3].encode()
ids = (c.llama_token * 512)()
n = c.llama_tokenize(vocab, prompt, len(prompt), ids, 512, True, True)
assert c.llama_decode(context, c.llama_batch_get_one(ids, n)) == 0
logits = np.ctypeslib.as_array(c.llama_get_logits_ith(context, -1), shape=(c.llama_vocab_n_tokens(vocab),))
print(int(np.argmax(logits)), flush=True)
""",
}
"""Programs of their own: import, open, the first token of a prompt. argv: model file, threads, prompt."""
