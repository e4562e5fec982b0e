"""How the target of an encoder-decoder begins, ends, and what it may not contain, as its folder says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lanner import _core

if TYPE_CHECKING:
    from lanner.checkpoint import Checkpoint

_GENERATION = "generation_config.json"
_UNSUPPORTED = ("forced_bos_token_id", "begin_suppress_tokens", "forced_decoder_ids", "sequence_bias")


@dataclass(frozen=True)
class TargetRules:
    """What the model's makers ask of every target.

    `start_id` is what a decoder reads first, `end_ids` end a target, `forbidden_ids` are never generated, and
    `forced_last_id` stands where a target ends because it has max_tokens, None: nothing is put there.
    """

    start_id: int
    end_ids: frozenset[int]
    forbidden_ids: frozenset[int]
    forced_last_id: int | None


def read_rules(checkpoint: Checkpoint, vocab_size: int) -> TargetRules:
    """The rules in generation_config.json, or, where it has none, in config.json.

    Raises ModelFileError for an id that is none of the vocabulary or a missing start, UnsupportedModelError
    for a rule that is not known here.
    """
    stated = _Stated(checkpoint, vocab_size)
    for key in _UNSUPPORTED:
        if stated.value(key):
            raise _core.UnsupportedModelError(f"{stated.source(key)}: {key} is not supported")
    start_ids = stated.ids("decoder_start_token_id")
    if len(start_ids) != 1:
        raise _core.ModelFileError(
            f"{checkpoint.path}: has no decoder_start_token_id, wanted the id to begin with"
        )
    end_ids = frozenset(stated.ids("eos_token_id"))
    forced = stated.ids("forced_eos_token_id")
    return TargetRules(
        start_id=start_ids[0],
        end_ids=end_ids,
        # An end that is listed as a bad word would make every target as long as it may be: it is not meant.
        forbidden_ids=frozenset(stated.words("bad_words_ids")) - end_ids
        | frozenset(stated.ids("suppress_tokens")),
        forced_last_id=forced[0] if forced else None,
    )


class _Stated:
    """Values of the two files, checked."""

    def __init__(self, checkpoint: Checkpoint, vocab_size: int) -> None:
        self._settings = checkpoint.settings
        self._vocab_size = vocab_size
        self._generation: dict[str, Any] = {}
        self._path = None if checkpoint.folder is None else checkpoint.folder / _GENERATION
        if self._path is not None and self._path.exists():
            from lanner.hf_folder import read_json_file  # json costs milliseconds

            self._generation = read_json_file(self._path)

    def value(self, key: str) -> Any:
        own = self._settings.raw(key)  # counts as read, whichever file has the word
        return self._generation.get(key, own)

    def source(self, key: str) -> str:
        return str(self._path) if key in self._generation else self._settings.source

    def ids(self, key: str) -> list[int]:
        """An id, a list of ids, or nothing."""
        value = self.value(key)
        ids = [] if value is None else value if isinstance(value, list) else [value]
        for id in ids:
            if isinstance(id, bool) or not isinstance(id, int) or not 0 <= id < self._vocab_size:
                raise _core.ModelFileError(
                    f"{self.source(key)}: {key} is {id!r:.80}, wanted ids from 0 to {self._vocab_size - 1}"
                )
        return ids

    def words(self, key: str) -> list[int]:
        """The ids of a list of words that have one id each."""
        value = self.value(key)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(word, list) for word in value):
            raise _core.ModelFileError(f"{self.source(key)}: {key} is {value!r:.80}, wanted lists of ids")
        if any(len(word) != 1 for word in value):
            raise _core.UnsupportedModelError(
                f"{self.source(key)}: {key} has words of several tokens, only one each is supported"
            )
        self._generation = {**self._generation, key: [word[0] for word in value]}
        return self.ids(key)
