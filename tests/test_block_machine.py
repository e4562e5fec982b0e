"""Sequences come, grow, fork and leave at random: the block manager does what a plain model does."""

from __future__ import annotations

import random
from array import array
from dataclasses import dataclass, field
from itertools import combinations, product

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from block_model import BlockModel, ModelTable
from lanner._blocks import BlockManager, BlockTable
from lanner._core import PAGE_POSITIONS as PAGE

N_RUNS = 2000
LONGEST = 7 * PAGE


@st.composite
def group(draw, window):
    n_pages = draw(st.integers(2, 12))
    return n_pages, draw(st.integers(1, n_pages)), window


WINDOW = st.sampled_from((2, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE + 2))
GROUPS = st.one_of(
    st.tuples(group(0)),
    st.tuples(group(0), WINDOW.flatmap(group)),
    st.tuples(WINDOW.flatmap(group)),
    st.tuples(group(0), group(PAGE), WINDOW.flatmap(group)),
)
# Pages of equal tokens, mostly one to three, the last one whole or not: many prompts begin like another one.
CODES = [*range(2, 16)] * 3 + [*range(16, 64)]
WORDS = [f"{code:b}"[1:] for code in CODES]
PROMPTS = [[int(word) for word in words for _ in range(PAGE)][cut:] for words in WORDS for cut in (0, 3)]
WHICH = range(5)
WHO = [who for n in (1, 2, 3) for who in combinations(WHICH, n)]

# What a rule may do, drawn as one: Hypothesis takes longer for every draw than for all that follows from it.
COME = list(product(PROMPTS, (0, 1), (1, 1, 2), (False, True)))
FORK = list(product(WHICH, (0, 0, 1, 2, PAGE), (0, 1), (False, True)))
EVENTS = (None, None, None, None, "leave", "stop")
STEP = list(product(WHO, (1, 2, PAGE - 1, PAGE, 3 * PAGE, 7 * PAGE), (0, 1), (0, 0, 0, 1, 2), EVENTS))


@dataclass
class Running:
    """A sequence. What the cache should hold at a position is a value of all ids up to there."""

    table: BlockTable
    model: ModelTable
    ids: list[int] = field(default_factory=list)
    values: list[int] = field(default_factory=list)
    n_cached: int = 0

    def extend(self, ids):
        for id in ids:
            self.values.append(hash((self.values[-1] if self.values else 0, id)))
            self.ids.append(id)


class Machine(RuleBasedStateMachine):
    n_runs = n_hits = n_copies = 0

    @initialize(groups=GROUPS)
    def make(self, groups):
        Machine.n_runs += 1
        self.real, self.model = BlockManager(groups), BlockModel(groups)
        self.memory = [[[None] * PAGE for _ in range(n_pages)] for n_pages, _, _ in groups]
        self.running: list[Running] = []

    @rule(how=st.sampled_from(COME))
    def come(self, how):
        prompt, n_less, n, is_computed = how
        for _ in range(n):
            s = Running(self.real.table(), self.model.table())
            s.extend(prompt)
            s.n_cached = self.real.match(s.table, array("i", s.ids), len(s.ids) - n_less)
            assert s.n_cached == self.model.match(s.model, s.ids, len(s.ids) - n_less)
            Machine.n_hits += s.n_cached > 0
            self.join(s)
        if is_computed:
            self.run(self.running[-n:], LONGEST)

    @precondition(lambda self: self.running)
    @rule(how=st.sampled_from(FORK))
    def fork(self, how):
        which, n_back, word, is_computed = how
        s = self.running[which % len(self.running)]
        n = max(0, s.n_cached - n_back)
        table, model = self.real.fork(s.table, n), self.model.fork(s.model, n)
        assert (table is None) == (model is None)
        if table is not None:
            t = Running(table, model, n_cached=n)
            t.extend([*s.ids[:n], word])
            self.join(t)
            if is_computed:
                self.run([t], 1)

    def join(self, s):
        self.running.append(s)
        if len(self.running) > 5:
            self.release(0)

    @precondition(lambda self: self.running)
    @rule(how=st.sampled_from(STEP))
    def step(self, how):
        who, n, word, n_refused, event = how
        picked = {which % len(self.running): self.running[which % len(self.running)] for which in who}
        self.run(picked.values(), n, word, n_refused, event)

    def run(self, sequences, n, word=0, n_refused=0, event=None):
        """Makes room, lets one leave if the event is so, copies, writes and keeps what is not refused."""
        fitting = []
        for s in sequences:
            end = min(s.n_cached + n, len(s.ids) if len(s.ids) > s.n_cached else LONGEST)
            if end > s.n_cached:
                s.extend([word] * (end - len(s.ids)))
                fits = self.real.reserve(s.table, s.n_cached, end)
                assert fits == self.model.reserve(s.model, s.n_cached, end)
                if fits:
                    fitting.append((s, end))
        if event == "leave":
            gone = self.release(0)
            fitting = [(s, end) for s, end in fitting if s is not gone]
        self.copy()
        if event == "stop":
            return
        for s, end in fitting:
            self.write(s, end)
        for s, end in fitting:
            s.n_cached = max(s.n_cached, end - n_refused)
            if s.n_cached < end:
                del s.ids[s.n_cached :], s.values[s.n_cached :]
            self.real.commit(s.table, array("i", s.ids), s.n_cached)
            self.model.commit(s.model, s.ids, s.n_cached)

    def copy(self):
        copies, self.model.copies = self.model.copies, []
        assert self.real.take_copies() == copies
        Machine.n_copies += len(copies)
        for g, source, target in copies:
            self.memory[g][target] = list(self.memory[g][source])

    def write(self, s, end):
        for g, memory in enumerate(self.memory):
            pages = s.table.pages(g)
            for p in range(s.n_cached, end):
                memory[pages[p // PAGE]][p % PAGE] = s.values[p]

    @precondition(lambda self: self.running)
    @rule(which=st.sampled_from(WHICH))
    def leave(self, which):
        self.release(which)

    def release(self, which):
        s = self.running.pop(which % len(self.running))
        self.real.release(s.table)
        self.model.release(s.model)
        assert s.table.is_empty
        return s

    @rule(sure=st.integers(0, 9))
    def clear_cache(self, sure):
        if sure == 7:
            self.real.clear_cache()
            self.model.clear_cache()

    @invariant()
    def is_as_the_model(self):
        assert self.real.has_room(self.real.table(), 3 * PAGE) == self.model.has_room(3 * PAGE)
        for g, pool in enumerate(self.model.pools):
            assert self.real.n_free(g) == self.model.n_free(g)
            assert self.real.n_cached_pages(g) == len(pool.cached)
            for s in self.running:
                assert s.table.pages(g).tolist() == s.model.rows[g]
                assert s.table.n_pages(g) == len(s.model.used(g))

    @invariant()
    def every_token_that_is_seen_is_in_the_cache(self):
        for s in self.running:
            for g, pool in enumerate(self.model.pools):
                first = max(0, s.n_cached - pool.window + 1) if pool.window else 0
                row = s.table.pages(g)
                held = [value for page in row[first // PAGE :] for value in self.memory[g][page]]
                seen = held[first % PAGE : s.n_cached - first // PAGE * PAGE]
                assert seen == s.values[first : s.n_cached]

    def teardown(self):
        while getattr(self, "running", None):
            self.release(0)
        if hasattr(self, "real"):
            self.real.clear_cache()
            assert all(self.real.n_cached_pages(g) == 0 for g in range(len(self.memory)))
            assert all(self.real.n_free(g) == len(memory) for g, memory in enumerate(self.memory))


def test_block_manager_does_what_its_model_does():
    how = settings(max_examples=N_RUNS, stateful_step_count=20, deadline=None)
    run_state_machine_as_test(Machine, settings=how)
    assert Machine.n_runs >= N_RUNS
    assert Machine.n_hits > N_RUNS / 4  # sequences worth the name
    assert Machine.n_copies > N_RUNS / 10


@pytest.mark.parametrize("seed", range(8))
def test_long_runs(seed):
    """Hundreds of operations on dozens of pages: as deep as Hypothesis does not go."""
    rng, m = random.Random(seed), Machine()
    windows = rng.choice([(0,), (0, 40), (64, 100), (0, 32, 90)])
    m.make([(rng.randint(8, 40), rng.randint(1, 8), window) for window in windows])
    for _ in range(400):
        action = rng.random()
        if action < 0.25 or not m.running:
            m.come(rng.choice(COME))
        elif action < 0.35:
            m.fork(rng.choice(FORK))
        elif action < 0.5:
            m.leave(rng.choice(WHICH))
        else:
            m.step(rng.choice(STEP))
        m.is_as_the_model()
        m.every_token_that_is_seen_is_in_the_cache()
    m.teardown()
