"""Pre-tokenizers: how text is cut into the pieces that byte-pair merges never cross.

A GGUF file names its pre-tokenizer in `tokenizer.ggml.pre`; the name stands for the regular expressions of
the model's `tokenizer.json`. The table follows the public definitions in Hugging Face's `transformers` and
llama.cpp's `llama-vocab.cpp`. Other names are refused: a wrong pattern gives wrong ids without any error.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from lanner._core import UnsupportedModelError
from lanner._records import dataclass

if TYPE_CHECKING:
    import regex


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """Stages of regular expressions, each applied to the pieces of the one before.

    A stage isolates its matches and keeps what lies between them. A single stage matches at every position,
    so that one `findall` gives all pieces.
    """

    patterns: tuple[str, ...]
    ignore_merges: bool = False  # a piece that is a token stays whole even if no merge makes it
    add_bos: bool = False  # where the file does not say
    normalization: Literal["NFC"] | None = None

    def split(self, text: str) -> list[str]:
        """Pieces of `text` in order; joined they are the (normalized) text."""
        is_ascii = text.isascii()
        if self.normalization and not is_ascii:
            import unicodedata

            text = unicodedata.normalize(self.normalization, text)
        stages = _compile_ascii(self.patterns) if is_ascii else _compile(self.patterns)
        if len(stages) == 1:
            whole: list[str] = stages[0].findall(text)
            return whole
        pieces = [text]
        for stage in stages:
            pieces = [part for piece in pieces for part in stage.split(piece) if part]
        return pieces


@lru_cache
def _compile(patterns: tuple[str, ...]) -> tuple[regex.Pattern[str], ...]:
    import regex

    return tuple(regex.compile(pattern) for pattern in _kept(patterns))


@lru_cache
def _compile_ascii(patterns: tuple[str, ...]) -> tuple[re.Pattern[str], ...]:
    """The same for texts of ASCII alone: a cold start need not import the larger module for them."""
    return tuple(re.compile(_in_ascii(pattern)) for pattern in _kept(patterns))


def _kept(patterns: tuple[str, ...]) -> tuple[str, ...]:
    """As they are compiled: of several, each is split at, which keeps what a group captures."""
    return patterns if len(patterns) == 1 else tuple(f"({pattern})" for pattern in patterns)


# What the classes have of ASCII, to stand inside brackets. The modules `re` and `regex` differ in whether the
# separators 0x1c to 0x1f are spaces; Unicode says that they are not.
_ASCII_SETS = {
    r"\s": r"\t-\r ",
    r"\p{L}": "A-Za-z",
    r"\p{Lu}": "A-Z",
    r"\p{Ll}": "a-z",
    r"\p{Lt}": "",
    r"\p{Lm}": "",
    r"\p{Lo}": "",
    r"\p{M}": "",
    r"\p{N}": "0-9",
    r"\p{P}": r"""!-#%-*,-/:;?@\[-\]_{}""",
    r"\p{S}": r"$+<=>\^`|~",
}


def _in_ascii(pattern: str) -> str:
    """A pattern for `re` that matches in ASCII what the given one matches there with `regex`."""
    out, in_set, at = "", False, 0
    while at < len(pattern):
        is_class = pattern.startswith(r"\p{", at)
        end = pattern.index("}", at) + 1 if is_class else at + (2 if pattern[at] == "\\" else 1)
        part, at = pattern[at:end], end
        if part == r"\S":
            out += r"[^\t-\r ]"
        elif part in _ASCII_SETS:
            out += _ASCII_SETS[part] if in_set else f"[{_ASCII_SETS[part]}]"
        else:
            out += part
            in_set = part == "[" or (in_set and part != "]")
    return out


# A single pattern must match at every position: `findall` would drop what it skips. No capturing groups.
_GPT2 = r"'(?:[stmd]|re|ve|ll)| ?(?:\p{L}+|\p{N}+|[^\s\p{L}\p{N}]+)|\s+(?!\S)|\s+"

# Digits are isolated first and the GPT-2 pattern runs on what lies between them, where `(?!\S)` sees an end
# before a digit: in one pattern a run of spaces may end before a digit too, and no space joins a digit.
_SINGLE_DIGITS = r"'(?:[stmd]|re|ve|ll)| ?(?:\p{L}+|[^\s\p{L}\p{N}]+)|\p{N}|\s+(?![^\s\p{N}])|\s+"

_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACE = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = (
    rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACE}"
)
_QWEN2 = rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACE}"
_QWEN35 = (
    rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACE}"
)

# Words in camel case: an upper-case run, then a lower-case run, either of which may be missing.
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACE}"
)
_GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTION}?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTION}?|\p{{N}}{{1,3}}"
    rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACE}"
)

_DEEPSEEK_CODER = (
    r"[\r\n]",
    r"\s?\p{L}+",
    r"\s?\p{P}+",
    "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+",
    r"\p{N}",
)
_DEEPSEEK3 = (
    r"\p{N}{1,3}",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    rf"""| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACE}""",
)
# What llama.cpp does with files that say "default".
_DEFAULT = (r"[\p{P}$+<=>\^~|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")

_GROUPS: tuple[tuple[PreTokenizer, tuple[str, ...]], ...] = (
    (
        PreTokenizer((_GPT2,)),
        ("gpt-2", "phi-2", "jais", "trillion", "granite-docling", "exaone4", "modern-bert"),
    ),
    (PreTokenizer((_GPT2,), normalization="NFC"), ("mpt", "olmo")),
    (PreTokenizer((_SINGLE_DIGITS,)), ("smollm", "starcoder", "refact", "codeshell", "exaone", "minerva-7b")),
    (PreTokenizer((_SINGLE_DIGITS,), normalization="NFC"), ("command-r",)),
    (
        PreTokenizer((_LLAMA3,), ignore_merges=True, add_bos=True),
        ("llama3", "llama-v3", "llama-bpe", "falcon3", "lfm2"),
    ),
    (PreTokenizer((_LLAMA3,)), ("dbrx", "smaug-bpe", "glm4", "chatglm-bpe")),
    (PreTokenizer((_QWEN2,), normalization="NFC"), ("qwen2",)),
    (PreTokenizer((_QWEN2,)), ("deepseek-r1-qwen", "megrez", "stablelm2", "hunyuan")),
    (PreTokenizer((_QWEN35,), normalization="NFC"), ("qwen35",)),
    (PreTokenizer((_TEKKEN,), ignore_merges=True, add_bos=True), ("tekken",)),
    (PreTokenizer((_GPT4O,)), ("gpt-4o", "llama4")),
    (PreTokenizer(_DEEPSEEK_CODER), ("deepseek-coder",)),
    (PreTokenizer(_DEEPSEEK3), ("deepseek-v3", "hunyuan-dense")),
    (PreTokenizer(_DEFAULT), ("default",)),
)

PRE_TOKENIZERS: dict[str, PreTokenizer] = {name: pre for pre, names in _GROUPS for name in names}


def pre_tokenizer(name: str) -> PreTokenizer:
    """The pre-tokenizer that `tokenizer.ggml.pre` calls `name`.

    Raises UnsupportedModelError naming it where it is not in the table.
    """
    try:
        return PRE_TOKENIZERS[name]
    except KeyError:
        known = ", ".join(sorted(PRE_TOKENIZERS))
        raise UnsupportedModelError(f"tokenizer.ggml.pre is {name!r}, known are {known}") from None
