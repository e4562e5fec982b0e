"""Drives an encoder-decoder step by step, past the engine; and a tokenizer whose texts are ids."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import SimpleNamespace

import numpy as np

from lanner.seq2seq import Seq2Seq
from lanner.sources import Source


class IdTokenizer:
    """Texts such as "5 17 3": what a model reads and makes is seen as it is."""

    bos_id = eos_id = None
    eos_ids: frozenset[int] = frozenset()
    chat_template = None

    def encode(self, text: str, add_special: bool = True, parse_special: bool = True) -> list[int]:
        return [int(word) for word in text.split()]

    def stream(self, continues: bool = True) -> IdTokenizer:
        return self

    def push(self, id: int) -> str:
        return f"{id} "

    def flush(self) -> str:
        return ""

    def fork(self) -> IdTokenizer:
        return self


class Target:
    """One sequence of a step. Its pages are dealt as the engine does it."""

    def __init__(self, source: Iterable[int] | Source) -> None:
        self.source = source if isinstance(source, Source) else Source(source)
        self.source.serve(self)
        self.is_finished = False


def target_logits(
    model: Seq2Seq,
    targets: Sequence[Target],
    ids: Sequence[Sequence[int]],
    start: int = 0,
    finish: bool = True,
) -> list[np.ndarray]:
    """(len(ids[i]), vocab_size) for each target, whose positions from `start` hold ids[i], in one step.

    finish: it was their last step.
    """
    step, each = model.step, model.step.max_pages
    n = 0
    for row, part in enumerate(ids):
        end = n + len(part)
        step.token_ids[n:end] = part
        step.positions[n:end] = np.arange(start, start + len(part))
        step.token_seqs[n:end] = row
        step.seq_starts[row : row + 2] = n, end
        step.kv_lens[row] = start + len(part)
        # Dealt in turn: neighbouring pages belong to different sequences.
        step.block_tables[row, :] = np.arange(each) * step.max_seqs + (row + 3) % step.max_seqs
        n = end
    step.n_tokens, step.n_seqs, step.n_outputs = n, len(ids), n
    step.output_rows[:n] = np.arange(n)
    step.sampling[:n] = (0, 0, 1, 0, 1, 0)
    model.prepare(SimpleNamespace(sequence=target) for target in targets)
    assert model.run()
    for target in targets:
        target.is_finished = finish
    return np.split(model.logits(n).copy(), np.cumsum([len(part) for part in ids])[:-1])
