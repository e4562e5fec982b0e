"""Weights of a model in the types and the order of the GPU.

Formats of one value each become bfloat16. Q4_0, Q4_1 and Q4_K keep their codes; scales and minima become
float16, which those of the first two are. Q8_0 keeps codes and scales. All others, and fused weights of
several formats, become the nearest codes of 8 bits in groups of 32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lanner import _core
from lanner._records import dataclass
from lanner.cuda import pack
from lanner.cuda.symbols import Order
from lanner.weights import FLOATS, Source, Weights

if TYPE_CHECKING:
    Array = npt.NDArray[Any]

CODES_OF_4_BITS = ("q4_0", "q4_1", "q4_k")

CHUNK_VALUES = 1 << 24
"""Of a matrix, converted at once: 64 MB of float32."""


@dataclass(frozen=True, eq=False)
class Part:
    """Rows of a fused weight as the file has them; `target` is the format that they shall have."""

    read: Callable[[], Array]  # (n_rows, row_bytes) uint8
    format: str
    target: str
    n_rows: int
    k: int
    interleaved: int
    name: str

    @property
    def type(self) -> str:
        """The type of the GPU that fits it best."""
        return "bf16" if self.target in FLOATS else "int4" if self.target in CODES_OF_4_BITS else "int8"

    def rows(self, indices: Array) -> Array:
        """Blocks (n, row_bytes) of `target`, of rows of the packed order."""
        if self.interleaved:  # rotary pairs are neighbours in the file, and half a head apart here
            half, inside = self.interleaved // 2, indices % self.interleaved
            pairs = np.where(inside < half, 2 * inside, 2 * (inside - half) + 1)
            indices = indices - inside + pairs
        blocks = self.read()[indices]
        if self.target == self.format:
            return blocks
        from lanner.ops import quantize

        return quantize(self.floats(blocks, self.format), self.target)

    def floats(self, blocks: Array, format: str) -> Array:
        """Float32 (n, k) of blocks."""
        from lanner.ops import dequantize

        values: Array = dequantize(blocks, format).reshape(len(blocks), self.k)
        return values


@dataclass(frozen=True, eq=False)
class DeviceWeight:
    """What a builder asks of a packed weight, and how its rows are read."""

    parts: tuple[Part, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K)."""
        return sum(self.segment_rows), self.parts[0].k

    @property
    def segment_rows(self) -> list[int]:
        """Rows of each fused weight."""
        return [part.n_rows for part in self.parts]

    @property
    def formats(self) -> list[str]:
        """Formats of the file."""
        return [part.target for part in self.parts]

    @property
    def format(self) -> str:
        """The type in device memory."""
        return self.type

    @property
    def inputs(self) -> list[str]:
        """Matmuls of the GPU read values, no codes of them."""
        return ["float"] * len(self.parts)

    @property
    def type(self) -> str:
        """The type of all of it."""
        types = {part.type for part in self.parts}
        return types.pop() if len(types) == 1 else "bf16" if "bf16" in types else "int8"

    @property
    def nbytes(self) -> int:
        """Bytes of device memory."""
        n, k = self.shape
        bits = {"bf16": 16, "int8": 8.5, "int4": 5}[self.type]
        return int(-(-n // pack.TILE_ROWS) * pack.TILE_ROWS * k * bits / 8)

    def packed(self, order: Order) -> Iterator[pack.Packed]:
        """The weight in pieces of whole tiles, one behind the other."""
        n, k = self.shape
        rows = rows_in(order, n)
        step = max(1, CHUNK_VALUES // k // pack.TILE_ROWS) * pack.TILE_ROWS
        for first in range(0, n, step):
            yield self._pack(rows[first : first + step])

    def plain(self, order: Order) -> Iterator[Array]:
        """Bfloat16 as uint16 (rows, k), piece by piece, of a weight of that type: row-major."""
        rows = rows_in(order, self.shape[0])
        step = max(1, CHUNK_VALUES // self.shape[1])
        for first in range(0, len(rows), step):
            yield pack.to_bf16(self._values(rows[first : first + step])[0])

    def _pack(self, rows: Array) -> pack.Packed:
        made = self._values(rows)
        if self.type == "bf16":
            return pack.pack(made[0], "bf16")
        return pack.pack_int4(*made) if self.type == "int4" else pack.pack_int8(*made)

    def _values(self, rows: Array) -> tuple[Array, ...]:
        ends = np.cumsum(self.segment_rows)
        owners = np.searchsorted(ends, rows, side="right")
        made: tuple[Array, ...] = ()
        for at, part in enumerate(self.parts):
            chosen = np.flatnonzero(owners == at)
            if not len(chosen):
                continue
            values = _typed(part, part.rows(rows[chosen] - (ends[at] - part.n_rows)), self.type)
            if not all(np.isfinite(v.astype(np.float32)).all() for v in values if v.dtype.kind == "f"):
                raise _core.ModelFileError(
                    f"{part.name} holds an infinite or NaN value, or one beyond float16"
                )
            made = made or tuple(np.empty((len(rows), *v.shape[1:]), v.dtype) for v in values)
            for to, value in zip(made, values, strict=True):
                to[chosen] = value
        return made


def rows_in(order: Order, n: int) -> Array:
    """The row of the weight that lies at each place of an order."""
    if order.kind == "gated":
        return pack.gated_rows(n // 2)
    return pack.qkv_rows(*order[1:]) if order.kind == "qkv" else np.arange(n)


def _typed(part: Part, blocks: Array, type: str) -> tuple[Array, ...]:
    """Values, or codes and scales, or codes, scales and minima."""
    if type == "int4":
        return _int4(blocks, part.target, part.k)
    if type == "int8" and part.target == "q8_0":
        split = blocks.reshape(len(blocks), -1, 34)
        scales = np.ascontiguousarray(split[:, :, :2]).view(np.float16)[:, :, 0]
        return np.ascontiguousarray(split[:, :, 2:]).view(np.int8).reshape(len(blocks), part.k), scales
    values = part.floats(blocks, part.target)
    return (values,) if type == "bf16" else int8_codes(values)


def int8_codes(values: Array) -> tuple[Array, Array]:
    """The nearest codes (n, k) int8 and their scales (n, k / 32) float16."""
    n, k = values.shape
    groups = values.reshape(n, k // pack.GROUP, pack.GROUP)
    scales = (np.abs(groups).max(axis=2) / 127).astype(np.float16)
    wide = scales.astype(np.float32)
    inverse = np.divide(1, wide, out=np.zeros_like(wide), where=wide > 0)
    codes = np.clip(np.rint(groups * inverse[:, :, None]), -127, 127).astype(np.int8)
    return codes.reshape(n, k), scales


def _int4(blocks: Array, format: str, k: int) -> tuple[Array, Array, Array]:
    """Codes (n, k) 0..15, scales and minima (n, k / 32) float16, of blocks (n, row_bytes)."""
    n = len(blocks)
    if format == "q4_k":
        return _int4_of_k(blocks, k)
    head = 2 if format == "q4_0" else 4
    split = blocks.reshape(n, k // 32, head + 16)
    numbers = np.ascontiguousarray(split[:, :, :head]).view(np.float16)
    nibbles = split[:, :, head:]
    codes = np.concatenate([nibbles & 15, nibbles >> 4], axis=2).reshape(n, k)
    scales = numbers[:, :, 0]
    return codes, scales, scales * np.float16(-8) if format == "q4_0" else numbers[:, :, 1]


def _int4_of_k(blocks: Array, k: int) -> tuple[Array, Array, Array]:
    n = len(blocks)
    split = blocks.reshape(n, k // 256, 144)
    d, d_min = np.moveaxis(np.ascontiguousarray(split[:, :, :4]).view(np.float16).astype(np.float32), 2, 0)
    q = split[:, :, 4:16]  # eight scales and eight minima of 6 bits
    low, high = q[:, :, :8], q[:, :, 8:]
    first, second = low[:, :, :4], low[:, :, 4:]
    scales = np.concatenate([first & 63, (high & 15) | ((first >> 6) << 4)], axis=2)
    minima = np.concatenate([second & 63, (high >> 4) | ((second >> 6) << 4)], axis=2)
    nibbles = split[:, :, 16:].reshape(n, k // 256, 4, 1, 32)
    codes = np.concatenate([nibbles & 15, nibbles >> 4], axis=3).reshape(n, k)
    return (
        codes,
        (d[:, :, None] * scales).astype(np.float16).reshape(n, k // 32),
        (-d_min[:, :, None] * minima).astype(np.float16).reshape(n, k // 32),
    )


class DeviceWeights(Weights):
    """Weights that are read from the file when they go to the GPU; names and shapes are checked before."""

    def packed(self, *sources: Source, keep: bool = False) -> Any:
        """See Weights."""
        parts = []
        for source in sources:
            data, offset, format, n_rows, k, interleaved, target = self._part(source, keep)
            name = f"{self.checkpoint.path}: tensor {self._name(source.name, source.index)!r}"
            if k % pack.UNIT_K:
                raise _core.UnsupportedModelError(
                    f"{name} has rows of {k}, device='cuda' wants a multiple of {pack.UNIT_K}; "
                    "use device='cpu'"
                )
            block, block_bytes = _core.array.FORMATS[format]
            row_bytes = k // int(block) * int(block_bytes)
            read = _reader(data, offset, n_rows, row_bytes)
            parts.append(Part(read, format, target, n_rows, k, interleaved, name))
        return DeviceWeight(tuple(parts))


def _reader(data: Any, offset: int, n_rows: int, row_bytes: int) -> Callable[[], Array]:
    def read() -> Array:
        held = (
            data[offset : offset + n_rows * row_bytes]
            if isinstance(data, np.ndarray)
            else data.range(offset, n_rows * row_bytes)
        )
        return np.frombuffer(held, np.uint8).reshape(n_rows, row_bytes)

    return read


def upload(library: Any, weight: DeviceWeight, order: Order) -> tuple[Any, int, int, Any, Any]:
    """A weight in device memory: (type, n, k, codes, scales)."""
    n, k = weight.shape
    n_padded = -(-n // pack.TILE_ROWS) * pack.TILE_ROWS
    sizes = {"bf16": (2 * k, 0), "int8": (k, k // 16), "int4": (k // 2, k // 8)}[weight.type]
    codes: Any = library.DeviceArray(n_padded * sizes[0])
    scales: Any = library.DeviceArray(n_padded * sizes[1]) if sizes[1] else None
    at = 0
    for piece in weight.packed(order):
        codes.upload(piece.codes, offset=at * sizes[0])
        if piece.scales is not None:
            scales.upload(piece.scales, offset=at * sizes[1])
        at += -(-piece.n // pack.TILE_ROWS) * pack.TILE_ROWS
    return getattr(library.WeightType, weight.type), n, k, codes, scales


def upload_plain(library: Any, weight: DeviceWeight, order: Order) -> Any:
    """A weight of bf16 in device memory, row-major."""
    n, k = weight.shape
    array: Any = library.DeviceArray(2 * n * k)
    at = 0
    for piece in weight.plain(order):
        array.upload(piece, offset=at)
        at += piece.nbytes
    return array


def vector(values: Any, dtype: str, order: Order | None, n_rows: int) -> Array:
    """A vector as the GPU reads it; by an order of rows, padded to whole tiles."""
    array = np.asarray(values, dtype).reshape(-1)
    if order is None:
        return array
    padded = np.zeros(-(-n_rows // pack.TILE_ROWS) * pack.TILE_ROWS, dtype)
    padded[:n_rows] = array[rows_in(order, n_rows)]
    return padded


def weight_bytes(weights: Sequence[DeviceWeight]) -> int:
    """Bytes of distinct weights."""
    return sum({id(w): w.nbytes for w in weights}.values())
