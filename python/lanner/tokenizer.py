"""Tokenizer of byte-level BPE models: text to token ids and back, special tokens, chats, streaming."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from lanner._core import Bpe, GgufFile, ModelFileError, UnsupportedModelError
from lanner.pretokenizers import PreTokenizer, pre_tokenizer

if TYPE_CHECKING:
    from lanner.chat_template import ChatTemplate

_Scalar = TypeVar("_Scalar", bool, int, str)

_CONTROL = 3  # token type in GGUF
_NO_ID = 0xFFFFFFFF  # -1 as GGUF's u32: the model has no such token

# Tokens that end a turn or a document, as llama.cpp knows them. Nothing else is ever written like the first
# group, so these count whatever type an older converter gave them; the second counts only as control tokens.
_END_NAMES = (
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|eom_id|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "<｜end▁of▁sentence｜>",
)
_CONTROL_END_NAMES = (
    "</s>",
    "<EOT>",
    "[EOT]",
    "[EOS]",
    "<eos>",
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<PAD>",
    "[PAD]",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<REPO>",
    "<reponame>",
    "<|file_sep|>",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecialIds:
    """Ids of special tokens, None where the model has none, and what `encode` adds by itself."""

    bos_id: int | None = None
    eos_id: int | None = None
    unk_id: int | None = None
    pad_id: int | None = None
    add_bos: bool = False
    add_eos: bool = False


class Tokenizer:
    """Text to token ids and back. Immutable: every method may be called from many threads at once."""

    def __init__(
        self,
        bpe: Bpe,
        pre: PreTokenizer,
        special: SpecialIds,
        *,
        end_ids: Iterable[int] = (),
        add_space_prefix: bool = False,
        chat_template: str | None = None,
    ) -> None:
        """`from_gguf` reads these from a file. end_ids: ends of a generation besides the known names."""
        self._bpe = bpe
        self._pre = pre
        self._special = special
        self._add_space_prefix = add_space_prefix
        self.chat_template = chat_template  # Jinja source, None where the model has none
        self._chat: ChatTemplate | None = None
        self.vocab_size: int = bpe.vocab_size
        self.bos_id = special.bos_id
        self.eos_id = special.eos_id
        self.unk_id = special.unk_id
        self.add_bos = special.add_bos
        self.add_eos = special.add_eos
        # Every token that ends a generation: eos, end of turn, end of message, and the names of such tokens.
        self.eos_ids: frozenset[int] = _end_ids(bpe, special, end_ids)

    @classmethod
    def from_gguf(cls, gguf: GgufFile) -> Tokenizer:
        """The tokenizer that a GGUF file describes.

        Raises UnsupportedModelError naming a tokenizer model or pre-tokenizer that is not known,
        ModelFileError naming the key that is missing, of another type or contradicts another.
        """
        model = _require(gguf, "tokenizer.ggml.model")
        if model != "gpt2":
            raise UnsupportedModelError(f"{gguf.path}: tokenizer.ggml.model is {model!r}, 'gpt2' was wanted")
        try:
            pre = pre_tokenizer(_require(gguf, "tokenizer.ggml.pre"))
        except UnsupportedModelError as error:
            raise UnsupportedModelError(f"{gguf.path}: {error}") from None
        unk_id = _token_id(gguf, "unknown")
        bpe = Bpe(gguf, list(_END_NAMES), unk_id, pre.ignore_merges)
        special = SpecialIds(
            bos_id=_token_id(gguf, "bos"),
            eos_id=_token_id(gguf, "eos"),
            unk_id=unk_id,
            pad_id=_token_id(gguf, "padding"),
            add_bos=_get(gguf, "tokenizer.ggml.add_bos_token", pre.add_bos),
            add_eos=_get(gguf, "tokenizer.ggml.add_eos_token", False),
        )
        for name, wanted, given in (
            ("bos", special.add_bos, special.bos_id),
            ("eos", special.add_eos, special.eos_id),
        ):
            if wanted and given is None:
                raise ModelFileError(
                    f"{gguf.path}: tokenizer adds a token that tokenizer.ggml.{name}_token_id lacks"
                )
        ends = (_token_id(gguf, name) for name in ("eot", "eom"))
        return cls(
            bpe,
            pre,
            special,
            end_ids=[id for id in ends if id is not None],
            add_space_prefix=_get(gguf, "tokenizer.ggml.add_space_prefix", False),
            chat_template=_get(gguf, "tokenizer.chat_template", "") or None,
        )

    def encode(self, text: str, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """Token ids of `text`.

        add_special: add the bos and eos tokens that the file asks for; a text that begins with bos, as
        rendered chat templates do, gets no second one. parse_special: read control tokens such as
        `<|im_end|>` where they are spelled out, else they are plain text; user-defined ones are always read.
        Raises ValueError for a lone surrogate, which has no UTF-8 form.
        """
        ids: list[int] = []
        try:
            for part in self._bpe.split(text, parse_special):
                if isinstance(part, int):
                    ids.append(part)
                else:
                    ids += self._bpe.encode(self._pre.split(self._prefixed(part)))
        except UnicodeEncodeError as error:
            raise ValueError(f"encode: text has a lone surrogate, {error.object[error.start]!r}") from None
        if add_special and self.add_bos and self.bos_id is not None and ids[:1] != [self.bos_id]:
            ids.insert(0, self.bos_id)
        if add_special and self.add_eos and self.eos_id is not None:
            ids.append(self.eos_id)
        return ids

    def _prefixed(self, text: str) -> str:
        return " " + text if self._add_space_prefix and not text.startswith(" ") else text

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Text of token ids; bytes that are not UTF-8 become U+FFFD.

        skip_special leaves out control tokens (`<|im_end|>`), which belong to the protocol and not to the
        text; user-defined tokens are text. `decode(encode(s, False), skip_special=False) == s`, up to the
        Unicode normalization (NFC) that some models ask for.
        Raises ValueError naming the id and vocab_size for an id out of range.
        """
        return self._bpe.decode(ids, skip_special).decode("utf-8", errors="replace")

    def token_bytes(self, id: int) -> bytes:
        """The bytes that a token stands for. Raises ValueError for an id out of range."""
        return self._bpe.token_bytes(id)

    def stream(self, skip_special: bool = True) -> StreamDecoder:
        """A decoder of ids that come one at a time; `skip_special` as in `decode`."""
        return StreamDecoder(self._bpe, skip_special)

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
        special = self._special
        names = {"bos": self.bos_id, "eos": self.eos_id, "unk": self.unk_id, "pad": special.pad_id}
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

    def __init__(self, bpe: Bpe, skip_special: bool) -> None:
        """`Tokenizer.stream` makes one for each sequence."""
        self._bpe = bpe
        self._skip_special = skip_special
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, id: int) -> str:
        """The text that this token completes, often "" inside a character of several tokens."""
        return self._decoder.decode(self._bpe.decode((id,), self._skip_special))

    def flush(self) -> str:
        """What is left: U+FFFD for a character that never became whole. The decoder starts anew."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return text


def _end_ids(bpe: Bpe, special: SpecialIds, end_ids: Iterable[int]) -> frozenset[int]:
    found = {name: bpe.find(name) for name in (*_END_NAMES, *_CONTROL_END_NAMES)}
    ends = {name: id for name, id in found.items() if id is not None and bpe.token_type(id) == _CONTROL}
    if "<|return|>" in ends and "<|call|>" in ends:
        ends.pop("<|end|>", None)  # in the harmony format it ends a message, and the turn goes on
    ids = {*ends.values(), *end_ids}
    return frozenset(ids if special.eos_id is None else ids | {special.eos_id})


def _get(gguf: GgufFile, key: str, default: _Scalar) -> _Scalar:
    value = gguf.get(key, default)
    if type(value) is not type(default):
        raise ModelFileError(f"{gguf.path}: {key} is {value!r:.80}, a {type(default).__name__} was wanted")
    return value


def _require(gguf: GgufFile, key: str) -> str:
    if not gguf.has(key):
        raise ModelFileError(f"{gguf.path}: {key} is missing, the tokenizer cannot be known")
    return _get(gguf, key, "")


def _token_id(gguf: GgufFile, name: str) -> int | None:
    key = f"tokenizer.ggml.{name}_token_id"
    id = _get(gguf, key, _NO_ID)
    if id == _NO_ID:
        return None
    vocab_size = gguf.array_len("tokenizer.ggml.tokens")
    if not 0 <= id < vocab_size:
        raise ModelFileError(f"{gguf.path}: {key} is {id}, vocab_size is {vocab_size}")
    return id
