"""Tokenizers of Hugging Face folders: tokenizer.json, by the package `tokenizers`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

from lanner._core import ModelFileError
from lanner.hf_vocabulary import HfVocabulary
from lanner.tokenizer import SpecialIds, StreamDecoder, Tokenizer, Vocabulary
from lanner.tokenizer_config import TokenizerConfig, read_tokenizer_config

_MAX_TOKENIZER_BYTES = 1 << 28
"""Largest tokenizer.json that is read: the largest known, of a vocabulary of 262k, has 33 MB."""


class HfTokenizer(Tokenizer):
    """Text to token ids and back as `tokenizer.json` says.

    `encode` adds what the file's post-processor adds, `[CLS]` and `[SEP]` of an encoder too; truncation and
    padding that the file asks for are left out.
    """

    def __init__(
        self,
        vocabulary: HfVocabulary,
        special: SpecialIds,
        *,
        end_ids: Sequence[int] = (),
        chat_templates: Mapping[str, str] | None = None,
    ) -> None:
        """`from_folder` reads these. chat_templates: by name, the one called "default" is used."""
        templates = dict(chat_templates or {})
        super().__init__(vocabulary, special, end_ids=end_ids, chat_template=templates.get("default"))
        self._hf = vocabulary
        with_tools = templates.get("tool_use")
        self._with_tools = (
            Tokenizer(vocabulary, special, chat_template=with_tools) if with_tools is not None else None
        )

    @classmethod
    def from_folder(cls, folder: str | os.PathLike[str]) -> HfTokenizer:
        """The tokenizer of a folder with `tokenizer.json`.

        Raises ImportError where the package `tokenizers` is missing, OSError, and ModelFileError naming the
        file and the key that is malformed or contradicts another.
        """
        root = Path(folder)
        config = read_tokenizer_config(root)
        vocabulary = HfVocabulary(_load(root / "tokenizer.json", config), config.vocab_size)
        ids = {name: vocabulary.find(text) for name, text in config.special_tokens.items()}
        around = vocabulary.encode_with_special("", True)
        special = SpecialIds(
            bos_id=ids.get("bos"),
            eos_id=ids.get("eos"),
            unk_id=ids.get("unk"),
            pad_id=ids.get("pad"),
            add_bos=around[:1] == [ids.get("bos")],
            add_eos=around[-1:] == [ids.get("eos")] and around != [ids.get("bos")],
        )
        return cls(vocabulary, special, end_ids=config.eos_ids, chat_templates=config.chat_templates)

    def encode(self, text: str, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """Token ids of `text`.

        add_special: add what the post-processor adds; a text that begins with bos, as rendered chat templates
        do, gets no second one. parse_special: read special tokens such as `<|im_end|>` where they are spelled
        out, else they are plain text; other added tokens are always read.
        Raises ValueError for a lone surrogate, which has no UTF-8 form.
        """
        if not add_special:
            return super().encode(text, False, parse_special)
        try:
            ids = self._hf.encode_with_special(text, parse_special)
        except UnicodeEncodeError as error:
            raise ValueError(f"encode: text has a lone surrogate, {error.object[error.start]!r}") from None
        if self.add_bos and ids[:2] == [self.bos_id] * 2:
            del ids[0]
        return ids

    def stream(self, skip_special: bool = True, continues: bool = False) -> StreamDecoder:
        """A decoder of ids that come one at a time; the arguments are those of `decode`."""
        kind = WordStream if self._hf.spells_words else StreamDecoder
        return kind(self._hf, skip_special, continues)

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True, **kwargs: Any
    ) -> str:
        """As `Tokenizer.apply_chat_template`; `tools` choose the template "tool_use" if it is there."""
        if kwargs.get("tools") is not None and self._with_tools is not None:
            return self._with_tools.apply_chat_template(messages, add_generation_prompt, **kwargs)
        return super().apply_chat_template(messages, add_generation_prompt, **kwargs)


class WordStream(StreamDecoder):
    """For tokens whose spelling depends on their neighbours: decodes all ids anew for each of them."""

    def __init__(self, vocabulary: Vocabulary, skip_special: bool, continues: bool = False) -> None:
        """`HfTokenizer.stream` makes one for each sequence."""
        super().__init__(vocabulary, skip_special, continues)
        self._ids: list[int] = []
        self._given = ""

    def _whole(self) -> str:
        raw = self._vocabulary.decode(self._ids, self._skip_special, not self._continues)
        return raw.decode("utf-8", errors="replace")

    def push(self, id: int) -> str:
        """What this token adds to the text; "" where it changes what came before, which `flush` settles."""
        self._ids.append(id)
        whole = self._whole()
        if not whole.startswith(self._given):
            return ""
        new = whole[len(self._given) :]
        self._given = whole
        return new

    def fork(self) -> WordStream:
        """See StreamDecoder."""
        made = copy(self)
        made._ids = self._ids.copy()
        return made

    def flush(self) -> str:
        """What is left. The decoder starts anew."""
        whole, given = self._whole(), self._given
        self._ids, self._given = [], ""
        return whole[len(given) :] if whole.startswith(given) else ""


def _load(path: Path, config: TokenizerConfig) -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise ImportError(
            f"{path}: the package tokenizers is missing, it comes with: pip install 'lanner[hf]'"
        ) from error
    n_bytes = path.stat().st_size
    if n_bytes > _MAX_TOKENIZER_BYTES:
        raise ModelFileError(f"{path}: has {n_bytes} bytes, at most {_MAX_TOKENIZER_BYTES} were wanted")
    try:
        loaded = tokenizers.Tokenizer.from_buffer(path.read_bytes())
        loaded.no_truncation()
        loaded.no_padding()
    except OSError:
        raise
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the package raises Exception itself, and its panics are no Exceptions
        raise ModelFileError(f"{path}: {error}") from None
    for id, token in sorted(config.added_tokens.items()):
        if loaded.token_to_id(token.content) is not None:
            continue
        added = tokenizers.AddedToken(
            token.content,
            single_word=token.single_word,
            lstrip=token.lstrip,
            rstrip=token.rstrip,
            normalized=token.normalized,
            special=token.special,
        )
        (loaded.add_special_tokens if token.special else loaded.add_tokens)([added])
        if loaded.token_to_id(token.content) != id:
            raise ModelFileError(
                f"{path.with_name('tokenizer_config.json')}: added_tokens_decoder gives {token.content!r} "
                f"the id {id}, tokenizer.json {loaded.token_to_id(token.content)}"
            )
    return loaded
