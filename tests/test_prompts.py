"""What the public interface refuses before anything runs, and what it says."""

from __future__ import annotations

import re

import numpy as np
import pytest

from fake_decoder import VOCAB_SIZE, fake_model

ID, WANTED = "prompt has the token id", "wanted a text or a sequence of token ids"


@pytest.fixture
def opened():
    model, decoder = fake_model()
    with model:
        yield model, decoder


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "prompt is empty, wanted at least one token"),
        ([VOCAB_SIZE], f"{ID} {VOCAB_SIZE}, wanted 0 to {VOCAB_SIZE - 1} (vocab_size is {VOCAB_SIZE})"),
        ([1, -1], f"{ID} -1, wanted 0 to"),
        ([1, 2**70], f"{ID} {2**70}, wanted 0 to"),
        ([1, "a"], f"prompt has 'a' among its ids, {WANTED}"),
        ([1, 2.5], f"prompt has 2.5 among its ids, {WANTED}"),
        (None, f"prompt is a NoneType, {WANTED}"),
        (5, f"prompt is a int, {WANTED}"),
        (b"ab", f"prompt is a bytes, {WANTED}"),
        (np.zeros(3), f"prompt is an array of shape (3,) and dtype float64, {WANTED}"),
        (np.zeros((1, 2, 3), int), "prompt is an array of shape (1, 2, 3) and dtype int64"),
        (["a", ""], "prompt[1] is empty, wanted at least one token"),
        (["a", 5], f"prompt[1] is a int, {WANTED}"),
        (["a", [VOCAB_SIZE]], f"prompt[1] has the token id {VOCAB_SIZE}, wanted 0 to"),
        ([1] * 256, "prompt has 256 tokens, no room is left in the context of 256"),
        ([1] * 300, "prompt has 300 tokens, the context has room for 256"),
    ],
    ids=lambda x: str(x)[:20],
)  # fmt: skip
def test_bad_prompts(opened, prompt, message):
    model, decoder = opened
    with pytest.raises(ValueError, match="^generate: " + re.escape(message)):
        model.generate(prompt)
    assert decoder.n_steps == 0


def test_bad_options(opened):
    model, _ = opened
    for call in (model.generate, model.stream, model.submit):
        where = call.__name__
        with pytest.raises(
            ValueError, match=f"^{where}: max_tokens is -1, wanted a whole number of at least 0$"
        ):
            call("a", max_tokens=-1)
        with pytest.raises(
            TypeError, match=f"^{where}: unknown keyword 'max_token', the nearest is 'max_tokens'$"
        ):
            call("a", max_token=1)
    with pytest.raises(
        ValueError, match=f"generate: stop_token_ids has the token id {VOCAB_SIZE}, wanted 0 to"
    ):
        model.generate("a", stop_token_ids=[VOCAB_SIZE])
    with pytest.raises(ValueError, match="chat: messages is a str, a list of dicts was wanted"):
        model.chat("hello")
