"""Tests that README.md, SECURITY.md, docs/ and .env.example agree with the code."""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import falcon.inspect
import pytest
from redis import Redis

from api.access.access_rules import AccessRules
from api.access.auth import AuthMiddleware
from api.access.cross_site import CrossSiteMiddleware
from api.app import create_app
from api.description.index import list_routes as listed_routes
from local.configuration import DEFAULT_PORTS
from shared import redis_keys
from shared.redis_keys import VERIFIED_PREFIX, VERIFYING_PREFIX
from shared.task_queue import BULK_QUEUE, EVENTS_QUEUE
from tests.api_parts import make_dependencies

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PAGES = sorted([ROOT / "README.md", ROOT / "SECURITY.md", *ROOT.glob("docs/*.md")])
ENV_EXAMPLE = dict(
    re.findall(r"(?m)^#?([A-Z][A-Z_]*)=(.*)$", (ROOT / ".env.example").read_text(encoding="utf-8"))
)
COMPOSE = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
IN_CODE = re.compile(r"`([^`\n]+)`")
NAME = re.compile(r"[A-Z]+(?:_[A-Z]+)+")


def rows(text: str, header: str) -> Iterator[list[str]]:
    """Yield the cells of each row of the Markdown table with this header."""
    _, found, table = text.partition(f"| {header} |\n")
    assert found, f"there is no table with the header {header}"
    for line in table.splitlines()[1:]:
        if not line.startswith("|"):
            return
        yield [cell.strip() for cell in line.strip("|").split("|")]


def documented_settings() -> dict[str, str]:
    """Map each setting in the README's table to its default."""
    return {
        name.strip("`"): default.strip("`")
        for name, default, _ in rows(README, "setting | default | what it is")
    }


def compose_settings() -> dict[str, str]:
    """Map each setting in the table of docs/operations.md to its default.

    Only docker-compose.yml reads these settings.
    """
    operations = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    return {
        name.strip("`"): default.strip("`")
        for name, default, _ in rows(operations, "compose setting | default | what it is")
    }


def compose_variables() -> dict[str, str]:
    """Map each variable in docker-compose.yml to its default."""
    return dict(re.findall(r"(?<!\$)\$\{([A-Z_]+):-([^}]*)\}", COMPOSE))


def settings_read() -> dict[str, str | None]:
    """Map each `env.<type>("NAME", default)` in shared/settings.py to its default.

    A required setting maps to None.
    """
    found = {}
    for node in ast.walk(ast.parse((ROOT / "shared" / "settings.py").read_text(encoding="utf-8"))):
        match node:
            case ast.Call(ast.Attribute(ast.Name("env")), [ast.Constant(str(name)), *rest]):
                found[name] = str(ast.literal_eval(rest[0])) if rest else None
    return found


def words_of(*paths: Path) -> set[str]:
    """Return every string in these Python files that looks like the name of a setting."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in paths]
    nodes = (node for tree in trees for node in ast.walk(tree))
    strings = {
        node.value
        for node in nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    return {text for text in strings if NAME.fullmatch(text)}


# -- settings ------------------------------------------------------------------------------------
def test_docs_describe_every_setting_that_is_read() -> None:
    read = settings_read().keys() | words_of(ROOT / "local" / "configuration.py")
    assert read >= {"MINIO_ENDPOINT", "API_PORT", "LOG_LEVEL"}  # the search works
    assert read <= documented_settings().keys()
    assert read <= ENV_EXAMPLE.keys()


def test_docs_and_example_name_same_settings() -> None:
    assert documented_settings().keys() | compose_settings().keys() == ENV_EXAMPLE.keys()


def test_docs_describe_every_compose_variable() -> None:
    documented = documented_settings() | compose_settings()
    variables = compose_variables()
    assert variables.keys() >= {"BIND_ADDRESS", "MINIO_IMAGE", "API_PORT"}  # the search works
    assert variables.keys() <= documented.keys()
    told = {
        name: default for name, default in variables.items() if default and name != "MINIO_ENDPOINT"
    }
    assert {name: documented[name] for name in told} == told
    assert compose_settings().keys() <= variables.keys()
    shown = {
        name: default
        for name, default in ENV_EXAMPLE.items()
        if default and name in compose_settings()
    }
    assert shown == {name: compose_settings()[name] for name in shown}


def test_docs_describe_only_settings_that_are_read() -> None:
    read = settings_read().keys() | words_of(
        ROOT / "shared" / "settings.py", *(ROOT / "local").glob("*.py")
    )
    assert documented_settings().keys() <= read


def test_docs_defaults_equal_code_defaults() -> None:
    documented = documented_settings()
    defaults = {name: default for name, default in settings_read().items() if default is not None}
    generated = (
        "MINIO_ROOT_USER",
        "MINIO_ROOT_PASSWORD",
        "MINIO_USERS",
        "FLOWER_PASSWORD",
        "GENERATED_API_TOKEN",
    )
    expected = (
        {name: default or "none" for name, default in defaults.items()}
        | {name: str(port) for name, port in DEFAULT_PORTS.items()}
        | dict.fromkeys(generated, "generated")
    )
    assert {name: documented[name] for name in expected} == expected


def test_env_example_shows_documented_defaults() -> None:
    documented = documented_settings()
    shown = settings_read() | dict.fromkeys(DEFAULT_PORTS) | {"ROWDROP_DIR": None}
    told = {name: documented[name] for name in shown if ENV_EXAMPLE[name]}
    examples = {"MINIO_ENDPOINT", "REDIS_URL"}  # of external servers; they have no default
    assert {name: ENV_EXAMPLE[name] for name in told if name not in examples} == {
        name: default for name, default in told.items() if name not in examples
    }


def test_env_example_sets_nothing() -> None:
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == []


# -- routes --------------------------------------------------------------------------------------
@pytest.fixture
def routes() -> Iterator[set[str]]:
    """Yield the methods and paths of the application, without HEAD, which every GET implies."""
    with Redis() as unused:
        app = create_app(
            make_dependencies(unused), CrossSiteMiddleware(), AuthMiddleware(AccessRules())
        )
        yield {
            f"{method.method} {route.path.replace(':path', '')}"
            for route in falcon.inspect.inspect_routes(app)
            for method in route.methods
            if not method.internal and method.method != "HEAD"
        }


def test_docs_list_every_route(routes: set[str]) -> None:
    assert {name.strip("`") for name, _ in rows(README, "route | what it does")} == routes


def test_index_route_lists_every_route(routes: set[str]) -> None:
    assert {f"{route['method']} {route['path']}" for route in listed_routes()} == routes


def test_docs_describe_every_parameter() -> None:
    assert all(
        f"`{name}`" in README or f"?{name}=" in README
        for route in listed_routes()
        for name in route["parameters"]
    )


# -- files, keys, numbers ------------------------------------------------------------------------
def files_named(text: str) -> set[str]:
    """Return the files and folders that a page names in code spans.

    Examples are `worker/app.py`, `run.sh` and `worker/state/lua/`.
    """
    return {
        word
        for word in IN_CODE.findall(text)
        if re.fullmatch(r"[\w./-]+(?:\.(?:py|lua|sh|md|toml|txt)|/)", word)
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_docs_name_only_existing_files(page: Path) -> None:
    named = files_named(page.read_text(encoding="utf-8"))
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_docs_architecture_names_files() -> None:
    assert len(files_named(ARCHITECTURE)) > 50


@pytest.mark.parametrize("room", ["api", "shared", "worker"])
def test_docs_architecture_names_every_module(room: str) -> None:
    modules = {f"{room}/{path.name}" for path in (ROOT / room).glob("*.py")} - {
        f"{room}/__init__.py"
    }
    assert modules
    assert sorted(modules - files_named(ARCHITECTURE)) == []


def test_docs_architecture_names_every_script() -> None:
    scripts = [path.name for path in (ROOT / "worker" / "state" / "lua").glob("*.lua")]
    assert [name for name in scripts if name not in ARCHITECTURE] == []


def test_docs_architecture_lists_every_redis_key() -> None:
    header = re.search(r"(?m)^\| (key \| .*) \|$", ARCHITECTURE)
    assert header
    documented = {
        key for cell, *_ in rows(ARCHITECTURE, header[1]) for key in IN_CODE.findall(cell)
    }
    documented -= {EVENTS_QUEUE, BULK_QUEUE, "unacked"}  # Celery's
    values = [value for name, value in vars(redis_keys).items() if name.isupper()]
    declared = {value for value in values if isinstance(value, str)} - {
        VERIFIED_PREFIX,
        VERIFYING_PREFIX,
    }
    # A prefix stands for all its keys: rebuild:<id>, dirty_since:<cause>.
    assert {re.sub("<.*", "", key) for key in documented} == {
        "dirty_since:",
        *(key.removeprefix("rowdrop:") for key in declared),
    }


@pytest.mark.parametrize(
    "row",
    list(rows(ARCHITECTURE, "constant | value | what it is")),
    ids=lambda row: row[0].strip("`"),
)
def test_docs_architecture_constants_equal_code(row: list[str]) -> None:
    module, _, name = row[0].strip("`").rpartition(".")
    assert repr(getattr(importlib.import_module(module), name)) == row[1]


def test_docs_security_names_only_existing_tests() -> None:
    named = re.findall(r"`(test_\w+)`", (ROOT / "SECURITY.md").read_text(encoding="utf-8"))
    sources = "\n".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")
    )
    assert len(named) > 30
    assert [name for name in named if f"def {name}" not in sources] == []


# -- links ---------------------------------------------------------------------------------------
def anchors(page: Path) -> set[str]:
    """Return the link fragments of the headings of a page."""
    headings = re.findall(r"(?m)^#+ (.*)$", page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_docs_links_have_targets(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, fragment = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not fragment or fragment in anchors(target), link
