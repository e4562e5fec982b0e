"""Models: load one, and generate, stream, chat and score with it."""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, overload

from lanner import _core
from lanner._threads import default_threads
from lanner.engine import Engine
from lanner.handle import AsyncTokenStream, Handle, TokenStream
from lanner.info import ModelInfo, describe
from lanner.profile import Profiled
from lanner.prompts import PromptReader, is_list_of_prompts
from lanner.result import Chunk, GenerationResult
from lanner.sampling import SamplingParams, check_keywords, merged
from lanner.scores import Scores
from lanner.text_reader import TextReader

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from lanner.decoder import Decoder
    from lanner.program import Program
    from lanner.prompts import TokenIds
    from lanner.sampling import SamplingOptions
    from lanner.seq2seq import Seq2Seq
    from lanner.tokenizer import Tokenizer

__all__ = ["Chunk", "GenerationResult", "Handle", "Model", "ModelInfo", "TokenStream", "load"]

DEVICES = ("cpu", "cuda")

_LOAD_OPTIONS = ("context", "threads", "kv_dtype", "max_memory", "quantize", "device")


def load(
    model: str | os.PathLike[str],
    *,
    context: int | None = None,
    threads: int | None = None,
    kv_dtype: str | None = None,
    max_memory: int | None = None,
    quantize: str | None = None,
    device: str = "cpu",
    **unknown: Any,
) -> Model:
    """Opens a model.

    Packed weights of a GGUF file without `quantize` are brought to the cache folder when the model is closed,
    and mapped the next time; with LANNER_KEEP_PACKED=0 in the environment they are packed each time.

    Args:
        model: path of a GGUF file (any part of a split one) or of a Hugging Face folder with safetensors, or
            a name in the catalogue that `lanner pull` has downloaded.
        context: positions that a prompt and its continuation may take together; the model's own if None.
        threads: threads of a step; by default the physical cores that this process may use.
        kv_dtype: type of cached keys and values, "f16" or "f32", or "q8": 8 bits and a scale for every token
            and head, half the memory of "f16". None is "f16", on a GPU "bf16", which is the only one there.
        max_memory: bytes that weights, cache and activations may take together, of the device. By default
            pages of the cache are taken until they are half of the memory that is available once the weights
            are loaded; on a GPU, most of what is free then.
        quantize: None keeps the type of every weight; "q8_0" or "q4_0" is given to matrices of a float type,
            but for those whose rows are not whole blocks of 32.
        device: "cpu", or "cuda" for the first NVIDIA GPU: there a step is not the same bits for every batch,
            but the same for the same batch.

    Raises:
        OSError: the file cannot be opened.
        ModelFileError, UnsupportedModelError: it contradicts itself, or has something that is not known.
        ValueError: an argument, such as a context beyond the model's.
        OutOfMemoryBudget: `max_memory` does not suffice.
        DeviceError: "cuda", where lanner was built without CUDA or there is no driver or GPU.
    """
    check_keywords("load", unknown, _LOAD_OPTIONS)
    if device not in DEVICES:
        raise ValueError(f"load: device is {device!r:.80}, wanted one of {', '.join(map(repr, DEVICES))}")
    for name, value in (("context", context), ("threads", threads), ("max_memory", max_memory)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f"load: {name} is {value!r:.80}, wanted a whole number of at least 1, or None")
    if threads is not None and threads > _core.MAX_THREADS:
        raise ValueError(f"load: threads is {threads}, wanted at most {_core.MAX_THREADS}")
    options = {"context": context, "max_memory": max_memory, "quantize": quantize}
    if device == "cuda":
        return _on_gpu(model, threads, kv_dtype=kv_dtype, **options)
    return _loaded(model, threads, "f16" if kv_dtype is None else kv_dtype, **options)


def _on_gpu(model: str | os.PathLike[str], threads: int | None, **options: Any) -> Model:
    """The model of checked arguments, on the GPU."""
    from lanner import catalog, models
    from lanner.checkpoint import open_checkpoint
    from lanner.cuda.decoder import CudaDecoder
    from lanner.tokenizer_files import tokenizer_of

    checkpoint = open_checkpoint(catalog.resolve(model))
    if models.is_encoder(checkpoint.settings) or models.is_seq2seq(checkpoint.settings):
        raise _core.UnsupportedModelError(
            f"device='cuda' runs decoders alone, this model is {checkpoint.architecture}; use device='cpu'"
        )
    n_threads = threads or min(default_threads()[0], _core.MAX_THREADS)
    decoder: Any = CudaDecoder(checkpoint, n_threads=n_threads, **options)  # with all that Decoder has
    tokenizer, name = tokenizer_of(checkpoint)
    return Model(decoder, tokenizer, tokenizer_name=name)


def _loaded(model: str | os.PathLike[str], threads: int | None, kv_dtype: str, **options: Any) -> Model:
    """The model of checked arguments, on the CPU."""
    from lanner import catalog, models
    from lanner.checkpoint import open_checkpoint
    from lanner.decoder import Decoder
    from lanner.tokenizer_files import tokenizer_of

    checkpoint = open_checkpoint(catalog.resolve(model))
    options["n_threads"] = threads or min(default_threads()[0], _core.MAX_THREADS)
    if models.is_encoder(checkpoint.settings):
        from lanner.embedding import open_encoder

        return open_encoder(checkpoint, *tokenizer_of(checkpoint), **options)
    if models.is_seq2seq(checkpoint.settings):
        from lanner.translation import open_translator

        return open_translator(checkpoint, *tokenizer_of(checkpoint), kv_dtype=kv_dtype, **options)
    decoder = Decoder(checkpoint, kv_dtype=kv_dtype, **options, waits=False)
    tokenizer, name = tokenizer_of(checkpoint)  # while weights are packed
    opened = Model(decoder, tokenizer, tokenizer_name=name)
    decoder.wait()
    return opened


def _close(engine: Engine) -> None:
    engine.close()
    engine.decoder.keep()


class Model(Scores, Profiled, TextReader):
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
        self._draft_models = weakref.WeakKeyDictionary()
        engine = Engine(decoder)
        self._engine: Engine | None = engine
        # Also when the model is dropped, and before the interpreter ends.
        self._finalizer = weakref.finalize(self, _close, engine)

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
        """Ends what still runs, as cancelled, and frees the memory. Closing again does nothing.

        Weights that are to be kept are written first, once for a file: up to 4 GB, as fast as the disk takes
        them, which Ctrl-C does not cut short. So it is when a model is dropped or the interpreter ends.
        """
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
    def generate(self, prompt: Any, params: SamplingParams | None = None, **options: Any) -> Any:
        """Continues a prompt; a list of prompts, even of one, gives a list of results in the same order.

        The prompts of a list are computed together. With n above 1 there is a list of n results in the place
        of each result.
        """
        params = merged("generate", params, options)
        many = is_list_of_prompts(prompt) or (
            isinstance(prompt, Sequence) and not len(prompt) and prompt != ""
        )
        named = [(f"prompt[{i}]", each) for i, each in enumerate(prompt)] if many else [("prompt", prompt)]
        samples = [self._generations("generate", name, each, params) for name, each in named]
        results = self._results("generate", samples)
        return results if many else results[0]

    def stream(
        self, prompt: str | TokenIds, params: SamplingParams | None = None, **options: Unpack[SamplingOptions]
    ) -> TokenStream:
        """Like `generate`, a chunk for every token as it comes; the last chunk has the result."""
        params = merged("stream", params, options)
        return self._stream("stream", "prompt", prompt, params)

    def astream(
        self, prompt: str | TokenIds, params: SamplingParams | None = None, **options: Unpack[SamplingOptions]
    ) -> AsyncTokenStream:
        """Like `stream`, for `async for` in a running event loop; cancelling the task ends the generation."""
        params = merged("astream", params, options)
        return self._astream("astream", "prompt", prompt, params)

    def submit(
        self, prompt: str | TokenIds, params: SamplingParams | None = None, **options: Unpack[SamplingOptions]
    ) -> Handle:
        """Like `generate`, without waiting."""
        generations = self._generations("submit", "prompt", prompt, merged("submit", params, options))
        self._submit("submit", generations)
        return Handle(generations, self._cancel)

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        params: SamplingParams | None = None,
        **options: Unpack[SamplingOptions],
    ) -> GenerationResult:
        """The answer to a conversation, dicts with `role` and `content`, by the file's own chat template."""
        params = merged("chat", params, options)
        ids = self.tokenizer.encode_chat(messages)
        generations = self._generations("chat", "messages", ids, params, is_answer=True)
        answer: GenerationResult = self._results("chat", [generations])[0]
        return answer

    def stream_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        params: SamplingParams | None = None,
        **options: Unpack[SamplingOptions],
    ) -> TokenStream:
        """Like `chat`, a chunk for every token as it comes."""
        params = merged("stream_chat", params, options)
        ids = self.tokenizer.encode_chat(messages)
        return self._stream("stream_chat", "messages", ids, params, is_answer=True)
