"""Places of values: none overlaps another that is alive in the same phase."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lanner import program
from lanner.arena import ALIGNMENT, Span, assign
from tiny_llama import MODELS, make

spans_of = st.lists(
    st.builds(
        lambda n_bytes, first, length: Span(n_bytes, first, first + length),
        st.integers(0, 5000), st.integers(0, 12), st.integers(0, 6),
    ),
    max_size=30,
)  # fmt: skip


def check(spans: list[Span], total: int) -> None:
    for span in spans:
        assert span.offset >= 0
        assert span.offset % ALIGNMENT == 0
        assert span.offset + span.n_bytes <= total
    for a, b in combinations(spans, 2):
        if a.first <= b.last and b.first <= a.last:
            assert a.offset + a.n_bytes <= b.offset or b.offset + b.n_bytes <= a.offset, (a, b)


@given(spans_of)
def test_values_alive_together_do_not_overlap(spans: list[Span]) -> None:
    total = assign(spans)
    check(spans, total)
    lines = [-(-s.n_bytes // ALIGNMENT) * ALIGNMENT for s in spans]
    alive = [sum(n for n, s in zip(lines, spans, strict=True) if s.first <= p <= s.last) for p in range(20)]
    assert max(alive) <= total <= sum(lines)


def test_a_place_is_used_again_in_a_later_phase() -> None:
    spans = [Span(100, 0, 1), Span(100, 2, 3), Span(100, 1, 2)]
    assert assign(spans) == 256
    assert spans[0].offset == spans[1].offset != spans[2].offset


def test_no_values() -> None:
    assert assign([]) == 0


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("name", MODELS)
def test_arena_of_a_model(name: str, n_threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[list[Span], int]] = []

    def spy(spans: list[Span]) -> int:
        seen.append((spans, assign(spans)))
        return seen[-1][1]

    monkeypatch.setattr(program, "assign", spy)
    decoder = make(MODELS[name], tmp_path / "tiny.gguf").decoder(n_threads=n_threads)
    ((spans, total),) = seen
    check(spans, total)
    assert decoder.program.core.arena_bytes == total
    # From the instructions themselves: a place lives from the phase that first writes it to the last that
    # reads it, and a phase ends where an instruction asks for a barrier.
    phase, lives = -1, {}
    for i in decoder.program.instructions:
        phase += i.barrier or phase < 0
        for value in i.args.values():
            if hasattr(value, "place"):
                first, _ = lives.get(value.place, (phase, phase))
                lives[value.place] = (first, phase)
    assert len(lives) == len(spans)
    for place, (first, last) in lives.items():
        assert place.first <= first
        assert place.last >= last
