"""Weights in the order of device memory, which `csrc/cuda/weights.h` defines: 16 rows x 64 k a unit."""

from dataclasses import dataclass

import numpy as np

GROUP = 32
UNIT_K = 64
TILE_ROWS = 16
TYPES = ("bf16", "int8", "int4")

# (tile, h, g, unit, j, c, s, p, e): row 16 tile + 8 h + g, k = 64 unit + 32 j + 8 c + 4 s + 2 p + e.
_ORDERS = {
    "bf16": (0, 3, 4, 6, 2, 5, 7, 1, 8),
    "int8": (0, 3, 4, 2, 5, 6, 1, 8, 7),
    "int4": (0, 3, 2, 5, 4, 1, 8, 6, 7),
}


@dataclass(frozen=True)
class Packed:
    """A matrix (n, k) as bytes for the device. `scales` is None for bf16."""

    type: str
    n: int
    k: int
    codes: np.ndarray  # uint8
    scales: np.ndarray | None  # float16

    @property
    def nbytes(self) -> int:
        """Bytes of device memory."""
        return self.codes.nbytes + (0 if self.scales is None else self.scales.nbytes)


def to_bf16(values: np.ndarray) -> np.ndarray:
    """Float32 rounded to the nearest bfloat16, ties to even, as uint16. NaN stays NaN."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    rounded[np.isnan(values)] = 0x7FC0
    return rounded


def from_bf16(bits: np.ndarray) -> np.ndarray:
    """Bfloat16 given as uint16, as float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def pack(weights: np.ndarray, type: str) -> Packed:
    """Pack float32 (n, k), k a multiple of 64: rounded to bf16, or quantized in groups of 32 along k.

    int8: scale = max |w| / 127. int4: scale = (max - min) / 15 and the minimum, codes 0..15. Both float16.
    """
    n, k = _shape(weights.shape)
    if type == "bf16":
        return Packed(type, n, k, _arranged(to_bf16(weights), type).view(np.uint8), None)
    groups = np.asarray(weights, np.float32).reshape(n, k // GROUP, GROUP)
    if type == "int8":
        scales = (np.abs(groups).max(axis=2) / 127).astype(np.float16)
        codes = np.rint(groups * _inverse(scales)[:, :, None])
        return pack_int8(np.clip(codes, -127, 127).astype(np.int8).reshape(n, k), scales)
    if type != "int4":
        raise ValueError(f"pack: type is {type!r}, wanted one of {', '.join(TYPES)}")
    minima = groups.min(axis=2).astype(np.float16)
    scales = ((groups.max(axis=2) - minima.astype(np.float32)) / 15).astype(np.float16)
    codes = np.rint((groups - minima.astype(np.float32)[:, :, None]) * _inverse(scales)[:, :, None])
    return pack_int4(np.clip(codes, 0, 15).astype(np.uint8).reshape(n, k), scales, minima)


def pack_int8(codes: np.ndarray, scales: np.ndarray) -> Packed:
    """Pack int8 codes (n, k) and float16 scales (n, k / 32): w = scale * code, kept exactly."""
    n, k = _shape(codes.shape)
    arranged = _arranged(codes.view(np.uint8), "int8")
    return Packed("int8", n, k, arranged, _arranged_scales(scales[:, :, None], n, k))


def pack_int4(codes: np.ndarray, scales: np.ndarray, minima: np.ndarray) -> Packed:
    """Pack codes 0..15 (n, k), float16 scales and minima (n, k / 32): w = scale * code + minimum, exactly."""
    n, k = _shape(codes.shape)
    nibbles = _arranged(codes.astype(np.uint8, copy=False), "int4")
    packed = nibbles[0::2] | (nibbles[1::2] << 4)
    return Packed("int4", n, k, packed, _arranged_scales(np.stack([scales, minima], axis=2), n, k))


def unpack(packed: Packed) -> np.ndarray:
    """The weights (n, k) that a packed matrix stands for, float64, exact."""
    codes: np.ndarray = packed.codes
    if packed.type == "bf16":
        return from_bf16(_rows(codes.view(np.uint16), packed)).astype(np.float64)
    assert packed.scales is not None
    if packed.type == "int4":
        codes = np.stack([codes & 15, codes >> 4], axis=1).reshape(-1)
    values = _rows(codes if packed.type == "int4" else codes.view(np.int8), packed).astype(np.float64)
    n_parts = 2 if packed.type == "int4" else 1
    tiled = packed.scales.astype(np.float64).reshape(-1, packed.k // UNIT_K, 8, 2, 2, n_parts)
    groups = tiled.transpose(0, 4, 2, 1, 3, 5).reshape(-1, packed.k // GROUP, n_parts)[: packed.n]
    parts = np.repeat(groups, GROUP, axis=1)
    weights: np.ndarray = values * parts[:, :, 0]
    return weights + parts[:, :, 1] if packed.type == "int4" else weights


def unpack_rounded(packed: Packed) -> np.ndarray:
    """The weights as tensor cores see them where they are unpacked to bfloat16 first, float64 (n, k)."""
    return from_bf16(to_bf16(unpack(packed).astype(np.float32))).astype(np.float64)


def _shape(shape: tuple[int, ...]) -> tuple[int, int]:
    n, k = shape
    if n < 1 or k < 1 or k % UNIT_K:
        raise ValueError(f"pack: weights are ({n}, {k}), wanted k a positive multiple of {UNIT_K}")
    return n, k


def _padded(rows: np.ndarray) -> np.ndarray:
    n_missing = -len(rows) % TILE_ROWS
    return np.concatenate([rows, np.zeros((n_missing, *rows.shape[1:]), rows.dtype)]) if n_missing else rows


def _arranged(values: np.ndarray, type: str) -> np.ndarray:
    padded = _padded(values)
    n, k = padded.shape
    tiled = padded.reshape(n // TILE_ROWS, 2, 8, k // UNIT_K, 2, 4, 2, 2, 2)
    return np.ascontiguousarray(tiled.transpose(_ORDERS[type])).ravel()


def _rows(values: np.ndarray, packed: Packed) -> np.ndarray:
    sizes = (-1, 2, 8, packed.k // UNIT_K, 2, 4, 2, 2, 2)
    order = _ORDERS[packed.type]
    tiled = values.reshape([sizes[axis] for axis in order])
    rows: np.ndarray = tiled.transpose(np.argsort(order)).reshape(-1, packed.k)
    return rows[: packed.n]


def _arranged_scales(scales: np.ndarray, n: int, k: int) -> np.ndarray:
    if scales.shape[:2] != (n, k // GROUP):
        raise ValueError(f"pack: scales are {scales.shape[:2]}, wanted ({n}, {k // GROUP})")
    padded = _padded(scales.astype(np.float16, copy=False))
    tiled = padded.reshape(-1, 2, 8, k // UNIT_K, 2, scales.shape[2])
    return np.ascontiguousarray(tiled.transpose(0, 3, 2, 4, 1, 5)).reshape(-1)


def _inverse(scales: np.ndarray) -> np.ndarray:
    wide = scales.astype(np.float32)
    inverse: np.ndarray = np.divide(1, wide, out=np.zeros_like(wide), where=wide > 0)
    return inverse


def gated_rows(n: int) -> np.ndarray:
    """Rows of [gate; up], each (n, k), as `linear` wants them: 8 of gate, the same 8 of up, and so on."""
    if n % 8:
        raise ValueError(f"gated_rows: gate has {n} rows, wanted a multiple of 8")
    rows: np.ndarray = np.arange(2 * n).reshape(2, n // 8, 8).transpose(1, 0, 2).ravel()
    return rows


def qkv_rows(n_heads: int, n_kv_heads: int, head_dim: int, rope_dim: int) -> np.ndarray:
    """Rows of [q; k; v] as `linear` wants them: rows of a head that are rotated together are 8 apart."""
    if head_dim % TILE_ROWS or rope_dim % TILE_ROWS or rope_dim > head_dim:
        raise ValueError(
            f"qkv_rows: head_dim is {head_dim} and rope_dim {rope_dim}, wanted multiples of {TILE_ROWS}"
        )
    plain = np.arange(head_dim)
    rotated = np.concatenate([gated_rows(rope_dim // 2), plain[rope_dim:]])
    heads = np.arange(n_heads + 2 * n_kv_heads)[:, None] * head_dim
    n_rotated = n_heads + n_kv_heads
    return np.concatenate([(heads[:n_rotated] + rotated).ravel(), (heads[n_rotated:] + plain).ravel()])
