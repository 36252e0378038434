"""Incremental gzip: compress only the parts of a large text that changed since the last version.

The text is cut at rows that are chosen by their content (content-defined chunking). So equal rows
give equal blocks, wherever they stand in the text. Each block is compressed independently and ends
at a byte boundary (a "full flush" of RFC 1951). So the concatenated blocks are one valid stream.
Each snapshot caches its blocks for the next one.
"""

import hashlib
import struct
import zlib
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from api.snapshot.caches import GzipBlocks

GZIP_LEVEL = 1
"""zlib level. It takes a third of the time of level 6 and gives a quarter more bytes."""
MIN_GZIP_BYTES = 1000
"""Shorter answers are not compressed: they fit into one packet anyway."""
_TARGET_BLOCK_ROWS = 1024
"""Average rows of a block."""
_MAX_BLOCK_ROWS = 8 * _TARGET_BLOCK_ROWS
# Without a file name and a modification time: the same text must give the same bytes.
_GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x04\xff"
# 2^64 divided by the golden ratio (Fibonacci hashing): it spreads similar values over all bits.
_HASH_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def compress_gzip(text: bytes) -> bytes:
    """Compress a text; the same text always gives the same bytes."""
    return zlib.compress(text, GZIP_LEVEL, wbits=31)


def compress_in_blocks(
    text: bytes, cut_points: NDArray[np.int64], known_blocks: GzipBlocks
) -> tuple[bytes, GzipBlocks]:
    """Compress a text in blocks; return the gzip stream and its blocks.

    `cut_points` are the byte offsets between two blocks, ascending. Blocks in the cache
    `known_blocks` are reused. The returned blocks are all blocks of this text, by their digest.
    """
    blocks: dict[bytes, bytes] = {}
    pieces = [_GZIP_HEADER]
    for block in _split_at(memoryview(text), cut_points):
        digest = hashlib.blake2b(block, digest_size=16).digest()
        if digest not in blocks:
            blocks[digest] = known_blocks.get(digest) or _compress_block(block)
        pieces.append(blocks[digest])
    # An empty final block ends the stream. CRC and length are those of the uncompressed text.
    pieces += b"\x03\x00", struct.pack("<II", zlib.crc32(text), len(text) & 0xFFFFFFFF)
    return b"".join(pieces), blocks


def find_cut_points(
    row_starts: NDArray[np.int64], row_values: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the byte offsets at which to cut a text: about every thousand rows.

    `row_starts` has the offset of each row, and the end of the last one. A cut depends only on the
    length and the value (in `row_values`) of a row. A run of rows without such a cut is cut after
    `_MAX_BLOCK_ROWS` rows.
    """
    lengths = np.diff(row_starts).astype(np.uint64)
    hashes = (row_values.astype(np.uint64) + lengths * np.uint64(0x10001)) * _HASH_MULTIPLIER
    cut_rows = np.flatnonzero((hashes >> np.uint64(32)) % np.uint64(_TARGET_BLOCK_ROWS) == 0)
    # Many equal rows may all be chosen. Such tiny blocks would cost more than they save.
    if len(cut_rows) > 8 * len(lengths) / _TARGET_BLOCK_ROWS + 8:
        cut_rows = cut_rows[:0]
    edges = [0, *cut_rows.tolist(), len(lengths)]
    rows = [row for first, stop in pairwise(edges) for row in range(first, stop, _MAX_BLOCK_ROWS)]
    return row_starts[rows] if rows else row_starts[:0]


def _split_at(text: memoryview, cut_points: NDArray[np.int64]) -> Iterator[memoryview]:
    edges = [0, *cut_points.tolist(), len(text)]
    for start, stop in pairwise(edges):
        if stop > start:
            yield text[start:stop]


def _compress_block(block: memoryview) -> bytes:
    # Negative wbits give raw deflate. The full flush also resets the dictionary, so blocks can be
    # reused in any order.
    compressor = zlib.compressobj(GZIP_LEVEL, wbits=-15)
    return compressor.compress(block) + compressor.flush(zlib.Z_FULL_FLUSH)
