"""Tokens that end a turn or a document, known by their names."""

from __future__ import annotations

from collections.abc import Callable, Iterable

# As llama.cpp knows them. Nothing else is ever written like these, so they count whatever type an older
# converter gave them.
END_NAMES = (
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|eom_id|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "<｜end▁of▁sentence｜>",
)
# These count only as control tokens.
_CONTROL_END_NAMES = (
    "</s>",
    "<EOT>",
    "[EOT]",
    "[EOS]",
    "<eos>",
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<PAD>",
    "[PAD]",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<REPO>",
    "<reponame>",
    "<|file_sep|>",
)


def end_ids(find_control: Callable[[str], int | None], others: Iterable[int | None] = ()) -> frozenset[int]:
    """Ids of every token that ends a generation: the control tokens that have such a name, and `others`.

    find_control gives the id of the control token called so, or None.
    """
    found = {name: find_control(name) for name in (*END_NAMES, *_CONTROL_END_NAMES)}
    ends = {name: id for name, id in found.items() if id is not None}
    if "<|return|>" in ends and "<|call|>" in ends:
        ends.pop("<|end|>", None)  # in the harmony format it ends a message, and the turn goes on
    return frozenset({*ends.values(), *(id for id in others if id is not None)})
