"""Traces of profiles, in the Trace Event Format of Chrome."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from lanner._recording import phases_of

if TYPE_CHECKING:
    import os

    from lanner._recording import RecordedStep

_SHORTEST_WAIT_NS = 100
"""What a barrier costs where nobody waits; the claim of a next range takes less."""


def write_trace(path: str | os.PathLike[str], steps: Sequence[RecordedStep]) -> None:
    """Writes a file with a track for steps and their phases, and one for each thread."""
    with open(path, "w", encoding="utf-8") as file:
        file.write('{"displayTimeUnit": "ms", "traceEvents": [\n')
        for i, event in enumerate(_events(steps)):
            file.write((",\n" if i else "") + json.dumps(event))
        file.write("\n]}\n")


def _events(steps: Sequence[RecordedStep]) -> Iterator[dict[str, Any]]:
    n_threads = len(steps[0].step.spans)
    yield _name("process_name", 0, "lanner")
    for track, name in enumerate(["steps", *(f"thread {id}" for id in range(n_threads))]):
        yield _name("thread_name", track, name)
    origin_ns, left_ns = steps[0].step.called_ns, steps[0].step.called_ns
    for each in steps:
        step = each.step
        if step.called_ns > left_ns:
            yield _slice("Python", "python", 0, left_ns - origin_ns, step.called_ns - origin_ns)
        left_ns = step.left_ns
        yield _slice(
            each.section, "step", 0, step.begin_ns - origin_ns, step.end_ns - origin_ns,
            n_tokens=step.n_tokens, n_seqs=step.n_seqs, n_outputs=step.n_outputs,
            is_complete=step.is_complete,
        )  # fmt: skip
        yield from _phase_events(each, origin_ns)
        for id in range(len(step.spans)):
            yield from _thread_events(each, id, origin_ns)


def _phase_events(each: RecordedStep, origin_ns: int) -> Iterator[dict[str, Any]]:
    """Each phase by the name of the instruction that took longest in it."""
    phases = phases_of(each.program, each.step)
    begin_ns = phases.first_ns
    for index, (end_ns, heaviest) in enumerate(
        zip(phases.ends_ns.tolist(), phases.heaviest.tolist(), strict=True)
    ):
        if end_ns > begin_ns:
            name = each.program.names[heaviest]
            yield _slice(name, "phase", 0, begin_ns - origin_ns, end_ns - origin_ns, phase=index)
        begin_ns = end_ns


def _thread_events(each: RecordedStep, id: int, origin_ns: int) -> Iterator[dict[str, Any]]:
    program, step, track = each.program, each.step, 1 + id
    costs = step.costs.tolist()
    last_ns = step.begin_ns
    for index, begin_ns, end_ns in [*step.spans[id].tolist(), (None, step.end_ns, step.end_ns)]:
        if begin_ns - last_ns >= _SHORTEST_WAIT_NS:
            yield _slice("wait", "wait", track, last_ns - origin_ns, begin_ns - origin_ns)
        if index is not None:
            n_bytes, n_flops = costs[index]
            yield _slice(
                program.names[index], program.ops[index], track, begin_ns - origin_ns, end_ns - origin_ns,
                phase=int(program.phases[index]), n_bytes=n_bytes, n_flops=n_flops,
            )  # fmt: skip
        last_ns = end_ns


def _name(what: str, track: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "pid": 0, "tid": track, "name": what, "args": {"name": name}}


def _slice(name: str, kind: str, track: int, begin_ns: int, end_ns: int, **args: object) -> dict[str, Any]:
    """A complete event; its times are microseconds."""
    return {
        "ph": "X", "pid": 0, "tid": track, "name": name, "cat": kind, "ts": begin_ns / 1e3,
        "dur": (end_ns - begin_ns) / 1e3, "args": args,
    }  # fmt: skip
