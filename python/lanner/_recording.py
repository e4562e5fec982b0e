"""Profiles are made here: programs note their times while a request runs, and the times are added up."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from lanner import _core
from lanner._records import dataclass
from lanner.profile import IN_PYTHON, IN_STEP, Profile, ProfileRow, ProfileSection

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from lanner.decoder import Decoder
    from lanner.encoder import Encoder
    from lanner.program import Program
    from lanner.seq2seq import Seq2Seq


@dataclass(frozen=True, eq=False)
class ProgramList:
    """What a trace says about the instructions of a program. No weights: a profile outlives its model."""

    names: tuple[str, ...]
    ops: tuple[str, ...]
    phases: npt.NDArray[np.intp]
    rows: tuple[tuple[str, str], ...]
    """(name, op) of the row of each instruction: its name without the number of the layer."""


class Part(NamedTuple):
    """A program of a model, and the sections of a profile that its first and its later steps belong to."""

    program: Program
    first: str
    later: str


class RecordedStep(NamedTuple):
    """A step of a program."""

    section: str
    program: ProgramList
    step: _core.StepProfile


def record(
    model: Decoder | Seq2Seq | Encoder, run: Callable[[], None], *, warm_up: Callable[[], None] | None = None
) -> Profile:
    """The profile of `run()`, which makes `model` step and comes back when it has.

    `warm_up()` goes before. Profiles take turns.
    """
    from lanner._doctor import speed_with

    if getattr(model, "device", "cpu") != "cpu":
        raise _core.DeviceError("profile: steps of a GPU are not recorded; make cuda-check times its kernels")
    parts = _parts(model)
    with _turn:
        if warm_up is not None:
            warm_up()
        steps, begin_ns, end_ns = _recorded(parts, run)
    if not steps:
        raise ValueError("profile: no step was run; wanted a prompt, and max_tokens of at least 1")
    speed = speed_with(model.n_threads)
    assert speed is not None
    wall_s = (end_ns - begin_ns - sum(_overhead_ns(each.step) for each in steps)) / 1e9
    return Profile(speed, wall_s, _sections(steps, begin_ns, end_ns), tuple(steps))


def _parts(model: Decoder | Seq2Seq | Encoder) -> list[Part]:
    from lanner.decoder import Decoder
    from lanner.seq2seq import Seq2Seq

    if isinstance(model, Decoder):
        return [Part(model.program, "prefill", "decode")]
    if isinstance(model, Seq2Seq):
        return [Part(model.encoder, "encode", "encode"), Part(model.program, "decode", "decode")]
    return [Part(model.program, "encode", "encode")]


# --- recording ----------------------------------------------------------------------------------------------
_turn = threading.Lock()
_profiling: list[Program] = []


def _recorded(parts: list[Part], run: Callable[[], None]) -> tuple[list[RecordedStep], int, int]:
    """The steps of a run in order, when it began and when it ended."""
    with _profiled([part.program for part in parts]):
        begin_ns = time.perf_counter_ns()
        run()
        end_ns = time.perf_counter_ns()
    steps = [step for part in parts for step in _steps(part, begin_ns, end_ns)]
    return sorted(steps, key=lambda each: each.step.called_ns), begin_ns, end_ns


@contextmanager
def _profiled(programs: list[Program]) -> Iterator[None]:
    """Programs that note their times meanwhile. Steps of other callers that run now are noted as well."""
    _profiling.extend(programs)
    try:
        for program in programs:
            program.core.take_profile()  # a step that another profile no longer waited for
            program.core.enable_profile(True)
        yield
    finally:
        for program in programs:
            program.core.enable_profile(False)
        _profiling.clear()


def _forget_in_child() -> None:
    global _turn
    _turn = threading.Lock()
    for program in _profiling:
        program.core.enable_profile(False)
    _profiling.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)


def _steps(part: Part, begin_ns: int, end_ns: int) -> Iterator[RecordedStep]:
    import numpy as np

    instructions = part.program.instructions
    listed = ProgramList(
        names=tuple(i.name for i in instructions),
        ops=tuple(i.op for i in instructions),
        phases=np.array([i.phase for i in instructions]),
        rows=tuple((re.sub(r"^([A-Z])\d+\.", r"\1*.", i.name), i.op) for i in instructions),
    )
    has_output = False
    for step in part.program.core.take_profile():
        if begin_ns <= step.called_ns and step.left_ns <= end_ns:
            # One token each, and it is not the last one of a first prompt.
            is_later = has_output and step.n_tokens == step.n_outputs
            has_output |= step.n_outputs > 0
            yield RecordedStep(part.later if is_later else part.first, listed, step)


# --- adding up ----------------------------------------------------------------------------------------------
class Phases(NamedTuple):
    """The phases of a step: when each ended, and which of its instructions took longest."""

    first_ns: int
    ends_ns: npt.NDArray[np.int64]
    heaviest: npt.NDArray[np.intp]
    busy_ns: npt.NDArray[np.int64]
    """By instruction, the sum over all threads."""


def phases_of(program: ProgramList, step: _core.StepProfile) -> Phases:
    """When the phases of a step ended; one that was not reached ends with the last that was."""
    import numpy as np

    n_phases = int(program.phases[-1]) + 1
    spans = np.concatenate(step.spans)
    first_ns = int(spans[:, 1].min()) if len(spans) else step.end_ns
    ends_ns = np.full(n_phases, first_ns)
    np.maximum.at(ends_ns, program.phases[spans[:, 0]], spans[:, 2])
    busy_ns = np.zeros(len(program.phases), np.int64)
    np.add.at(busy_ns, spans[:, 0], spans[:, 2] - spans[:, 1])
    by_phase = np.lexsort((busy_ns, program.phases))
    heaviest = by_phase[np.searchsorted(program.phases[by_phase], np.arange(n_phases), side="right") - 1]
    return Phases(first_ns, np.maximum.accumulate(ends_ns), heaviest, busy_ns)


class _Sums:
    """What has been added up of a section."""

    def __init__(self) -> None:
        self.n_steps = self.n_tokens = 0
        self.rows: dict[tuple[str, str], list[float]] = {}  # calls, ns, ns of waiting, bytes, FLOPs
        self.step_ns = self.python_ns = 0

    def add(self, program: ProgramList, step: _core.StepProfile) -> None:
        import numpy as np

        n_threads = len(step.spans)
        phases = phases_of(program, step)
        lengths = np.diff(phases.ends_ns, prepend=phases.first_ns)
        busy_by_phase = np.bincount(program.phases, phases.busy_ns, len(lengths))
        waiting_ns = np.zeros(len(program.rows))
        waiting_ns[phases.heaviest] = lengths - busy_by_phase / n_threads
        has_run = np.zeros(len(program.rows), bool)
        has_run[np.concatenate(step.spans)[:, 0]] = True
        own = np.stack([has_run, phases.busy_ns / n_threads, waiting_ns, *(step.costs.T * has_run)], axis=1)
        for key, values in zip(program.rows, own.tolist(), strict=True):
            sums = self.rows.setdefault(key, [0.0] * 5)
            for i, value in enumerate(values):
                sums[i] += value
        self.step_ns += phases.first_ns - step.begin_ns + step.end_ns - int(phases.ends_ns[-1])
        self.n_steps += 1
        self.n_tokens += step.n_tokens

    def section(self, name: str) -> ProfileSection:
        rows = [
            ProfileRow(row, op, int(calls), ns / 1e9, waiting_ns / 1e9, n_bytes, n_flops)
            for (row, op), (calls, ns, waiting_ns, n_bytes, n_flops) in self.rows.items()
            if calls
        ]
        rows.append(ProfileRow(IN_STEP, "", self.n_steps, self.step_ns / 1e9, 0.0, 0.0, 0.0))
        rows.append(ProfileRow(IN_PYTHON, "", self.n_steps, self.python_ns / 1e9, 0.0, 0.0, 0.0))
        return ProfileSection(name, self.n_steps, self.n_tokens, tuple(rows))


def _sections(steps: list[RecordedStep], begin_ns: int, end_ns: int) -> tuple[ProfileSection, ...]:
    sums: dict[str, _Sums] = {}
    left_ns = begin_ns
    for name, program, step in steps:
        of = sums.setdefault(name, _Sums())
        of.add(program, step)
        of.python_ns += step.called_ns - left_ns
        left_ns = step.left_ns
    sums[steps[-1].section].python_ns += end_ns - left_ns
    return tuple(of.section(name) for name, of in sums.items())


def _overhead_ns(step: _core.StepProfile) -> int:
    """What profiling took around a step; inside, it only reads the clock."""
    return step.begin_ns - step.called_ns + step.left_ns - step.end_ns
