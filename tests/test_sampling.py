"""Sampling parameters: what is refused and how, and the random numbers."""

from __future__ import annotations

import dataclasses
import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lanner._sampling_checks import CHECKS
from lanner.sampling import OPTION_NAMES, SamplingOptions, SamplingParams, draw_seed, merged, uniform

WORD = st.integers(0, 2**64 - 1)


@pytest.mark.parametrize(
    ("field", "value", "wanted"),
    [
        ("max_tokens", -1, "a whole number of at least 0"),
        ("max_tokens", 1.5, "a whole number of at least 0"),
        ("max_tokens", True, "a whole number of at least 0"),
        ("max_tokens", None, "a whole number of at least 0"),
        ("temperature", -0.1, "a number of at least 0"),
        ("temperature", math.nan, "a number of at least 0"),
        ("temperature", math.inf, "a number of at least 0"),
        ("temperature", "warm", "a number of at least 0"),
        ("temperature", "1", "a number of at least 0"),
        ("temperature", 10**400, "a number of at least 0"),
        ("top_k", -1, "a whole number of at least 0"),
        ("top_k", 2.0, "a whole number of at least 0"),
        ("top_p", 1.01, "a number from 0 to 1"),
        ("top_p", -0.01, "a number from 0 to 1"),
        ("min_p", 2, "a number from 0 to 1"),
        ("min_p", [], "a number from 0 to 1"),
        ("seed", -1, "a whole number from 0 to 18446744073709551615"),
        ("seed", 2**64, "a whole number from 0 to 18446744073709551615"),
        ("seed", "x", "a whole number from 0 to 18446744073709551615"),
        ("stop", "", "a text that is not empty, several, or None"),
        ("stop", ["a", ""], "a text that is not empty, several, or None"),
        ("stop", ["a", 1], "a text that is not empty, several, or None"),
        ("stop", 5, "a text that is not empty, several, or None"),
        ("stop_token_ids", 5, "token ids of at least 0, or None"),
        ("stop_token_ids", [1, -2], "token ids of at least 0, or None"),
        ("stop_token_ids", "ab", "token ids of at least 0, or None"),
        ("ignore_eos", 1, "True or False"),
        ("min_tokens", -1, "a whole number of at least 0"),
        ("typical_p", 1.5, "a number from 0 to 1"),
        ("repetition_penalty", 0, "a number above 0, from 1e-30 to 1e+30"),
        ("repetition_penalty", math.inf, "a number above 0, from 1e-30 to 1e+30"),
        ("presence_penalty", math.nan, "a number from -1e+30 to 1e+30"),
        ("frequency_penalty", "1", "a number from -1e+30 to 1e+30"),
        ("penalty_window", 0, "a whole number of at least 1, or None"),
        ("logit_bias", {1: math.inf}, "a finite number or -inf for each of some token ids, or None"),
        ("logit_bias", {1: math.nan}, "a finite number or -inf for each of some token ids, or None"),
        ("logit_bias", {"1": 2.0}, "a finite number or -inf for each of some token ids, or None"),
        ("logit_bias", {-1: 2.0}, "a finite number or -inf for each of some token ids, or None"),
        ("logit_bias", [(1, 2.0), (1, 3.0)], "a finite number or -inf for each of some token ids, or None"),
        ("logit_bias", [1, 2], "a finite number or -inf for each of some token ids, or None"),
        ("logit_bias", 5, "a finite number or -inf for each of some token ids, or None"),
        ("allowed_token_ids", [], "at least one token id of at least 0, or None"),
        ("allowed_token_ids", [-1], "at least one token id of at least 0, or None"),
        ("allowed_token_ids", 5, "at least one token id of at least 0, or None"),
        ("bad_words", ["a", ""], "a text that is not empty, several, or None"),
        ("logits_processor", "f", "a callable, or None"),
        ("n", 0, "a whole number from 1 to 65536"),
        ("logprobs", -1, "a whole number of at least 0, or None"),
        ("logprobs", True, "a whole number of at least 0, or None"),
        ("prompt_logprobs", 1.0, "a whole number of at least 0, or None"),
        ("priority", 1.5, "a whole number"),
        ("priority", 2**63, "a whole number"),
        ("deadline_ms", 0, "a number above 0, from 1e-30 to 1e+30, or None"),
        ("deadline_ms", math.inf, "a number above 0, from 1e-30 to 1e+30, or None"),
        ("num_beams", 0, "a whole number from 1 to 65536"),
        ("length_penalty", 5.5, "a number from -5 to 5"),
        ("early_stopping", "never", "True or False"),
    ],
)
def test_bad_value(field, value, wanted):
    with pytest.raises(ValueError, match=r"is .*, wanted") as caught:
        SamplingParams(**{field: value})
    assert str(caught.value) == f"{field} is {value!r:.80}, wanted {wanted}"


def test_beams_and_draws_exclude_each_other():
    with pytest.raises(ValueError, match=r"^temperature is 0.5, wanted 0 where num_beams is above 1$"):
        SamplingParams(temperature=0.5, num_beams=2)
    with pytest.raises(ValueError, match=r"^n is 3, wanted at most num_beams, which is 2$"):
        SamplingParams(n=3, num_beams=2)
    assert SamplingParams(n=2, num_beams=2).n == 2
    assert SamplingParams(n=3, temperature=1.0).num_beams == 1


def test_unknown_keyword_names_the_nearest():
    with pytest.raises(TypeError, match=r"^SamplingParams: unknown keyword 'topk', the nearest is 'top_k'$"):
        SamplingParams(topk=3)
    with pytest.raises(
        TypeError, match="generate: unknown keyword 'max_new_tokens', the nearest is 'max_tokens'"
    ):
        merged("generate", None, {"max_new_tokens": 3})


def test_errors_name_the_call():
    with pytest.raises(ValueError, match=r"^chat: top_k is -3, wanted a whole number of at least 0$"):
        merged("chat", SamplingParams(), {"top_k": -3})
    with pytest.raises(ValueError, match=r"^chat: params is a dict, wanted a SamplingParams$"):
        merged("chat", {"top_k": 3}, {})


def test_keywords_take_the_place_of_params():
    params = merged(
        "f", SamplingParams(temperature=0.5, top_k=4, stop="a", seed=7), {"top_k": 9, "stop": ["b", "c"]}
    )
    assert params == SamplingParams(temperature=0.5, top_k=9, stop=("b", "c"), seed=7)
    assert params.stop_texts == ("b", "c")


def test_values_become_plain():
    params = SamplingParams(
        max_tokens=np.int64(3),
        temperature=np.float32(0.5),
        top_p=1,
        stop="x",
        stop_token_ids=np.array([1, 2]),
        logit_bias={np.int32(7): np.float32(0.5), 3: -math.inf},
        allowed_token_ids=np.array([7, 3, 7]),
        bad_words=["x", "y"],
        priority=np.int64(-3),
        deadline_ms=5,
    )
    assert params.biases == ((3, -math.inf), (7, 0.5))
    assert (params.allowed_ids, params.bad_texts, params.priority) == ((3, 7), ("x", "y"), -3)
    assert [type(x) for x in (params.max_tokens, params.temperature, params.top_p)] == [int, float, float]
    assert (params.stop_texts, params.stop_ids) == (("x",), (1, 2))
    assert pickle.loads(pickle.dumps(params)) == params
    assert hash(params) == hash(dataclasses.replace(params))
    with pytest.raises(dataclasses.FrozenInstanceError):
        params.top_k = 2


def test_options_are_the_fields():
    assert tuple(CHECKS) == OPTION_NAMES
    assert tuple(SamplingOptions.__annotations__) == OPTION_NAMES


@given(temperature=st.floats(0, 1e308), top_k=st.integers(0, 2**70))
def test_row_is_usable_in_float32(temperature, top_k):
    with np.errstate(over="ignore"):  # infinitely hot is uniform
        row = np.array(SamplingParams(temperature=temperature, top_k=top_k).row, np.float32)
        assert (row[0] == 0) == (temperature == 0)
        assert row[0] == 0 or np.isfinite(np.float32(1) / row[0])
    assert row[1] == min(top_k, 2**24)


@given(seed=WORD, sample_index=WORD, n=st.integers(1, 2**63))
def test_uniform_is_philox(seed, sample_index, n):
    """NumPy's generator advances its counter before it draws."""
    key, counter = np.array([seed, 0], np.uint64), np.array([n - 1, sample_index, 0, 0], np.uint64)
    bits = np.random.Philox(key=key, counter=counter).random_raw()
    drawn = uniform(seed, sample_index, n)
    assert drawn == (int(bits) >> 40) / 2**24
    assert 0 <= np.float32(drawn) < 1
    assert np.float32(drawn) == drawn


def test_uniform_counts_modulo_a_word():
    """A row of the prompt has a number too, which nobody uses."""
    assert uniform(5, 1, -3) == uniform(5, 1, 2**64 - 3)
    for seed, sample_index in ((-1, 0), (2**64, 0), (0, -1)):
        with pytest.raises(OverflowError):
            uniform(seed, sample_index, 0)


def test_uniform_is_uniform():
    drawn = np.array([uniform(s, i, n) for s in range(8) for i in range(4) for n in range(250)])
    counts = np.histogram(drawn, 20, (0, 1))[0]
    assert abs(drawn.mean() - 0.5) < 0.02
    assert counts.min() > 320
    assert counts.max() < 480
    assert len(set(drawn)) > 7990


def test_seeds_are_drawn():
    seeds = {draw_seed() for _ in range(100)}
    assert len(seeds) == 100
    assert all(SamplingParams(seed=seed).seed == seed for seed in seeds)
