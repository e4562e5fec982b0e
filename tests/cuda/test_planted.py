"""Mistakes planted in small kernels: the emulation finds each, and nothing in the right kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from conftest import SCHEDULES
from emulation import planted
from lanner import DeviceError
from values import from_bf16, to_bf16

RNG = np.random.default_rng(11)
SMALL = to_bf16(RNG.standard_normal((100, 192))), to_bf16(RNG.standard_normal((72, 192)))
WIDE = to_bf16(RNG.standard_normal((100, 256))), to_bf16(RNG.standard_normal((136, 256)))
ROWS = (RNG.standard_normal((3, 2048)) * 10 ** RNG.uniform(-3, 3, (3, 2048))).astype(np.float32)


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return from_bf16(a).astype(np.float64) @ from_bf16(b).astype(np.float64).T


FAMILIES: dict[str, tuple[Callable[[str], np.ndarray], np.ndarray]] = {
    "gemm": (lambda variant: planted().gemm(variant, *SMALL), product(*SMALL)),
    "sums": (lambda variant: planted().sums(variant, ROWS, 4), ROWS.astype(np.float64).sum(1)),
    "wgmma": (lambda variant: planted().wgmma(variant, *WIDE), product(*WIDE)),
}


@pytest.fixture(params=SCHEDULES, ids=lambda s: f"{s['order']}-{s['copies']}")
def schedule(request: pytest.FixtureRequest) -> dict[str, Any]:
    return dict(request.param)


class Outcome:
    """One run: kinds of violations, their messages, the counters, and how wrong the result is."""

    def __init__(self, family: str, variant: str, schedule: dict[str, Any]) -> None:
        run, wanted = FAMILIES[family]
        emulator = planted().emulator
        emulator.configure(sm_version=90, count_banks=True, **schedule)
        emulator.report(), emulator.counters()
        self.result: np.ndarray | None = None
        try:
            self.result = run(variant)
        except (RuntimeError, DeviceError) as error:
            self.error = str(error)
        violations = emulator.report()
        self.kinds = {v["kind"] for v in violations}
        self.messages = [v["message"] for v in violations]
        self.counters = emulator.counters()
        if self.result is not None:
            self.worst = float(np.max(np.abs(self.result - wanted))) / float(np.max(np.abs(wanted)))
            self.is_right = self.worst < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_right_kernels(family: str, schedule: dict[str, Any]) -> None:
    outcome = Outcome(family, "none", schedule)
    assert outcome.messages == []
    assert outcome.is_right, outcome.worst
    if family == "gemm":
        assert outcome.counters["shared wavefronts"] > 0
        assert "extra shared wavefronts" not in outcome.counters


@pytest.mark.parametrize(
    ("family", "variant"), [*((f, "none") for f in FAMILIES), ("wgmma", "ordinary_stores")]
)
def test_right_kernels_give_the_same_bits(family: str, variant: str) -> None:
    assert len({bytes(Outcome(family, variant, s).result) for s in SCHEDULES}) == 1


FOUND = [
    ("gemm", "no_barrier_after_wait", "race"),
    ("gemm", "weak_wait", "pending"),
    ("gemm", "no_barrier_before_refill", "race"),
    ("gemm", "store_past_end", "bounds"),
    ("gemm", "short_shared", "bounds"),
    ("sums", "divergent_shuffle", "deadlock"),
    ("sums", "divergent_collectives", "divergent"),
    ("sums", "divergent_barrier", "race"),
    ("sums", "no_barrier", "race"),
    ("sums", "no_fence", "blocks"),
    ("sums", "early_fence", "blocks"),
    ("sums", "same_bytes", "blocks"),
    ("sums", "unwritten", "unwritten"),
    ("sums", "misaligned", "misaligned"),
    ("sums", "before_kernel_ahead", "ahead"),
    ("sums", "atomic_and_store", "blocks"),
    ("wgmma", "no_wait_for_empty", "race deadlock"),
    ("wgmma", "no_wait_for_full", "race"),
    ("wgmma", "half_the_bytes", "deadlock"),
    ("wgmma", "wrong_count", "deadlock"),
    ("wgmma", "early_release", "race"),
    ("wgmma", "no_init_fence", "proxy"),
    ("wgmma", "ordinary_stores_unfenced", "proxy"),
    ("wgmma", "no_wgmma_fence", "wgmma"),
    ("wgmma", "extra_arrival", "arrivals deadlock race"),
]
"""Found under every schedule, as one of these kinds."""


@pytest.mark.parametrize(("family", "variant", "kinds"), FOUND)
def test_mistakes_are_found(family: str, variant: str, kinds: str, schedule: dict[str, Any]) -> None:
    outcome = Outcome(family, variant, schedule)
    assert outcome.kinds & set(kinds.split()), outcome.messages


@pytest.mark.parametrize(("family", "variant"), [("gemm", "wrong_fragment"), ("wgmma", "wrong_step")])
def test_wrong_layouts_give_wrong_results(family: str, variant: str, schedule: dict[str, Any]) -> None:
    outcome = Outcome(family, variant, schedule)
    assert outcome.messages == []
    assert not outcome.is_right


def test_banks_without_swizzle(schedule: dict[str, Any]) -> None:
    """Eight rows of 128 bytes lie in the same banks: eight wavefronts for each matrix instead of one."""
    outcome = Outcome("gemm", "no_swizzle", schedule)
    assert outcome.is_right
    matrices = 2 * 2 * 3 * 4 * 4 * (4 + 8 * 2)  # blocks, steps, steps of 16 in them, warps, of a and of b
    assert outcome.counters["extra shared wavefronts"] == 7 * matrices


def test_order_of_arrival_changes_bits() -> None:
    """Nothing races, but a sum in the order in which blocks arrive depends on the schedule."""
    outcomes = [Outcome("sums", "order_of_arrival", s) for s in SCHEDULES]
    assert len({bytes(o.result) for o in outcomes}) > 1


def test_touched_accumulators() -> None:
    """Lazy wgmma shows it; eager ones have the result at once."""
    for s in SCHEDULES:
        assert ("wgmma" in Outcome("wgmma", "touched", s).kinds) == (s["wgmma"] == "lazy")


def test_each_delivery_hides_a_mistake() -> None:
    """Without the checks, a weak wait is right with eager copies, a refill too early with lazy ones."""
    wrong = {
        (variant, copies): not Outcome("gemm", variant, {"copies": copies, "checks": False}).is_right
        for variant in ("weak_wait", "no_barrier_before_refill")
        for copies in ("lazy", "eager")
    }
    assert wrong == {
        ("weak_wait", "lazy"): True,
        ("weak_wait", "eager"): False,
        ("no_barrier_before_refill", "lazy"): False,
        ("no_barrier_before_refill", "eager"): True,
    }


def test_messages_name_both_places() -> None:
    race = next(
        m for m in Outcome("gemm", "no_barrier_before_refill", SCHEDULES[0]).messages if "read them" in m
    )
    assert race.count("gemm.cuh:") == 2
    assert "planted_gemm_kernel" in race
    deadlock = Outcome("sums", "divergent_shuffle", SCHEDULES[0])
    assert "wait in shuffle_xor at sums.cuh:" in deadlock.error
    assert "wait in sync_block at sums.cuh:" in deadlock.error
