"""Sampling parameters: what is refused and how, and the random numbers."""

from __future__ import annotations

import dataclasses
import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    ],
)
def test_bad_value(field, value, wanted):
    with pytest.raises(ValueError, match=r"is .*, wanted") as caught:
        SamplingParams(**{field: value})
    assert str(caught.value) == f"{field} is {value!r:.80}, wanted {wanted}"


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
    )
    assert [type(x) for x in (params.max_tokens, params.temperature, params.top_p)] == [int, float, float]
    assert (params.stop_texts, params.stop_ids) == (("x",), (1, 2))
    assert pickle.loads(pickle.dumps(params)) == params
    assert hash(params) == hash(dataclasses.replace(params))
    with pytest.raises(dataclasses.FrozenInstanceError):
        params.top_k = 2


def test_options_are_the_fields():
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
