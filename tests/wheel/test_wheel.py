"""The wheel of `make wheel`: what it is made of, and that it runs where nothing but it is installed.

Old processors are qemu-user's: Nehalem has no AVX, Haswell has AVX2 and no AVX-512.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recorded_calls import Call, all_calls, save

import vocabulary
from conftest import golden
from gguf_writer import gguf_bytes
from lanner import _core
from tiny_llama import MODELS, Tiny, contents

pytestmark = pytest.mark.wheel

ROOT, HERE = Path(__file__).parents[2], Path(__file__).parent
MAX_BYTES = 15 << 20
# Of glibc and of the runtime that NumPy needs as well; anything else would have to travel along.
NEEDED = {"libc.so.6", "libm.so.6", "libpthread.so.0", "ld-linux-x86-64.so.2", "libgcc_s.so.1"}
QEMU = "qemu-x86_64-static"
PROCESSORS = {"Nehalem": "baseline", "Haswell": "avx2"}
ISAS = ["avx512", "avx2", "baseline"]
LIMIT_S = 280  # for what takes a minute: only a hang is that long
SURE_MARGIN = 0.3


# ---- what the wheel is ---------------------------------------------------------------------------


def tool(name: str) -> str:
    """Where a tool of the machine is. Skips without it unless LANNER_REQUIRE_TOOLS is set."""
    if found := shutil.which(name):
        return found
    if os.environ.get("LANNER_REQUIRE_TOOLS"):
        pytest.fail(f"{name} is not installed, and LANNER_REQUIRE_TOOLS is set")
    pytest.skip(f"{name} is not installed")


@pytest.fixture(scope="session")
def wheel() -> Path:
    """The file that LANNER_WHEEL names, else the one that `make wheel` left in dist."""
    if named := os.environ.get("LANNER_WHEEL"):
        return Path(named)
    (found,) = (ROOT / "dist").glob("*.whl")
    return found


@pytest.fixture(scope="session")
def modules(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The extension modules of the wheel, by name."""
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return {path.name.split(".")[0]: path for path in folder.rglob("*.so*")}


def test_the_tag_is_the_lowest_that_auditwheel_proves(wheel: Path) -> None:
    command = [Path(sys.executable).parent / "auditwheel", "show", wheel]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    proved = re.search(r'consistent with\s+the\s+following\s+platform\s+tag:\s+"(manylinux_\w+)"', shown)
    assert proved, shown
    name, version, python, abi, platform = wheel.stem.split("-")
    assert name == "lanner"
    assert proved[1] in platform.split(".")
    assert python == abi == f"cp{sys.version_info.major}{sys.version_info.minor}"
    with zipfile.ZipFile(wheel) as archive:
        about = archive.read(f"lanner-{version}.dist-info/WHEEL").decode()
    assert f"Tag: {python}-{abi}-{proved[1]}" in about.splitlines()


def test_what_is_inside(wheel: Path) -> None:
    assert wheel.stat().st_size < MAX_BYTES
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
    package = [name for name in names if name.startswith("lanner/")]
    about = f"lanner-{wheel.stem.split('-')[1]}.dist-info/"
    assert all(name.startswith(("lanner/", about)) for name in names)
    texts = [name for name in package if name.endswith(".txt")]
    assert texts == ["lanner/bench/prompt.txt"]  # what `lanner bench` gives models to read
    assert {Path(name).suffix for name in package} == {".py", ".pyi", ".so", ".typed", ".txt"}
    sources = {path.relative_to(ROOT / "python").as_posix() for path in ROOT.glob("python/lanner/**/*.py")}
    assert sources == {name for name in package if name.endswith(".py")}
    assert f"{about}licenses/LICENSE" in names


def test_libraries_and_symbols(modules: dict[str, Path]) -> None:
    from elftools.elf.elffile import ELFFile

    assert set(modules) == {"_core", "_blocks"}
    for name, path in modules.items():
        with path.open("rb") as file:
            elf = ELFFile(file)
            dynamic = list(elf.get_section_by_name(".dynamic").iter_tags())
            symbols = list(elf.get_section_by_name(".dynsym").iter_symbols())
            is_stripped = elf.get_section_by_name(".symtab") is None
        assert {tag.needed for tag in dynamic if tag.entry.d_tag == "DT_NEEDED"} <= NEEDED
        assert not [tag for tag in dynamic if tag.entry.d_tag in ("DT_RPATH", "DT_RUNPATH", "DT_TEXTREL")]
        exported = [symbol.name for symbol in symbols if symbol["st_shndx"] != "SHN_UNDEF"]
        assert exported == [f"PyInit_{name}"]
        assert is_stripped


def test_every_instruction_set_is_inside(modules: dict[str, Path]) -> None:
    """By the registers and one instruction of each: the emulator runs two of the three."""
    command = [tool("objdump"), "-d", "--no-show-raw-insn", modules["_core"]]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert all(text.count(name) > 1000 for name in ("%zmm", "%ymm", "%xmm"))
    assert re.search(r"vpdpbusd .*%zmm", text)
    assert re.search(r"vfmadd\w+ .*%ymm", text)
    assert re.search(r"\tmulps ", text)


# ---- where nothing else is installed -------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """An environment that holds the wheel and what it depends on; a processor of QEMU, or this machine's."""

    folder: Path
    processor: str | None = None

    def python(self, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs Python with nothing of this process around it: no variables, no folder of the sources."""
        emulator = [shutil.which(QEMU), "-cpu", self.processor] if self.processor else []
        return subprocess.run(
            [*emulator, self.folder / "bin/python", "-I", *map(str, arguments)],
            env={"PATH": str(self.folder / "bin"), "HOME": str(self.folder)} | variables,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )

    def json(self, *arguments: object) -> dict[str, Any]:
        done = self.python(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="session")
def empty(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment made of wheels alone, as pip installs them where there is no compiler."""
    folder = tmp_path_factory.mktemp("place") / "empty"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [folder / "bin/python", "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "install", "--only-binary", ":all:", wheel], check=True)
    return folder


@pytest.fixture(scope="session", params=["here", *PROCESSORS])
def place(request: pytest.FixtureRequest, empty: Path) -> Place:
    if request.param == "here":
        return Place(empty)
    tool(QEMU)
    return Place(empty, request.param)


def isa_of(place: Place) -> str:
    """The set that must run there."""
    return PROCESSORS[place.processor] if place.processor else _core.runnable_isas()[0]


# vxorps ymm0, ymm0, ymm0; ret
AVX = """
import ctypes, mmap
page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(bytes.fromhex("c5fc57c0c3"))
ctypes.CFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
print("ran")
"""


def test_an_old_processor_has_no_avx(place: Place) -> None:
    """The emulator refuses what the processor lacks: else the tests below would prove nothing."""
    done = place.python("-c", AVX)
    if isa_of(place) == "baseline":
        assert done.returncode == -signal.SIGILL
    else:
        assert done.stdout == "ran\n", done.stderr


def test_the_sets_that_can_run(place: Place) -> None:
    runs = place.python("-c", "import lanner; print(lanner.isa())")
    assert (runs.returncode, runs.stdout) == (0, f"{isa_of(place)}\n"), runs.stderr
    forced = place.python("-c", "import lanner; lanner.isa()", LANNER_ISA="neon")
    assert forced.returncode == 1
    sets = ", ".join(ISAS[ISAS.index(isa_of(place)) :])
    assert f"LANNER_ISA is 'neon', this machine and build can run: {sets}\n" in forced.stderr


# ---- every operation -----------------------------------------------------------------------------


@pytest.fixture(scope="session")
def calls() -> list[Call]:
    return all_calls()


@pytest.fixture(scope="session")
def recorded(calls: list[Call], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("calls") / "calls.npz"
    save(path, calls)
    return path


def test_every_operation_keeps_its_bound(place: Place, recorded: Path, calls: list[Call]) -> None:
    told = place.json(HERE / "run_calls.py", recorded)
    assert (told["isa"], told["calls"]) == (isa_of(place), len(calls))
    assert set(told["worst"]) == {call.op for call in calls}
    assert all(0 <= share <= 1 for share in told["worst"].values())


def test_the_replay_notices(empty: Path, calls: list[Call], tmp_path: Path) -> None:
    """An operation that is never called, an error of twice the bound, a wrong bit."""
    for message, changed in {
        "never called: logsumexp, topk": [c for c in calls if c.op not in ("logsumexp", "topk")],
        "silu: off by": [shifted(c) if c.op == "silu" else c for c in calls],
        "dequantize: the result is not exact": [flipped(c) if c.op == "dequantize" else c for c in calls],
    }.items():
        save(tmp_path / "calls.npz", changed)
        done = Place(empty).python(HERE / "run_calls.py", tmp_path / "calls.npz")
        assert done.returncode == 1
        assert message in done.stderr


def shifted(call: Call) -> Call:
    (wanted, bound), *rest = call.results
    return replace(call, results=((wanted + 2.1 * bound, bound), *rest))


def flipped(call: Call) -> Call:
    (wanted, bound), *rest = call.results
    other = wanted.copy()
    other.view(np.uint8).reshape(-1)[-4] ^= 1
    return replace(call, results=((other, bound), *rest))


# ---- text ----------------------------------------------------------------------------------------

FLOATS = replace(MODELS["heads_of_20"], vocab=len(vocabulary.TOKENS))
CODES = replace(MODELS["heads_of_16"], vocab=len(vocabulary.TOKENS))


@pytest.mark.parametrize(("tiny", "limit"), [(FLOATS, 2e-5), (CODES, 5e-4)], ids=["floats", "codes"])
def test_generates_with_a_small_model(place: Place, tmp_path: Path, tiny: Tiny, limit: float) -> None:
    """Greedy tokens are those of the logits, and the logits those of float64 (limits: test_program.py)."""
    metadata, tensors, reference = contents(tiny)
    path, logits_path = tmp_path / "tiny.gguf", tmp_path / "logits.npy"
    path.write_bytes(gguf_bytes(metadata | vocabulary.METADATA, tensors))
    told = place.json(HERE / "run_generate.py", path, "hello there", 12, logits_path)
    check_place(place, told)
    tokens, n_prompt, logits = told["tokens"], len(told["prompt_ids"]), np.load(logits_path)
    assert len(tokens) == 12
    assert tokens == logits[n_prompt - 1 : -1].argmax(axis=1).tolist()
    wanted = reference.logits(told["prompt_ids"] + tokens)
    error = np.abs(logits - wanted).max(axis=1) / wanted.std()
    assert (error.max() if tiny is FLOATS else np.median(error)) < limit


def test_generates_with_a_real_model(place: Place, smollm2_path: Path, golden_prompts: list[str]) -> None:
    """The tokens of an independent implementation, up to the first close call (test_golden.py)."""
    reference = golden("smollm2-135m-q4_1")
    n_sure = int(np.flatnonzero(reference["p0_margin"] < SURE_MARGIN)[0])
    assert n_sure >= 4
    told = place.json(HERE / "run_generate.py", smollm2_path, golden_prompts[0], n_sure)
    check_place(place, told)
    assert told["prompt_ids"] == reference["p0_ids"].tolist()
    assert told["tokens"] == reference["p0_greedy"][:n_sure].tolist()
    assert told["text"].startswith(" Paris")


def check_place(place: Place, told: dict[str, Any]) -> None:
    assert told["isa"] == isa_of(place)
    assert Path(told["package"]).is_relative_to(place.folder)
    assert told["compilers"] == []


def test_the_command_runs(empty: Path, tmp_path: Path) -> None:
    metadata, tensors, _ = contents(FLOATS)
    (tmp_path / "tiny.gguf").write_bytes(gguf_bytes(metadata | vocabulary.METADATA, tensors))
    command = [empty / "bin/lanner", "run", tmp_path / "tiny.gguf", "hello", "--max-tokens", "8"]
    done = subprocess.run(command, env={"PATH": ""}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout
