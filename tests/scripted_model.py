"""Stands in for a loaded model in tests of the command line: it answers at once, or as slowly as told.

`python scripted_model.py ARGUMENTS` is `lanner ARGUMENTS` with this model behind it. The answer to a
conversation is "<number of messages>:<last message>"; a raw prompt is repeated in capitals.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace

import lanner
from lanner import cli

INFO = SimpleNamespace(
    architecture="llama",
    n_params=134_515_008,
    formats={"q4_1": 66_355_200, "q8_0": 30_081_024},
    weight_bytes_per_token=96_000_000,
    context_length=8192,
    vocab_size=49152,
    hidden_size=576,
    n_layers=30,
    n_heads=9,
    n_kv_heads=3,
    head_dim=64,
    tokenizer="gpt2 (smollm)",
)


class ScriptedModel:
    """What the command line uses of a model, and a record of how it was called."""

    def __init__(self, template: bool = True, delay_s: float = 0.0) -> None:
        self.tokenizer = SimpleNamespace(chat_template="template" if template else None)
        self.delay_s = delay_s
        self.calls: list[tuple[object, dict[str, object]]] = []
        self.is_closed = False
        self.n_drafted = 0

    def __enter__(self) -> ScriptedModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.is_closed = True
        if closed := os.environ.get("SCRIPTED_CLOSED"):
            open(closed, "a").close()

    def info(self) -> SimpleNamespace:
        return INFO

    def stream(self, prompt: str, **options: object) -> Iterator[SimpleNamespace]:
        self.calls.append((prompt, options))
        self.n_drafted = 24 if options.get("speculate") else 0
        return self._chunks(prompt.upper())

    def stream_chat(self, messages: list[dict[str, str]], **options: object) -> Iterator[SimpleNamespace]:
        self.calls.append((messages, options))
        self.n_drafted = 24 if options.get("speculate") else 0
        if messages[-1]["content"] == "too long":
            raise ValueError("stream_chat: the prompt has 9000 tokens, the context has room for 8192")
        return self._chunks(f"{len(messages)}:{messages[-1]['content']}")

    def _chunks(self, text: str) -> Iterator[SimpleNamespace]:
        for token, piece in enumerate(text):
            yield SimpleNamespace(text=piece, token=token, finish_reason=None, result=None)
            time.sleep(self.delay_s)
        yield SimpleNamespace(text="", token=0, finish_reason="stop", result=self._result(text))

    def _result(self, text: str) -> SimpleNamespace:
        timings = SimpleNamespace(
            first_token_s=0.25,
            prefill_s=0.2,
            decode_s=2.0,
            total_s=2.25,
            prefill_tokens_per_s=165.0,
            decode_tokens_per_s=125.0,
            drafted_tokens=self.n_drafted,
            accepted_tokens=self.n_drafted // 2,
        )
        usage = SimpleNamespace(prompt_tokens=33, completion_tokens=len(text))
        return SimpleNamespace(text=text, tokens=[], finish_reason="stop", usage=usage, timings=timings)


if __name__ == "__main__":
    model = ScriptedModel(delay_s=float(os.environ.get("SCRIPTED_DELAY", "0")))
    lanner.load = lambda path, **_: model  # type: ignore[attr-defined]
    sys.exit(cli.main())
