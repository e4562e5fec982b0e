"""The arrays of a step, against a model of a few lines of Python."""

from __future__ import annotations

from array import array
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lanner._blocks import BlockManager, StepViews, fill_step
from lanner._core import PAGE_POSITIONS, Step

N_COLUMNS = Step(1, 1, 1, 1).sampling.shape[1]
GREEDY = (0.0,) * (N_COLUMNS - 1)


class Arrays:
    """What fill_step needs of a `_core.Step`, with as many groups and sampling columns as a test wants."""

    def __init__(self, max_tokens, max_seqs, max_outputs, max_pages, n_groups=1, n_columns=N_COLUMNS):
        self.max_tokens, self.max_seqs, self.max_outputs = max_tokens, max_seqs, max_outputs
        self.max_pages, self.n_groups = max_pages, n_groups
        self.n_tokens = self.n_seqs = self.n_outputs = 0
        lengths = {"token_ids": max_tokens, "positions": max_tokens, "token_seqs": max_tokens}
        lengths |= {"seq_starts": max_seqs + 1, "kv_lens": max_seqs, "output_rows": max_outputs}
        self.arrays = {name: np.full(length, -7, np.int32) for name, length in lengths.items()}
        self.arrays["block_tables"] = np.full((n_groups * max_seqs, max_pages), -7, np.int32)
        self.arrays["sampling"] = np.full((max_outputs, n_columns), -7, np.float32)

    def memoryviews(self):
        return {name: memoryview(values) for name, values in self.arrays.items()}

    def __getattr__(self, name):
        return self.arrays[name]


def sequence(manager, ids, n_positions, start=0, sampling=GREEDY):
    table = manager.table()
    assert manager.reserve(table, 0, n_positions)
    assert manager.reserve(table, start, n_positions)
    return SimpleNamespace(
        token_ids=array("i", ids), table=table, sampling=sampling, uniform=lambda position: position / 1024
    )


@st.composite
def chunk(draw):
    n = draw(st.integers(1, 100))
    start = draw(st.integers(0, n - 1))
    count = draw(st.integers(1, min(n - start, 12)))
    ids = draw(st.lists(st.integers(0, 2**31 - 1), min_size=n, max_size=n))
    n_positions = draw(st.integers(start + count, 4 * PAGE_POSITIONS))
    temperature = draw(st.sampled_from((0.0, 0.5)))
    rest = draw(st.lists(st.sampled_from((0.0, 0.25, 40.0)), min_size=8, max_size=8))
    return ids, start, count, draw(st.integers(0, min(count, 6))), n_positions, (temperature, *rest)


@given(
    drawn=st.lists(chunk(), min_size=1, max_size=4),
    windows=st.lists(st.sampled_from((0, 20, 50)), min_size=1, max_size=3),
    n_columns=st.integers(2, 8),
)
@settings(deadline=None)
def test_fill_step(drawn, windows, n_columns):
    manager = BlockManager([(100, 100, window) for window in windows])
    step = Arrays(48, 4, 24, 4, len(windows), n_columns)
    chunks = [
        (sequence(manager, ids, n_positions, start, sampling[: n_columns - 1]), start, count, n_outputs)
        for ids, start, count, n_outputs, n_positions, sampling in drawn
    ]
    fill_step(StepViews(step), chunks)
    ids, positions, seqs, rows, sampling = [], [], [], [], []
    for q, (s, start, count, n_outputs) in enumerate(chunks):
        for i in range(count):
            if i >= count - n_outputs:
                rows.append(len(ids))
                sampling.append((*s.sampling, s.uniform(start + i) if s.sampling[0] else 0.0))
            ids.append(s.token_ids[start + i])
            positions.append(start + i)
            seqs.append(q)
        assert step.seq_starts[q] == len(ids) - count
        assert step.kv_lens[q] == start + count
        for group in range(len(windows)):
            pages = s.table.pages(group).tolist()
            assert step.block_tables[group * 4 + q].tolist() == pages + [-7] * (4 - len(pages))
    for group in range(len(windows)):  # no row of a sequence that is not there
        assert (step.block_tables[group * 4 + len(chunks) : group * 4 + 4] == -7).all()
    assert (step.n_tokens, step.n_seqs, step.n_outputs) == (len(ids), len(chunks), len(rows))
    assert step.seq_starts[len(chunks)] == len(ids)
    assert step.token_ids[: len(ids)].tolist() == ids
    assert step.positions[: len(ids)].tolist() == positions
    assert step.token_seqs[: len(ids)].tolist() == seqs
    assert step.output_rows[: len(rows)].tolist() == rows
    assert np.array_equal(step.sampling[: len(rows)], np.array(sampling, np.float32).reshape(-1, n_columns))


def test_fill_step_writes_the_step_of_a_program():
    step = Step(8, 2, 3, 2)
    s = sequence(BlockManager([(4, 4, 0)]), range(5), 5)
    fill_step(StepViews(step), [(s, 2, 3, 1)])
    assert (step.n_tokens, step.n_seqs, step.n_outputs) == (3, 1, 1)
    assert step.token_ids[:3].tolist() == step.positions[:3].tolist() == [2, 3, 4]
    assert (step.block_tables[0, 0], step.kv_lens[0], step.output_rows[0]) == (0, 5, 2)
    assert step.sampling[0].tolist() == [*GREEDY, 0.0]


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        ([(4, 0, 5, 1)], "starts at 0 with 5 tokens and 1 outputs, its sequence has 4 tokens"),
        ([(4, 4, 1, 1)], "starts at 4 with 1 tokens and 1 outputs, its sequence has 4 tokens"),
        ([(4, -1, 2, 1)], "starts at -1 with 2 tokens"),
        ([(4, 0, 0, 0)], "starts at 0 with 0 tokens"),
        ([(4, 0, 2, 3)], "with 2 tokens and 3 outputs"),
        ([(40, 32, 1, 1)], "ends at position 33 with 1 pages of 32, wanted enough and at most 2"),
        ([(9, 0, 9, 1)], "9 tokens, 1 sequences and 1 outputs, room is for 8, 2 and 3"),
        ([(4, 0, 4, 0), (5, 0, 5, 0)], "9 tokens, 2 sequences and 0 outputs, room is for 8, 2 and 3"),
        ([(1, 0, 1, 0)] * 3, "3 tokens, 3 sequences and 0 outputs, room is for 8, 2 and 3"),
        ([(4, 0, 4, 4)], "4 tokens, 1 sequences and 4 outputs, room is for 8, 2 and 3"),
    ],
)
def test_fill_step_never_writes_past_its_arrays(chunks, message):
    manager, views = BlockManager([(8, 8, 0)]), StepViews(Step(8, 2, 3, 2))
    with pytest.raises(ValueError, match=f"fill_step: .*{message}"):
        fill_step(views, [(sequence(manager, range(n), 1), *rest) for n, *rest in chunks])


def test_fill_step_refuses_what_its_arrays_are_not_made_for():
    one, two = BlockManager([(8, 8, 0)]), BlockManager([(8, 8, 0), (8, 8, 64)])
    with pytest.raises(ValueError, match="ends at position 1 with 3 pages of 32, wanted enough"):
        fill_step(StepViews(Step(8, 2, 3, 2)), [(sequence(one, [1], 65), 0, 1, 1)])
    with pytest.raises(ValueError, match="a block table has 2 groups, the step has 1"):
        fill_step(StepViews(Step(8, 2, 3, 2)), [(sequence(two, [1], 1), 0, 1, 1)])
    with pytest.raises(ValueError, match="a block table has 1 groups, the step has 2"):
        fill_step(StepViews(Arrays(8, 2, 3, 2, 2)), [(sequence(one, [1], 1), 0, 1, 1)])
    with pytest.raises(ValueError, match=f"has 2 sampling parameters, wanted {N_COLUMNS - 1}"):
        fill_step(StepViews(Step(8, 2, 3, 2)), [(sequence(one, [1], 1, sampling=(0.0, 0.0)), 0, 1, 1)])
