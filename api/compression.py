"""gzip of a large text of which a little changes from version to version: only what is new is compressed.

The text is cut at rows that are chosen by what is in them, so that the same rows make the same blocks wherever they
are.  Each block is compressed by itself up to a byte's boundary (a "full flush" of RFC 1951); blocks that follow each
other are one valid stream.  A version keeps its blocks for the next one.
"""

import hashlib
import struct
import zlib
from collections.abc import Iterator, Mapping
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

LEVEL = 1
"""A third of the time of level 6, for a quarter more bytes."""
GZIP_FROM_BYTES = 1000
"""A shorter answer is sent as it is: compressed it would be one packet, too."""
_ROWS_A_BLOCK = 1024
_LONGEST_BLOCK = 8 * _ROWS_A_BLOCK
_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x04\xff"
_MIXER = np.uint64(0x9E3779B97F4A7C15)

Blocks = Mapping[bytes, bytes]
"""Digest of a block's text to the block, compressed."""


def gzip(text: bytes) -> bytes:
    """The text compressed; the same text always gives the same bytes."""
    return zlib.compress(text, LEVEL, wbits=31)


def gzip_in_blocks(text: bytes, cuts: NDArray[np.int64], known: Blocks) -> tuple[bytes, Blocks]:
    """The text compressed, cut at these places; and its blocks, of which those that are `known` are not made anew."""
    blocks: dict[bytes, bytes] = {}
    parts = [_HEADER]
    for block in _between(memoryview(text), cuts):
        digest = hashlib.blake2b(block, digest_size=16).digest()
        if digest not in blocks:
            blocks[digest] = known.get(digest) or _compressed(block)
        parts.append(blocks[digest])
    parts += b"\x03\x00", struct.pack("<II", zlib.crc32(text), len(text) & 0xFFFFFFFF)
    return b"".join(parts), blocks


def cuts(starts: NDArray[np.int64], values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where to cut a text whose rows start there (and end where the last one says): about every thousand rows.

    A row is chosen by its length and its `values` alone; where none is for long, by counting.
    """
    lengths = np.diff(starts).astype(np.uint64)
    mixed = (values.astype(np.uint64) + lengths * np.uint64(0x10001)) * _MIXER
    chosen = np.flatnonzero((mixed >> np.uint64(32)) % np.uint64(_ROWS_A_BLOCK) == 0)
    if len(chosen) > 8 * len(lengths) / _ROWS_A_BLOCK + 8:  # rows that are all alike
        chosen = chosen[:0]
    edges = [0, *chosen.tolist(), len(lengths)]
    rows = [row for first, stop in pairwise(edges) for row in range(first, stop, _LONGEST_BLOCK)]
    return starts[rows] if rows else starts[:0]


def _between(text: memoryview, cuts: NDArray[np.int64]) -> Iterator[memoryview]:
    edges = [0, *cuts.tolist(), len(text)]
    for start, stop in pairwise(edges):
        if stop > start:
            yield text[start:stop]


def _compressed(block: memoryview) -> bytes:
    compressor = zlib.compressobj(LEVEL, wbits=-15)
    return compressor.compress(block) + compressor.flush(zlib.Z_FULL_FLUSH)
