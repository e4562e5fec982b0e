"""A decoder in NumPy whose next token depends on every token before it, as read from its cache.

It implements what the engine uses of `lanner.decoder.Decoder`. The cache holds the token ids that
steps append; logits are a hash of all ids that the block table leads to. So an id, position, page or row that
is wrong anywhere changes what is generated. `naive` does the same without cache, pages and steps.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import numpy as np

import vocabulary as v
from lanner import _core
from lanner._core import Bpe
from lanner.kv_cache import PageGroup
from lanner.llm import Model
from lanner.pretokenizers import pre_tokenizer
from lanner.tokenizer import SpecialIds, Tokenizer
from lanner.tokenizer_gguf import ByteLevel

PAGE = _core.PAGE_POSITIONS
VOCAB_SIZE = len(v.TOKENS)
EOS = v.ID["<|im_end|>"]
TEMPLATE = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}\n{% endfor %}"

Logits = Callable[[Sequence[int]], np.ndarray]


def tokenizer() -> Tokenizer:
    bpe = Bpe(v.TOKENS, v.TOKEN_TYPES, v.MERGE_TEXTS)
    vocabulary = ByteLevel(bpe, pre_tokenizer("gpt-2"))
    return Tokenizer(vocabulary, SpecialIds(eos_id=EOS), chat_template=TEMPLATE)


def hashed(ids: Sequence[int]) -> np.ndarray:
    """Logits (vocab_size,) that depend on every id and its place; end tokens are unlikely."""
    state = 1
    for id in ids:
        state = (state * 6364136223846793005 + int(id) * 1442695040888963407 + 1) % 2**64
    logits = np.random.Generator(np.random.Philox(key=state)).normal(size=VOCAB_SIZE).astype(np.float32) * 4
    logits[v.ID["<|endoftext|>"] :] -= 100
    return logits


def scripted(prompt_len: int, script: Sequence[int]) -> Logits:
    """Logits under which the tokens after the prompt are those of `script`, again and again."""

    def logits(ids: Sequence[int]) -> np.ndarray:
        return np.eye(1, VOCAB_SIZE, script[(len(ids) - prompt_len) % len(script)], np.float32)[0] * 50

    return logits


def choose(logits: np.ndarray, temperature: float, uniform: float) -> int:
    """The operation `sample` without top_k, top_p and min_p."""
    if temperature == 0:
        return int(logits.argmax())
    mass = np.exp((logits - logits.max()) / np.float32(temperature), dtype=np.float64).cumsum()
    return int(np.searchsorted(mass, uniform * mass[-1], side="right"))


def naive(
    prompt: Sequence[int],
    n: int,
    uniform: Callable[[int], float] | None = None,
    temperature: float = 0.0,
) -> list[int]:
    """n tokens after the prompt, up to the end token."""
    ids = list(prompt)
    for i in range(n):
        ids.append(choose(hashed(ids), temperature, uniform(i) if uniform else 0.0))
        if ids[-1] == EOS:
            break
    return ids[len(prompt) :]


class FakeDecoder:
    """`layer_s` seconds pass between two places where a step can be stopped, without the GIL."""

    def __init__(
        self,
        context: int = 256,
        max_tokens: int = 16,
        max_outputs: int = 8,
        max_seqs: int = 1,
        n_pages: int | None = None,
        logits: Logits = hashed,
        layer_s: float = 0.0,
    ) -> None:
        self.context = context
        self.n_threads, self.n_params, self.weight_bytes_per_token = 1, 1000, 500
        self.formats = {"f32": 4000}
        self.config = SimpleNamespace(
            architecture="fake", vocab_size=VOCAB_SIZE, context_length=context, hidden_size=8, n_layers=4,
            n_heads=2, n_kv_heads=1, head_dim=4,
        )  # fmt: skip
        max_pages = -(-context // PAGE)
        self.page_groups = [PageGroup(n_pages or max_pages, max_pages, 0)]
        self.step = _core.Step(max_tokens, max_seqs, max_outputs, max_pages)
        self.n_layers, self.layer_s, self._logits_of = 4, layer_s, logits
        self.cache = np.full((self.page_groups[0].n_pages, PAGE), -1, np.int32)
        self._cancelled = threading.Event()
        self._logits = np.zeros((max_outputs, VOCAB_SIZE), np.float32)
        self._sampled = np.zeros(max_outputs, np.int32)
        self.n_steps = self.n_stopped = 0
        self.started = threading.Event()  # set by every step
        self.error: Exception | None = None  # raised by the next step

    def prepare(self, chunks: object) -> None:
        pass

    def run(self) -> bool:
        self.n_steps += 1
        self.started.set()
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        for _ in range(self.n_layers):
            if self.layer_s:
                time.sleep(self.layer_s)
            if self._cancelled.is_set():
                self.n_stopped += 1
                return False
        self._compute()
        return True

    def _compute(self) -> None:
        s = self.step
        for t in range(s.n_tokens):
            page = s.block_tables[s.token_seqs[t], s.positions[t] // PAGE]
            self.cache[page, s.positions[t] % PAGE] = s.token_ids[t]
        for r in range(s.n_outputs):
            t = s.output_rows[r]
            n = int(s.positions[t]) + 1
            assert n <= s.kv_lens[s.token_seqs[t]]
            ids = self.cache[s.block_tables[s.token_seqs[t]][: -(-n // PAGE)]].reshape(-1)[:n]
            self._logits[r] = self._logits_of(ids.tolist())
            self._sampled[r] = choose(self._logits[r], float(s.sampling[r, 0]), float(s.sampling[r, 4]))

    def cancel(self) -> None:
        self._cancelled.set()

    def clear_cancel(self) -> None:
        self._cancelled.clear()

    def sampled(self, n_outputs: int) -> np.ndarray:
        return self._sampled[:n_outputs]

    def logits(self, n_outputs: int) -> np.ndarray:
        return self._logits[:n_outputs]


def fake_model(**options: object) -> tuple[Model, FakeDecoder]:
    """A model with a decoder of these options behind it."""
    decoder = FakeDecoder(**options)
    return Model(decoder, tokenizer(), tokenizer_name="gpt2 (gpt-2)"), decoder
