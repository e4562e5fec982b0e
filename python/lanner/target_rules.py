"""How the target of an encoder-decoder begins, ends, and what it may not contain, as its folder says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lanner import _core
from lanner._records import dataclass

if TYPE_CHECKING:
    from lanner.checkpoint import Checkpoint

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
    """The rules in generation_config.json, or where there is no such file, in config.json.

    Start and end, which every model has, are taken from config.json where the other file is silent.
    Raises ModelFileError for an id that is none of the vocabulary or a missing start, UnsupportedModelError
    for a rule that is not known here.
    """
    stated = _Stated(checkpoint, vocab_size)
    for key in _UNSUPPORTED:
        value, source = stated.find(key)
        if value not in (None, [], {}):
            raise _core.UnsupportedModelError(f"{source}: {key} is {value!r:.80}, which is not supported")
    start_ids = stated.ids("decoder_start_token_id", is_needed=True)
    if len(start_ids) != 1:
        raise _core.ModelFileError(
            f"{checkpoint.path}: has no decoder_start_token_id, wanted the id to begin with"
        )
    end_ids = frozenset(stated.ids("eos_token_id", is_needed=True))
    forced = stated.ids("forced_eos_token_id")
    # An end among the bad words would make every target as long as it may be: it is not meant.
    forbidden = (frozenset(stated.words("bad_words_ids")) - end_ids).union(stated.ids("suppress_tokens"))
    return TargetRules(start_ids[0], end_ids, forbidden, forced[0] if forced else None)


class _Stated:
    """Values of the two files, checked."""

    def __init__(self, checkpoint: Checkpoint, vocab_size: int) -> None:
        self._settings = checkpoint.settings
        self._vocab_size = vocab_size
        self._generation: dict[str, Any] | None = None
        path = None if checkpoint.folder is None else checkpoint.folder / "generation_config.json"
        self._path = str(path)
        if path is not None and path.exists():
            from lanner.hf_folder import read_json_file  # json costs milliseconds

            self._generation = read_json_file(path)

    def find(self, key: str, is_needed: bool = False) -> tuple[Any, str]:
        """The value, None where there is none, and the file that it is from."""
        own = self._settings.raw(key)  # counts as read, whichever file has the word
        if self._generation is None or (is_needed and self._generation.get(key) is None):
            return own, self._settings.source
        return self._generation.get(key), self._path

    def ids(self, key: str, is_needed: bool = False) -> list[int]:
        """An id, a list of ids, or nothing."""
        value, source = self.find(key, is_needed)
        return self._checked(
            key, source, [] if value is None else value if isinstance(value, list) else [value]
        )

    def words(self, key: str) -> list[int]:
        """The ids of a list of words that have one id each."""
        value, source = self.find(key)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(word, list) and word for word in value):
            raise _core.ModelFileError(f"{source}: {key} is {value!r:.80}, wanted lists of ids")
        if any(len(word) > 1 for word in value):
            raise _core.UnsupportedModelError(
                f"{source}: {key} has words of several tokens, only one each is supported"
            )
        return self._checked(key, source, [word[0] for word in value])

    def _checked(self, key: str, source: str, ids: list[Any]) -> list[int]:
        for id in ids:
            if isinstance(id, bool) or not isinstance(id, int) or not 0 <= id < self._vocab_size:
                raise _core.ModelFileError(
                    f"{source}: {key} is {id!r:.80}, wanted ids from 0 to {self._vocab_size - 1}"
                )
        return ids
