"""llama.cpp in the place of an engine; engine_worker.py describes it, and loads this file by its path."""

from __future__ import annotations

import ctypes
import re
import time
from typing import Any

BATCH_TOKENS = 512
"""Tokens of the largest step on both sides: n_batch and n_ubatch of llama.cpp, the chunk of Lanner."""


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
        """See Engine."""
        raw = text.encode()
        room = len(raw) + 8  # a token has at least a byte; a few special tokens come on top
        ids = (self._c.llama_token * room)()
        n = self._c.llama_tokenize(self._vocab, raw, len(raw), ids, room, True, True)
        return list(ids[: max(0, n)])

    def prefill(self, ids: list[int], variant: str) -> tuple[float, list[int]]:
        """See Engine."""
        context = self._cleared(variant)
        start = time.perf_counter()
        token = self._prompt(context, ids)
        return time.perf_counter() - start, [token]

    def decode(self, ids: list[int], n_tokens: int, variant: str) -> tuple[float, list[int]]:
        """See Engine."""
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
            first: list[int] = []
            tokens = ids
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
