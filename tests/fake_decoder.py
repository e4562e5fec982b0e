"""A decoder in NumPy whose next token depends on every token before it, as read from its cache.

It implements what the engine uses of `lanner.decoder.Decoder`. The cache holds the token ids that
steps append; logits are a hash of all ids that the block table leads to. So an id, position, page or row that
is wrong anywhere changes what is generated. `naive` does the same without cache, pages and steps.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import numpy as np

import vocabulary as v
from lanner import _core
from lanner._core import Bpe
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
    """`layer_s` seconds and `token_s` for each token pass between two places where a step can be stopped.

    A group of layers for every window; what a window still sees must be in its group as in the first.
    """

    def __init__(
        self,
        context: int = 256,
        max_tokens: int = 16,
        max_outputs: int = 8,
        max_seqs: int = 1,
        n_pages: int | None = None,
        n_kept: int | None = None,
        windows: Sequence[int] = (0,),
        logits: Logits = hashed,
        layer_s: float = 0.0,
        token_s: float = 0.0,
    ) -> None:
        self.context = context
        self.n_threads, self.n_params, self.weight_bytes_per_token = 1, 1000, 500
        self.formats = {"f32": 4000}
        self.config = SimpleNamespace(
            architecture="fake", vocab_size=VOCAB_SIZE, context_length=context, hidden_size=8, n_layers=4,
            n_heads=2, n_kv_heads=1, head_dim=4,
        )  # fmt: skip
        max_pages = -(-context // PAGE)
        n_pages = n_pages or max_pages
        self.page_groups = [(n_pages, n_kept or n_pages, window) for window in windows]
        self.step = _core.Step(max_tokens, max_seqs, max_outputs, max_pages, n_groups=len(windows))
        self.n_layers, self.layer_s, self.token_s, self._logits_of = 4, layer_s, token_s, logits
        self.cache = np.full((len(windows), n_pages, PAGE), -1, np.int32)
        self._cancelled = threading.Event()
        self._logits = np.zeros((max_outputs, VOCAB_SIZE), np.float32)
        self._sampled = np.zeros(max_outputs, np.int32)
        self.n_steps = self.n_stopped = self.n_copies = 0
        self.step_sizes: list[tuple[int, int]] = []  # tokens and sequences of each step
        self.started = threading.Event()  # set by every step
        self.error: Exception | None = None  # raised by the next step

    def keep(self) -> None:
        pass

    def prepare(self, chunks: object) -> None:
        pass

    def copy_pages(self, copies: Sequence[tuple[int, int, int]]) -> None:
        self.n_copies += len(copies)
        for group, source, target in copies:
            self.cache[group, target] = self.cache[group, source]

    def run(self, deadline_s: float = math.inf) -> bool:
        self.n_steps += 1
        self.step_sizes.append((self.step.n_tokens, self.step.n_seqs))
        self.started.set()
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        for _ in range(self.n_layers):
            if self.layer_s:
                time.sleep(self.layer_s + self.token_s * self.step.n_tokens)
            if self._cancelled.is_set() or time.perf_counter() > deadline_s:
                self.n_stopped += 1
                return False
        self._compute()
        return True

    def _table(self, group: int, sequence: int) -> np.ndarray:
        return self.step.block_tables[group * self.step.max_seqs + sequence]

    def _compute(self) -> None:
        s = self.step
        for t in range(s.n_tokens):
            for group in range(len(self.cache)):
                page = self._table(group, s.token_seqs[t])[s.positions[t] // PAGE]
                self.cache[group, page, s.positions[t] % PAGE] = s.token_ids[t]
        for r in range(s.n_outputs):
            t = s.output_rows[r]
            n = int(s.positions[t]) + 1
            assert n <= s.kv_lens[s.token_seqs[t]]
            ids = self._seen(0, s.token_seqs[t], 0, n)
            for group, (_, _, window) in enumerate(self.page_groups):
                first = max(0, n - window) if window else 0
                assert (self._seen(group, s.token_seqs[t], first, n) == ids[first:]).all()
            self._logits[r] = self._logits_of(ids.tolist())
            self._sampled[r] = choose(self._logits[r], float(s.sampling[r, 0]), float(s.sampling[r, -1]))

    def _seen(self, group: int, sequence: int, first: int, end: int) -> np.ndarray:
        table = self._table(group, sequence)[first // PAGE : -(-end // PAGE)]
        assert (table >= 0).all()
        return self.cache[group, table].reshape(-1)[first % PAGE :][: end - first]

    def cancel(self) -> None:
        self._cancelled.set()

    def clear_cancel(self) -> None:
        self._cancelled.clear()

    def sampled(self, n_outputs: int) -> np.ndarray:
        return self._sampled[:n_outputs]

    def logits(self, n_outputs: int) -> np.ndarray:
        return self._logits[:n_outputs]

    def logprobs(self, first_row: int, ids: Sequence[int], k: int) -> tuple[np.ndarray, ...]:
        rows = self._logits[first_row : first_row + len(ids)].astype(np.float64)
        rows -= np.log(np.exp(rows).sum(axis=1, keepdims=True))
        top = np.argsort(-rows, axis=1, kind="stable")[:, :k]
        of_tokens = np.take_along_axis(rows, np.asarray(ids)[:, None], axis=1)[:, 0]
        ranked = np.take_along_axis(rows, top, axis=1)
        return of_tokens.astype(np.float32), top.astype(np.int32), ranked.astype(np.float32)

    def candidates(self, row: int, rules: None, k: int) -> tuple[list[int], list[float]]:
        assert rules is None
        _, ids, logs = self.logprobs(row, [0], k)
        return ids[0].tolist(), logs[0].tolist()


def fake_model(**options: object) -> tuple[Model, FakeDecoder]:
    """A model with a decoder of these options behind it."""
    decoder = FakeDecoder(**options)
    return Model(decoder, tokenizer(), tokenizer_name="gpt2 (gpt-2)"), decoder
