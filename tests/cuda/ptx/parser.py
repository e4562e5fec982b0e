"""Parses the PTX that nvcc emits: kernels as lists of instructions, and the variables of the module.

No macro language, no functions: the kernels are inlined whole. What is not understood raises PtxError.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np


class PtxError(Exception):
    """PTX that the interpreter does not know, or that does what a GPU forbids."""


TYPES: dict[str, type[np.generic]] = {
    "pred": np.bool_,
    **{f"{kind}{bits}": getattr(np, f"uint{bits}") for kind in "bu" for bits in (8, 16, 32, 64)},
    **{f"s{bits}": getattr(np, f"int{bits}") for bits in (8, 16, 32, 64)},
    "f32": np.float32,
    "f64": np.float64,
    "f16": np.uint16,
    "bf16": np.uint16,
    "f16x2": np.uint32,
    "bf16x2": np.uint32,
}
"""NumPy's type of a PTX type. Halves are kept as bits."""


@dataclass(frozen=True)
class Register:
    index: int
    dtype: type[np.generic]
    negated: bool = False


@dataclass(frozen=True)
class Immediate:
    """`value` is an integer, or a float with its bits given in PTX."""

    value: int | np.float32 | np.float64


@dataclass(frozen=True)
class Name:
    """A variable and a distance in bytes, a special register, or a label."""

    name: str
    offset: int = 0


@dataclass(frozen=True)
class Address:
    base: Register | Name | None
    offset: int


@dataclass(frozen=True)
class Vector:
    items: tuple[Operand, ...]


@dataclass(frozen=True)
class Pair:
    """`%r|%p`: two results."""

    first: Register
    second: Register


Operand = Register | Immediate | Name | Address | Vector | Pair


@dataclass(frozen=True)
class Instruction:
    opcode: tuple[str, ...]
    operands: tuple[Operand, ...]
    guard: Register | None
    text: str


@dataclass
class Variable:
    """In shared, local, global or constant memory. `data` is what it holds at first."""

    space: str
    align: int
    n_bytes: int
    data: bytes = b""


@dataclass
class Kernel:
    name: str
    params: dict[str, tuple[int, int]] = field(default_factory=dict)  # name: number, bytes
    registers: list[type[np.generic]] = field(default_factory=list)
    variables: dict[str, Variable] = field(default_factory=dict)
    code: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    targets: dict[str, tuple[str, ...]] = field(default_factory=dict)  # of brx.idx


VARIABLE = re.compile(
    r"(?:\.(?:extern|visible|weak)\s+)*\.(shared|local|global|const)\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+([\w$%]+)"
    r"\s*(\[(\d*)\])?\s*(?:=\s*(.*))?$",
    re.S,
)
PARAM = re.compile(r"\.param\s+(?:\.align\s+\d+\s+)?\.(\w+)\s+(\w+)(?:\[(\d+)\])?")
FLOAT = re.compile(r"0([fFdD])([0-9a-fA-F]+)$")
INTEGER = re.compile(r"-?(0[xX][0-9a-fA-F]+|\d+)U?$")


def parse(text: str) -> tuple[dict[str, Kernel], dict[str, Variable]]:
    """The kernels and the variables of the module, by name."""
    text = re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.S)
    kernels: dict[str, Kernel] = {}
    variables: dict[str, Variable] = {}
    entry = re.compile(r"\.entry\s+(\w+)\s*\((.*?)\)([^{;]*)\{", re.S)
    rest = text
    while match := entry.search(rest):
        _module_variables(rest[: match.start()], variables)
        end = _closing_brace(rest, match.end())
        kernel = Kernel(match[1])
        for number, param in enumerate(PARAM.finditer(match[2])):
            n_bytes = np.dtype(TYPES[param[1]]).itemsize * int(param[3] or 1)
            kernel.params[param[2]] = number, n_bytes
        _Body(kernel).parse(rest[match.end() : end])
        kernels[kernel.name] = kernel
        rest = rest[end + 1 :]
    _module_variables(rest, variables)
    return kernels, variables


def _closing_brace(text: str, start: int) -> int:
    depth = 1
    for match in re.compile(r"[{}]").finditer(text, start):
        depth += 1 if match[0] == "{" else -1
        if not depth:
            return match.start()
    raise PtxError("a body is not closed")


def _module_variables(text: str, variables: dict[str, Variable]) -> None:
    for statement in text.split(";"):
        if match := VARIABLE.search(statement.strip()):
            variables[match[4]] = _variable(match)


def _variable(match: re.Match[str]) -> Variable:
    space, align, dtype, _, array, count, initial = match.groups()
    size = np.dtype(TYPES[dtype])
    n = int(count) if count else (0 if array else 1)
    data = b""
    if initial:
        values = [int(v, 0) for v in initial.strip("{} \n").split(",")]
        data = (np.array(values) & ((1 << 8 * size.itemsize) - 1)).astype(f"u{size.itemsize}").tobytes()
        data = data.ljust(n * size.itemsize, b"\0")
    return Variable(space, int(align or size.itemsize), n * size.itemsize, data)


class _Body:
    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.scopes: list[dict[str, tuple[int, type[np.generic]]]] = [{}]

    def parse(self, text: str) -> None:
        pieces = re.compile(r"\s*(?:([\w$]+)\s*:(?!:)|([{}])|((?:[^;{}]|\{[^;{}]*\})*);)")
        at = 0
        while at < len(text.rstrip()):
            match = pieces.match(text, at)
            if not match:
                raise PtxError(f"cannot parse {text[at : at + 80]!r}")
            at = match.end()
            if match[1]:
                if targets := re.compile(r"\s*\.branchtargets\s+([^;]*);").match(text, at):
                    at = targets.end()
                    self.kernel.targets[match[1]] = tuple(t.strip() for t in targets[1].split(","))
                else:
                    self.kernel.labels[match[1]] = len(self.kernel.code)
            elif match[2] == "{":
                self.scopes.append({})
            elif match[2]:
                self.scopes.pop()
            elif statement := " ".join(match[3].split()):
                self.statement(statement)

    def statement(self, text: str) -> None:
        if text.startswith(".reg"):
            self.declare(text)
        elif text.startswith((".pragma ", ".loc ", ".file ")):
            pass
        elif text.startswith("."):
            match = VARIABLE.match(text)
            if not match:
                raise PtxError(f"cannot parse {text!r}")
            self.kernel.variables[match[4]] = _variable(match)
        else:
            self.kernel.code.append(self.instruction(text))

    def declare(self, text: str) -> None:
        _, dtype, names = text.split(None, 2)
        kind = TYPES[dtype[1:]]
        for name in names.split(","):
            match = re.fullmatch(r"\s*([%\w]+)(?:<(\d+)>)?\s*", name)
            if not match:
                raise PtxError(f"cannot parse {text!r}")
            for i in range(int(match[2] or 1)):
                whole = f"{match[1]}{i}" if match[2] else match[1]
                self.scopes[-1][whole] = len(self.kernel.registers), kind
                self.kernel.registers.append(kind)

    def instruction(self, text: str) -> Instruction:
        rest, guard = text, None
        if match := re.match(r"@(!?)([%\w]+)\s+", text):
            guard = self.register(match[2], bool(match[1]))
            rest = text[match.end() :]
        opcode, _, operands = rest.partition(" ")
        parsed = tuple(self.operand(o) for o in _split(operands)) if operands else ()
        return Instruction(tuple(opcode.replace("::", "_").split(".")), parsed, guard, text)

    def register(self, name: str, negated: bool = False) -> Register:
        for scope in reversed(self.scopes):
            if name in scope:
                return Register(*scope[name], negated)
        raise PtxError(f"register {name} is not declared")

    def declared(self, name: str) -> bool:
        return any(name in scope for scope in self.scopes)

    def operand(self, text: str) -> Operand:
        text = text.strip()
        if text[0] == "{":
            return Vector(tuple(self.operand(o) for o in _split(text[1:-1])))
        if text[0] == "[":
            return self.address(text[1:-1].strip())
        if "|" in text:
            first, second = text.split("|")
            return Pair(self.register(first), self.register(second))
        if text[0] == "!":
            return self.register(text[1:], True)
        if self.declared(text):
            return self.register(text)
        if match := FLOAT.match(text):
            kind, bits = (np.float32, np.uint32) if match[1] in "fF" else (np.float64, np.uint64)
            return Immediate(np.array(int(match[2], 16), bits).view(kind)[()])
        if INTEGER.match(text):
            return Immediate(int(text.rstrip("U"), 0))
        name, _, offset = text.partition("+")
        return Name(name, int(offset or "0", 0))

    def address(self, text: str) -> Address:
        if INTEGER.match(text):
            return Address(None, int(text, 0))
        match = re.fullmatch(r"([%\w$]+)\s*(?:\+\s*(-?\w+))?", text)
        if not match:
            raise PtxError(f"cannot parse the address {text!r}")
        base = self.register(match[1]) if self.declared(match[1]) else Name(match[1])
        return Address(base, int(match[2] or "0", 0))


def _split(text: str) -> list[str]:
    """At the commas outside braces and brackets."""
    return re.findall(r"(?:\{[^}]*\}|\[[^\]]*\]|[^,{\[])+", text)
