"""Folders as Hugging Face lays them out, with small tokenizers: the BPE vocabularies that the tests know from
GGUF, WordPiece and Unigram, and those that only `sentencepiece` reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import spm_vocabulary as sv
import vocabulary as v

TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m.role + ': ' + m.content + eos_token }}{% endfor %}"


def write(folder: Path, **files: Any) -> Path:
    """JSON files by name without their ending; a str or bytes is written as it is."""
    folder.mkdir(exist_ok=True)
    for name, value in files.items():
        if isinstance(value, bytes):
            (folder / f"{name}.json").write_bytes(value)
        else:
            (folder / f"{name}.json").write_text(value if isinstance(value, str) else json.dumps(value))
    return folder


def _added(out: Any, tokens: list[str], types: list[int], normalized: bool) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    for token, kind in zip(tokens, types, strict=True):
        if kind in (v.UNKNOWN, v.CONTROL):
            out.add_special_tokens([tokenizers.AddedToken(token, normalized=False, special=True)])
        elif kind == v.USER_DEFINED:
            out.add_tokens([tokenizers.AddedToken(token, normalized=normalized)])


def byte_level() -> Any:
    """The vocabulary of vocabulary.py, as GPT-2 and Llama 3 have theirs."""
    tokenizers = pytest.importorskip("tokenizers")
    merges = [tuple(merge.split(" ")) for merge in v.MERGE_TEXTS]
    out = tokenizers.Tokenizer(tokenizers.models.BPE({t: i for i, t in enumerate(v.TOKENS)}, merges))
    out.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    out.decoder = tokenizers.decoders.ByteLevel()
    _added(out, v.TOKENS, v.TOKEN_TYPES, False)
    return out


def byte_fallback(prefix: bool = True) -> Any:
    """The vocabulary of spm_vocabulary.py as transformers converts it: merges by the scores of their results.

    Its scores are made different here: `tokenizers` ranks merges, and equal ones cannot be.
    """
    tokenizers = pytest.importorskip("tokenizers")
    tokens = [t for t, kind in zip(sv.TOKENS, sv.TYPES, strict=True) if kind != v.UNUSED and t != "▁▁"]
    types = [sv.TYPES[sv.ID[t]] for t in tokens]
    normal = {t for t, kind in zip(tokens, types, strict=True) if kind == v.NORMAL}
    ranked = [
        (t[:cut], t[cut:])
        for t in tokens
        for cut in range(1, len(t))
        if t in normal and t[:cut] in normal and t[cut:] in normal
    ]
    vocabulary = {t.replace(" ", "▁"): i for i, t in enumerate(tokens)}
    model = tokenizers.models.BPE(vocabulary, ranked, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    out = tokenizers.Tokenizer(model)
    n, d = tokenizers.normalizers, tokenizers.decoders
    out.normalizer = n.Sequence([*([n.Prepend("▁")] if prefix else []), n.Replace(" ", "▁")])
    strip = [d.Strip(" ", 1, 0)] if prefix else []
    out.decoder = d.Sequence([d.Replace("▁", " "), d.ByteFallback(), d.Fuse(), *strip])
    _added(out, [t.replace(" ", "▁") for t in tokens], types, not prefix)  # Prepend would change them
    return out


def spm_scores() -> tuple[list[str], list[float], list[int]]:
    """The vocabulary of `byte_fallback` as GGUF has it."""
    tokens = [t for t, kind in zip(sv.TOKENS, sv.TYPES, strict=True) if kind != v.UNUSED and t != "▁▁"]
    return tokens, [-float(i) for i in range(len(tokens))], [sv.TYPES[sv.ID[t]] for t in tokens]


def with_bos(out: Any, bos: str, *, eos: str = "") -> Any:
    """A post-processor that puts bos before a text, and eos after it."""
    template = pytest.importorskip("tokenizers").processors.TemplateProcessing
    names = [name for name in (bos, eos) if name]
    single = " ".join(name for name in (bos, "$A", eos) if name)
    out.post_processor = template(
        single=single, special_tokens=[(name, out.token_to_id(name)) for name in names]
    )
    return out


WORDS = (
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "hello",
    "un",
    "##aff",
    "##able",
    "don",
    "'",
    "t",
    ".",
    "a",
    "##b",
)


def word_piece() -> Any:
    """As BERT has it, with the truncation and padding that files of encoders ask for."""
    tokenizers = pytest.importorskip("tokenizers")
    model = tokenizers.models.WordPiece({t: i for i, t in enumerate(WORDS)}, unk_token="[UNK]")
    out = tokenizers.Tokenizer(model)
    out.normalizer = tokenizers.normalizers.BertNormalizer()
    out.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    out.decoder = tokenizers.decoders.WordPiece()
    out.add_special_tokens(list(WORDS[:4]))
    out.enable_truncation(6)
    out.enable_padding(length=6, pad_token="[PAD]")
    return with_bos(out, "[CLS]", eos="[SEP]")


PIECES = (
    "<pad>",
    "</s>",
    "<unk>",
    "▁",
    "▁hello",
    "▁the",
    "hello",
    "lo",
    "h",
    "e",
    "l",
    "o",
    "t",
    "▁a",
    "a",
    "é",
)
PIECE_TYPES = (v.CONTROL, v.CONTROL, v.UNKNOWN, *[v.NORMAL] * 13)
PIECE_SCORES = tuple(0.0 if i < 3 else -float(i) for i in range(len(PIECES)))


def unigram() -> Any:
    """As T5 has it."""
    tokenizers = pytest.importorskip("tokenizers")
    out = tokenizers.Tokenizer(
        tokenizers.models.Unigram(list(zip(PIECES, PIECE_SCORES, strict=True)), unk_id=2, byte_fallback=False)
    )
    p = tokenizers.pre_tokenizers
    out.pre_tokenizer = p.Sequence(
        [p.WhitespaceSplit(), p.Metaspace(replacement="▁", prepend_scheme="always")]
    )
    out.decoder = tokenizers.decoders.Metaspace(replacement="▁", prepend_scheme="always")
    out.add_special_tokens(["<pad>", "</s>", "<unk>"])
    return with_bos(out, "", eos="</s>")


def piece_model() -> bytes:
    """The same pieces as a SentencePiece model."""
    return sv.model_bytes(
        PIECES, PIECE_SCORES, PIECE_TYPES, add_dummy_prefix=True, remove_extra_whitespaces=True, model_type=1
    )


def t5_folder(folder: Path, **files: Any) -> Path:
    write(folder, **({"tokenizer_config": {"extra_ids": 4}, "config": {"eos_token_id": 1}} | files))
    (folder / "spiece.model").write_bytes(piece_model())
    return folder


MARIAN = {piece: i for i, piece in enumerate(("</s>", "<unk>", ">>fra<<", *reversed(PIECES[3:]), "<pad>"))}


def marian_folder(folder: Path, **files: Any) -> Path:
    write(
        folder, **({"vocab": MARIAN, "tokenizer_config": {"source_lang": "en", "target_lang": "fr"}} | files)
    )
    for name in ("source.spm", "target.spm"):
        (folder / name).write_bytes(piece_model())
    return folder
