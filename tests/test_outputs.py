"""What is read of a step's rows: choices by rules, log probabilities, candidates; of both kinds of models."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lanner import ops
from lanner.checkpoint import open_checkpoint
from lanner.decoder import Decoder
from lanner.logit_rules import LogitRules
from lanner.sampling import SamplingParams
from lanner.seq2seq import Seq2Seq
from stepping import run_step
from targets import IdTokenizer, Target, target_logits
from tiny_llama import IDS, MODELS, make
from tiny_seq2seq import TinySeq2Seq

N = 7
GREEDY = SamplingParams().row


def decoder(path: Path, n_threads: int) -> Decoder:
    made = Decoder(open_checkpoint(make(MODELS["heads_of_16"], path / "m.gguf").path), n_threads=n_threads)
    assert run_step(made, IDS[:N], 0, list(range(N)))
    return made


def seq2seq(path: Path, n_threads: int) -> Seq2Seq:
    made = Seq2Seq(open_checkpoint(TinySeq2Seq("t5").write(path)), n_threads=n_threads)
    target_logits(made, [Target([5, 6, 7])], [range(3, 3 + N)])
    return made


Outputs = Decoder | Seq2Seq


@pytest.fixture(params=[decoder, seq2seq])
def opened(request: pytest.FixtureRequest) -> Callable[[Path, int], Outputs]:
    return request.param


@pytest.fixture
def outputs(opened: Callable[[Path, int], Outputs], tmp_path: Path) -> Outputs:
    return opened(tmp_path, 2)


def rules(**options: object) -> LogitRules:
    tokenizer = IdTokenizer()
    tokenizer.unk_id = None
    return LogitRules(SamplingParams(**options), tokenizer, [3, 4], {2})


def test_choices_without_rules_are_the_steps(outputs: Outputs) -> None:
    sampled = outputs.sampled(N)
    for row in range(N):
        assert outputs.choose(row, None, GREEDY, 0.0) == sampled[row]
        assert outputs.choose(row, rules(), GREEDY, 0.0) == sampled[row]


def test_choices_follow_the_rules_and_leave_the_step_alone(outputs: Outputs) -> None:
    logits = outputs.logits(N).copy()
    best = np.argsort(-logits, axis=1)
    for row in range(N):
        banned = rules(logit_bias=dict.fromkeys(best[row, :3].tolist(), -np.inf))
        assert outputs.choose(row, banned, GREEDY, 0.0) == best[row, 3]
        only = rules(allowed_token_ids=best[row, 4:6].tolist())
        drawn = {outputs.choose(row, only, SamplingParams(temperature=50.0).row, u) for u in (0.01, 0.99)}
        assert drawn == set(best[row, 4:6].tolist())
    np.testing.assert_array_equal(outputs.logits(N), logits)


def test_nothing_left_to_choose(outputs: Outputs) -> None:
    with pytest.raises(ValueError, match="no token is left to choose: allowed_token_ids, logit_bias"):
        outputs.choose(0, rules(allowed_token_ids=[2], min_tokens=1), GREEDY, 0.0)

    def fails(ids: list[int], logits: np.ndarray) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        outputs.choose(0, rules(logits_processor=fails), GREEDY, 0.0)
    assert outputs.choose(0, None, GREEDY, 0.0) == outputs.sampled(1)[0]


def test_infinite_logits_are_the_models_fault(outputs: Outputs) -> None:
    outputs.logits(N)[1] = np.nan
    outputs.program.array(outputs._sampled, N)[1] = -1  # as the operation leaves it
    assert outputs.choose(1, rules(presence_penalty=1.0), GREEDY, 0.0) == -1


@pytest.mark.parametrize("k", [0, 1, 5, 10**6])
def test_logprobs_are_log_softmax(outputs: Outputs, k: int) -> None:
    """To the last bit those of lanner.ops.log_softmax, which has an error bound of its own."""
    logits = outputs.logits(N).copy()
    wanted, n = ops.log_softmax(logits), min(k, logits.shape[1])
    order = np.lexsort((np.broadcast_to(np.arange(logits.shape[1]), logits.shape), -logits), axis=1)[:, :n]
    for first in range(N):
        ids = array("i", outputs.sampled(N)[first:])
        rows = np.arange(first, N)
        outputs.choose(first, rules(logit_bias={ids[0]: -5.0}), GREEDY, 0.0)  # changes nothing here
        of_ids, top_ids, top = outputs.logprobs(first, ids, k)
        assert (of_ids.dtype, top_ids.dtype, top.dtype) == (np.float32, np.int32, np.float32)
        np.testing.assert_array_equal(of_ids, wanted[rows, ids])
        np.testing.assert_array_equal(top_ids, order[first:])
        np.testing.assert_array_equal(top, np.take_along_axis(wanted, order, 1)[first:])
    none = outputs.logprobs(2, array("i"), k)
    assert [x.shape for x in none] == [(0,), (0, n), (0, n)]


def test_logprobs_refuse(outputs: Outputs) -> None:
    n = outputs.logits(1).shape[1]
    with pytest.raises(ValueError, match=f"log_probs: ids are not all from 0 to {n - 1}"):
        outputs.logprobs(0, array("i", [0, n]), 1)
    with pytest.raises(ValueError, match="log_probs: rows -1 to 0"):
        outputs.logprobs(-1, array("i", [0]), 1)


def test_bits_do_not_depend_on_threads(opened: Callable[[Path, int], Outputs], tmp_path: Path) -> None:
    made = [opened(tmp_path, n) for n in (1, 2, 3)]
    ids = array("i", range(N))
    wanted = made[0].logprobs(0, ids, 5)
    for other in made[1:]:
        for one, another in zip(wanted, other.logprobs(0, ids, 5), strict=True):
            np.testing.assert_array_equal(one, another)


def test_candidates_are_the_likeliest(outputs: Outputs) -> None:
    wanted = ops.log_softmax(outputs.logits(N))
    for row in range(N):
        order = np.argsort(-wanted[row], kind="stable")
        ids, logs = outputs.candidates(row, None, 6)
        assert ids == order[:6].tolist()
        assert logs == wanted[row, order[:6]].tolist()
        # Rules change the logarithms: what is forbidden leaves the others as they are.
        ids, logs = outputs.candidates(row, rules(logit_bias={int(order[1]): -np.inf}), 3)
        assert ids == order[[0, 2, 3]].tolist()
        assert logs == wanted[row, order[[0, 2, 3]]].tolist()
