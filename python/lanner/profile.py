"""Where the time of a request went, operation by operation: what `Model.profile` gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lanner._records import dataclass, field

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from lanner._doctor import Speed
    from lanner._recording import RecordedStep
    from lanner.engine import Engine
    from lanner.prompts import TokenIds

IN_STEP = "begin and end of steps"
IN_PYTHON = "Python between steps"


@dataclass(frozen=True, slots=True)
class ProfileRow:
    """One operation, in all layers and all steps.

    Seconds are sums over the threads divided by their number, so that all rows together give the time that
    passed. `waiting_s` passed at barriers that ended a phase in which this operation took longest. Bytes and
    FLOPs are those that must move and happen, however good the kernel, as in `Program.dump`.
    """

    name: str
    op: str
    calls: int
    time_s: float
    waiting_s: float
    n_bytes: float
    n_flops: float

    @property
    def bytes_per_s(self) -> float:
        """Bytes per second while it was computed; 0 where no time passed."""
        return self.n_bytes / self.time_s if self.time_s else 0.0

    @property
    def flops_per_s(self) -> float:
        """FLOPs per second while it was computed; 0 where no time passed."""
        return self.n_flops / self.time_s if self.time_s else 0.0


@dataclass(frozen=True, slots=True)
class ProfileSection:
    """The steps of one kind: "prefill" or "decode" of a decoder, "encode" of an encoder.

    `rows` has the operations in the order in which they run, then what happens in a step before and after all
    of them (checks, threads that wake up), then Python between the steps.
    """

    name: str
    n_steps: int
    n_tokens: int
    rows: tuple[ProfileRow, ...]

    @property
    def wall_s(self) -> float:
        """Seconds that passed."""
        return sum(row.time_s + row.waiting_s for row in self.rows)

    @property
    def waiting_s(self) -> float:
        """Seconds at barriers, summed over the threads and divided by their number."""
        return sum(row.waiting_s for row in self.rows)

    @property
    def n_bytes(self) -> float:
        """Bytes that all steps moved."""
        return sum(row.n_bytes for row in self.rows)

    @property
    def n_flops(self) -> float:
        """FLOPs of all steps."""
        return sum(row.n_flops for row in self.rows)

    def verdict(self, speed: Speed) -> str:
        """What its time is bound by, without the full stop."""
        limits = [self._memory(speed), self._arithmetic(speed), self._waiting(), self._outside()]
        share, measured, limit = max(limits)
        # From a half on, it explains more of the time than all else together.
        bound = f"bound by {limit}" if share >= 0.5 else f"no limit is near, the nearest is {limit}"
        return f"{self.name} {measured}: {bound}"

    # Share of a limit, what was measured, and the limit.
    def _memory(self, speed: Speed) -> tuple[float, str, str]:
        rate, limit = self.n_bytes / self.wall_s, speed.read_bandwidth
        did = f"moves {_number(self.n_bytes / self.n_steps / 1e6)} MB {self._each}"
        peak = f"{_number(limit / 1e9)} that {threads(speed)} read from memory"
        return (
            rate / limit,
            f"{did} at {_number(rate / 1e9)} GB/s, {rate / limit:.0%} of the {peak}",
            "memory",
        )

    def _arithmetic(self, speed: Speed) -> tuple[float, str, str]:
        rate, limit = self.n_flops / self.wall_s, 2 * speed.fma
        did = f"computes {_number(self.n_flops / self.n_steps / 1e9)} GFLOP {self._each}"
        peak = f"{_number(limit / 1e9)} of float32 multiply-adds on {threads(speed)}"
        return (
            rate / limit,
            f"{did} at {_number(rate / 1e9)} GFLOP/s, {rate / limit:.0%} of the {peak}",
            "arithmetic",
        )

    def _waiting(self) -> tuple[float, str, str]:
        share, worst = self.waiting_s / self.wall_s, max(self.rows, key=lambda row: row.waiting_s)
        most = f"most of it behind {worst.name} ({worst.waiting_s / self.wall_s:.0%})"
        return share, f"waits at barriers for {share:.0%} of its time, {most}", "waiting"

    def _outside(self) -> tuple[float, str, str]:
        share = sum(row.time_s for row in self.rows if not row.op) / self.wall_s
        return share, f"spends {share:.0%} of its time outside of operations", "what is around them"

    @property
    def _each(self) -> str:
        return "a token" if self.n_tokens == self.n_steps else "a step"


@dataclass(frozen=True)
class Profile:
    """Where the time of a request went; `str()` of it is a table, `verdict` a sentence.

    `speed` has the limits of the machine with as many threads; `lanner.doctor(refresh=True)` measures them
    anew. What memory delivers is exceeded by values that stay in caches, float32 multiply-adds by integer
    ones. `wall_s` is the time of the request without that which profiling took between steps.
    """

    speed: Speed
    wall_s: float
    sections: tuple[ProfileSection, ...]
    steps: tuple[RecordedStep, ...] = field(repr=False)

    @property
    def verdict(self) -> str:
        """What each section is bound by."""
        return "; ".join(section.verdict(self.speed) for section in self.sections) + "."

    def __getitem__(self, name: str) -> ProfileSection:
        """The section of that name; KeyError where there is none."""
        for section in self.sections:
            if section.name == name:
                return section
        raise KeyError(name)

    def __str__(self) -> str:
        from lanner._profile_table import table

        return "\n\n".join([*(table(section, self.speed) for section in self.sections), self.verdict])

    def to_chrome(self, path: str | os.PathLike[str]) -> None:
        """Writes every step, phase and instruction as a trace that ui.perfetto.dev and chrome://tracing open.

        A track has the steps and their phases, and each thread one of its own. About 150 bytes for each
        instruction, thread and step. Raises OSError where the file cannot be written.
        """
        from lanner._trace import write_trace

        write_trace(path, self.steps)


class Profiled:
    """Models that continue texts, as far as they can be profiled."""

    _engine: Engine | None
    _generations: Any
    _results: Any

    def profile(
        self, prompt: str | TokenIds | Sequence[str] | Sequence[TokenIds], *, max_tokens: int | None = None
    ) -> Profile:
        """Runs a request, greedily and past end tokens, and tells where its time went.

        The prompt is computed twice: the first time also pays for memory and code that nobody used before.
        What other threads ask of the model meanwhile is counted as well.

        Args:
            prompt: as for `generate`; of a list, all are continued together. An encoder embeds it.
            max_tokens: at least 1, by default 16; an encoder takes none.

        Raises:
            ValueError: an argument.
            RuntimeError: the model is closed.
        """
        from lanner._recording import record
        from lanner.prompts import is_list_of_prompts
        from lanner.sampling import SamplingParams

        if self._engine is None:
            raise RuntimeError("profile: the model is closed")
        n = 16 if max_tokens is None else max_tokens
        many = is_list_of_prompts(prompt)
        prompts = [(f"prompt[{i}]", each) for i, each in enumerate(prompt)] if many else [("prompt", prompt)]

        def run(n: int) -> None:
            params = SamplingParams(max_tokens=n, ignore_eos=True)
            samples = [self._generations("profile", name, each, params) for name, each in prompts]
            for (generation,) in samples:
                generation.shares_pages = False  # the prompt is computed, whatever the cache has of it
            self._results("profile", samples)

        return record(self._engine.decoder, lambda: run(n), warm_up=lambda: run(min(n, 2)))


def threads(speed: Speed) -> str:
    """How many threads have this speed."""
    return "1 thread" if speed.n_threads == 1 else f"{speed.n_threads} threads"


def _number(x: float) -> str:
    """Three digits."""
    return f"{x:.0f}" if x >= 100 else f"{x:.1f}" if x >= 10 else f"{x:.2f}"
