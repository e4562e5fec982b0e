"""The tokenizer that lies beside or inside the weights, whatever its kind."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from lanner._core import GgufFile, ModelFileError
from lanner.tokenizer import Tokenizer

if TYPE_CHECKING:
    from lanner.checkpoint import Checkpoint


def tokenizer_of(checkpoint: Checkpoint) -> tuple[Tokenizer, str]:
    """The tokenizer of an opened model, and what `info` calls it; errors as `open_tokenizer`."""
    if (gguf := checkpoint.gguf) is not None:
        pre = gguf.get("tokenizer.ggml.pre")
        name = str(gguf.get("tokenizer.ggml.model")) + (f" ({pre})" if pre else "")
        return open_tokenizer(gguf), name
    assert checkpoint.folder is not None
    tokenizer = open_tokenizer(checkpoint.folder)
    return tokenizer, type(tokenizer).__name__


def open_tokenizer(source: GgufFile | str | os.PathLike[str]) -> Tokenizer:
    """The tokenizer of a GGUF file, or of a Hugging Face folder.

    A folder has tokenizer.json, or source.spm, target.spm and vocab.json (Marian), or spiece.model (T5).
    Raises OSError, ImportError naming the package that a folder needs, ModelFileError naming the file and the
    key that is wrong or what is missing, UnsupportedModelError naming what is not known.
    """
    if isinstance(source, GgufFile):
        return Tokenizer.from_gguf(source)
    path = Path(source)
    if not path.is_dir():
        return Tokenizer.from_gguf(GgufFile(path))
    if (path / "tokenizer.json").is_file():
        from lanner.hf_tokenizer import HfTokenizer

        return HfTokenizer.from_folder(path)
    if (path / "source.spm").is_file() or (path / "spiece.model").is_file():
        from lanner.spm_tokenizer import SpmTokenizer

        return SpmTokenizer.from_folder(path)
    raise ModelFileError(
        f"{path}: no tokenizer: tokenizer.json was wanted, or source.spm and vocab.json, or spiece.model"
    )
