"""Tokenizers: text to token ids and back, special tokens, chats, streaming."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any, Protocol

from lanner._records import dataclass
from lanner.end_tokens import end_ids as named_end_ids

if TYPE_CHECKING:
    from lanner._core import GgufFile
    from lanner.chat_template import ChatTemplate

_CONTROL = 3  # token type in GGUF


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecialIds:
    """Ids of special tokens, None where the model has none, and what `encode` adds by itself."""

    bos_id: int | None = None
    eos_id: int | None = None
    unk_id: int | None = None
    pad_id: int | None = None
    add_bos: bool = False
    add_eos: bool = False


class Vocabulary(Protocol):
    """Text to ids and ids to bytes: `_core.Spm`, `tokenizer_gguf.ByteLevel`, `hf_tokenizer.HfVocabulary`."""

    @property
    def vocab_size(self) -> int: ...  # noqa: D102

    def encode(self, text: str, parse_special: bool) -> list[int]:
        """Ids of a text. Raises UnicodeEncodeError for a lone surrogate."""

    def decode(self, ids: Iterable[int], skip_special: bool, at_start: bool = False) -> bytes:
        """Bytes of ids; at_start: the space that `encode` puts before a text is left out."""

    def token_bytes(self, id: int) -> bytes:
        """Bytes of one token."""

    def token_type(self, id: int) -> int:
        """1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte."""

    def find(self, text: str) -> int | None:
        """Id of the token that the file writes as `text`."""


class Tokenizer:
    """Text to token ids and back. Immutable: every method may be called from many threads at once."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        special: SpecialIds,
        *,
        end_ids: Iterable[int] = (),
        chat_template: str | None = None,
    ) -> None:
        """`from_gguf` reads these from a file. end_ids: ends of a generation besides the known names."""
        self._vocabulary = vocabulary
        self._special = special
        self.chat_template = chat_template  # Jinja source, None where the model has none
        self._chat: ChatTemplate | None = None
        self.vocab_size: int = vocabulary.vocab_size
        self.bos_id = special.bos_id
        self.eos_id = special.eos_id
        self.unk_id = special.unk_id
        self.pad_id = special.pad_id
        self.add_bos = special.add_bos
        self.add_eos = special.add_eos
        # Every token that ends a generation: eos, end of turn, end of message, and the names of such tokens.
        self.eos_ids: frozenset[int] = named_end_ids(self._find_control, (special.eos_id, *end_ids))

    @classmethod
    def from_gguf(cls, gguf: GgufFile) -> Tokenizer:
        """The tokenizer that a GGUF file describes: `tokenizer_gguf.read_tokenizer`."""
        from lanner.tokenizer_gguf import read_tokenizer

        return read_tokenizer(gguf)

    def _find_control(self, name: str) -> int | None:
        id = self._vocabulary.find(name)
        return id if id is not None and self._vocabulary.token_type(id) == _CONTROL else None

    def encode(self, text: str, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """Token ids of `text`.

        add_special: add the bos and eos tokens that the file asks for; a text that begins with bos, as
        rendered chat templates do, gets no second one. parse_special: read control tokens such as
        `<|im_end|>` where they are spelled out, else they are plain text; user-defined ones are always read.
        Raises ValueError for a lone surrogate, which has no UTF-8 form.
        """
        try:
            ids = self._vocabulary.encode(text, parse_special)
        except UnicodeEncodeError as error:
            raise ValueError(f"encode: text has a lone surrogate, {error.object[error.start]!r}") from None
        return self._with_special(ids) if add_special else ids

    def _with_special(self, ids: list[int]) -> list[int]:
        if self.add_bos and self.bos_id is not None and ids[:1] != [self.bos_id]:
            ids.insert(0, self.bos_id)
        if self.add_eos and self.eos_id is not None:
            ids.append(self.eos_id)
        return ids

    def decode(self, ids: Iterable[int], skip_special: bool = True, continues: bool = False) -> str:
        """Text of token ids; bytes that are not UTF-8 become U+FFFD.

        skip_special leaves out control tokens (`<|im_end|>`), which belong to the protocol and not to the
        text; user-defined tokens are text. A SentencePiece model that puts a space before every text loses it
        again at the start of the ids, unless they continue another text (`continues`), where it is a space
        between words. `decode(encode(s, False), skip_special=False) == s`, up to the normalization (NFC)
        that some models ask for and to the space that some put after each special token.
        Raises ValueError naming the id and vocab_size for an id out of range.
        """
        raw = self._vocabulary.decode(ids, skip_special, not continues)
        return raw.decode("utf-8", errors="replace")

    def token_bytes(self, id: int) -> bytes:
        """The bytes that a token stands for. Raises ValueError for an id out of range."""
        return self._vocabulary.token_bytes(id)

    def stream(self, skip_special: bool = True, continues: bool = False) -> StreamDecoder:
        """A decoder of ids that come one at a time; the arguments are those of `decode`."""
        return StreamDecoder(self._vocabulary, skip_special, continues)

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True, **kwargs: Any
    ) -> str:
        """A conversation as the text that the model was trained on, by the file's own template.

        messages: dicts with `role` and `content`. kwargs: further variables of the template, such as `tools`.
        Raises ValueError where the model has no template or the template refuses the messages.
        """
        if self.chat_template is None:
            raise ValueError("apply_chat_template: this model has no chat template (tokenizer.chat_template)")
        if self._chat is None:
            from lanner.chat_template import ChatTemplate

            self._chat = ChatTemplate(self.chat_template)
        names = {"bos": self.bos_id, "eos": self.eos_id, "unk": self.unk_id, "pad": self.pad_id}
        tokens = {
            f"{name}_token": self.token_bytes(id).decode("utf-8", errors="replace")
            for name, id in names.items()
            if id is not None
        }
        variables = {"tools": None, "documents": None, **tokens, **kwargs}
        return self._chat.render(messages, add_generation_prompt=add_generation_prompt, **variables)

    def encode_chat(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True, **kwargs: Any
    ) -> list[int]:
        """Token ids of a conversation. The template alone decides about bos and eos, as in Hugging Face."""
        text = self.apply_chat_template(messages, add_generation_prompt, **kwargs)
        return self.encode(text, add_special=False)


class StreamDecoder:
    """Text of token ids that come one at a time, held back until it is whole UTF-8.

    For every prefix of every sequence of ids, the pushed pieces and `flush()` together equal `decode` of it.
    """

    def __init__(self, vocabulary: Vocabulary, skip_special: bool, continues: bool = False) -> None:
        """`Tokenizer.stream` makes one for each sequence."""
        self._vocabulary = vocabulary
        self._skip_special = skip_special
        self._continues = continues
        self._at_start = not continues
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, id: int) -> str:
        """The text that this token completes, often "" inside a character of several tokens."""
        raw = self._vocabulary.decode((id,), self._skip_special)
        if raw and self._at_start:
            raw = self._vocabulary.decode((id,), self._skip_special, True)
            self._at_start = False
        return self._decoder.decode(raw)

    def fork(self) -> StreamDecoder:
        """The same for other ids that go on from here."""
        made = copy(self)
        made._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        made._decoder.setstate(self._decoder.getstate())
        return made

    def flush(self) -> str:
        """What is left: U+FFFD for a character that never became whole. The decoder starts anew."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        self._at_start = not self._continues
        return text
