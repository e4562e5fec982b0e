"""Machine code of every kernel on every architecture against the table of gates."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

import sass
import toolkit
from gates import TABLE, Gate, gate_of, problems, resident_blocks, tensor_share
from gpus import SMS
from sass import SassKernel, Step, in_flight


@pytest.fixture(scope="module")
def everything() -> dict[str, list[SassKernel]]:
    """The kernels of every unit."""
    return {unit: kernels.result() for unit, kernels in sass.all_units().items()}


@pytest.mark.parametrize("unit", [u.stem for u in toolkit.units()])
def test_machine_code(everything: dict[str, list[SassKernel]], unit: str) -> None:
    found = []
    for kernel in everything[unit]:
        gate = gate_of(kernel)
        if gate is None:
            found.append(f"{kernel.name} has no row in the table of gates")
        else:
            found += [f"{kernel.name} on sm_{kernel.arch} {p}" for p in problems(kernel, gate)]
    assert not found, "\n" + "\n".join(dict.fromkeys(found))


def test_rows_are_of_kernels(everything: dict[str, list[SassKernel]]) -> None:
    used = {id(gate_of(k)) for unit in toolkit.units() for k in everything[unit.stem]}
    assert [g.pattern for g in TABLE if id(g) not in used] == []


# --- the gates catch what is planted ----------------------------------------------------------------------


def planted(everything: dict[str, list[SassKernel]], name: str, gate: Gate) -> list[list[str]]:
    """Problems of a planted kernel, by architecture."""
    found = [list(problems(k, gate)) for k in everything[sass.PLANTED.stem] if k.name == f"{name}_kernel"]
    assert len(found) == len(toolkit.ARCHES)
    return found


def test_spills_are_caught(everything: dict[str, list[SassKernel]]) -> None:
    for found in planted(everything, "spilling", Gate("*", 255, 1)):
        assert [p for p in found if "local memory" in p]


def test_narrow_loads_are_caught(everything: dict[str, list[SassKernel]]) -> None:
    for found in planted(everything, "narrow", Gate("*", 255, 1, needs=("LDG.E.128",))):
        assert found == ["has no LDG.E.128"]


def test_loads_that_wait_for_one_another_are_caught(everything: dict[str, list[SassKernel]]) -> None:
    # 64 KB of shared memory leave one block to an SM with 100 KB and two or three to the others.
    gate = Gate("*", 255, 1, shared=64 * 1024, saturates=True)
    assert sum(any("keep DRAM busy" in p for p in f) for f in planted(everything, "waiting", gate)) == 6


def test_loads_under_way_are_counted(everything: dict[str, list[SassKernel]]) -> None:
    kernels = {k.arch: k for k in everything[sass.PLANTED.stem] if k.name == "streaming_kernel"}
    assert {k.bytes_in_flight() for k in kernels.values()} <= {7 * 16, 8 * 16}
    gate = Gate("*", 255, 1, saturates=True)
    assert not any(planted(everything, "streaming", gate))


def test_starving_tensor_cores_are_caught(everything: dict[str, list[SassKernel]]) -> None:
    gate = Gate("*", 255, 1, tensor={"80": 0.5, "90a": 0.5})
    found = planted(everything, "starving", gate)
    assert sum(any("leaves tensor cores" in p for p in f) for f in found) == 2


def test_warnings_of_ptxas_are_caught(everything: dict[str, list[SassKernel]]) -> None:
    (kernel,) = everything[sass.PLANTED_SM90.stem]
    warnings = [p for p in problems(kernel, Gate("*", 255, 1)) if p.startswith("has a warning")]
    assert len(warnings) == 1 and "wgmma.mma_async instructions are serialized" in warnings[0]


def test_ignored_register_counts_are_warnings() -> None:
    said = "ptxas info    : (C7508) Potential Performance Loss: 'setmaxnreg' ignored; no count at entry.\n"
    assert sass.WARNING.findall(said) == ["'setmaxnreg' ignored; no count at entry"]


def test_registers_and_blocks_are_caught(everything: dict[str, list[SassKernel]]) -> None:
    for found in planted(everything, "streaming", Gate("*", 16, 33)):
        assert [p.split()[0] for p in found] == ["takes", "fits"]


# --- what reads the machine code --------------------------------------------------------------------------


def test_peak_of_groups_of_copies() -> None:
    copy = Step("LDGSTS.E.BYPASS.128", "[R1][R2.64]", "")
    loop = [
        Step("DEPBAR.LE", "SB0,0x2", ""), copy, copy, Step("LDGDEPBAR", "", ""), Step("@", "R9", "@!PT"),
    ]  # fmt: skip
    assert in_flight(loop) == 3 * 32
    deep = [Step("DEPBAR.LE", "SB0,0xa", ""), *loop[1:]]
    assert in_flight(deep) == 11 * 32


def test_peak_of_loads() -> None:
    loads = [Step("LDG.E.128.CONSTANT", f"R{r},[R40.64]", "") for r in (4, 8, 12)]
    use = Step("FADD", "R20,R5,R20", "")
    late = Step("FADD", "R20,R13,R20", "")
    assert in_flight([*loads, use, late]) == 48
    assert in_flight([loads[0], use, loads[1], late]) == 32


@pytest.mark.parametrize(
    ("n", "share"),
    # Cycles for products, and 128 bytes a clock of operands: 4 KB read for 64 rows, and 3 KB written.
    [(64, 32 / (7 * 1024 / 128)), (256, 1.0)],
)
def test_shared_memory_holds_up_narrow_wgmma(n: int, share: float) -> None:
    loop = [Step(f"HGMMA.64x{n}x16.F32.BF16", "R24,gdesc[UR8],R24", "")] * 4
    branch = Step("BRA", "0x0", "P0")
    kernel = SassKernel("", "", "90a", "", 168, 0, 0, 384, [], [*loop, branch])
    assert tensor_share(kernel) == pytest.approx(share)


@pytest.fixture(scope="module")
def toolkit_count() -> ctypes.CDLL:
    source = toolkit.ROOT / "tests/cuda/occupancy.cpp"
    flags = ("-O1", "-shared", "-cudart", "none", "-Xcompiler", "-fPIC")

    def make(out: Path) -> None:
        toolkit.run([toolkit.tool("nvcc"), *flags, source, "-o", out])

    library = toolkit.cached(source, "occupancy", ".so", make)
    return ctypes.CDLL(str(library))


@pytest.mark.parametrize("arch", SMS)
def test_resident_blocks_as_the_toolkit_counts(toolkit_count: ctypes.CDLL, arch: str) -> None:
    sm = SMS[arch]
    major, minor = divmod(int(arch.rstrip("a")), 10)
    for threads in (32, 64, 96, 128, 192, 256, 384, 512, 1024):
        for registers in range(16, 256, 9):
            for shared in (0, 1, 1024, 5000, 16384, 33000, 49152, 65536, 98304):
                wanted = toolkit_count.blocks_per_sm(
                    major, minor, sm.threads, sm.shared, threads, registers, shared
                )
                assert sm.resident(threads, registers, shared) == wanted, (threads, registers, shared)


def test_kernels_fit_at_all(everything: dict[str, list[SassKernel]]) -> None:
    assert all(resident_blocks(k, 0) for kernels in everything.values() for k in kernels)
