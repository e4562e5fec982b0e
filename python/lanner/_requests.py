"""How the calls of a model reach its engine."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from lanner._records import replace
from lanner.generation import Generation
from lanner.handle import AsyncTokenStream, LoopQueue, TokenStream, finished_result
from lanner.logit_rules import LogitRules
from lanner.sampling import draw_seed

if TYPE_CHECKING:
    from lanner.draft_model import Experience
    from lanner.drafts import Drafter
    from lanner.engine import Engine
    from lanner.generation import TextDecoder
    from lanner.info import ModelInfo
    from lanner.prompts import PromptReader, TokenIds
    from lanner.result import Chunk
    from lanner.sampling import SamplingParams
    from lanner.sequence import Sequence as TokenSequence
    from lanner.tokenizer import Tokenizer


class Requests:
    """Part of `Model`. Errors begin with the call `where` and the argument `name`."""

    tokenizer: Tokenizer
    _engine: Engine | None
    _info: ModelInfo
    _prompts: PromptReader
    _draft_models: weakref.WeakKeyDictionary[Requests, Experience]  # of the same vocabulary

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
        """The n samples of a prompt; the others follow the first, which computes what they have in common.

        What continues a prompt keeps the space between them; an answer begins without one.
        """
        ids = self._prompts.ids_to_continue(where, name, prompt)
        self._prompts.check_params(where, params)
        own_ends = frozenset() if params.ignore_eos else self.tokenizer.eos_ids
        end_ids = own_ends.union(params.stop_ids)
        params = self._settled(params, self._info.context - len(ids))
        rules = LogitRules(params, self.tokenizer, ids, end_ids)
        drafter = self._drafter(where, params.speculate)
        stream = partial(self.tokenizer.stream, continues=not is_answer)
        make = partial(Generation, ids, params, end_ids=end_ids, on_chunk=on_chunk)
        generations = self._samples(make, params, end_ids, stream, rules)
        for generation in generations:
            if drafter is not None:
                generation.drafter = drafter(generation)
            if generation is not generations[0]:
                generation.follow(generations[0])
        return generations

    def _samples(
        self,
        make: Callable[..., Generation],
        params: SamplingParams,
        end_ids: frozenset[int],
        stream: Callable[[], TextDecoder],
        rules: LogitRules,
        forced_last_id: int | None = None,
    ) -> list[Generation]:
        """params.n of what `make` makes, each with its own stream and rules; a search where it has beams."""
        generations = [
            make(decoder=stream(), rules=rules.fork() if rules.is_needed else None, index=index)
            for index in range(params.n)
        ]
        if params.num_beams > 1:
            from lanner.beams import BeamSearch

            BeamSearch(
                generations,
                params,
                end_ids=end_ids,
                decoder=stream(),
                rules=rules if rules.is_needed else None,
                vocab_size=self._info.vocab_size,
                forced_last_id=forced_last_id,
            )
        return generations

    def _drafter(
        self, where: str, speculate: str | Requests | None
    ) -> Callable[[Generation], Drafter] | None:
        """What makes the drafter of each sample, None where none is asked for."""
        if speculate is None:
            return None
        if isinstance(speculate, str):
            from lanner.drafts import Copying

            return lambda generation: Copying(generation.token_ids)
        if speculate is self:
            raise ValueError(f"{where}: speculate is the model itself, wanted another, smaller one")
        from lanner.draft_model import DraftModel, Experience, check_vocabulary

        engine, context = speculate._drafting_engine(where), speculate._info.context
        experience = self._draft_models.get(speculate)
        if experience is None:
            check_vocabulary(where, self._vocabulary, speculate._vocabulary)
            experience = self._draft_models.setdefault(speculate, Experience())
        return lambda generation: DraftModel(engine, generation, context, experience)

    @property
    def _vocabulary(self) -> tuple[int, Tokenizer]:
        return self._info.vocab_size, self.tokenizer

    def _drafting_engine(self, where: str) -> Engine:
        """The engine that makes drafts for the requests of another model. Raises where there can be none."""
        if self._engine is None:
            raise RuntimeError(f"{where}: the model of speculate is closed")
        return self._engine

    @staticmethod
    def _settled(params: SamplingParams, n_left: int) -> SamplingParams:
        """What the n samples of a prompt have in common: the room that is left, and one seed."""
        seed = draw_seed() if params.seed is None else params.seed
        return replace(params, max_tokens=min(params.max_tokens, n_left), seed=seed)

    def _stream(
        self,
        where: str,
        name: str,
        prompt: str | TokenIds,
        params: SamplingParams,
        *,
        is_answer: bool = False,
    ) -> TokenStream:
        chunks: SimpleQueue[Chunk | None] = SimpleQueue()
        generation = self._one(where, name, prompt, params, is_answer, chunks.put)
        stream = TokenStream(generation, chunks, self._cancel)  # first: Ctrl-C then finds who ends it
        self._submit(where, [generation])
        return stream

    def _astream(
        self, where: str, name: str, prompt: str | TokenIds, params: SamplingParams
    ) -> AsyncTokenStream:
        chunks = LoopQueue()
        generation = self._one(where, name, prompt, params, False, chunks.put)
        self._submit(where, [generation])
        return AsyncTokenStream(generation, chunks, self._cancel)

    def _one(
        self,
        where: str,
        name: str,
        prompt: str | TokenIds,
        params: SamplingParams,
        is_answer: bool,
        on_chunk: Callable[[Chunk | None], None],
    ) -> Generation:
        if params.n > 1 or params.num_beams > 1:
            raise ValueError(
                f"{where}: n is {params.n} and num_beams is {params.num_beams}, wanted 1: a stream has one"
            )
        return self._generations(where, name, prompt, params, is_answer=is_answer, on_chunk=on_chunk)[0]

    def _results(self, where: str, samples: Sequence[list[Generation]]) -> list[Any]:
        """Runs the samples of every prompt; the result of each, or all n in a list where n is above 1."""
        self._run(where, [each for generations in samples for each in generations])
        results = [[finished_result(each) for each in generations] for generations in samples]
        return [each if len(each) > 1 else each[0] for each in results]

    def _submit(self, where: str, sequences: Sequence[TokenSequence]) -> None:
        engine = self._engine
        if engine is None:
            raise RuntimeError(f"{where}: the model is closed")
        for sequence in sequences:
            if isinstance(sequence, Generation) and sequence.needs_no_step:
                sequence.finish("length")
        # Of a request its first sequence, which makes the others.
        wanted = [sequence for sequence in sequences if not sequence.is_finished]
        first = dict.fromkeys(each if each.request is None else each.request.first for each in wanted)
        try:
            engine.submit(first)
        except BaseException:  # Ctrl-C: nobody will wait for what has come in
            for sequence in first:
                engine.cancel(sequence)
            raise

    def _run(self, where: str, sequences: Sequence[TokenSequence]) -> None:
        """Waits until all have ended; an error or Ctrl-C in the meantime ends all. Raises what went wrong."""
        try:
            self._submit(where, sequences)
            for sequence in sequences:
                sequence.wait()
                sequence.raise_error()
        except BaseException:
            for sequence in sequences:
                self._cancel(sequence)
            raise

    def _cancel(self, sequence: TokenSequence) -> None:
        if (engine := self._engine) is not None:
            engine.cancel(sequence)
