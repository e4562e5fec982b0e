"""Models: load one, and generate, stream, chat and score with it."""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from queue import SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any, overload

from lanner import _core
from lanner._threads import default_threads
from lanner.engine import Engine
from lanner.handle import Handle, TokenStream, finished_result
from lanner.info import ModelInfo, describe
from lanner.profile import Profiled
from lanner.prompts import PromptReader, is_list_of_prompts
from lanner.result import Chunk, GenerationResult
from lanner.sampling import SamplingParams, check_keywords, merged
from lanner.sequence import Generation, Scoring, token_loss
from lanner.text_reader import TextReader

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from typing_extensions import Unpack

    from lanner.decoder import Decoder
    from lanner.program import Program
    from lanner.prompts import TokenIds
    from lanner.sampling import SamplingOptions
    from lanner.seq2seq import Seq2Seq
    from lanner.tokenizer import Tokenizer

__all__ = ["Chunk", "GenerationResult", "Handle", "Model", "ModelInfo", "TokenStream", "load"]

_LOAD_OPTIONS = ("context", "threads", "kv_dtype", "max_memory", "quantize", "device")


def load(
    model: str | os.PathLike[str],
    *,
    context: int | None = None,
    threads: int | None = None,
    kv_dtype: str = "f16",
    max_memory: int | None = None,
    quantize: str | None = None,
    device: str = "cpu",
    **unknown: Any,
) -> Model:
    """Opens a model.

    Args:
        model: path of a GGUF file (any part of a split one) or of a Hugging Face folder with safetensors, or
            a name in the catalogue that `lanner pull` has downloaded.
        context: positions that a prompt and its continuation may take together; the model's own if None.
        threads: threads of a step; by default the physical cores that this process may use.
        kv_dtype: type of cached keys and values, "f16" or "f32", or "q8": 8 bits and a scale for every token
            and head, half the memory of "f16".
        max_memory: bytes that weights, cache and activations may take together.
        quantize: None keeps the type of every weight; "q8_0" or "q4_0" is given to matrices of a float type,
            but for those whose rows are not whole blocks of 32.
        device: "cpu".

    Raises:
        OSError: the file cannot be opened.
        ModelFileError, UnsupportedModelError: it contradicts itself, or has something that is not known.
        ValueError: an argument, such as a context beyond the model's.
        OutOfMemoryBudget: `max_memory` does not suffice.
        DeviceError: a device that this build has no kernels for.
    """
    check_keywords("load", unknown, _LOAD_OPTIONS)
    if device != "cpu":
        raise _core.DeviceError(f"load: device is {device!r:.80}, this build runs on 'cpu' alone")
    for name, value in (("context", context), ("threads", threads), ("max_memory", max_memory)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f"load: {name} is {value!r:.80}, wanted a whole number of at least 1, or None")
    if threads is not None and threads > _core.MAX_THREADS:
        raise ValueError(f"load: threads is {threads}, wanted at most {_core.MAX_THREADS}")
    from lanner import catalog, models
    from lanner.checkpoint import open_checkpoint
    from lanner.decoder import Decoder
    from lanner.tokenizer_files import tokenizer_of

    checkpoint = open_checkpoint(catalog.resolve(model))
    tokenizer, name = tokenizer_of(checkpoint)
    options: dict[str, Any] = {
        "context": context,
        "n_threads": threads or min(default_threads()[0], _core.MAX_THREADS),
        "max_memory": max_memory,
        "quantize": quantize,
    }
    if models.is_encoder(checkpoint.settings):
        from lanner.embedding import open_encoder

        return open_encoder(checkpoint, tokenizer, name, **options)
    if models.is_seq2seq(checkpoint.settings):
        from lanner.translation import open_translator

        return open_translator(checkpoint, tokenizer, name, kv_dtype=kv_dtype, **options)
    return Model(Decoder(checkpoint, kv_dtype=kv_dtype, **options), tokenizer, tokenizer_name=name)


class Model(Profiled, TextReader):
    """A loaded model. Every method may be called from any thread; requests are served in order.

    A prompt is a text, encoded with the special tokens that it spells out and those that the file adds, or
    token ids. Options are the fields of SamplingParams: as `params`, as keywords, or as keywords that take
    the place of some of `params`. Ctrl-C ends the request that the main thread waits for.

    All methods raise, before anything runs, ValueError for an argument and RuntimeError once the model is
    closed.
    """

    def __init__(self, decoder: Decoder | Seq2Seq, tokenizer: Tokenizer, *, tokenizer_name: str = "") -> None:
        self.tokenizer = tokenizer
        self._info = describe(decoder, tokenizer_name)
        self._prompts = PromptReader(tokenizer, decoder.config.vocab_size, decoder.context)
        engine = Engine(decoder)
        self._engine: Engine | None = engine
        # Also when the model is dropped, and before the interpreter ends.
        self._finalizer = weakref.finalize(self, engine.close)

    def info(self) -> ModelInfo:
        """Sizes, formats and names."""
        return self._info

    @property
    def program(self) -> Program:
        """The flat list that every step runs: `dump()` prints it, `interpret` runs it in Python."""
        if self._engine is None:
            raise RuntimeError("program: the model is closed")
        return self._engine.decoder.program

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._engine is None

    def close(self) -> None:
        """Ends what still runs, as cancelled, and frees the memory. Closing again does nothing."""
        self._engine = None
        self._finalizer()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- generation -----------------------------------------------------------------------------------------
    @overload
    def generate(  # type: ignore[overload-overlap]  # a str is also a sequence of str
        self, prompt: str | TokenIds, params: SamplingParams | None = None, **options: Unpack[SamplingOptions]
    ) -> GenerationResult: ...
    @overload
    def generate(
        self,
        prompt: Sequence[str] | Sequence[TokenIds],
        params: SamplingParams | None = None,
        **options: Unpack[SamplingOptions],
    ) -> list[GenerationResult]: ...
    def generate(
        self, prompt: Any, params: SamplingParams | None = None, **options: Any
    ) -> GenerationResult | list[GenerationResult]:
        """Continues a prompt; a list of prompts, even of one, gives a list of results in the same order."""
        params = merged("generate", params, options)
        many = is_list_of_prompts(prompt)
        named = [(f"prompt[{i}]", each) for i, each in enumerate(prompt)] if many else [("prompt", prompt)]
        generations = [self._generation("generate", name, each, params) for name, each in named]
        self._run("generate", generations)
        results = [finished_result(generation) for generation in generations]
        return results if many else results[0]

    def stream(
        self, prompt: str | TokenIds, params: SamplingParams | None = None, **options: Unpack[SamplingOptions]
    ) -> TokenStream:
        """Like `generate`, a chunk for every token as it comes; the last chunk has the result."""
        params = merged("stream", params, options)
        return self._stream("stream", "prompt", prompt, params)

    def submit(
        self, prompt: str | TokenIds, params: SamplingParams | None = None, **options: Unpack[SamplingOptions]
    ) -> Handle:
        """Like `generate`, without waiting."""
        generation = self._generation("submit", "prompt", prompt, merged("submit", params, options))
        self._submit("submit", [generation])
        return Handle(generation, self._cancel)

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        params: SamplingParams | None = None,
        **options: Unpack[SamplingOptions],
    ) -> GenerationResult:
        """The answer to a conversation, dicts with `role` and `content`, by the file's own chat template."""
        params = merged("chat", params, options)
        generation = self._generation("chat", "messages", self.tokenizer.encode_chat(messages), params)
        self._run("chat", [generation])
        return finished_result(generation)

    def stream_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        params: SamplingParams | None = None,
        **options: Unpack[SamplingOptions],
    ) -> TokenStream:
        """Like `chat`, a chunk for every token as it comes."""
        params = merged("stream_chat", params, options)
        return self._stream("stream_chat", "messages", self.tokenizer.encode_chat(messages), params)

    # --- scores ---------------------------------------------------------------------------------------------
    def logits(self, ids: str | TokenIds) -> npt.NDArray[np.float32]:
        """Logits after every token: float32 (len(ids), vocab_size), in one pass."""
        import numpy as np

        ids = self._prompts.ids("logits", "ids", ids)
        out = np.empty((len(ids), self._info.vocab_size), np.float32)

        def copy(start: int, rows: npt.NDArray[np.float32]) -> None:
            out[start : start + len(rows)] = rows

        self._run("logits", [Scoring(ids, copy)])
        return out

    def perplexity(self, text: str | TokenIds) -> float:
        """exp of the mean of -log p of every token after the first, given those before it.

        The text has at least two tokens and fits into the context. Sums are in float64.
        """
        ids = self._prompts.ids("perplexity", "text", text)
        if len(ids) < 2:
            raise ValueError("perplexity: text has 1 token, wanted at least 2")
        losses: list[float] = []

        def add(start: int, rows: npt.NDArray[np.float32]) -> None:
            losses.extend(map(token_loss, rows, ids[start + 1 :]))

        self._run("perplexity", [Scoring(ids, add)])
        return math.exp(math.fsum(losses) / len(losses))

    # --- how requests reach the engine ----------------------------------------------------------------------
    def _generation(
        self,
        where: str,
        name: str,
        prompt: str | TokenIds,
        params: SamplingParams,
        chunks: SimpleQueue[Chunk | None] | None = None,
    ) -> Generation:
        ids = self._prompts.ids_to_continue(where, name, prompt)
        self._prompts.check_ids(where, "stop_token_ids", params.stop_ids)
        own_ends = frozenset() if params.ignore_eos else self.tokenizer.eos_ids
        return Generation(
            ids,
            replace(params, max_tokens=min(params.max_tokens, self._info.context - len(ids))),
            end_ids=own_ends.union(params.stop_ids),
            # What follows a prompt keeps the space between them; an answer begins without one.
            decoder=self.tokenizer.stream(continues=name != "messages"),
            on_chunk=chunks.put if chunks else None,
        )

    def _stream(self, where: str, name: str, prompt: str | TokenIds, params: SamplingParams) -> TokenStream:
        chunks: SimpleQueue[Chunk | None] = SimpleQueue()
        generation = self._generation(where, name, prompt, params, chunks)
        self._submit(where, [generation])
        return TokenStream(generation, chunks, self._cancel)

    def _submit(self, where: str, sequences: Sequence[Generation] | Sequence[Scoring]) -> None:
        engine = self._engine
        if engine is None:
            raise RuntimeError(f"{where}: the model is closed")
        for sequence in sequences:
            if isinstance(sequence, Generation) and sequence.max_tokens == 0:
                sequence.finish("length")
        engine.submit(sequence for sequence in sequences if not sequence.is_finished)

    def _run(self, where: str, sequences: Sequence[Generation] | Sequence[Scoring]) -> None:
        """Waits until all have ended; an error or Ctrl-C in the meantime ends all. Raises what went wrong."""
        try:
            self._submit(where, sequences)
            for sequence in sequences:
                sequence.wait()
                if sequence.error is not None:
                    raise sequence.error
        except BaseException:
            for sequence in sequences:
                self._cancel(sequence)
            raise

    def _cancel(self, sequence: Generation | Scoring) -> None:
        if (engine := self._engine) is not None:
            engine.cancel(sequence)
