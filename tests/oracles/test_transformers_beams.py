"""Beam search as an algorithm against transformers: the same tokens, and scores equal to the last bit.

Both get their log-probabilities from one function of the tokens before. Whole models are compared in
test_beam_search.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from lanner.beam import BeamScores

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.oracle

PROMPT = [3, 5]
BANNED = 20


class HashConfig(transformers.PretrainedConfig):
    model_type = "hash"


class HashModel(transformers.PreTrainedModel, transformers.GenerationMixin):
    """Logits that are a hash of the tokens before; ends, which are low ids, are likely now and then."""

    config_class = HashConfig

    def __init__(self, vocab: int, seed: int) -> None:
        super().__init__(HashConfig(vocab_size=vocab, num_hidden_layers=1))
        self.vocab, self.seed = vocab, seed
        self.nothing = torch.nn.Parameter(torch.zeros(1))

    def logits(self, ids: Iterable[int]) -> np.ndarray:
        rows = np.random.default_rng([self.seed, *ids]).normal(size=self.vocab).astype(np.float32) * 2
        rows[1:5] += 6 * (sum(ids) % 3 == 0)
        return rows

    def forward(self, input_ids: Any, **_: Any) -> Any:
        rows = [self.logits(row)[None] for row in input_ids.tolist()]
        return transformers.modeling_outputs.CausalLMOutput(logits=torch.from_numpy(np.stack(rows)))


def wanted(model: HashModel, **options: Any) -> tuple[list[list[int]], list[float]]:
    """Tokens and scores that transformers finds, best first, without what pads them."""
    made = model.generate(
        torch.tensor([PROMPT]), do_sample=False, return_dict_in_generate=True, output_scores=True,
        use_cache=False, pad_token_id=0, num_return_sequences=options["num_beams"], **options,
    )  # fmt: skip
    lengths = (made.beam_indices >= 0).sum(1).tolist()
    rows = made.sequences[:, len(PROMPT) :].tolist()
    return [row[:n] for row, n in zip(rows, lengths, strict=True)], made.sequences_scores.tolist()


def found(
    model: HashModel, scores: BeamScores, min_tokens: int = 0, end_ids: Iterable[int] = (), ban: bool = False
) -> tuple[list[list[int]], list[float]]:
    live: list[tuple[int, ...]] = [()]
    while not scores.is_done:
        logits = torch.from_numpy(np.stack([model.logits([*PROMPT, *ids]) for ids in live]))
        rows = torch.nn.functional.log_softmax(logits, -1).numpy()
        if len(live[0]) < min_tokens:
            rows[:, list(end_ids)] = -np.inf
        if ban:
            rows[:, BANNED] = -np.inf
        order = np.argsort(-rows, axis=1, kind="stable")[:, : scores.n_candidates]
        values = np.take_along_axis(rows, order, 1)
        beams = scores.advance(list(zip(order.tolist(), values.tolist(), strict=True)))
        live = [(*live[beam.parent], beam.token) for beam in beams]
    return [list(each.tokens) for each in scores.hypotheses], [each.score for each in scores.hypotheses]


@pytest.mark.parametrize("early_stopping", [False, True, "never"])
@pytest.mark.parametrize("length_penalty", [-1.0, 0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("n_beams", [2, 3, 4, 5])
def test_searches(n_beams: int, length_penalty: float, early_stopping: Any) -> None:
    n_early = 0
    for seed in range(5):
        model = HashModel(31, seed)
        # What a random model hardly ever ends with, often, and one of several.
        for n_ends, min_tokens, forced in ((1, 0, None), (4, 0, None), (4, 3, None), (2, 0, 1), (9, 1, None)):
            end_ids = list(range(1, 1 + n_ends))
            tokens, values = wanted(
                model, num_beams=n_beams, length_penalty=length_penalty, early_stopping=early_stopping,
                max_new_tokens=10, min_new_tokens=min_tokens, eos_token_id=end_ids,
                forced_eos_token_id=forced, bad_words_ids=[[BANNED]] if seed % 2 else None,
            )  # fmt: skip
            scores = BeamScores(
                n_beams, max_tokens=10, end_ids=frozenset(end_ids), length_penalty=length_penalty,
                early_stopping=early_stopping, forced_last_id=forced,
            )  # fmt: skip
            given = found(model, scores, min_tokens, end_ids, ban=bool(seed % 2))
            assert given == (tokens, values), (seed, n_ends)
            n_early += any(len(each) < 10 for each in tokens)
    assert n_early >= 5, n_early  # of 25: not all end by their length
