"""What the JSON files of a Hugging Face folder say about its tokenizer, checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lanner._core import ModelFileError
from lanner._records import dataclass

_MAX_JSON_BYTES = 1 << 26
"""Largest settings, template or vocabulary that is read: the largest vocab.json known has 6 MB."""

_SPECIAL_NAMES = ("bos", "eos", "unk", "pad")


@dataclass(frozen=True, slots=True, kw_only=True)
class AddedToken:
    """A token that `tokenizer_config.json` adds to the vocabulary."""

    content: str
    special: bool
    lstrip: bool
    rstrip: bool
    normalized: bool
    single_word: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerConfig:
    """Special tokens by their role, what else ends a generation, and chat templates by name."""

    settings: Mapping[str, Any]
    special_tokens: Mapping[str, str]
    added_tokens: Mapping[int, AddedToken]
    eos_ids: tuple[int, ...]
    vocab_size: int  # rows of the embedding, which may be more than the tokens; 0 where config.json is silent
    chat_templates: Mapping[str, str]


def read_json(path: Path, what: str = "an object") -> dict[str, Any]:
    """The object in a JSON file. Raises OSError, and ModelFileError naming the file where it is none."""
    text = _read_text(path)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ModelFileError(f"{path}: holds {_shown(value)}, {what} was wanted")
    return value


def read_tokenizer_config(folder: Path) -> TokenizerConfig:
    """Reads `tokenizer_config.json` and the files beside it, none of which has to be there.

    Raises ModelFileError naming the file and the key that has another type than was wanted.
    """
    path = folder / "tokenizer_config.json"
    settings = _optional(path)
    map_path = folder / "special_tokens_map.json"
    token_map = _optional(map_path)
    special: dict[str, str] = {}
    for name in _SPECIAL_NAMES:
        key = f"{name}_token"
        text = _token_text(path, key, settings.get(key))
        if text is None:
            text = _token_text(map_path, key, token_map.get(key))
        if text is not None:
            special[name] = text
    return TokenizerConfig(
        settings=settings,
        special_tokens=special,
        added_tokens=_added_tokens(path, settings),
        eos_ids=_eos_ids(folder),
        vocab_size=_vocab_size(folder / "config.json"),
        chat_templates=_chat_templates(folder, path, settings),
    )


def get(path: Path, settings: Mapping[str, Any], key: str, default: Any) -> Any:
    """A setting of the type of `default`. Raises ModelFileError naming file and key for another type."""
    value = settings.get(key)
    if value is None:
        return default
    if type(value) is not type(default):
        raise ModelFileError(f"{path}: {key} is {_shown(value)}, a {type(default).__name__} was wanted")
    return value


def _shown(value: object) -> str:
    return f"{value!r:.80}"


def _read_text(path: Path) -> str:
    n_bytes = path.stat().st_size
    if n_bytes > _MAX_JSON_BYTES:
        raise ModelFileError(f"{path}: has {n_bytes} bytes, at most {_MAX_JSON_BYTES} were wanted")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ModelFileError(f"{path}: not UTF-8: {error}") from None


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _token_text(path: Path, key: str, value: object) -> str | None:
    """A token is a string, or an object with its properties."""
    if isinstance(value, dict):
        key, value = f"{key}.content", value.get("content")
    if value is None or isinstance(value, str):
        return value or None
    raise ModelFileError(f"{path}: {key} is {_shown(value)}, a str was wanted")


def _added_tokens(path: Path, settings: Mapping[str, Any]) -> dict[int, AddedToken]:
    tokens = {}
    for id, entry in get(path, settings, "added_tokens_decoder", {}).items():
        key = f"added_tokens_decoder.{id}"
        if not (id.isascii() and id.isdigit() and len(id) < 10):
            raise ModelFileError(f"{path}: {key}: a token id was wanted")
        if not isinstance(entry, dict) or not isinstance(entry.get("content"), str) or not entry["content"]:
            raise ModelFileError(f"{path}: {key} is {_shown(entry)}, an object with 'content' was wanted")
        special = get(path, entry, "special", False)
        tokens[int(id)] = AddedToken(
            content=entry["content"],
            special=special,
            lstrip=get(path, entry, "lstrip", False),
            rstrip=get(path, entry, "rstrip", False),
            normalized=get(path, entry, "normalized", not special),
            single_word=get(path, entry, "single_word", False),
        )
    return tokens


def _eos_ids(folder: Path) -> tuple[int, ...]:
    """What ends a generation in transformers: generation_config.json, else what config.json says."""
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        value = _optional(path).get("eos_token_id")
        if value is None:
            continue
        ids = value if isinstance(value, list) else [value]
        for id in ids:
            if type(id) is not int or not 0 <= id < 2**31:
                raise ModelFileError(f"{path}: eos_token_id is {_shown(value)}, token ids were wanted")
        return tuple(ids)
    return ()


def _vocab_size(path: Path) -> int:
    settings = _optional(path)
    nested = get(path, settings, "text_config", {})
    value = settings.get("vocab_size", nested.get("vocab_size", 0))
    if type(value) is not int or not 0 <= value < 2**31:
        raise ModelFileError(f"{path}: vocab_size is {_shown(value)}, a number of tokens was wanted")
    return value


def _chat_templates(folder: Path, path: Path, settings: Mapping[str, Any]) -> dict[str, str]:
    """Templates by name. Files of their own take the place of those in tokenizer_config.json."""
    named: dict[str, str] = {}
    if (jinja := folder / "chat_template.jinja").is_file():
        named["default"] = _read_text(jinja)
    for extra in sorted((folder / "additional_chat_templates").glob("*.jinja")):
        named[extra.stem] = _read_text(extra)
    if not named and (old := folder / "chat_template.json").is_file():
        named = _templates(old, read_json(old).get("chat_template"))
    return named or _templates(path, settings.get("chat_template"))


def _templates(path: Path, value: object) -> dict[str, str]:
    if value is None:
        return {}
    if isinstance(value, str):
        return {"default": value} if value else {}
    if isinstance(value, list):
        named: dict[str, str] = {}
        for entry in value:
            if isinstance(entry, dict):
                named[entry.get("name", "")] = entry.get("template", "")
        if len(named) == len(value) and all(isinstance(text, str) for pair in named.items() for text in pair):
            return named
    raise ModelFileError(
        f"{path}: chat_template is {_shown(value)}, a template or a list of named templates was wanted"
    )
