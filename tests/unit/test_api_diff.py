"""The line diff: it reproduces the new file exactly and parses few lines again."""

from hypothesis import given
from hypothesis import strategies as st

from api.snapshot.diff import UnchangedRange, diff_lines

HEADER = b"head\n"


def lines(users: dict[int, bytes]) -> bytes:
    return HEADER + b"".join(b"%05d,%s\n" % (user, rest) for user, rest in sorted(users.items()))


def join_pieces(old: bytes, pieces: list[UnchangedRange | bytes]) -> bytes:
    parts = [
        old[piece.start : piece.stop] if isinstance(piece, UnchangedRange) else piece
        for piece in pieces
    ]
    return HEADER + b"".join(parts)


def join_new_bytes(pieces: list[UnchangedRange | bytes]) -> bytes:
    return b"".join(piece for piece in pieces if not isinstance(piece, UnchangedRange))


files = st.dictionaries(
    st.integers(0, 400), st.sampled_from([b"a", b"b" * 40, b'"q,q"', b""]), max_size=200
).map(lines)
any_lines = st.lists(st.binary(max_size=6).map(lambda line: line.replace(b"\n", b"") + b"\n")).map(
    b"".join
)


@given(files, files)
def test_diff_lines_rebuild_new_file(old: bytes, new: bytes) -> None:
    assert join_pieces(old, list(diff_lines(old, new, len(HEADER)))) == new


@given(any_lines, any_lines)
def test_diff_lines_handle_unsorted_files(old: bytes, new: bytes) -> None:
    old = HEADER + old
    new = HEADER + new
    assert join_pieces(old, list(diff_lines(old, new, len(HEADER)))) == new


@given(any_lines, any_lines)
def test_diff_lines_return_whole_lines(old: bytes, new: bytes) -> None:
    old = HEADER + old
    new = HEADER + new
    for piece in diff_lines(old, new, len(HEADER)):
        text = old[piece.start : piece.stop] if isinstance(piece, UnchangedRange) else piece
        assert text.endswith(b"\n")
        assert not isinstance(piece, UnchangedRange) or old[piece.start - 1 : piece.start] == b"\n"


def test_diff_lines_of_unchanged_file_read_nothing() -> None:
    old = lines(dict.fromkeys(range(5000), b"same"))
    assert join_new_bytes(list(diff_lines(old, old, len(HEADER)))) == b""


def test_diff_lines_read_only_changed_and_new_lines() -> None:
    users = dict.fromkeys(range(0, 90000, 2), b"same")
    changed = users | {4000: b"other", 60001: b"new"}
    del changed[30000]
    pieces = list(diff_lines(lines(users), lines(changed), len(HEADER)))
    assert join_new_bytes(pieces) == b"04000,other\n60001,new\n"


def test_diff_lines_find_lines_at_both_ends() -> None:
    users = dict.fromkeys(range(10, 5000), b"same")
    changed = {1: b"first"} | users | {9999: b"last"}
    pieces = list(diff_lines(lines(users), lines(changed), len(HEADER)))
    assert join_new_bytes(pieces) == b"00001,first\n09999,last\n"
