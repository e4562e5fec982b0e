"""Encoder-decoders: translate, and generate and stream targets for sources."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, overload

from lanner import _core
from lanner._records import replace
from lanner.generation import Generation
from lanner.llm import Model
from lanner.logit_rules import LogitRules
from lanner.prompts import PromptReader, is_list_of_prompts
from lanner.sampling import SamplingParams, merged
from lanner.seq2seq import Seq2Seq
from lanner.sources import Source

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from lanner.checkpoint import Checkpoint
    from lanner.generation import TextDecoder
    from lanner.prompts import TokenIds
    from lanner.result import Chunk, FinishReason
    from lanner.sampling import SamplingOptions
    from lanner.target_rules import TargetRules
    from lanner.tokenizer import Tokenizer


def open_translator(
    checkpoint: Checkpoint, tokenizer: Tokenizer, tokenizer_name: str, **options: Any
) -> Translator:
    """The encoder-decoder of a checkpoint; options and errors as `Seq2Seq` has them."""
    return Translator(Seq2Seq(checkpoint, **options), tokenizer, tokenizer_name=tokenizer_name)


def _refused(method: str) -> Callable[..., NoReturn]:
    def refuse(self: Translator, *args: object, **options: object) -> NoReturn:
        raise _core.UnsupportedModelError(
            f"{method}: {self.info().architecture!r} is an encoder-decoder; it has translate, generate, "
            "stream and submit"
        )

    refuse.__name__ = method
    refuse.__doc__ = "Raises UnsupportedModelError: an encoder-decoder makes one text of another."
    return refuse


class Translation(Generation):
    """A target that is generated for a source: `n_prompt` counts the tokens of the source.

    Args:
        source: what it is generated for; the targets of one prompt share it.
        rules: how targets of this model begin and end.
        params: how tokens are chosen and where it ends; max_tokens within the context.
        end_ids, decoder, logit_rules, index, on_chunk: as for Generation.
    """

    shares_pages = False  # the same tokens mean something else for another source

    def __init__(
        self,
        source: Source,
        target_rules: TargetRules,
        params: SamplingParams,
        *,
        end_ids: frozenset[int],
        decoder: TextDecoder,
        rules: LogitRules | None = None,
        index: int = 0,
        on_chunk: Callable[[Chunk | None], None] | None = None,
    ) -> None:
        self.source = source
        source.serve(self)
        self._forced_last_id = target_rules.forced_last_id if params.max_tokens else None
        if self._forced_last_id is not None:
            params = replace(params, max_tokens=params.max_tokens - 1)
        super().__init__(
            [target_rules.start_id],
            params,
            end_ids=end_ids,
            decoder=decoder,
            rules=rules,
            index=index,
            on_chunk=on_chunk,
        )
        self.n_prompt = len(source.token_ids)

    def finish(self, reason: FinishReason, token: int | None = None, text: str = "") -> None:
        """See Generation; the end that the model's makers want behind max_tokens is one of its tokens."""
        if reason == "length" and self._forced_last_id is not None:
            self._tokens.append(self._forced_last_id)
        super().finish(reason, token, text)


class Translator(Model):
    """A loaded encoder-decoder; what is not said here is as in Model.

    A prompt is a source: a text, encoded as the model's makers did, or token ids. The options of `generate`
    are those of the target. Sources of any lengths are computed together, each with the bits it has alone.
    """

    def __init__(self, seq2seq: Seq2Seq, tokenizer: Tokenizer, *, tokenizer_name: str = "") -> None:
        super().__init__(seq2seq, tokenizer, tokenizer_name=tokenizer_name)
        c = seq2seq.config
        self._rules = seq2seq.rules
        self._prompts = PromptReader(tokenizer, c.source_vocab_size, seq2seq.context)
        self._targets = PromptReader(tokenizer, c.vocab_size, seq2seq.context)

    @overload
    def translate(  # type: ignore[overload-overlap]  # a str is also a sequence of str
        self, texts: str, params: SamplingParams | None = None, **options: Unpack[SamplingOptions]
    ) -> str: ...
    @overload
    def translate(
        self,
        texts: Sequence[str] | Sequence[TokenIds],
        params: SamplingParams | None = None,
        **options: Unpack[SamplingOptions],
    ) -> list[str]: ...
    def translate(self, texts: Any, params: SamplingParams | None = None, **options: Any) -> str | list[str]:
        """What the model makes of texts, as `TextReader.translate` says."""
        params = merged("translate", params, options)
        if params.n > 1:
            raise ValueError(f"translate: n is {params.n}, wanted 1; `generate` gives several texts")
        if not isinstance(texts, str) and isinstance(texts, Sequence) and not texts:
            return []
        many = is_list_of_prompts(texts)
        named = [(f"texts[{i}]", each) for i, each in enumerate(texts)] if many else [("texts", texts)]
        targets = [self._generations("translate", name, each, params) for name, each in named]
        results = [str(result) for result in self._results("translate", targets)]
        return results if many else results[0]

    def _generations(
        self,
        where: str,
        name: str,
        prompt: str | TokenIds,
        params: SamplingParams,
        *,
        is_answer: bool = False,
        on_chunk: Callable[[Chunk | None], None] | None = None,
    ) -> list[Generation]:
        ids = self._prompts.ids(where, name, prompt)
        self._targets.check_params(where, params)
        if params.prompt_logprobs is not None:
            raise ValueError(
                f"{where}: prompt_logprobs is {params.prompt_logprobs}, an encoder-decoder has none"
            )
        if params.speculate is not None:
            raise ValueError(
                f"{where}: speculate is {params.speculate!r:.80}, wanted None for an encoder-decoder, whose "
                "steps have one token of a target"
            )
        own_ends = self._rules.end_ids or self.tokenizer.eos_ids
        end_ids = (frozenset() if params.ignore_eos else own_ends).union(params.stop_ids)
        params = self._settled(params, self._info.context)
        source = Source(ids)
        rules = LogitRules(params, self.tokenizer, [self._rules.start_id], end_ids)
        make = partial(Translation, source, self._rules, params, end_ids=end_ids, on_chunk=on_chunk)
        return self._samples(
            make, params, end_ids, self.tokenizer.stream, rules, forced_last_id=self._rules.forced_last_id
        )

    def _drafting_engine(self, where: str) -> NoReturn:
        """Raises ValueError: its targets belong to sources."""
        raise ValueError(f"{where}: speculate is an encoder-decoder, wanted a model that continues texts")

    # --- what only other models have ------------------------------------------------------------------------
    chat = _refused("chat")
    stream_chat = _refused("stream_chat")
    logits = _refused("logits")
    perplexity = _refused("perplexity")
    score = _refused("score")
    choose = _refused("choose")
    embed = _refused("embed")
    classify = _refused("classify")
