"""Hugging Face folders: config.json, and safetensors in one file or in shards that an index names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lanner import _core
from lanner.checkpoint import Checkpoint, TensorInfo, pickle_message
from lanner.config import Settings
from lanner.hf_config import HfValues
from lanner.safetensors import MAX_HEADER_BYTES, read_json, read_tensors

CONFIG, SINGLE, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"


def open_folder(folder: Path) -> Checkpoint:
    """The model of a folder; errors as `open_checkpoint` has them."""
    if not (folder / CONFIG).exists():
        others = sorted(path.name for path in folder.glob("*.gguf"))
        hint = f"; it has {others[0]}, which can be loaded by itself" if others else ""
        raise _core.ModelFileError(f"{folder}: has no {CONFIG}{hint}")
    config = read_json_file(folder / CONFIG)
    architecture = config.get("model_type")
    if not isinstance(architecture, str):
        raise _core.ModelFileError(f"{folder / CONFIG}: model_type is {architecture!r:.80}, wanted a string")
    _check_not_quantized(config, folder)
    tensors = _open_weights(folder)
    sizes = {id(t.file): t.file.n_bytes for t in tensors.values()}
    settings = Settings(str(folder / CONFIG), architecture, HfValues(config))
    return Checkpoint(str(folder), "hf", architecture, settings, tensors, sum(sizes.values()), folder=folder)


def read_json_file(path: Path) -> dict[str, Any]:
    """The object in a JSON file of the folder; OSError, or ModelFileError where it is malformed."""
    if (n_bytes := path.stat().st_size) > MAX_HEADER_BYTES:
        raise _core.ModelFileError(f"{path}: has {n_bytes} bytes, wanted at most {MAX_HEADER_BYTES}")
    return read_json(path.read_bytes(), str(path))


def _check_not_quantized(config: dict[str, Any], folder: Path) -> None:
    if (how := config.get("quantization_config")) is not None:
        method = how.get("quant_method") if isinstance(how, dict) else how
        raise _core.UnsupportedModelError(
            f"{folder / CONFIG}: the weights are quantized by {method!r:.80}, "
            "only F32, F16 and BF16 are supported"
        )


def _open_weights(folder: Path) -> dict[str, TensorInfo]:
    if (folder / SINGLE).exists():
        return read_tensors(folder / SINGLE)
    if (folder / INDEX).exists():
        return _open_shards(folder)
    for pattern in ("pytorch_model*.bin", "*.bin", "*.pt", "*.pth", "*.ckpt"):
        for path in sorted(folder.glob(pattern)):
            raise _core.UnsupportedModelError(pickle_message(path))
    raise _core.ModelFileError(f"{folder}: has neither {SINGLE} nor {INDEX}")


def _open_shards(folder: Path) -> dict[str, TensorInfo]:
    """All tensors of the shards; the index and the shards must agree on every one."""
    index = folder / INDEX
    shard_of = read_json_file(index).get("weight_map")
    if not isinstance(shard_of, dict) or not all(isinstance(name, str) for name in shard_of.values()):
        raise _core.ModelFileError(f"{index}: weight_map is missing or no object of file names")
    shards = sorted(set(shard_of.values()))
    for shard in shards:
        # A link may lead anywhere, as the hub's cache lays them; a name that the file states may not.
        if Path(shard).name != shard or "\0" in shard or not shard.endswith(".safetensors"):
            raise _core.ModelFileError(f"{index}: {shard!r:.80} is no safetensors file of the folder")
        if not (folder / shard).exists():
            raise _core.ModelFileError(f"{index}: the shard {shard!r:.80} is missing")
    tensors: dict[str, TensorInfo] = {}
    for shard in shards:
        for name, tensor in read_tensors(folder / shard).items():
            if shard_of.get(name) != shard:
                stated = f"in {shard_of[name]!r:.80}" if name in shard_of else "nowhere"
                raise _core.ModelFileError(
                    f"{index}: tensor {name!r:.80} is in {shard!r:.80}, the index has it {stated}"
                )
            tensors[name] = tensor
    for name in shard_of:
        if name not in tensors:
            raise _core.ModelFileError(
                f"{index}: tensor {name!r:.80} is not in its shard {shard_of[name]!r:.80}"
            )
    return tensors
