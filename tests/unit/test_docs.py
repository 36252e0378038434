"""Tests that README.md, SECURITY.md, docs/ and .env.example agree with the code."""

import ast
import importlib.util
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import falcon.inspect
import pytest
import yaml
from redis import Redis

from api.access.access_rules import AccessRules
from api.access.auth import AuthMiddleware
from api.access.cross_site import CrossSiteMiddleware
from api.app import create_app
from api.description.index import list_routes as listed_routes
from api.query.wait_query import MAX_WAIT_S
from api.resources.files import FORM_BYTES
from api.web.problem_kinds import PLAIN_TYPE, PROBLEM_KINDS, STATUS_EXPLANATIONS
from local.configuration import DEFAULT_PORTS
from shared import redis_keys
from shared.redis_keys import KEY_PREFIX, STATE_PREFIX, STATE_VERSION
from tests.api_parts import make_dependencies
from tests.faults.live.report import REPORT_HEAD
from tests.faults.traces import TRACES
from worker.commands.cli import exit_codes
from worker.commands.cli.main import rowdrop
from worker.commands.provisioning.credential_set import EXIT_UNKNOWN_USERS
from worker.state.loss_signals import LOSS_SIGNAL_KINDS

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "SECURITY.md", *(ROOT / "docs").rglob("*.md")],
    key=lambda page: page.relative_to(ROOT).as_posix(),
)
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}
README = TEXTS["README.md"]
API = TEXTS["docs/api.md"]
ARCHITECTURE = TEXTS["docs/architecture.md"]
CONFIGURATION = TEXTS["docs/configuration.md"]
OPERATIONS = TEXTS["docs/operations.md"]
PROTOCOL = TEXTS["docs/protocol.md"]
ENV_EXAMPLE = dict(
    re.findall(r"(?m)^#?([A-Z][A-Z_]*)=(.*)$", (ROOT / ".env.example").read_text(encoding="utf-8"))
)
COMPOSE = "".join(
    (ROOT / name).read_text(encoding="utf-8")
    for name in ("docker-compose.yml", "compose/console.yml")
)
IN_CODE = re.compile(r"`([^`\n]+)`")
NAME = re.compile(r"[A-Z]+(?:_[A-Z]+)+")
REQUEST = re.compile(r"\b(GET|POST|PUT|DELETE) (/[\w/{}.-]*)")
COMMAND_LINE = re.compile(r"(?<![\w./-])(?:\./)?rowdrop +([a-z][a-z-]*)([^`#|;)\n]*)")
PACKAGES = ("worker", "api", "shared")
"""The folders with the packages that docs/architecture.md describes."""
OTHER_FILES = {"images/", ".bundles/", "docker-compose.override.yml", "notification.toml"}
"""Folders of the output bucket, and files of an operator."""
every_page = pytest.mark.parametrize("page", TEXTS)


def rows(text: str, header: str) -> Iterator[list[str]]:
    """Yield the cells of each row of the Markdown table with this header."""
    _, separator, table = text.partition(f"| {header} |\n")
    assert separator, f"there is no table with the header {header}"
    for line in table.splitlines()[1:]:
        if not line.startswith("|"):
            return
        # An escaped bar is no border.
        yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))]


def check_same(documented: set[str], actual: set[str]) -> None:
    """Fail with the list of what a page lacks, and of what it should not have."""
    missing = "".join(f"\n  + {name}" for name in sorted(actual - documented))
    surplus = "".join(f"\n  - {name}" for name in sorted(documented - actual))
    if missing or surplus:
        pytest.fail(f"the page lacks (+) or should not have (-):{missing}{surplus}", pytrace=False)


def read_settings_table(text: str, header: str) -> dict[str, str]:
    """Map each setting in a table of settings to its default."""
    return {name.strip("`"): default.strip("`") for name, default, _ in rows(text, header)}


def documented_settings() -> dict[str, str]:
    """Map each setting in docs/configuration.md to its default, without those of compose."""
    return read_settings_table(CONFIGURATION, "setting | default | what it is")


def compose_settings() -> dict[str, str]:
    """Map each setting that only docker-compose.yml reads to its default."""
    return read_settings_table(CONFIGURATION, "compose setting | default | what it is")


def compose_variables() -> dict[str, str]:
    """Map each variable in docker-compose.yml to its default."""
    return dict(re.findall(r"(?<!\$)\$\{([A-Z_]+):-([^}]*)\}", COMPOSE))


def settings_read() -> dict[str, str | None]:
    """Map each `env.<type>("NAME", default)` in shared/settings.py to its default.

    A required setting maps to None.
    """
    defaults = {}
    for node in ast.walk(ast.parse((ROOT / "shared" / "settings.py").read_text(encoding="utf-8"))):
        match node:
            case ast.Call(ast.Attribute(ast.Name("env")), [ast.Constant(str(name)), *rest]):
                defaults[name] = str(ast.literal_eval(rest[0])) if rest else None
    return defaults


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
    documented_defaults = {
        name: default for name, default in variables.items() if default and name != "MINIO_ENDPOINT"
    }
    assert {name: documented[name] for name in documented_defaults} == documented_defaults
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


def test_readme_settings_equal_those_of_configuration() -> None:
    shown = read_settings_table(README, "setting | default | what it is")
    documented = documented_settings()
    assert {name: documented.get(name) for name in shown} == shown


@every_page
def test_docs_assign_only_settings_that_exist(page: str) -> None:
    assigned = set(re.findall(r"(?<![\w$])([A-Z]+(?:_[A-Z]+)+?)(?:_FILE)?=", TEXTS[page]))
    # The docs also name variables of the AWS command line, of compose, of MinIO and of a test.
    others = {"MINIO_PROMETHEUS_AUTH_TYPE", "API_EXAMPLES", "COMPOSE_FILE", "COMPOSE_PROFILES"}
    known = {*others, *re.findall(r"MINIO_[A-Z_]+", COMPOSE)}
    of_others = ("AWS_", "RUSTFS_", "MINIO_NOTIFY_WEBHOOK_")
    unknown = assigned - known - ENV_EXAMPLE.keys()
    assert [name for name in sorted(unknown) if not name.startswith(of_others)] == []


def test_env_example_shows_documented_defaults() -> None:
    documented = documented_settings()
    shown = settings_read() | dict.fromkeys(DEFAULT_PORTS) | {"ROWDROP_DIR": None}
    documented_defaults = {name: documented[name] for name in shown if ENV_EXAMPLE[name]}
    examples = {"MINIO_ENDPOINT", "REDIS_URL"}  # of external servers; they have no default
    assert {name: ENV_EXAMPLE[name] for name in documented_defaults if name not in examples} == {
        name: default for name, default in documented_defaults.items() if name not in examples
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
            "GET /files/{name}/receipt",  # served by the route of the files
            *(
                f"{method.method} {route.path.replace(':path', '')}"
                for route in falcon.inspect.inspect_routes(app)
                for method in route.methods
                if not method.internal and method.method not in {"HEAD", "OPTIONS"}
            ),
        }


def test_docs_list_every_route(routes: set[str]) -> None:
    documented = {name.strip("`") for name, _ in rows(API, "route | what it does")}
    check_same(documented, routes)


@every_page
def test_docs_name_only_existing_routes(page: str, routes: set[str]) -> None:
    patterns = [re.compile(re.sub(r"{\w+}", "[^/ ]+", route) + "/?") for route in routes]
    named = {f"{method} {path.rstrip('.')}" for method, path in REQUEST.findall(TEXTS[page])}
    assert [
        request
        for request in sorted(named)
        if not any(pattern.fullmatch(request) for pattern in patterns)
    ] == []


def test_index_route_lists_every_route(routes: set[str]) -> None:
    assert {f"{route['method']} {route['path']}" for route in listed_routes()} == routes


def test_docs_describe_every_parameter() -> None:
    assert [
        f"{route['method']} {route['path']}: {name}"
        for route in listed_routes()
        for name in route["parameters"]
        if f"`{name}`" not in API and f"?{name}=" not in API
    ] == []


def test_docs_list_every_problem_type() -> None:
    documented = {
        (name.strip("`"), int(status))
        for name, status, *_ in rows(API, "type | status | when | what to do")
    }
    assert documented == {(name, kind.status) for name, kind in PROBLEM_KINDS.items()}
    statuses = {
        int(status)
        for names, *_ in rows(API, "HTTP status | when | what to do")
        for status in names.split(", ")
    }
    assert statuses == STATUS_EXPLANATIONS.keys()


def test_docs_name_successor_of_former_problem_types() -> None:
    types = {PLAIN_TYPE, *PROBLEM_KINDS}
    for former, now in rows(TEXTS["docs/migrating.md"], "former type | type"):
        assert not types & set(IN_CODE.findall(former))
        assert set(IN_CODE.findall(now)) <= types


@pytest.mark.parametrize(
    ("text", "header"),
    [(API, "name | what was detected"), (PROTOCOL, "kind | sign")],
    ids=["api", "protocol"],
)
def test_docs_list_every_loss_signal(text: str, header: str) -> None:
    documented = {kind for names, _ in rows(text, header) for kind in IN_CODE.findall(names)}
    check_same(documented, set(LOSS_SIGNAL_KINDS))


# -- commands ------------------------------------------------------------------------------------
def options_of(command: click.Command) -> set[str]:
    """Return the long options of a command of `rowdrop`."""
    return {
        option
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for option in parameter.opts
    } | {"--help"}


@every_page
def test_docs_name_only_existing_commands_and_options(page: str) -> None:
    unknown = []
    for name, arguments in COMMAND_LINE.findall(TEXTS[page]):
        command = rowdrop.commands.get(name)
        if command is None:
            unknown.append(f"rowdrop {name}")
            continue
        options = set(re.findall(r"(?<!\S)--[\w-]+", arguments)) - options_of(command)
        unknown += [f"rowdrop {name} {option}" for option in sorted(options)]
    assert unknown == []


def test_docs_list_every_command_and_option() -> None:
    table = dict(rows(OPERATIONS, "command | what it does"))
    described = {name.strip("`"): text for name, text in table.items() if "rowdrop" in name}
    documented = {name.split()[1]: text for name, text in described.items()}
    check_same(set(documented), set(rowdrop.commands))
    assert [
        f"rowdrop {name} {option}"
        for name, command in rowdrop.commands.items()
        for option in sorted(options_of(command) - {"--help", "--json"})
        if option not in documented[name]
    ] == []


def test_docs_exit_codes_equal_those_of_the_command_line() -> None:
    documented = {int(code) for code, _ in rows(OPERATIONS, "exit code | meaning")}
    codes = {value for name, value in vars(exit_codes).items() if name.startswith("EXIT_")}
    # 0 and 2 are those of click.
    codes |= {0, click.UsageError.exit_code, EXIT_UNKNOWN_USERS}
    assert documented == codes == {0, 1, 2, 3, 4, 5, 6, 130}
    assert {int(code) for code in re.findall(r"\d+", str(rowdrop.epilog))} == codes


@every_page
def test_docs_run_only_existing_modules(page: str) -> None:
    # The column "before" of migrating.md has modules of earlier versions.
    text = re.sub(r"(?m)^\| `python -m [^|]*\|", "", TEXTS[page])
    modules = set(re.findall(r"python -m ([\w.]+)", text)) - {"worker."}
    assert [name for name in sorted(modules) if importlib.util.find_spec(name) is None] == []


@every_page
def test_docs_run_commands_in_existing_services(page: str) -> None:
    services = yaml.safe_load(COMPOSE.partition("\nnetworks:")[0])["services"]
    commands = re.findall(
        r"docker compose (?:exec|run) (-[^`\n]*|[^`\n]*rowdrop[^`\n]*)", TEXTS[page]
    )
    assert [line for line in commands if not services.keys() & line.split()] == []


def test_docs_server_proxy_allows_what_the_api_allows() -> None:
    """With smaller limits of the proxy, its own answers would replace those of the API."""
    page = TEXTS["docs/server.md"]
    (body_mib,) = re.findall(r"client_max_body_size (\d+)m;", page)
    largest_form = int(documented_settings()["MAX_UPLOAD_MB"]) * 1_000_000 + FORM_BYTES
    assert int(body_mib) << 20 >= largest_form
    (timeout_s,) = re.findall(r"proxy_read_timeout (\d+)s;", page)
    assert int(timeout_s) > MAX_WAIT_S


def test_docs_server_sets_what_a_proxy_needs() -> None:
    """The proxy of the page reaches the port that compose publishes, as no local client."""
    page = TEXTS["docs/server.md"]
    rules = AccessRules(allowed_hosts=("rowdrop.example.org",))
    assert "\n    ALLOWED_HOSTS=rowdrop.example.org\n" in page
    assert not rules.is_local("rowdrop.example.org", ["X-FORWARDED-FOR"], "HTTP/1.1")
    for port, service in ((8080, "api"), (9000, "minio")):
        assert f"proxy_pass http://127.0.0.1:{port};" in page
        assert f"reverse_proxy 127.0.0.1:{port}\n" in page
        assert f"{compose_variables()[f'{service.upper()}_PORT']}:{port}" == f"{port}:{port}"


# -- files, keys, tests --------------------------------------------------------------------------
def files_named(text: str) -> set[str]:
    """Return the files and folders of the checkout that a page names.

    Examples are `worker/app.py`, `run.sh` and `shared/lua/` in code spans, and
    worker/state/event_inbox in a diagram.
    """
    spans = {
        word
        for word in IN_CODE.findall(text)
        if re.fullmatch(r"[\w./-]+(?:\.(?:py|lua|sh|md|toml|txt|yml)|/)", word)
    }
    folders = "worker|api|shared|local|tests|bench|compose|minio-source"
    anywhere = re.findall(rf"(?<![\w./$-])(?:{folders})/[\w./-]*\w/?", text)
    return (spans | set(anywhere)) - OTHER_FILES


def is_file_of_checkout(name: str) -> bool:
    """Return whether a page may name a file: by its path, in a diagram without `.py`.

    A Lua script may be named without its folder.
    """
    places = (ROOT / name, ROOT / f"{name}.py", ROOT / "shared" / "lua" / name)
    return any(place.exists() for place in places)


@every_page
def test_docs_name_only_existing_files(page: str) -> None:
    named = files_named(TEXTS[page])
    assert [name for name in sorted(named) if not is_file_of_checkout(name)] == []


def test_docs_architecture_names_files() -> None:
    assert len(files_named(ARCHITECTURE)) > 30


def test_docs_architecture_lists_every_module() -> None:
    documented = {
        f"{IN_CODE.findall(package)[0]}{module}"
        for package, _, modules in rows(ARCHITECTURE, "package | what belongs there | modules")
        for module in IN_CODE.findall(modules)
    }
    files = {path for folder in PACKAGES for path in (ROOT / folder).rglob("*.py")}
    modules = {
        path.relative_to(ROOT).with_suffix("").as_posix()
        for path in files
        if not path.name.startswith("__")
    }
    assert len(modules) > 80  # the search works
    check_same(documented, modules)


def test_docs_architecture_shows_import_layers() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
        "importlinter"
    ]["contracts"]
    layers = {
        contract["containers"][0]: " > ".join(contract["layers"])
        for contract in contracts
        if "containers" in contract
    }
    shown = {
        name: " ".join(text.split())
        for name, text in re.findall(
            r"(?m)^(worker|api|shared): ((?:.*\n)(?: .*\n)*)", ARCHITECTURE
        )
    }
    assert shown == layers


def test_docs_protocol_names_every_script() -> None:
    documented = {
        script for _, script, *_ in rows(PROTOCOL, "step | script | caller | what it does")
    }
    scripts = {f"`{path.name}`" for path in (ROOT / "shared" / "lua").glob("*.lua")}
    check_same(documented, scripts)


def test_docs_protocol_names_every_trace() -> None:
    assert [name for name in TRACES if f"`{name}`" not in PROTOCOL] == []


def test_docs_protocol_names_only_existing_traces() -> None:
    sentences = {
        name for name in IN_CODE.findall(PROTOCOL) if re.fullmatch(r"(?:\w+_){3,}\w+", name)
    }
    traces = {name for name in sentences if not name.startswith("test_")}
    assert sorted(traces - TRACES.keys()) == []


def test_docs_protocol_lists_watchdog_checks() -> None:
    documented = {name.strip("`") for name, _ in rows(PROTOCOL, "check | what it does")}
    modules = {path.stem for path in (ROOT / "worker" / "watchdog").glob("*.py")}
    check_same(documented, modules - {"__init__", "watchdog", "checks"})


def test_docs_architecture_lists_every_redis_key() -> None:
    documented = {
        key
        for cell, *_ in rows(ARCHITECTURE, "key | type | written by | read by | meaning")
        for key in IN_CODE.findall(cell)
    }
    values = [value for name, value in vars(redis_keys).items() if name.isupper()]
    declared = {value for value in values if isinstance(value, str)} - {
        KEY_PREFIX,
        STATE_PREFIX,
        STATE_VERSION,
    }
    # A prefix stands for all its keys: rebuild:<id>, dirty_since:<cause>.
    shown = {re.sub("<.*", "", key) for key in documented}
    keys = {
        f"v{STATE_VERSION}:dirty_since:",
        *(key.removeprefix(KEY_PREFIX) for key in declared),
    }
    check_same(shown, keys)


@every_page
def test_docs_name_only_existing_tests(page: str) -> None:
    named = set(re.findall(r"`(test_\w+)`", TEXTS[page]))
    sources = "\n".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")
    )
    # A name that ends in _ stands for all tests that begin with it.
    unknown = [
        name
        for name in named
        if not re.search(rf"def {name}{'' if name[-1] == '_' else '[(]'}", sources)
    ]
    assert sorted(unknown) == []


def test_docs_security_names_tests() -> None:
    assert len(re.findall(r"`test_\w+`", TEXTS["SECURITY.md"])) > 30


def test_docs_security_closes_each_topic_by_test_or_reason() -> None:
    topics = list(rows(TEXTS["SECURITY.md"], "topic | state | tests, or the reason"))
    assert len({topic for topic, _, _ in topics}) == len(topics) > 25
    for topic, state, evidence in topics:
        assert state in {"closed", "accepted"}, topic
        is_tested = re.search(r"`(test_\w+|tests/\w+/test_\w+\.py)`", evidence)
        assert is_tested or (state == "accepted" and evidence), topic


def test_docs_fault_report_begins_as_generated() -> None:
    assert TEXTS["docs/faults.md"].startswith(REPORT_HEAD)


# -- the README ----------------------------------------------------------------------------------
def test_readme_takes_four_minutes_to_read() -> None:
    assert len(README.splitlines()) <= 160


def test_readme_shows_first_row_early() -> None:
    lines = README.splitlines()[:40]
    requests = [number for number, line in enumerate(lines) if "curl" in line and "/data" in line]
    responses = [number for number, line in enumerate(lines) if '"user_id":"0001"' in line]
    assert requests
    assert responses
    assert requests[0] < responses[0]


def test_readme_names_every_command() -> None:
    section = README.partition("## The command line\n")[2].partition("\n## ")[0]
    named = {word.split()[0] for word in IN_CODE.findall(section) if not word.startswith("./")}
    check_same(named, set(rowdrop.commands))
    assert "docs/glossary.md" in section


def test_readme_says_before_first_request_how_port_is_chosen() -> None:
    before_request = README.partition("curl ")[0]
    assert "If port 8080 is in use" in before_request


def test_readme_shows_image_and_token() -> None:
    assert re.search(r'curl -T 0001\.png "\$api/files/0001\.png\?wait=5"', README)
    assert re.search(r'curl -f "\$api/data/0001/image"', README)
    assert "`./rowdrop credentials --show`" in README


def test_docs_agree_on_time_of_first_start() -> None:
    """Each text about the first start names the same time."""
    texts = [
        README,
        OPERATIONS,
        *((ROOT / name).read_text("utf-8") for name in ("run.sh", "local/minio_build.py")),
    ]
    assert [text.count("three to five minutes") for text in texts] == [1, 2, 1, 1]
    assert [text.count("about three minutes") for text in texts] == [0, 0, 0, 0]


def test_readme_leads_to_every_page() -> None:
    pages = {page for page in TEXTS if page.startswith("docs/") and "/decisions/" not in page}
    linked = set(re.findall(r"\]\((docs/[\w./-]*)", README)) - {"docs/images/page-wide.png"}
    check_same(linked, pages | {"docs/decisions/"})


def test_decisions_are_listed_in_order() -> None:
    names = sorted(path.name for path in (ROOT / "docs" / "decisions").glob("[0-9]*.md"))
    listed = re.findall(r"\]\((\d{4}-[\w-]+\.md)\)", TEXTS["docs/decisions/README.md"])
    assert listed == names


# -- links ---------------------------------------------------------------------------------------
def anchors(page: Path) -> set[str]:
    """Return the link fragments of the headings of a page, as GitHub makes them."""
    text = re.sub(r"(?ms)^```.*?^```$", "", page.read_text(encoding="utf-8"))
    fragments: set[str] = set()
    for heading in re.findall(r"(?m)^#+ (.*)$", text):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w -]", "", words).replace(" ", "-")
        count = sum(re.fullmatch(rf"{anchor}(-\d+)?", other) is not None for other in fragments)
        fragments.add(f"{anchor}-{count}" if count else anchor)
    return fragments


@every_page
def test_docs_links_have_targets(page: str) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", TEXTS[page]):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, fragment = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        if not target.exists() or (fragment and fragment not in anchors(target)):
            broken.append(link)
    assert broken == []
