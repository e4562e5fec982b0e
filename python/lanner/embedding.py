"""Models that read whole texts: vectors of texts, and labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, overload

from lanner import _core
from lanner.encoder import Encoder
from lanner.info import describe
from lanner.llm import Model
from lanner.pooling import POOLINGS, Pooling, normalised, pool, read_pooling
from lanner.text_reader import Classification

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from lanner.checkpoint import Checkpoint
    from lanner.profile import Profile
    from lanner.program import Program
    from lanner.tokenizer import Tokenizer


def _refused(method: str) -> Callable[..., NoReturn]:
    def refuse(self: EncoderModel, *args: object, **options: object) -> NoReturn:
        raise _core.UnsupportedModelError(
            f"{method}: {self.info().architecture!r} is an encoder, it has no head that continues a text; "
            "it has embed and, with labels, classify"
        )

    refuse.__name__ = method
    refuse.__doc__ = "Raises UnsupportedModelError: an encoder does not continue texts."
    return refuse


def open_encoder(
    checkpoint: Checkpoint,
    tokenizer: Tokenizer,
    tokenizer_name: str,
    *,
    context: int | None,
    n_threads: int,
    max_memory: int | None,
    quantize: str | None,
) -> EncoderModel:
    """The encoder of a checkpoint; errors as `lanner.load` has them."""
    pooling = read_pooling(checkpoint.folder)
    encoder = Encoder(
        checkpoint, context=context, n_threads=n_threads, max_memory=max_memory, quantize=quantize
    )
    return EncoderModel(encoder, tokenizer, pooling, tokenizer_name=tokenizer_name)


class EncoderModel(Model):
    """A loaded encoder. Every method may be called from any thread; calls take turns step by step.

    What continues a text raises UnsupportedModelError. Ctrl-C takes effect between two steps.
    """

    def __init__(
        self, encoder: Encoder, tokenizer: Tokenizer, pooling: Pooling, *, tokenizer_name: str = ""
    ) -> None:
        self.tokenizer = tokenizer
        self.pooling = pooling
        self._info = describe(encoder, tokenizer_name)
        self._encoder: Encoder | None = encoder

    generate = _refused("generate")
    stream = _refused("stream")
    astream = _refused("astream")
    submit = _refused("submit")
    chat = _refused("chat")
    stream_chat = _refused("stream_chat")
    logits = _refused("logits")
    perplexity = _refused("perplexity")
    score = _refused("score")
    choose = _refused("choose")
    translate = _refused("translate")

    def _drafting_engine(self, where: str) -> NoReturn:
        """Raises ValueError: it does not continue texts."""
        raise ValueError(f"{where}: speculate is an encoder, wanted a model that continues texts")

    @property
    def program(self) -> Program:
        """The flat list that every step runs: `dump()` prints it, `interpret` runs it in Python."""
        return self._open("program").program

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._encoder is None

    def close(self) -> None:
        """Frees the memory once no call runs any more. Closing again does nothing."""
        self._encoder = None

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels by id; none for a model without a head that classifies."""
        return self._open("labels").config.labels

    # --- vectors --------------------------------------------------------------------------------------------
    def embed(
        self,
        texts: str | Sequence[str],
        *,
        pooling: str | None = None,
        normalise: bool | None = None,
        truncate: bool = False,
    ) -> npt.NDArray[np.float32]:
        """Vectors of texts, as `TextReader.embed` says."""
        import numpy as np

        encoder, how = self._open("embed"), self._pooling(pooling, normalise)
        many = _texts("embed", texts)
        if self.pooling.lower_case:
            many = [text.lower() for text in many]
        ids = self._ids("embed", many, truncate)
        out = np.empty((len(ids), encoder.config.hidden_size), np.float32)

        def take(i: int, rows: npt.NDArray[np.float32]) -> None:
            vector = pool(rows, how.mode)
            out[i] = normalised(vector) if how.normalise else vector

        encoder.hidden_states(ids, take)
        return out[0] if isinstance(texts, str) else out

    def _pooling(self, mode: str | None, normalise: bool | None) -> Pooling:
        if mode is not None and mode not in POOLINGS:
            raise ValueError(f"embed: pooling is {mode!r:.80}, wanted one of {', '.join(POOLINGS)}, or None")
        if normalise is not None and not isinstance(normalise, bool):
            raise ValueError(f"embed: normalise is {normalise!r:.80}, wanted True, False or None")
        if mode is None and self.pooling.unsupported:
            raise _core.UnsupportedModelError(
                f"embed: {self.pooling.unsupported} is not supported; pooling='mean' or 'cls' gives the "
                "vectors of the encoder itself"
            )
        return Pooling(mode or self.pooling.mode, self.pooling.normalise if normalise is None else normalise)

    # --- labels ---------------------------------------------------------------------------------------------
    @overload
    def classify(  # type: ignore[overload-overlap]  # a str is also a sequence of str
        self, texts: str, *, truncate: bool = False
    ) -> Classification: ...
    @overload
    def classify(self, texts: Sequence[str], *, truncate: bool = False) -> list[Classification]: ...
    def classify(self, texts: Any, *, truncate: bool = False) -> Classification | list[Classification]:
        """What the model says about texts, as `TextReader.classify` says."""
        encoder = self._open("classify")
        labels, problem = encoder.config.labels, encoder.config.problem
        if not labels:
            raise _core.UnsupportedModelError(
                f"classify: this {self._info.architecture!r} has no head that classifies, only embed"
            )
        scores = encoder.scores(self._ids("classify", _texts("classify", texts), truncate))
        results = [_classification(labels, row) for row in probabilities(scores, problem)]
        return results[0] if isinstance(texts, str) else results

    def profile(self, prompt: Any, *, max_tokens: int | None = None) -> Profile:
        """Where the time of `embed(prompt)` goes, as `Profiled.profile` says."""
        from lanner._recording import record

        if max_tokens is not None:
            raise ValueError(f"profile: max_tokens is {max_tokens!r:.80}, an encoder continues no text")

        def run() -> None:
            self.embed(prompt, pooling="mean")

        return record(self._open("profile"), run, warm_up=run)

    # --- texts ----------------------------------------------------------------------------------------------
    def _open(self, where: str) -> Encoder:
        if self._encoder is None:
            raise RuntimeError(f"{where}: the model is closed")
        return self._encoder

    def _ids(self, where: str, texts: list[str], truncate: bool) -> list[list[int]]:
        return [self._ids_of(where, f"texts[{i}]", text, truncate) for i, text in enumerate(texts)]

    def _ids_of(self, where: str, name: str, text: str, truncate: bool) -> list[int]:
        encoder = self._open(where)
        ids = self.tokenizer.encode(text)
        if len(ids) > encoder.context:
            if not truncate:
                raise ValueError(
                    f"{where}: {name} has {len(ids)} tokens, the context has room for {encoder.context}; "
                    "truncate=True cuts it"
                )
            ids = self._truncated(where, text, ids, encoder.context)
        if not ids:
            raise ValueError(f"{where}: {name} is empty, wanted at least one token")
        if encoder.config.pad_id in ids:
            raise ValueError(f"{where}: {name} spells out the padding token, which has no position in a text")
        for id in (min(ids), max(ids)):
            if not 0 <= id < encoder.config.vocab_size:
                raise ValueError(
                    f"{where}: {name} has the token id {id}, vocab_size is {encoder.config.vocab_size}"
                )
        return ids

    def _truncated(self, where: str, text: str, ids: list[int], n: int) -> list[int]:
        """The first tokens of the text between the special tokens that `encode` puts around it."""
        inner = self.tokenizer.encode(text, add_special=False)
        n_special = len(ids) - len(inner)
        if n_special > n:
            raise ValueError(f"{where}: {n_special} special tokens alone, the context has room for {n}")
        n_before = next(i for i in range(n_special + 1) if ids[i : i + len(inner)] == inner)
        return ids[:n_before] + inner[: n - n_special] + ids[n_before + len(inner) :]


def _texts(where: str, texts: Any) -> list[str]:
    wanted = "wanted a text or a sequence of texts"
    if isinstance(texts, str):
        return [texts]
    if isinstance(texts, (bytes, Mapping)) or not hasattr(texts, "__len__"):
        raise ValueError(f"{where}: texts is a {type(texts).__name__}, {wanted}")
    many = list(texts)
    for i, text in enumerate(many):
        if not isinstance(text, str):
            raise ValueError(f"{where}: texts[{i}] is a {type(text).__name__}, {wanted}")
    return many


def probabilities(scores: npt.NDArray[np.float32], problem: str) -> npt.NDArray[np.float64]:
    """(n, n_labels) float64 of the scores that the head gives, by the kind of problem."""
    import numpy as np

    x = scores.astype(np.float64)
    if problem == "regression":
        return x
    if problem == "multi_label_classification":
        return 0.5 * (1 + np.tanh(0.5 * x))  # the logistic function, which never overflows like this
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    probabilities: npt.NDArray[np.float64] = e / e.sum(axis=-1, keepdims=True)
    return probabilities


def _classification(labels: Sequence[str], row: npt.NDArray[np.float64]) -> Classification:
    best = int(row.argmax())
    return Classification(labels[best], float(row[best]), dict(zip(labels, map(float, row), strict=True)))
