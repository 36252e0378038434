"""Tests of the size of classes and packages, and of the scripts of the page, which read the source.

A class with many methods or many constructor arguments does several jobs. A folder with many files
is an alphabetical list in which the structure cannot be seen.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("worker", "api", "shared", "local")
MAX_PUBLIC_METHODS = 15
MAX_ARGUMENTS = 5
MIN_PACKAGE_FILES = 4
MAX_PACKAGE_FILES = 9
MAX_TOP_ENTRIES = {"worker": 16, "api": 12, "shared": 17}
PAGE = ROOT / "api" / "description" / "page"
MAX_PAGE_COLUMNS = 100
MAX_SCRIPT_METHODS = 20
SCRIPT_CLASS = re.compile(r"^(?:export )?class (\w+).*?^}", re.MULTILINE | re.DOTALL)
SCRIPT_METHOD = re.compile(r"^  (?:async |get |set |static )*(?!constructor)\w+\(", re.MULTILINE)
"""All methods, because the scripts mark none as private."""


class ClassSize(NamedTuple):
    """The size of one class; `argument_count` is that of its constructor, without `self`."""

    name: str
    path: str
    method_count: int
    argument_count: int

    @property
    def exceeds_a_limit(self) -> bool:
        return self.method_count > MAX_PUBLIC_METHODS or self.argument_count > MAX_ARGUMENTS


def parse_classes() -> Iterator[tuple[str, ast.ClassDef]]:
    """Return path and syntax tree of each class."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef):
                    yield str(path.relative_to(ROOT)), node


CLASSES = list(parse_classes())
CLASSES_BY_NAME = {node.name: node for _, node in CLASSES}


def list_methods(node: ast.ClassDef) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [item for item in node.body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)]


def list_public_names(node: ast.ClassDef) -> set[str]:
    """Return the names of the public methods and properties."""
    return {method.name for method in list_methods(node) if not method.name.startswith("_")}


def find_dataclass_decorator(node: ast.ClassDef) -> str:
    """Return the text of the decorator `dataclass`, or an empty text."""
    texts = [ast.unparse(decorator) for decorator in node.decorator_list]
    return next((text for text in texts if text.startswith("dataclass")), "")


def list_fields(node: ast.ClassDef) -> Iterator[str]:
    """Return the constructor arguments of a dataclass, with those of its bases."""
    for base in node.bases:
        if ast.unparse(base) in CLASSES_BY_NAME:
            yield from list_fields(CLASSES_BY_NAME[ast.unparse(base)])
    for item in node.body:
        if isinstance(item, ast.AnnAssign):
            value = ast.unparse(item.value) if item.value else ""
            if "init=False" not in value and "ClassVar" not in ast.unparse(item.annotation):
                yield ast.unparse(item.target)


def count_arguments(node: ast.ClassDef) -> int:
    """Return the number of constructor arguments; 0 for a record.

    Records are exempt: frozen dataclasses (`Settings` is one) and NamedTuples, and dataclasses
    without public methods. Their arguments are their data, which is read by name. A class that does
    work gets its collaborators as arguments, and many of them mean that it does several jobs.
    """
    init = next((method for method in list_methods(node) if method.name == "__init__"), None)
    if init is not None:
        arguments = init.args
        return len([*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]) - 1
    decorator = find_dataclass_decorator(node)
    if not decorator or "frozen=True" in decorator or not list_public_names(node):
        return 0
    return len(set(list_fields(node)))


SIZES = [
    ClassSize(node.name, path, len(list_public_names(node)), count_arguments(node))
    for path, node in CLASSES
]


def list_packages() -> Iterator[tuple[str, int]]:
    """Return each package below a folder, except its top, with the number of its modules."""
    for folder in FOLDERS:
        for init in sorted((ROOT / folder).glob("*/**/__init__.py")):
            yield str(init.parent.relative_to(ROOT)), len(list(init.parent.glob("*.py")))


def test_class_limits_read_all_folders() -> None:
    names = {size.name: size for size in SIZES}
    assert len(names) > 150
    assert names["S3Connection"].argument_count == 5
    assert names["MinioServer"].argument_count == 5
    assert names["Listing"].argument_count == 1
    assert names["Settings"].argument_count == 0


def test_classes_stay_within_limits() -> None:
    assert [size for size in SIZES if size.exceeds_a_limit] == []


def test_classes_have_no_length() -> None:
    """An empty table with a length is false, so `if table` would take it for a missing one."""
    assert [
        node.name
        for _, node in CLASSES
        for item in list_methods(node)
        if item.name in {"__len__", "__bool__"}
    ] == []


def test_packages_have_four_to_nine_files() -> None:
    counts = dict(list_packages())
    assert len(counts) > 15
    allowed = range(MIN_PACKAGE_FILES, MAX_PACKAGE_FILES + 1)
    assert {package for package, count in counts.items() if count not in allowed} == set()


# local/ is one flat folder of 20 modules.
@pytest.mark.parametrize("folder", MAX_TOP_ENTRIES)
def test_folders_have_few_entries(folder: str) -> None:
    entries = [path.name for path in (ROOT / folder).iterdir() if path.name != "__pycache__"]
    assert len(entries) <= MAX_TOP_ENTRIES[folder]


def count_script_methods() -> dict[str, int]:
    """Return the number of methods of each class of the page, without its constructor."""
    return {
        found[1]: len(SCRIPT_METHOD.findall(found[0]))
        for path in sorted(PAGE.glob("*.js"))
        for found in SCRIPT_CLASS.finditer(path.read_text(encoding="utf-8"))
    }


def test_page_classes_have_few_methods() -> None:
    counts = count_script_methods()
    assert counts["RowPages"] == 13
    assert {name for name, count in counts.items() if count > MAX_SCRIPT_METHODS} == set()


def test_page_lines_are_short() -> None:
    assert [
        f"{path.name}:{number}"
        for path in sorted(PAGE.iterdir())
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > MAX_PAGE_COLUMNS
    ] == []
