"""Penalties, biases and bans against the plain definition, written out anew for every token."""

from __future__ import annotations

import math
from array import array
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gguf_writer import gguf_bytes
from lanner import _core
from lanner.logit_rules import LogitRules, spellings
from lanner.sampling import SamplingParams
from lanner.tokenizer import Tokenizer
from vocabulary import ID, METADATA

VOCAB = 12
IDS = st.integers(0, VOCAB - 1)


class Letters:
    """A tokenizer whose ids 0 to 9 are digits; a space is no token."""

    unk_id = 11

    def encode(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        return [10 if c == "\n" else int(c) if c.isdigit() else 11 for c in text.replace(" ", "")]


def plain(
    logits: np.ndarray, params: SamplingParams, prompt: list[int], text: list[int], end_ids: set[int]
) -> np.ndarray:
    """(vocab,) float64: the stages of SamplingParams before temperature, from the whole history."""
    x = logits.astype(np.float64)
    history, start = prompt + text, 0
    if params.penalty_window is not None:
        start = max(0, len(history) - params.penalty_window)
    for id in set(history[start:]):
        x[id] = x[id] / params.repetition_penalty if x[id] > 0 else x[id] * params.repetition_penalty
    for id, times in Counter(history[max(start, len(prompt)) :]).items():
        x[id] -= params.presence_penalty + params.frequency_penalty * times
    for id, bias in params.biases:
        x[id] += bias
    if params.allowed_ids is not None:
        x[[id for id in range(VOCAB) if id not in params.allowed_ids]] = -np.inf
    for word in params.bad_texts:
        digits = [int(c) for c in word]
        if digits[:-1] == history[len(history) - len(digits) + 1 :] and len(digits) <= len(history) + 1:
            x[digits[-1]] = -np.inf
    if len(text) < params.min_tokens:
        x[list(end_ids)] = -np.inf
    return x


@st.composite
def some_params(draw: st.DrawFn) -> SamplingParams:
    reals = st.floats(-4, 4, width=32)
    return SamplingParams(
        repetition_penalty=draw(st.sampled_from([1.0, 1.0, 1.25, 0.5])),
        presence_penalty=draw(st.one_of(st.just(0.0), reals)),
        frequency_penalty=draw(st.one_of(st.just(0.0), reals)),
        penalty_window=draw(st.one_of(st.none(), st.integers(1, 9))),
        logit_bias=draw(st.dictionaries(IDS, st.one_of(reals, st.just(-math.inf)), max_size=3)),
        allowed_token_ids=draw(st.one_of(st.none(), st.sets(IDS, min_size=1))),
        bad_words=draw(st.lists(st.text("0123", min_size=1, max_size=3), max_size=3)),
        min_tokens=draw(st.integers(0, 5)),
    )


def applied(rules: LogitRules, logits: np.ndarray) -> np.ndarray:
    row = _core.LogitsRow(len(logits))
    row.copy(logits[None], 0)
    rules.apply(row)
    return row.array.copy()


@settings(max_examples=400, deadline=None)
@given(
    params=some_params(),
    prompt=st.lists(st.integers(0, 5), max_size=12),
    text=st.lists(st.integers(0, 5), max_size=12),
    end_ids=st.sets(IDS, max_size=2),
    seed=st.integers(0, 99),
    fork_at=st.integers(0, 12),
)
def test_every_token_as_defined(params, prompt, text, end_ids, seed, fork_at):
    logits = np.random.default_rng(seed).standard_normal(VOCAB).astype(np.float32) * 5
    rules = LogitRules(params, Letters(), prompt, end_ids)
    for n in range(len(text) + 1):
        if n == fork_at:  # another text that goes on otherwise
            other, rules = rules, rules.fork()
            for token in (0, 7, 0):
                other.push(token)
        made, wanted = applied(rules, logits), plain(logits, params, prompt, text[:n], end_ids)
        np.testing.assert_array_equal(np.isinf(made), np.isinf(wanted))
        # The divisor and its use, the shift (at most |scaled| + |wanted|) and its use: a rounding each.
        finite, r = np.isfinite(wanted), params.repetition_penalty
        scaled, wanted = np.abs(logits[finite]) * max(r, 1 / r), wanted[finite]
        assert np.all(np.abs(made[finite] - wanted) <= (3 * scaled + 2 * np.abs(wanted)) * 2.0**-24)
        if not rules.is_needed:
            np.testing.assert_array_equal(made, logits)
        if n < len(text):
            rules.push(text[n])


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.1},
        {"presence_penalty": 0.1},
        {"frequency_penalty": -0.1},
        {"logit_bias": {3: 1.0}},
        {"allowed_token_ids": [3]},
        {"bad_words": "12"},
        {"bad_words": "1"},
        {"min_tokens": 2},
        {"logits_processor": lambda ids, logits: None},
    ],
    ids=lambda options: next(iter(options)),
)
def test_needed_only_where_they_change_something(options):
    assert LogitRules(SamplingParams(**options), Letters(), [1], {9}).is_needed
    without = SamplingParams(temperature=0.5, top_k=3, top_p=0.9, typical_p=0.8, penalty_window=3)
    assert not LogitRules(without, Letters(), [1], {9}).is_needed


def test_min_tokens_are_needed_until_they_are_there():
    rules = LogitRules(SamplingParams(min_tokens=2), Letters(), [1], {9})
    for needed in (True, True, False):
        assert rules.is_needed == needed
        assert np.isinf(applied(rules, np.zeros(VOCAB, np.float32))[9]) == needed
        rules.push(0)
    assert not LogitRules(SamplingParams(min_tokens=2), Letters(), [1], set()).is_needed


def test_entries_are_those_of_the_window():
    """What is left of a long text is what penalties still look at."""
    rules = LogitRules(SamplingParams(presence_penalty=1.0, penalty_window=4), Letters(), range(1000), ())
    for token in range(5000):
        rules.push(token)
        ids, divisors, shifts, only = rules.entries()
        assert sorted(ids) == list(range(max(0, token - 3), token + 1))
        assert len(ids) == len(divisors) == len(shifts)
        assert set(shifts) == {1.0}
        assert only is None


def test_processor_sees_ids_and_logits():
    seen = []

    def forbid(token_ids: list[int], logits: np.ndarray) -> None:
        seen.append((tuple(token_ids), logits.dtype, logits.shape, float(logits[5])))
        token_ids.append(99)  # a list of its own
        logits[:4] = -np.inf

    params = SamplingParams(logits_processor=forbid, logit_bias={5: 2.0})
    rules = LogitRules(params, Letters(), [3, 4], ())
    rules.push(7)
    for _ in range(2):
        made = applied(rules, np.zeros(VOCAB, np.float32))
        assert np.flatnonzero(np.isinf(made)).tolist() == [0, 1, 2, 3]
    assert seen == [((3, 4, 7), np.float32, (VOCAB,), 2.0)] * 2


# ---- bad words -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    path = tmp_path_factory.mktemp("vocabulary") / "v.gguf"
    path.write_bytes(gguf_bytes(METADATA, {}))
    return Tokenizer.from_gguf(_core.GgufFile(str(path)))


def test_spellings_of_a_word(tokenizer):
    assert spellings(tokenizer, "hello") == {(ID["hello"],), (ID["Ġ"], ID["hello"])}
    assert spellings(tokenizer, "the") == {(ID["t"], ID["he"]), (ID["Ġthe"],)}
    # What is spelled out as a control token may also be plain text.
    assert (ID["<|im_end|>"],) in spellings(tokenizer, "<|im_end|>")
    assert (ID["<|"], ID["im"], ID["_"], ID["e"], ID["n"], ID["d"], ID["|>"]) in spellings(
        tokenizer, "<|im_end|>"
    )
    for text in ("hello", "the", "日本", "\n", " "):
        for ids in spellings(tokenizer, text):
            assert tokenizer.decode(ids, skip_special=False).strip(" ") == text.strip(" ")


def test_a_bad_word_never_appears(tokenizer):
    """Greedy on logits that want nothing else."""
    wanted = tokenizer.encode("say hello the hello", False)
    params = SamplingParams(bad_words=["hello", "the"])
    rules = LogitRules(params, tokenizer, tokenizer.encode("say", False), ())
    text: list[int] = []
    row = _core.LogitsRow(tokenizer.vocab_size)
    for token in wanted:
        logits = np.zeros((1, tokenizer.vocab_size), np.float32)
        logits[0, token] = 5.0
        row.copy(logits, 0)
        rules.apply(row)
        text.append(row.sample((0.0, 0.0, 1.0, 0.0, 1.0), 0.0))
        rules.push(text[-1])
    assert text != wanted
    said = tokenizer.decode(text, skip_special=False)
    assert "hello" not in said
    assert "the" not in said


def test_a_word_that_cannot_be_spelled_is_not_the_unknown_token():
    assert spellings(Letters(), "x") == set()
    assert not LogitRules(SamplingParams(bad_words="x"), Letters(), [1], ()).is_needed


# ---- the row that is changed ---------------------------------------------------------------------


def test_row_refuses():
    row = _core.LogitsRow(4)
    ints, floats = array("i", [1]), array("f", [1.0])
    with pytest.raises(ValueError, match="LogitsRow: n is 0, wanted 1 to"):
        _core.LogitsRow(0)
    with pytest.raises(ValueError, match=r"LogitsRow.copy: logits has 5 columns, wanted 4"):
        row.copy(np.zeros((1, 5), np.float32), 0)
    with pytest.raises(ValueError, match=r"LogitsRow.copy: row is 1, logits has 1"):
        row.copy(np.zeros((1, 4), np.float32), 1)
    with pytest.raises(ValueError, match=r"LogitsRow.copy: logits is 2-dimensional of 'd', wanted"):
        row.copy(np.zeros((1, 4)), 0)
    with pytest.raises(ValueError, match="wanted 2-dimensional and contiguous of 'f'"):
        row.copy(np.zeros((4, 4), np.float32).T[1:], 0)
    with pytest.raises(ValueError, match=r"have 1, 0 and 1 elements, wanted equally many"):
        row.adjust(ints, array("f"), floats, None)
    with pytest.raises(ValueError, match="ids has a negative id"):
        row.adjust(array("i", [-1]), floats, floats, None)
    with pytest.raises(ValueError, match="only is not ascending"):
        row.adjust(ints, floats, floats, array("i", [3, 1]))
    with pytest.raises(ValueError, match="only has a negative id"):
        row.adjust(ints, floats, floats, array("i", [-1, 1]))


def test_ids_beyond_the_row_cannot_be_drawn_anyway():
    row = _core.LogitsRow(3)
    row.copy(np.ones((1, 3), np.float32), 0)
    row.adjust(array("i", [7, 2]), array("f", [2, 2]), array("f", [1, 0]), array("i", [0, 2, 9]))
    np.testing.assert_array_equal(row.array, np.array([1, -np.inf, 0.5], np.float32))
