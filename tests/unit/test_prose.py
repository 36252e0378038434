"""Test that the repository is written in plain English, without the expressions of `idioms.txt`.

Prose is every docstring, comment, message (a string of three words or more), Lua comment, and the
Markdown outside of code. `docs/glossary.md` has the terms to use.
"""

import ast
import io
import re
import subprocess
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IDIOMS = [
    line.split("\t")
    for line in (Path(__file__).parent / "idioms.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]
IDIOM = re.compile("|".join(rf"\b({expression})\b" for expression, _ in IDIOMS), re.IGNORECASE)
MIN_MESSAGE_WORDS = 3
SLASH_COMMENTS = re.compile(r"//\s(.*)")
COMMENTS = {
    ".lua": re.compile(r"--\s?(.*)"),
    ".go": SLASH_COMMENTS,
    ".js": SLASH_COMMENTS,
    ".css": re.compile(r"/\*\s(.*)"),
}
HASH_COMMENTS = re.compile(r"(?:^|\s)#\s(.*)")
CODE_IN_MARKDOWN = re.compile(r"```.*?```|`[^`\n]*`|\]\([^)\n]*\)", re.DOTALL)
OWN_FILES = {"tests/unit/test_prose.py", "tests/unit/idioms.txt"}
EXCEPTIONS = {
    "worker/bundles/members.py": "by itself",
    "shared/formats/bundle_catalog.py": "anew",
    "shared/formats/records.py": "anew",
}
"""Reasons in published files, which do not change between releases."""


def tracked_files() -> list[str]:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in output.split("\0") if name]


def prose_of(name: str) -> Iterator[tuple[int, str]]:
    """Yield the pieces of prose of a file with their line numbers."""
    path = ROOT / name
    if path.suffix == ".py":
        yield from prose_of_python(path.read_text(encoding="utf-8"))
    elif path.suffix == ".md":
        yield from prose_of_markdown(path.read_text(encoding="utf-8"))
    elif path.suffix in {".yaml", ".html"}:
        yield from enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
    elif path.suffix in COMMENTS:
        yield from comments_of(path, COMMENTS[path.suffix])
    elif path.suffix in {".sh", ".yml", ".toml"} or path.name.startswith("Dockerfile"):
        yield from comments_of(path, HASH_COMMENTS)


def comments_of(path: Path, comment: re.Pattern[str]) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if match := comment.search(line):
            yield number, match[1]


def prose_of_markdown(text: str) -> Iterator[tuple[int, str]]:
    # Code becomes its line breaks, so that the line numbers stay right.
    text = CODE_IN_MARKDOWN.sub(lambda code: "\n" * code[0].count("\n"), text)
    yield from enumerate(text.splitlines(), 1)


def prose_of_python(text: str) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for line, string in strings_of(ast.parse(text)):
        if len(string.split()) >= MIN_MESSAGE_WORDS:
            yield line, string


def strings_of(node: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield each string of this syntax tree; an f-string as one, with `{}` for its expressions."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.lineno, node.value
    elif isinstance(node, ast.JoinedStr):
        parts = [
            str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values
        ]
        yield node.lineno, "".join(parts)
    else:
        for child in ast.iter_child_nodes(node):
            yield from strings_of(child)


def idioms_in(name: str) -> Iterator[str]:
    for line, text in prose_of(name):
        for match in IDIOM.finditer(text):
            if match[0] != EXCEPTIONS.get(name):
                _, instead = IDIOMS[(match.lastindex or 1) - 1]
                at = line + text.count("\n", 0, match.start())
                yield f"{name}:{at}: {match[0]!r}; write: {instead}"


def test_prose_has_no_idiom() -> None:
    idioms = [
        idiom for name in tracked_files() if name not in OWN_FILES for idiom in idioms_in(name)
    ]
    assert not idioms, "\n" + "\n".join(idioms)


def test_prose_counter_finds_idioms_in_each_kind_of_prose() -> None:
    python = """'Say it to whoever asks.'

x = 1  # of nobody
print(f'it is {x} anew, meanwhile', 'told')
"""
    matches = [match[0] for _, text in prose_of_python(python) for match in IDIOM.finditer(text)]
    assert matches == ["nobody", "whoever", "anew", "meanwhile"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("page.js", "const address = 'http://nobody'; // of nobody"),
        ("page.css", ".nobody { margin: 0; } /* of nobody */"),
        ("page.html", "<p>of nobody</p>"),
    ],
)
def test_prose_counter_reads_files_of_the_page(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    prose = [piece for _, piece in prose_of(str(tmp_path / name))]
    assert [match[0] for piece in prose for match in IDIOM.finditer(piece)] == ["nobody"]


def test_prose_counter_ignores_code_in_markdown() -> None:
    text = "It is `anew`.\n```\nnobody\n```\nAsk whoever [is there](anew.md).\n"
    matches = [
        (line, match[0])
        for line, prose in prose_of_markdown(text)
        for match in IDIOM.finditer(prose)
    ]
    assert matches == [(5, "whoever")]
