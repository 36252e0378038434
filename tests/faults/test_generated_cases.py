"""Random changes of the inputs of `tests/cases`: each gives rows or reasons, never an exception.

An independent reader agrees on which of the CSVs give a row.

A reason consists of words of our source code and of counts, so it cannot quote a file.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import hypothesis
from hypothesis import given
from hypothesis import strategies as st

from shared.csv_reader.characters import DELIMITERS
from shared.csv_reader.reasons import MAX_CSV_BYTES
from tests.cases.__main__ import ALL_CASES
from tests.cases.case import Entry, Kind
from tests.cases.runner import CaseRunner
from tests.faults.case_form import CaseForm
from tests.faults.independent_reader import read_person

ROOT = Path(__file__).parents[2]
BODIES = [
    (f"{case.name}.csv" if case.kind is Kind.CSV else case.name, case.body)
    for case in ALL_CASES
    if isinstance(case.body, bytes)
]
PIECES = [
    b"", b"\0", b"\xff", b"\x1f\x8b\x08\0", b"PK\x03\x04", b'"', b"'", b"\xef\xbb\xbf",
    b"\xff\xfe", b"\r", b"\n", b",", b";", b"|", b"\t", b"\x1a", b"sep=;\n", b"-", b"+", b".0",
    b"E+11", b"1e999", b"9" * 40, "\u200b".encode(), "\u0661".encode(), "\u2212".encode(),
    b"first_name", b"birthts", b"Quillfeather", b"Xylander-5550199", b"/", b"../", b"\\", b":",
]  # fmt: skip
MAX_METHOD = 0xFFFF
"""A reason may name the method by which a zip's member is packed."""
WORD = re.compile(r"[^\W\d_]{2,}")
NUMBER = re.compile(r"\d[\d,]*")


def _iterate_strings(path: Path) -> Iterator[str]:
    """Yield the strings of a module, without its docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstrings = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in docstrings:
            yield node.value if isinstance(node.value, str) else ""


_SOURCES = [
    *(ROOT / "shared" / "csv_reader").glob("*.py"),
    *(ROOT / "shared" / "formats").glob("*.py"),
    *(ROOT / "worker" / "bundles").glob("*.py"),
    *(ROOT / "worker" / "jobs").glob("*.py"),
]
_STRINGS = [text for path in _SOURCES for text in _iterate_strings(path)]
OUR_WORDS = {word for text in _STRINGS for word in WORD.findall(text)}
OUR_WORDS |= {f"{word}s" for name in DELIMITERS.values() for word in WORD.findall(name)}
OUR_NUMBERS = {number.strip(",") for text in _STRINGS for number in NUMBER.findall(text)}


@st.composite
def changed_bodies(draw: st.DrawFn) -> tuple[str, bytes]:
    """Generate the key and the bytes of an input with some pieces replaced, moved or cut off."""
    key, original = draw(st.sampled_from(BODIES))
    body = bytearray(original)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(body)))
        end = start + draw(st.sampled_from([0, 0, 1, 2, 4, 16]))
        piece = draw(st.sampled_from(PIECES) | st.binary(max_size=4))
        body[start:end] = piece
    if draw(st.integers(0, 5)) == 0:
        body = body[: draw(st.integers(0, len(body)))]
    if draw(st.integers(0, 5)) == 0:
        _, other = draw(st.sampled_from(BODIES))
        body += other
    return key, bytes(body[: MAX_CSV_BYTES + 1])


def test_changed_cases_give_rows_or_reasons(form: CaseForm) -> None:
    with CaseRunner() as runner:

        @hypothesis.seed(form.seed)
        @form.build_settings(short=1_000, long=40_000)
        @given(changed_bodies())
        def check_body(keyed_body: tuple[str, bytes]) -> None:
            key, body = keyed_body
            outcome = runner.run_object(key, body)
            for entry in outcome.rejects:
                check_reason(entry, len(body))
            if key.endswith(".csv") and not outcome.ignored:
                assert bool(outcome.rows) == (read_person(body) is not None)

        check_body()


def check_reason(entry: Entry, file_size: int) -> None:
    """Check that a reason is one line of our words and of counts."""
    assert entry.reason.isprintable()
    assert "fault of its own" not in entry.reason
    assert set(WORD.findall(entry.reason)) <= OUR_WORDS
    for number in NUMBER.findall(entry.reason):
        digits = number.strip(",")
        assert digits in OUR_NUMBERS or int(digits.replace(",", "")) <= max(file_size, MAX_METHOD)
