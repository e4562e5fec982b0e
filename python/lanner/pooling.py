"""From a vector for every token to one for a text, by what a sentence-transformers folder says about it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lanner import _core
from lanner._records import dataclass

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

POOLINGS = ("mean", "cls")
"""The mean of all tokens, special ones too, or the first token."""

_MODES = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
_MAX_JSON_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Pooling:
    """What a folder says: how tokens become one vector, whether it gets length 1, and texts no capitals.

    `unsupported` says what is wanted that is not known here, "" where there is nothing.
    """

    mode: str = "mean"
    normalise: bool = False
    lower_case: bool = False
    unsupported: str = ""


def read_pooling(folder: Path | None) -> Pooling:
    """From modules.json and the files that belong to it; means where there is no such file.

    Raises ModelFileError for files that are malformed.
    """
    if folder is None or not (folder / "modules.json").exists():
        return Pooling()
    mode, normalise, unsupported = "mean", False, ""
    for kind, path in _modules(folder / "modules.json"):
        if kind == "Pooling":
            found = _mode(folder / path / "config.json")
            mode, unsupported = (found, unsupported) if found in POOLINGS else (mode, f"{path}: {found}")
        elif kind == "Normalize":
            normalise = True
        elif kind != "Transformer":
            unsupported = f"modules.json: a {kind} module"
    if (prompt := _option(folder / "config_sentence_transformers.json", "default_prompt_name")) is not None:
        unsupported = f"config_sentence_transformers.json: the prompt {prompt!r:.80}"
    lower_case = _option(folder / "sentence_bert_config.json", "do_lower_case") is True
    return Pooling(mode, normalise, lower_case, unsupported)


def _option(path: Path, name: str) -> Any:
    """A value of a configuration that a folder may lack."""
    return _read_object(path).get(name) if path.exists() else None


def _modules(path: Path) -> Iterator[tuple[str, str]]:
    """The last name of each module's class, and its folder."""
    modules = _read(path)
    if not isinstance(modules, list):
        raise _core.ModelFileError(f"{path}: is no list of modules")
    for module in modules:
        found = module if isinstance(module, dict) else {}
        kind, where = found.get("type"), found.get("path")
        if not isinstance(kind, str) or not isinstance(where, str) or not _is_name(where):
            raise _core.ModelFileError(f"{path}: {module!r:.80} is no module with a type and a folder")
        yield kind.rpartition(".")[2], where


def _is_name(where: str) -> bool:
    """Whether a path is that of the folder itself or of one inside: what a file states must not lead out."""
    return Path(where).name == where and where != ".." and "\0" not in where


def _mode(path: Path) -> str:
    """The one mode that is switched on, several joined by "+"."""
    config = _read_object(path)
    named = config.get("pooling_mode")
    if isinstance(named, str):
        return named
    modes = [name for name, on in config.items() if name.startswith("pooling_mode_") and on is True]
    return "+".join(_MODES.get(name, name.removeprefix("pooling_mode_")) for name in modes) or "none"


def _read_object(path: Path) -> dict[str, Any]:
    config = _read(path)
    if not isinstance(config, dict):
        raise _core.ModelFileError(f"{path}: is no object")
    return config


def _read(path: Path) -> Any:
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise _core.ModelFileError(f"{path}: has more than {_MAX_JSON_BYTES} bytes")
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise _core.ModelFileError(f"{path}: is missing, modules.json names its folder") from None
    except (ValueError, RecursionError) as error:
        raise _core.ModelFileError(f"{path}: {error!s:.200}") from None


def pool(rows: npt.NDArray[np.float32], mode: str) -> npt.NDArray[np.float64]:
    """(hidden_size,) of the rows (tokens, hidden_size) of one text."""
    import numpy as np

    vector: npt.NDArray[np.float64]
    vector = rows[0].astype(np.float64) if mode == "cls" else rows.mean(axis=0, dtype=np.float64)
    return vector


def normalised(vector: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The vector at length 1; zeros stay zeros."""
    import numpy as np

    return vector / max(float(np.sqrt((vector * vector).sum())), 1e-12)
