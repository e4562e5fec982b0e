"""The cross-compiled kernels for AArch64, run by qemu, give the bits of the same sources on this machine.

`make test-neon` builds the runner and runs this file twice: with the emulated NEON, whose results the NEON of
the runner must have, and with the baseline.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from recorded import all_cases, read_records, write_record

from lanner import _core

RUNNER = os.environ.get("LANNER_NEON_RUNNER")
pytestmark = pytest.mark.neon

COUNTERPARTS = {"neon_emulated": "neon", "baseline": "baseline"}
CASES = all_cases() if RUNNER else []


def run(cases: bytes, folder: Path, isa: str = "", cpu: str = "max") -> subprocess.CompletedProcess[str]:
    (folder / "cases").write_bytes(cases)
    command = [
        "qemu-aarch64-static",
        "-cpu",
        cpu,
        str(RUNNER),
        str(folder / "cases"),
        str(folder / "results"),
    ]
    environment = {"LANNER_ISA": isa} if isa else {}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, bytes]]:
    folder = tmp_path_factory.mktemp("neon")
    isa = COUNTERPARTS[_core.isa()]
    done = run(b"".join(write_record(case.fields) for case in CASES), folder, isa)
    assert (done.returncode, done.stderr) == (0, "")
    about, *results = read_records((folder / "results").read_bytes())
    assert about == {"isa": isa.encode()}
    assert len(results) == len(CASES)
    return results


def assert_same_bits(given: bytes, wanted: np.ndarray, name: str) -> None:
    """Processors differ in the sign of the NaN that they make: a NaN equals any other."""
    wanted = np.ascontiguousarray(wanted).ravel()
    assert len(given) == wanted.nbytes, name
    got = np.frombuffer(given, wanted.dtype)
    if wanted.dtype.kind == "f":
        nan = np.isnan(wanted)
        assert np.isnan(got[nan]).all(), name
        got, wanted = got[~nan], wanted[~nan]
    np.testing.assert_array_equal(got.view(np.uint8), wanted.view(np.uint8), err_msg=name)


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda n: str(CASES[n]))
def test_the_bits_are_those_of_this_machine(number: int, results: list[dict[str, bytes]]) -> None:
    case, given = CASES[number], results[number]
    wanted = case.wanted()
    assert wanted.keys() <= given.keys()
    for name, value in wanted.items():
        assert_same_bits(given[name], value, name)


@pytest.mark.parametrize(
    ("cpu", "isa"), [("max", "neon"), ("cortex-a76", "neon"), ("cortex-a53", "baseline")]
)
def test_the_best_set_of_the_processor_is_chosen(cpu: str, isa: str, tmp_path: Path) -> None:
    assert run(b"", tmp_path, cpu=cpu).returncode == 0
    assert list(read_records((tmp_path / "results").read_bytes())) == [{"isa": isa.encode()}]


def test_a_set_that_the_processor_lacks_is_refused(tmp_path: Path) -> None:
    done = run(b"", tmp_path, "neon", "cortex-a53")
    assert done.returncode == 1
    assert done.stderr == "LANNER_ISA is 'neon', this machine and build can run: baseline\n"
