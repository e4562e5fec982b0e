"""Tokenizers from GGUF files: byte-level BPE ("gpt2") and SentencePiece's BPE with scores ("llama")."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from lanner._core import Bpe, GgufFile, ModelFileError, Spm, UnsupportedModelError
from lanner.end_tokens import END_NAMES
from lanner.pretokenizers import PreTokenizer, pre_tokenizer
from lanner.tokenizer import SpecialIds, Tokenizer, Vocabulary

_Scalar = TypeVar("_Scalar", bool, int, str)

# GGUF does not say that the special tokens of Phi-3 take the whitespace after them, but for these.
_PHI3_SPACES_STAY_AFTER = ["<unk>", "<s>", "<|endoftext|>"]

_NO_ID = 0xFFFFFFFF  # -1 as GGUF's u32: the model has no such token


class ByteLevel:
    """Byte-level BPE: a pre-tokenizer and the merges."""

    def __init__(self, bpe: Bpe, pre: PreTokenizer, add_space_prefix: bool = False) -> None:
        """add_space_prefix: a space is put before a text, and after a special token, that has none."""
        self._bpe = bpe
        self._pre = pre
        self._add_space_prefix = add_space_prefix
        self.vocab_size = bpe.vocab_size
        self.token_bytes = bpe.token_bytes
        self.token_type = bpe.token_type
        self.find = bpe.find

    def encode(self, text: str, parse_special: bool) -> list[int]:
        """Ids of a text. Raises UnicodeEncodeError for a lone surrogate."""
        ids: list[int] = []
        for part in self._bpe.split(text, parse_special):
            if isinstance(part, int):
                ids.append(part)
            else:
                prefixed = " " + part if self._add_space_prefix and not part.startswith(" ") else part
                ids += self._bpe.encode(self._pre.split(prefixed))
        return ids

    def decode(self, ids: Iterable[int], skip_special: bool, at_start: bool = False) -> bytes:
        """Bytes of ids; what `encode` put in front stays, since a text may begin with a space by itself."""
        return self._bpe.decode(ids, skip_special)


def read_tokenizer(gguf: GgufFile) -> Tokenizer:
    """The tokenizer that a GGUF file describes.

    Raises UnsupportedModelError naming a tokenizer model or pre-tokenizer that is not known, ModelFileError
    naming the key that is missing, of another type or contradicts another.
    """
    model = _require(gguf, "tokenizer.ggml.model")
    if model == "gpt2":
        return _byte_level(gguf)
    if model == "llama":
        return _sentencepiece(gguf)
    raise UnsupportedModelError(
        f"{gguf.path}: tokenizer.ggml.model is {model!r}, 'gpt2' or 'llama' was wanted"
    )


def _byte_level(gguf: GgufFile) -> Tokenizer:
    try:
        pre = pre_tokenizer(_require(gguf, "tokenizer.ggml.pre"))
    except UnsupportedModelError as error:
        raise UnsupportedModelError(f"{gguf.path}: {error}") from None
    special = _special_ids(gguf, pre.add_bos)
    bpe = Bpe(gguf, list(END_NAMES), special.unk_id, pre.ignore_merges)
    prefix = _get(gguf, "tokenizer.ggml.add_space_prefix", False)
    return _tokenizer(gguf, ByteLevel(bpe, pre, prefix), special)


def _sentencepiece(gguf: GgufFile) -> Tokenizer:
    if gguf.has("tokenizer.ggml.precompiled_charsmap"):
        raise UnsupportedModelError(
            f"{gguf.path}: tokenizer.ggml.precompiled_charsmap is there, 'llama' vocabularies without a "
            "normalizer were wanted"
        )
    # Where a file is silent, the ids of Llama's own vocabulary count, as in llama.cpp.
    special = _special_ids(gguf, True, bos=1, eos=2, unknown=0)
    spm = Spm(
        gguf,
        list(END_NAMES),
        special.unk_id,
        _get(gguf, "tokenizer.ggml.add_space_prefix", True),
        _get(gguf, "tokenizer.ggml.remove_extra_whitespaces", False),
        _PHI3_SPACES_STAY_AFTER if gguf.get("general.architecture") == "phi3" else None,
    )
    return _tokenizer(gguf, spm, special)


def _tokenizer(gguf: GgufFile, vocabulary: Vocabulary, special: SpecialIds) -> Tokenizer:
    ends = (_token_id(gguf, name) for name in ("eot", "eom"))
    return Tokenizer(
        vocabulary,
        special,
        end_ids=[id for id in ends if id is not None],
        chat_template=_get(gguf, "tokenizer.chat_template", "") or None,
    )


def _special_ids(
    gguf: GgufFile, add_bos: bool, bos: int = _NO_ID, eos: int = _NO_ID, unknown: int = _NO_ID
) -> SpecialIds:
    special = SpecialIds(
        bos_id=_token_id(gguf, "bos", bos),
        eos_id=_token_id(gguf, "eos", eos),
        unk_id=_token_id(gguf, "unknown", unknown),
        pad_id=_token_id(gguf, "padding"),
        add_bos=_get(gguf, "tokenizer.ggml.add_bos_token", add_bos),
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
    return special


def _get(gguf: GgufFile, key: str, default: _Scalar) -> _Scalar:
    value = gguf.get(key, default)
    if type(value) is not type(default):
        raise ModelFileError(f"{gguf.path}: {key} is {value!r:.80}, a {type(default).__name__} was wanted")
    return value


def _require(gguf: GgufFile, key: str) -> str:
    if not gguf.has(key):
        raise ModelFileError(f"{gguf.path}: {key} is missing, the tokenizer cannot be known")
    return _get(gguf, key, "")


def _token_id(gguf: GgufFile, name: str, default: int = _NO_ID) -> int | None:
    key = f"tokenizer.ggml.{name}_token_id"
    id = _get(gguf, key, default)
    if id == _NO_ID:
        return None
    vocab_size = gguf.array_len("tokenizer.ggml.tokens")
    if not 0 <= id < vocab_size:
        raise ModelFileError(f"{gguf.path}: {key} is {id}, vocab_size is {vocab_size}")
    return id
