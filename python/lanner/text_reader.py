"""What models that read whole texts do with them; other models refuse it by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, overload

from lanner import _core
from lanner._records import dataclass

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from typing_extensions import Unpack

    from lanner.info import ModelInfo
    from lanner.prompts import TokenIds
    from lanner.sampling import SamplingOptions, SamplingParams


@dataclass(frozen=True, slots=True)
class Classification:
    """What a model says about a text.

    `scores` has every label with its probability: together they are 1 where one label is right, each stands
    for itself where several can be (problem_type "multi_label_classification"). A model of one label, and one
    of problem_type "regression", gives the bare numbers of its head. `label` has the highest score.
    """

    label: str
    score: float
    scores: Mapping[str, float]


class TextReader:
    """Vectors, labels and translations of texts.

    Encoders have the first two, encoder-decoders the last; other models raise UnsupportedModelError.
    """

    _info: ModelInfo

    def embed(
        self,
        texts: str | Sequence[str],
        *,
        pooling: str | None = None,
        normalise: bool | None = None,
        truncate: bool = False,
    ) -> npt.NDArray[np.float32]:
        """Vectors of texts: float32 (len(texts), hidden_size), for a lone text (hidden_size,).

        A text's vector does not depend on the texts beside it or on the number of threads, to the last bit.

        Args:
            texts: one text, or several.
            pooling: "mean" of the last hidden states of all tokens, or "cls", that of the first; by default
                what the folder's modules.json says, and "mean" where there is none.
            normalise: whether vectors get length 1; by default what modules.json says, and False.
            truncate: cut texts that are longer than the context, which is by default as long as the model has
                positions, and keep their special tokens; otherwise they are a ValueError.

        Raises:
            ValueError: an argument.
            UnsupportedModelError: the model is no encoder, or its modules.json asks for another pooling,
                for further layers or a prompt, and `pooling` does not take its place.
            RuntimeError: the model is closed.
        """
        self._refuse_to_read("embed")

    @overload
    def classify(  # type: ignore[overload-overlap]  # a str is also a sequence of str
        self, texts: str, *, truncate: bool = False
    ) -> Classification: ...
    @overload
    def classify(self, texts: Sequence[str], *, truncate: bool = False) -> list[Classification]: ...
    def classify(self, texts: Any, *, truncate: bool = False) -> Classification | list[Classification]:
        """What the model says about a text; for several texts, a list in their order.

        Args, errors: as `embed`; UnsupportedModelError for a model without a head that classifies.
        """
        self._refuse_to_read("classify")

    @overload
    def translate(  # type: ignore[overload-overlap]  # a str is also a sequence of str
        self, texts: str, params: SamplingParams | None = None, **options: Unpack[SamplingOptions]
    ) -> str: ...
    @overload
    def translate(
        self,
        texts: Sequence[str] | Sequence[TokenIds],
        params: SamplingParams | None = None,
        **options: Unpack[SamplingOptions],
    ) -> list[str]: ...
    def translate(self, texts: Any, params: SamplingParams | None = None, **options: Any) -> str | list[str]:
        """What an encoder-decoder makes of texts: their translations, summaries, or what it was trained for.

        A text's result does not depend on the texts beside it or on the number of threads.

        Args:
            texts: one text, or several; token ids in the place of a text are taken as they are.
            params, options: of what is generated, as for `generate`.

        Returns:
            A text for one text; for several, and for none, a list in their order.

        Raises:
            ValueError: an argument, such as a text that has more tokens than the model positions.
            UnsupportedModelError: the model is no encoder-decoder.
            RuntimeError: the model is closed.
        """
        raise _core.UnsupportedModelError(
            f"translate: {self._info.architecture!r} is a decoder, an encoder-decoder such as 't5' is wanted"
        )

    def _refuse_to_read(self, method: str) -> NoReturn:
        raise _core.UnsupportedModelError(
            f"{method}: {self._info.architecture!r} is a decoder, an encoder such as 'bert' is wanted"
        )
