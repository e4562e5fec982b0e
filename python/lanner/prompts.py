"""What callers give as prompts, checked: a text or token ids, one or a list."""

from __future__ import annotations

import operator
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from typing_extensions import TypeIs

    from lanner.sampling import SamplingParams
    from lanner.tokenizer import Tokenizer

    TokenIds = Sequence[int] | npt.NDArray[np.integer[Any]]


class PromptReader:
    """Makes checked token ids of prompts. Errors begin with the call `where` and the argument `name`."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, context: int) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._context = context

    def ids(self, where: str, name: str, prompt: str | TokenIds) -> list[int]:
        """At least one id, all of them in the vocabulary and in the context together. Else ValueError."""
        ids = self.long_ids(where, name, prompt)
        if len(ids) > self._context:
            raise ValueError(
                f"{where}: {name} has {len(ids)} tokens, the context has room for {self._context}"
            )
        return ids

    def long_ids(self, where: str, name: str, prompt: str | TokenIds) -> list[int]:
        """Like `ids`, however many there are."""
        if isinstance(prompt, str):
            ids = self._tokenizer.encode(prompt)
        else:
            ids = _plain_ids(where, name, prompt)
            self.check_ids(where, name, ids)
        if not ids:
            raise ValueError(f"{where}: {name} is empty, wanted at least one token")
        return ids

    def ids_to_continue(self, where: str, name: str, prompt: str | TokenIds) -> list[int]:
        """Like `ids`, with room in the context for at least one more."""
        ids = self.ids(where, name, prompt)
        if len(ids) == self._context:
            raise ValueError(
                f"{where}: {name} has {len(ids)} tokens, no room is left in the context of {self._context}"
            )
        return ids

    def check_params(self, where: str, params: SamplingParams) -> None:
        """Raises ValueError for the first option that the vocabulary cannot satisfy."""
        for name, k in (("logprobs", params.logprobs), ("prompt_logprobs", params.prompt_logprobs)):
            if k is not None and k > self._vocab_size:
                raise ValueError(
                    f"{where}: {name} is {k}, wanted at most vocab_size, which is {self._vocab_size}"
                )
        self.check_ids(where, "stop_token_ids", params.stop_ids)
        self.check_ids(where, "logit_bias", (id for id, _ in params.biases))
        self.check_ids(where, "allowed_token_ids", params.allowed_ids or ())

    def check_ids(self, where: str, name: str, ids: Iterable[int]) -> None:
        """Raises ValueError for the first id that is not in the vocabulary."""
        for id in ids:
            if not 0 <= id < self._vocab_size:
                raise ValueError(
                    f"{where}: {name} has the token id {id}, wanted 0 to {self._vocab_size - 1} "
                    f"(vocab_size is {self._vocab_size})"
                )


def is_list_of_prompts(prompt: object) -> bool:
    """Whether it is a list of texts or of lists of ids, rather than one of either."""
    if _is_array(prompt):
        return prompt.ndim == 2
    if isinstance(prompt, str) or not isinstance(prompt, Sequence) or not prompt:
        return False
    return isinstance(prompt[0], (str, Sequence)) or _is_array(prompt[0])


def _is_array(x: object) -> TypeIs[npt.NDArray[Any]]:
    # Nobody has an array before NumPy is imported, which a text alone does not need and takes 80 ms.
    numpy = sys.modules.get("numpy")
    ndarray = getattr(numpy, "ndarray", None)  # missing while another thread imports it
    return ndarray is not None and isinstance(x, ndarray)


def _plain_ids(where: str, name: str, prompt: Any) -> list[int]:
    wanted = "wanted a text or a sequence of token ids"
    if _is_array(prompt):
        if prompt.ndim != 1 or prompt.dtype.kind not in "iu":
            raise ValueError(
                f"{where}: {name} is an array of shape {prompt.shape} and dtype {prompt.dtype}, {wanted}"
            )
        return [int(id) for id in prompt]
    if isinstance(prompt, (bytes, bytearray)) or not isinstance(prompt, Sequence):
        raise ValueError(f"{where}: {name} is a {type(prompt).__name__}, {wanted}")
    try:
        return [operator.index(id) for id in prompt]
    except TypeError:
        strange = next(each for each in prompt if not hasattr(each, "__index__"))
        raise ValueError(f"{where}: {name} has {strange!r:.80} among its ids, {wanted}") from None
