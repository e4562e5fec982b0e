"""device="cuda" where there is no GPU, and what the CPU must not notice of it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import lanner
from lanner.cuda import library

IS_BUILT = importlib.util.find_spec("lanner._cuda") is not None


def missing() -> str:
    """Why there is no GPU."""
    if not IS_BUILT:
        return library.BUILT_WITHOUT
    try:
        library.library().device_info()
    except lanner.DeviceError as error:
        return str(error)
    pytest.skip("there is a GPU")


def test_what_is_missing_is_named(smollm2_path: Path) -> None:
    text = missing()
    assert "built without CUDA" in text or "driver" in text or "no code for sm_" in text
    with pytest.raises(lanner.DeviceError) as raised:
        lanner.load(smollm2_path, device="cuda")
    assert str(raised.value) == text


def test_a_library_that_is_none_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (tmp_path / "nothing.so", tmp_path):
        monkeypatch.setenv("LANNER_CUDA_LIBRARY", str(path))
        with pytest.raises(lanner.DeviceError, match="is no extension module"):
            library.library()
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"no ELF")
    monkeypatch.setenv("LANNER_CUDA_LIBRARY", str(broken))
    with pytest.raises(lanner.DeviceError, match="cannot be loaded"):
        library.library()


def test_doctor_tells_of_the_gpu() -> None:
    assert library.describe() == f"none: {missing()}"


def test_the_cpu_loads_nothing_of_it(smollm2_path: Path) -> None:
    script = (
        "import sys, lanner; m = lanner.load(sys.argv[1], context=64); m.generate('a', max_tokens=2); "
        "print([n for n in sys.modules if n.startswith('lanner.') and 'cuda' in n])"
    )
    made = subprocess.run(
        [sys.executable, "-c", script, str(smollm2_path)], capture_output=True, text=True, check=True
    )
    assert made.stdout.strip() == "[]"


def test_kv_types_of_a_gpu_are_not_those_of_the_cpu(smollm2_path: Path) -> None:
    with pytest.raises(ValueError, match="kv_dtype is 'bf16'"):
        lanner.load(smollm2_path, kv_dtype="bf16")
    with pytest.raises(ValueError, match="kv_dtype is 'f16', wanted 'bf16' with device='cuda'"):
        lanner.load(smollm2_path, kv_dtype="f16", device="cuda")
