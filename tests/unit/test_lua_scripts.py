"""Tests of the Lua scripts in `shared/lua/`: the form of their headers, and that they are true.

A header is the comment at the beginning of a script:

    -- NAME: what the script does.
    --
    -- KEYS[1] a key, and `KEYS[2..]` for any number of further ones
    -- ARGV[1] an argument, likewise
    -- Returns: what it returns.
    -- Promise: one sentence.
    -- Failing trace: the traces or tests that fail without what is promised.
    --
    -- Optional notes.

A line that continues an entry is indented by two more blanks.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from shared.scripts import SCRIPTS_FOLDER
from tests.faults.traces import TRACES

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(path.stem for path in SCRIPTS_FOLDER.glob("*.lua"))
HEADER = re.compile(
    r"""
    --\ (?P<name>[A-Z][A-Z ]+):\ \S.*\n
    (?:--\ \S.*\n)*
    --\n
    (?P<inputs>(?:--\ (?:KEYS|ARGV)\[\d+(?:\.\.)?\]\ \S.*\n(?:--\ \ \ \S.*\n)*)+)
    --\ Returns:\ (?P<returns>\S.*\n(?:--\ \ \ \S.*\n)*)
    --\ Promise:\ (?P<promise>\S.*\n(?:--\ \ \ \S.*\n)*)
    --\ Failing\ trace:\ (?P<traces>\S.*\n(?:--\ \ \ \S.*\n)*)
    (?:--\n(?:--\ \S.*\n)+)?
    (?P<code>(?!--)(?:.*\n)+)
    """,
    re.VERBOSE,
)
INPUT = re.compile(r"(?m)^-- (KEYS|ARGV)\[(\d+)(\.\.)?\] ")


class Inputs(NamedTuple):
    """The numbers of the keys or arguments, and from which number on there are any number."""

    numbers: set[int]
    first_of_many: int | None


def match_header(script: str) -> re.Match[str]:
    text = (SCRIPTS_FOLDER / f"{script}.lua").read_text(encoding="utf-8")
    match = HEADER.fullmatch(text)
    assert match is not None, f"{script}.lua: the header has another form"
    return match


def list_inputs(header: str, kind: str) -> Inputs:
    """Return the inputs in the header, which must be numbered without a gap."""
    found = [
        (int(number), bool(many)) for name, number, many in INPUT.findall(header) if name == kind
    ]
    assert [number for number, _ in found] == list(range(1, len(found) + 1))
    assert not any(many for _, many in found[:-1])
    numbers = {number for number, many in found if not many}
    return Inputs(numbers, found[-1][0] if found and found[-1][1] else None)


def list_used_inputs(code: str, kind: str) -> Inputs:
    """Return the inputs that the code reads, by a number or in a loop."""
    used = {int(number) for number in re.findall(rf"\b{kind}\[(\d+)\]", code)}
    loop = re.search(rf"= (\d+), #{kind}\b", code) or re.search(
        rf"\blocal i = (\d+)\n(?:.*\n)*.*\b{kind}\[i\]", code
    )
    return Inputs(used, int(loop[1]) if loop else None)


def iterate_tests() -> Iterator[str]:
    yield from TRACES
    for path in (ROOT / "tests").rglob("test_*.py"):
        yield from re.findall(r"(?m)^def (test_\w+)", path.read_text(encoding="utf-8"))


TESTS = set(iterate_tests())


@pytest.mark.parametrize("script", SCRIPTS)
def test_lua_script_header_has_one_form(script: str) -> None:
    header = match_header(script)
    assert header["name"].replace(" ", "_").lower() == script
    for part in ("returns", "promise"):
        assert header[part].endswith(".\n")
    # One sentence.
    assert re.findall(r"\.\s", header["promise"]) == [".\n"]


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("kind", ["KEYS", "ARGV"])
def test_lua_script_header_names_its_inputs(script: str, kind: str) -> None:
    header = match_header(script)
    assert list_inputs(header["inputs"], kind) == list_used_inputs(header["code"], kind)


@pytest.mark.parametrize("script", SCRIPTS)
def test_lua_script_header_names_existing_traces(script: str) -> None:
    traces = re.findall(r"\w+", match_header(script)["traces"].replace("--", ""))
    assert traces
    assert [trace for trace in traces if trace not in TESTS] == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_lua_script_takes_no_value_apart(script: str) -> None:
    """Version tokens, ETags and times have fields of their own."""
    found = re.findall(
        r"string\.(?:match|gmatch|find|gsub)|cjson|cmsgpack", match_header(script)["code"]
    )
    # Release 0.2 counted each kind of loss signal in a field with a prefix.
    assert found == (["string.match"] if script == "upgrade_schema" else [])


def test_lua_scripts_are_in_one_folder() -> None:
    assert len(SCRIPTS) > 20
    files = [path for folder in ("api", "shared", "worker") for path in (ROOT / folder).rglob("*")]
    assert {path.parent for path in files if path.suffix == ".lua"} == {SCRIPTS_FOLDER}
    assert [
        path for path in files if path.suffix == ".py" and "redis.call" in path.read_text("utf-8")
    ] == []


def test_lua_scripts_are_each_used() -> None:
    code = "\n".join(
        path.read_text("utf-8")
        for folder in ("api", "shared", "worker")
        for path in (ROOT / folder).rglob("*.py")
    )
    used = set(re.findall(r"(?:(?:scripts|Scripts)(?:\(client\))?\[|read_script\()\"(\w+)\"", code))
    assert used == set(SCRIPTS)
