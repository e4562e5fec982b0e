"""RoBERTa: BERT's layers; positions begin behind that of the padding token (Liu et al., 2019)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lanner import _core
from lanner.models import _encoders, bert

if TYPE_CHECKING:
    from lanner.config import Settings
    from lanner.models._encoders import EncoderConfig
    from lanner.weights import Weights

HF_PREFIX = "roberta."
HF_NAMES = bert.names_under("roberta") | {"cls": "classifier.dense", "cls.output": "classifier.out_proj"}
HF_IGNORED = bert.HF_IGNORED
load, build = bert.load, bert.build


def config(s: Settings, w: Weights) -> EncoderConfig:
    """The sizes of the model; what is not supported is refused by name."""
    s.use(_encoders.HF_KEYS, _encoders.HF_DEFAULTS | {"pad_token_id": 1}, _encoders.HARMLESS)
    pad_id = s.required("pad_token_id", int)
    if pad_id < 0:
        raise _core.ModelFileError(f"{s.source}: {s.name('pad_token_id')} is {pad_id}, wanted at least 0")
    return _encoders.config(s, w, first_position=pad_id + 1, pad_id=pad_id)
