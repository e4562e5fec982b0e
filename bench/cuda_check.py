"""Verifies and times the CUDA kernels on the GPU of this machine: make cuda-check.

    python bench/cuda_check.py --probe    says whether there is a GPU; needs nothing but Python
    python bench/cuda_check.py            tests, compute-sanitizer, times; writes build/cuda/report.md

The tests are those that run the kernels without a GPU, on the device; the report stands next to what
bench/cuda_model.py predicts.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
REPORT = ROOT / "build/cuda/report.md"
SANITIZERS = ("memcheck", "racecheck", "synccheck")
SANITIZED = ("tests/cuda/test_decoder.py", "-k", "test_prefill_and_decode and (f16 or q4_0)")
"""Every kernel of a decoder once: a sanitizer slows a kernel down a hundredfold."""


def missing_device() -> str:
    """Why no GPU can be used, by the driver's own library; empty if one can."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no NVIDIA driver was found: its library libcuda.so.1 is missing"
    if error := driver.cuInit(0):
        return f"the NVIDIA driver cannot be used: cuInit gives {error}"
    n_devices = ctypes.c_int()
    driver.cuDeviceGetCount(ctypes.byref(n_devices))
    return "" if n_devices.value else "the NVIDIA driver found no GPU that this process may use"


def verify() -> tuple[bool, str]:
    """The tests of the kernels on the device."""
    environment = {**os.environ, "LANNER_CUDA_LEVEL": "device"}
    command = [sys.executable, "-m", "pytest", "-q", "-m", "cuda", "tests/cuda"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    print(done.stdout[-4000:])
    return done.returncode == 0, done.stdout.strip().splitlines()[-1]


def sanitize() -> list[tuple[str, str]]:
    """(tool, what it found) of compute-sanitizer."""
    tool = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    if tool is None:
        return [("compute-sanitizer", "not installed")]
    environment = {**os.environ, "LANNER_CUDA_LEVEL": "device"}
    found = []
    for name in SANITIZERS:
        command = [
            tool,
            "--tool",
            name,
            "--error-exitcode",
            "9",
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-m",
            "cuda",
        ]
        done = subprocess.run(
            [*command, *SANITIZED], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        lines = [line for line in done.stdout.splitlines() if "ERROR SUMMARY" in line or " passed" in line]
        found.append((name, "; ".join(lines) or f"exit code {done.returncode}"))
        print(name, found[-1][1])
    return found


def report(info: dict[str, object], tests: str, sanitized: list[tuple[str, str]], times: str) -> str:
    """The report in Markdown."""
    import cuda_model

    lines = [
        f"# CUDA kernels on {info['name']} (sm_{info['sm_version']}, {info['n_sms']} multiprocessors)",
        f"\nTests on the device: {tests}\n",
        *(f"- {tool}: {what}" for tool, what in sanitized),
        "\n## Measured\n",
        times,
        "\n## Predicted\n",
        cuda_model.tables(),
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Exit code 0: all is well; 1: a test failed; 2: there is no GPU."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--probe", action="store_true", help="say whether there is a GPU, and end")
    args = parser.parse_args()
    missing = missing_device()
    if missing or args.probe:
        print(f"cuda-check: {missing or 'there is a GPU'}", file=sys.stderr if missing else sys.stdout)
        return 2 if missing else 0
    from lanner.cuda.library import library

    info = library().device_info()
    passed, tests = verify()
    sanitized = sanitize()
    import cuda_times

    text = report(info, tests, sanitized, cuda_times.tables(library()))
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(text)
    print(text, f"\nwritten to {REPORT}", sep="")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
