"""Machine code of the kernels for every architecture: compiled, disassembled, and what can be read off it."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import toolkit


@dataclass(frozen=True)
class Step:
    """One instruction. `registers`: the numbers of the general registers among its operands, in order."""

    opcode: str
    operands: str
    predicate: str

    @cached_property
    def registers(self) -> tuple[int, ...]:
        return tuple(int(r) for r in re.findall(r"(?<![A-Z])R(\d+)", self.operands))

    @cached_property
    def target(self) -> int | None:
        """The number of the instruction that a branch goes to."""
        found = re.search(r"0x([0-9a-f]+)$", self.operands) if self.opcode.startswith("BRA") else None
        return int(found[1], 16) // 16 if found else None

    @cached_property
    def dead(self) -> bool:
        return self.predicate == "@!PT"


@dataclass
class SassKernel:
    symbol: str
    name: str  # with its template arguments, without namespaces and parameters
    arch: str
    unit: str
    registers: int
    stack: int
    spills: int
    max_threads: int
    warnings: list[str]  # of ptxas, about performance
    steps: list[Step] = field(repr=False)

    def count(self, prefix: str, steps: list[Step] | None = None) -> int:
        return sum(
            s.opcode.startswith(prefix) and not s.dead for s in (self.steps if steps is None else steps)
        )

    @cached_property
    def bodies(self) -> list[tuple[int, list[Step]]]:
        """Where each innermost loop begins, and all that is in it."""
        spans = []
        for end, step in enumerate(self.steps):
            target = step.target
            if target is not None and target <= end:
                spans.append((target, end + 1))
        inner = [s for s in spans if not any(o != s and s[0] <= o[0] and o[1] <= s[1] for o in spans)]
        # The endless jump to itself behind the code is no loop.
        return [(a, self.steps[a:b]) for a, b in inner if b - a > 1]

    @cached_property
    def loops(self) -> list[list[Step]]:
        """One turn of each innermost loop: by the branches that leave out most, but no memory or product."""
        return [_turn(body, start) for start, body in self.bodies]

    def main_loop(self, prefix: str) -> list[Step]:
        """The innermost loop with most instructions of the kind. Empty without one."""
        found = [loop for loop in self.loops if self.count(prefix, loop)]
        return max(found, key=lambda loop: self.count(prefix, loop), default=[])

    def bytes_in_flight(self) -> int:
        """Most bytes that a lane has asked of global memory at once, in the loop that asks for most."""
        return self._peak

    @cached_property
    def _peak(self) -> int:
        return max(in_flight(loop) for loop in self.loops or [self.steps])


WORK = ("HMMA", "IMMA", "HGMMA", "LDGSTS", "LDG", "LDSM", "STG")


def _turn(body: list[Step], start: int) -> list[Step]:
    """The shortest way through the body among those with most instructions of WORK."""
    n = len(body)
    cost, after = [0] * (n + 1), [n] * n
    for i in range(n - 1, -1, -1):
        step = body[i]
        leaves = step.opcode in ("BRA", "EXIT") and not step.predicate and "P" not in step.operands
        ways = [] if leaves else [i + 1]
        if step.target is not None and i < step.target - start <= n:
            ways.append(step.target - start)
        after[i] = min(ways, key=lambda way: cost[way], default=n)
        work = step.opcode.startswith(WORK) and not step.dead
        cost[i] = cost[after[i]] + (1 - 100_000 * work)
    turn, i = [], 0
    while i < n:
        turn.append(body[i])
        i = after[i]
    return turn


WIDTHS = {"128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}


def load_bytes(opcode: str) -> int:
    return next((WIDTHS[part] for part in opcode.split(".") if part in WIDTHS), 4)


GROUPS_LEFT = re.compile(r"SB0,0x([0-9a-f]+)")
"""Of a wait for groups of copies."""


def in_flight(loop: list[Step]) -> int:
    """Peak after the first turn. Loads return in order, so one that is used has let the earlier ones arrive.

    Groups of copies count from their issue until a wait leaves fewer groups than lie behind them. Where there
    are copies, they alone count: what is loaded beside them are activations, which the caches have.
    """
    copies = any(step.opcode.startswith("LDGSTS") for step in loop)
    loads: list[tuple[set[int], int]] = []  # registers, bytes
    groups: list[int] = [0]  # bytes; the last is open
    peak = 0
    waits = [
        int(m[1], 16) for s in loop if (m := GROUPS_LEFT.search(s.operands)) and s.opcode.startswith("DEPBAR")
    ]
    for turn in range(3 + max(waits, default=0)):  # until as many groups are under way as there can be
        for step in loop:
            if step.dead:
                continue
            touched = set(step.registers)
            last = max((i for i, (into, _) in enumerate(loads) if into & touched), default=-1)
            del loads[: last + 1]
            if step.opcode.startswith("LDGSTS"):
                groups[-1] += load_bytes(step.opcode)
            elif step.opcode.startswith("LDGDEPBAR"):
                groups.append(0)
            elif step.opcode.startswith("DEPBAR") and (left := GROUPS_LEFT.search(step.operands)):
                del groups[: max(0, len(groups) - 1 - int(left[1], 16))]
            elif step.opcode.startswith("LDG") and step.registers and not copies:
                n_bytes = load_bytes(step.opcode)
                first = step.registers[0]
                loads.append((set(range(first, first + max(1, n_bytes // 4))), n_bytes))
            if turn:
                peak = max(peak, sum(n for _, n in loads) + sum(groups))
    return peak


# --- compiling --------------------------------------------------------------------------------------------

ENTRY = re.compile(
    r"Compiling entry function '(\w+)' for 'sm_(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
    r"(\d+) bytes spill loads.*?Used (\d+) registers",
    re.S,
)
WARNING = re.compile(r"Potential Performance Loss: (.*?)\.?$", re.M)
"""Of wgmma that is serialized and setmaxnreg that is ignored. Some name their function."""
KEPT = ".2.json"
"""Another number where what is kept of a kernel changes."""


@cache
def kernels(unit: Path) -> list[SassKernel]:
    """Every kernel of the unit on every architecture it is for."""
    path = toolkit.cached(unit, "sass", KEPT, lambda out: _disassemble(unit, out))
    return [
        SassKernel(**{**k, "steps": [Step(*s) for s in k["steps"]]}) for k in json.loads(path.read_text())
    ]


PLANTED = toolkit.ROOT / "tests/cuda/planted_sass.cu"
PLANTED_SM90 = toolkit.ROOT / "tests/cuda/planted_sass_sm90.cu"


@cache
def all_units() -> dict[str, Future[list[SassKernel]]]:
    """The kernels of every unit, compiled beside what else runs."""
    pool = ThreadPoolExecutor(2)
    return {unit.stem: pool.submit(kernels, unit) for unit in [*toolkit.units(), PLANTED, PLANTED_SM90]}


def _disassemble(unit: Path, out: Path) -> None:
    codes = {"90a": ("90a",)} if toolkit.is_sm90(unit) else toolkit.CODES
    generate = [
        f"-gencode=arch=compute_{ptx},code=[{','.join(f'sm_{a}' for a in arches)}]"
        for ptx, arches in codes.items()
    ]
    names: dict[str, str] = {}
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / f"{unit.stem}.cu"
        source.write_text(f'#include "{unit}"\n')
        keep = ("-fatbin", "-Xptxas", "-v", "--keep", "--keep-dir", folder)
        said = toolkit.run(
            [toolkit.tool("nvcc"), *toolkit.FLAGS, *generate, *keep, source, "-o", f"{folder}/fat"]
        )
        for ptx, arches in codes.items():
            # nvcc names the architecture only where there are several.
            stem = f"{folder}/{unit.stem}" + (f".compute_{ptx}" if len(codes) > 1 else "")
            text = Path(f"{stem}.ptx").read_text()
            for arch in arches:
                cubin = f"{stem}.sm_{arch}.cubin" if len(arches) > 1 else f"{stem}.cubin"
                listing = json.loads(toolkit.run([toolkit.tool("nvdisasm"), "-json", cubin]))[1]
                found += _kernels(unit, arch, listing, said, text, names)
    out.write_text(json.dumps(found))


def _kernels(
    unit: Path, arch: str, functions: list[Any], said: str, ptx: str, names: dict[str, str]
) -> Iterator[dict[str, Any]]:
    used = {(m[1], m[2]): [int(m[i]) for i in range(3, 7)] for m in ENTRY.finditer(said)}
    warnings = WARNING.findall(said)
    threads = dict(re.findall(r"\.entry (\w+)\([^{]*?\.maxntid (\d+)", ptx))
    for function in functions:
        symbol = function["function-name"]
        stack, stores, loads, registers = used[symbol, arch]
        steps = [
            (s["opcode"], s.get("operands", ""), s.get("predicate", ""))
            for s in function["sass-instructions"]
        ]
        yield {"symbol": symbol, "name": names.setdefault(symbol, short_name(symbol)), "arch": arch,
               "unit": unit.stem, "registers": registers, "stack": stack, "spills": stores + loads,
               "max_threads": int(threads[symbol]), "steps": steps,
               "warnings": [w for w in warnings if symbol in w or "function" not in w]}  # fmt: skip


def short_name(symbol: str) -> str:
    """`skinny_kernel<4, true>` of the mangled name."""
    filt = shutil.which("c++filt")
    whole = toolkit.run([filt, symbol]).strip() if filt else symbol
    whole = re.sub(r"\b(?:lanner|cuda)::", "", whole.removeprefix("void "))
    whole = re.sub(r"\(\w+\)(?=-?\w)", "", whole)  # casts of enums
    depth = 0
    for i, c in enumerate(whole):
        depth += (c == "<") - (c == ">")
        if c == "(" and not depth:
            return whole[:i]
    return whole
