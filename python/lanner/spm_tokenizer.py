"""Tokenizers of folders without a tokenizer.json, by the package `sentencepiece`: Marian and T5."""

from __future__ import annotations

import operator
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lanner._core import ModelFileError, UnsupportedModelError
from lanner.tokenizer import SpecialIds, Tokenizer
from lanner.tokenizer_config import TokenizerConfig, get, read_json, read_tokenizer_config

NORMAL, UNKNOWN, CONTROL, _, UNUSED, _ = range(1, 7)  # token types in GGUF

_MAX_MODEL_BYTES = 1 << 27
"""Largest SentencePiece model that is read: the largest known, of a vocabulary of 262k, has 5 MB."""

_SPACE = "\u2581"


class PieceVocabulary:
    """Pieces that SentencePiece models cut texts into, and the ids that the folder gives to them."""

    def __init__(
        self,
        source: Any,
        pieces: Mapping[str, int],
        unk_id: int,
        control: Iterable[str],
        *,
        n_ids: int = 0,
        has_language_codes: bool = False,
    ) -> None:
        """source: the `SentencePieceProcessor` of texts. pieces: their ids. control: tokens that are no text.

        n_ids: rows of the model's embedding; ids that only it has are unused. has_language_codes: a text may
        begin with a token such as `>>fra<<`.
        """
        self._source = source
        self._ids = dict(pieces)
        self._unk_id = unk_id
        self._pieces = {id: piece for piece, id in self._ids.items()}
        self._control = frozenset(self._ids[token] for token in control if token in self._ids)
        self.vocab_size = max(max(self._pieces, default=-1) + 1, n_ids)
        specials = sorted((self._pieces[id] for id in self._control | {unk_id}), key=len, reverse=True)
        self._special = re.compile(f"({'|'.join(map(re.escape, specials))})")
        self._has_language_codes = has_language_codes

    def encode(self, text: str, parse_special: bool) -> list[int]:
        """Ids of a text, each part between special tokens by itself."""
        text.encode()  # raises for a lone surrogate
        ids: list[int] = []
        for i, part in enumerate(self._special.split(text) if parse_special else [text]):
            if i % 2:
                ids.append(self._ids[part])
                continue
            end = part.find("<<") + 2 if self._has_language_codes and part.startswith(">>") else 0
            if end >= 2:
                ids.append(self._ids.get(part[:end], self._unk_id))
                part = part[end:]
            found = [self._ids.get(piece, self._unk_id) for piece in self._source.encode(part, out_type=str)]
            ids += [self._unk_id if id in self._control else id for id in found]
        return ids

    def decode(self, ids: Iterable[int], skip_special: bool, at_start: bool = False) -> bytes:
        """Bytes of ids; at_start: without the space that SentencePiece puts in front."""
        out = bytearray()
        drops_space = at_start
        for item in ids:
            id = operator.index(item)
            if skip_special and self.token_type(id) != NORMAL:
                continue
            piece = self.token_bytes(id)
            if piece and drops_space:
                piece = piece.removeprefix(b" ")
                drops_space = False
            out += piece
        return bytes(out)

    def token_bytes(self, id: int) -> bytes:
        """Bytes of one token. Raises ValueError for an id out of range."""
        if not 0 <= id < self.vocab_size:
            raise ValueError(f"token id {id} is out of range, vocab_size is {self.vocab_size}")
        piece = self._pieces.get(id, "")
        return (piece if id in self._control else piece.replace(_SPACE, " ")).encode()

    def token_type(self, id: int) -> int:
        """1 normal, 2 unknown, 3 control, 5 unused."""
        self.token_bytes(id)
        if id == self._unk_id:
            return UNKNOWN
        return CONTROL if id in self._control else NORMAL if id in self._pieces else UNUSED

    def find(self, text: str) -> int | None:
        """Id of the token that the file writes as `text`."""
        return self._ids.get(text)


class SpmTokenizer(Tokenizer):
    """Marian's and T5's conventions: a text ends with eos."""

    @classmethod
    def from_folder(cls, folder: str | os.PathLike[str]) -> SpmTokenizer:
        """The tokenizer of a folder with `source.spm` and `vocab.json` (Marian) or `spiece.model` (T5).

        Marian's texts are cut as they are, without the normalization of punctuation by Moses, which
        transformers leaves out too where the package sacremoses is missing.
        Raises ImportError where the package `sentencepiece` is missing, OSError, ModelFileError naming the
        file and the key that is malformed.
        """
        root = Path(folder)
        config = read_tokenizer_config(root)
        read = _marian if (root / "source.spm").is_file() else _t5
        vocabulary = read(root, config)
        return cls(vocabulary, _special_ids(root, vocabulary, config), end_ids=config.eos_ids)


def _names(config: TokenizerConfig) -> dict[str, str]:
    return {"eos": "</s>", "unk": "<unk>", "pad": "<pad>"} | dict(config.special_tokens)


def _special_ids(root: Path, vocabulary: PieceVocabulary, config: TokenizerConfig) -> SpecialIds:
    names = _names(config)
    eos_id = vocabulary.find(names["eos"])
    if eos_id is None:
        raise ModelFileError(f"{root}: the vocabulary has no {names['eos']!r}, the token that ends a text")
    return SpecialIds(
        bos_id=vocabulary.find(names["bos"]) if "bos" in names else None,
        eos_id=eos_id,
        unk_id=vocabulary.find(names["unk"]),
        pad_id=vocabulary.find(names["pad"]),
        add_eos=True,
    )


def _marian(root: Path, config: TokenizerConfig) -> PieceVocabulary:
    path = root / "vocab.json"
    if get(root / "tokenizer_config.json", config.settings, "separate_vocabs", False):
        raise UnsupportedModelError(f"{root}: separate_vocabs is true, one vocabulary was wanted")
    ids = read_json(path)
    for piece, id in ids.items():
        if type(id) is not int or not 0 <= id < 2**31:
            raise ModelFileError(f"{path}: {piece!r:.80} is {id!r:.80}, a token id was wanted")
    if len(set(ids.values())) != len(ids):
        raise ModelFileError(f"{path}: two pieces have the same id")
    names = _names(config)
    if names["unk"] not in ids:
        raise ModelFileError(f"{path}: has no {names['unk']!r}, the token of unknown pieces")
    codes = [piece for piece in ids if piece.startswith(">>") and piece.endswith("<<")]
    return PieceVocabulary(
        _open_model(root / "source.spm"),
        ids,
        ids[names["unk"]],
        [names["eos"], names["pad"]],
        n_ids=config.vocab_size,
        has_language_codes=bool(codes),
    )


def _t5(root: Path, config: TokenizerConfig) -> PieceVocabulary:
    model = _open_model(root / "spiece.model")
    n = model.get_piece_size()
    ids = {model.id_to_piece(id): id for id in range(n)}
    control = [model.id_to_piece(id) for id in range(n) if model.is_control(id)]
    extra = get(root / "tokenizer_config.json", config.settings, "extra_ids", 100)
    if not 0 <= extra < 100_000:
        raise ModelFileError(
            f"{root / 'tokenizer_config.json'}: extra_ids is {extra}, a small number was wanted"
        )
    for i in range(extra):  # the last one comes first
        token = f"<extra_id_{extra - 1 - i}>"
        ids.setdefault(token, n + i)
        control.append(token)
    return PieceVocabulary(model, ids, model.unk_id(), control, n_ids=config.vocab_size)


def _open_model(path: Path) -> Any:
    try:
        import sentencepiece
    except ImportError as error:
        raise ImportError(
            f"{path}: the package sentencepiece is missing, it comes with: pip install 'lanner[hf]'"
        ) from error
    n_bytes = path.stat().st_size
    if n_bytes > _MAX_MODEL_BYTES:
        raise ModelFileError(f"{path}: has {n_bytes} bytes, at most {_MAX_MODEL_BYTES} were wanted")
    model = sentencepiece.SentencePieceProcessor()
    try:
        model.LoadFromSerializedProto(path.read_bytes())
    except RuntimeError as error:
        raise ModelFileError(f"{path}: not a SentencePiece model: {error}") from None
    return model
