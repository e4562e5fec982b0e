"""Drives a decoder step by step, past the engine."""

from __future__ import annotations

import numpy as np

from lanner.decoder import Decoder


def run_step(decoder: Decoder, ids: list[int], start: int, outputs: list[int]) -> bool:
    """One step of one sequence: `ids` at positions from `start`, logits for the rows `outputs`."""
    step, n = decoder.step, len(ids)
    step.n_tokens, step.n_seqs, step.n_outputs = n, 1, len(outputs)
    step.token_ids[:n] = ids
    step.positions[:n] = np.arange(start, start + n)
    step.token_seqs[:n] = 0
    step.seq_starts[:2] = (0, n)
    step.kv_lens[0] = start + n
    step.block_tables[:: step.max_seqs] = np.arange(step.max_pages)
    step.output_rows[: len(outputs)] = outputs
    step.sampling[: len(outputs)] = (0, 0, 1, 0, 1, 0)
    return decoder.run()


def step_logits(decoder: Decoder, ids: list[int], chunk: int) -> np.ndarray:
    """(len(ids), vocab_size) float32, fed in chunks of `chunk` tokens."""
    rows = []
    for start in range(0, len(ids), chunk):
        part = ids[start : start + chunk]
        assert run_step(decoder, part, start, list(range(len(part))))
        rows.append(decoder.logits(len(part)).copy())
    return np.concatenate(rows)
