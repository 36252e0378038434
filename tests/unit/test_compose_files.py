"""docker-compose.yml and the Dockerfiles, checked without a Docker Engine.

tests/compose.sh runs the containers.
"""

import hashlib
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from local.minio_build import MINIO_MODULE_VERSION
from shared.formats.records import Buckets
from worker.commands.cli.main import VERSION
from worker.commands.provisioning.credential_files import build_credential_files
from worker.commands.provisioning.credential_set import Credentials
from worker.commands.provisioning.server_users import REDIS_RULES

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
CONSOLE: dict[str, Any] = yaml.safe_load(
    (ROOT / "compose" / "console.yml").read_text(encoding="utf-8")
)["services"]["minio"]
DOCKERFILES = {path.name: path.read_text(encoding="utf-8") for path in ROOT.glob("Dockerfile.*")}
LONG_RUNNING = {
    "minio",
    "redis",
    "listener",
    "worker",
    "worker-bulk",
    "publisher",
    "flower",
    "api",
}
each_service = pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES.keys())


def test_compose_defines_all_services() -> None:
    assert SERVICES.keys() == LONG_RUNNING | {"secrets", "init", "load"}


def test_compose_uses_only_features_of_old_compose() -> None:
    top_level_keys = {key for key in COMPOSE if not key.startswith("x-")}
    assert top_level_keys == {"services", "networks", "volumes"}
    known = {
        "build", "cap_drop", "command", "depends_on", "entrypoint", "environment", "healthcheck",
        "image", "init", "labels", "logging", "mem_limit", "network_mode", "networks",
        "pids_limit", "ports", "profiles", "read_only", "restart", "security_opt",
        "stop_grace_period", "tmpfs", "user", "volumes",
    }  # fmt: skip
    assert {key for service in SERVICES.values() for key in service} <= known
    variables = re.findall(r"(?<!\$)\$\{([^}]*)\}", TEXT)
    # No nested variables, and no ${A:+x}.
    assert [text for text in variables if not re.fullmatch(r"[A-Z_]+:-[^$?+]*", text)] == []


@each_service
def test_compose_hardens_each_service(service: dict[str, Any]) -> None:
    assert service["user"] == "10001:10001"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["init"] is True
    assert service["mem_limit"]
    assert service["pids_limit"] <= 500
    assert [mount.rpartition(":")[2] for mount in service["tmpfs"]] == ["size=64m"]
    assert set(service["logging"]["options"]) == {"max-size", "max-file"}


@pytest.mark.parametrize("name", sorted(LONG_RUNNING))
def test_compose_long_running_services_are_checked_and_restarted(name: str) -> None:
    assert SERVICES[name]["healthcheck"]["test"]
    assert SERVICES[name]["restart"] == "unless-stopped"
    # Celery's soft shutdown takes up to 20 s.
    assert int(SERVICES[name]["stop_grace_period"].removesuffix("s")) > 20


def test_compose_health_checks_test_real_work() -> None:
    checks = {
        name: str(service["healthcheck"].get("test"))
        for name, service in SERVICES.items()
        if "healthcheck" in service
    }
    assert not any(re.search(r"(?i)\bping\b|pgrep|pidof", check) for check in checks.values())
    assert "/health/live" in checks["api"]
    for name in ("listener", "worker", "worker-bulk", "publisher"):
        assert "/progress) -lt 60" in re.sub(r"\)+", ")", checks[name])


def list_published_ports(**settings: str) -> dict[str, list[str]]:
    """Return the published ports of each service, with these settings, as compose reads them."""

    def interpolate(match: re.Match[str]) -> str:
        return settings.get(match[1]) or match[2]

    return {
        name: [re.sub(r"\$\{(\w+):-([^}]*)\}", interpolate, port) for port in service["ports"]]
        for name, service in (SERVICES | {"console": CONSOLE}).items()
        if "ports" in service
    }


PORTS = {
    "minio": "127.0.0.1:9000:9000",
    "console": "127.0.0.1:9001:9001",
    "flower": "127.0.0.1:5555:5555",
    "api": "127.0.0.1:8080:8080",
}


def test_compose_publishes_ports_on_loopback_by_default() -> None:
    assert list_published_ports() == {name: [port] for name, port in PORTS.items()}


@pytest.mark.parametrize(
    ("setting", "service"),
    [
        ("BIND_ADDRESS", "api"),
        ("MINIO_BIND_ADDRESS", "minio"),
        ("MINIO_CONSOLE_BIND_ADDRESS", "console"),
        ("FLOWER_BIND_ADDRESS", "flower"),
    ],
)
def test_compose_address_setting_publishes_only_one_port(setting: str, service: str) -> None:
    expected = {name: [port] for name, port in PORTS.items()}
    expected[service] = [PORTS[service].replace("127.0.0.1", "192.0.2.7")]
    assert list_published_ports(**{setting: "192.0.2.7"}) == expected


def test_compose_starts_console_and_flower_only_on_request() -> None:
    assert SERVICES["minio"]["environment"]["MINIO_BROWSER"] == "off"
    assert CONSOLE["environment"] == {"MINIO_BROWSER": "on"}
    profiles = {
        name: service["profiles"] for name, service in SERVICES.items() if "profiles" in service
    }
    assert profiles == {"flower": ["flower"]}


def test_compose_containers_reach_only_servers_they_use() -> None:
    """A container uses a server if it has credentials for it."""
    assert set(COMPOSE["networks"]) == {"edge", "store", "queue", "events"}
    for name, service in SERVICES.items():
        environment = service["environment"] if name != "redis" else {}
        networks = set(service.get("networks", []))
        if name == "secrets":
            assert (networks, service["network_mode"]) == (set(), "none")
            continue
        assert ("store" in networks) == (name == "minio" or "MINIO_ACCESS_KEY_FILE" in environment)
        assert ("queue" in networks) == (name == "redis" or "REDIS_URL_FILE" in environment)
        # In a network of their own: a container that uses only Redis must not reach MinIO.
        assert ("events" in networks) == (name in {"minio", "redis"})
        assert ("edge" in networks) == (name in {"api", "flower"})


def test_compose_recreates_redis_when_acl_rules_change() -> None:
    """Redis reads its ACL rules only when it starts.

    Compose recreates a container that has another label.
    """
    rules = json.dumps(dict(REDIS_RULES), sort_keys=True)
    digest = hashlib.sha256(rules.encode()).hexdigest()[:8]
    assert SERVICES["redis"]["labels"] == {"rowdrop.acl": digest}, (
        "set this label of redis to the new digest"
    )


def test_compose_does_not_publish_redis() -> None:
    assert "ports" not in SERVICES["redis"]


def test_compose_file_contains_no_secret() -> None:
    environment = SERVICES["secrets"]["environment"]
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|TOKEN|ACCESS_KEY|REDIS_URL", variable):
                expected = f"${{{variable}:-}}" if name == "secrets" else "/run/rowdrop/"
                assert str(value).startswith(expected), (name, variable)
    assert environment["MINIO_ROOT_PASSWORD"] == "${MINIO_ROOT_PASSWORD:-}"


def test_compose_servers_start_after_credentials() -> None:
    waits = {name: set(service.get("depends_on", {})) for name, service in SERVICES.items()}
    assert waits.pop("secrets") == set()
    for name in ("minio", "redis", "init"):
        assert waits.pop(name) == {"secrets"}
    assert set(map(frozenset, waits.values())) == {frozenset({"init"})}


PROCESS_OF = {name: name for name in SERVICES} | {"worker-bulk": "worker", "load": "loader"}
"""Service to the process from which it gets its credentials.

The processes are those of `worker.commands.provisioning.credential_files.build_credential_files`.
"""


@pytest.mark.parametrize("name", sorted(SERVICES.keys() - {"secrets"}))
def test_compose_mounts_own_credentials_read_only(name: str) -> None:
    mounts = [volume for volume in SERVICES[name]["volumes"] if volume.startswith("credentials")]
    assert mounts == [f"credentials-{PROCESS_OF[name]}:/run/rowdrop:ro"]


def test_compose_gives_ca_folder_to_every_client_of_minio() -> None:
    for name, service in SERVICES.items():
        is_client = "CA_FILE" in service.get("environment", {}) and "store" in service["networks"]
        assert ("${CA_FOLDER:-no-ca}:/run/ca:ro" in service["volumes"]) == is_client, name


def test_compose_lets_only_secrets_write_credentials() -> None:
    processes = sorted({*PROCESS_OF.values()} - {"secrets"})
    own = [f"credentials-{process}:/run/rowdrop/{process}" for process in processes]
    mounts = [
        volume for volume in SERVICES["secrets"]["volumes"] if volume.startswith("credentials")
    ]
    assert sorted(mounts) == sorted(["credentials:/run/rowdrop", *own])
    for process in processes:  # otherwise Docker would create the mount point as root
        assert process in DOCKERFILES["Dockerfile.worker"]


@pytest.mark.parametrize("name", sorted(SERVICES.keys() - {"secrets"}))
def test_compose_services_read_files_written_for_them(name: str) -> None:
    credentials = Credentials.complete({}, {}, "redis:6379", 0.0)
    written = build_credential_files(credentials, Buckets("src-data", "processed-data"))[
        PROCESS_OF[name]
    ]
    named = set(re.findall(r"/run/rowdrop/([\w.]+)", str(SERVICES[name])))
    not_named = {"flower_user"}  # not a secret: docker-compose.yml sets the variable directly
    if name == "minio":
        named |= set(re.findall(r"/run/rowdrop/([\w.]+)", DOCKERFILES["Dockerfile.minio"]))
    assert named == set(written) - not_named


def test_dockerfiles_pin_base_image_tags() -> None:
    for name, text in DOCKERFILES.items():
        defaults = dict(re.findall(r"(?m)^ARG (\w+)=(\S+)", text))
        stages = set(re.findall(r"(?m)^FROM \S+ AS (\w+)", text))
        for image in re.findall(r"(?m)^FROM (\S+)", text):
            plain = defaults.get(image.strip("${}"), image)
            assert plain in stages or re.fullmatch(r"[\w./-]+:[\w.-]+", plain), name
            assert not plain.endswith(":latest"), name
    assert "${REDIS_IMAGE:-redis:7.4-bookworm}" in TEXT


def test_compose_can_set_every_base_image() -> None:
    for service in SERVICES.values():
        if "build" in service:
            text = DOCKERFILES[service["build"]["dockerfile"]]
            defaults = re.findall(r"(?m)^ARG (\w+_IMAGE)=(\S+)", text)
            expected = {name: f"${{{name}:-{default}}}" for name, default in defaults}
            assert service["build"]["args"] == expected
            images = set(re.findall(r"(?m)^FROM (\S+)", text))
            assert images == {f"${{{name}}}" for name, _ in defaults}


def test_dockerfiles_work_with_classic_builder() -> None:
    for name, text in DOCKERFILES.items():
        assert not re.search(r"--mount=|COPY --chmod|<<|# *syntax=", text), name


def test_dockerfiles_run_unprivileged_and_have_labels() -> None:
    for name, text in DOCKERFILES.items():
        assert re.search(r"(?m)^USER 10001:10001$", text), name
        assert "org.opencontainers.image.title" in text, name


def test_install_packages_requires_hashes() -> None:
    script = (ROOT / "compose" / "install-packages.sh").read_text(encoding="utf-8")
    assert "--require-hashes" in script
    assert "--no-cache-dir" in script


def test_compose_image_tags_equal_project_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    version = project["version"]
    assert version == VERSION
    image_names = {
        service["image"] for service in SERVICES.values() if service["image"].startswith("rowdrop-")
    }
    assert image_names == {f"rowdrop-{name}:{version}" for name in ("worker", "api", "minio")}
    for name in ("Dockerfile.worker", "Dockerfile.api"):
        assert f'image.version="{version}"' in DOCKERFILES[name]


def test_dockerfile_minio_builds_same_source() -> None:
    program = (ROOT / "minio-source" / "main.go").read_text(encoding="utf-8")
    assert f'version   = "{MINIO_MODULE_VERSION}"' in program
    assert "COPY minio-source/ /minio-source/" in DOCKERFILES["Dockerfile.minio"]
    assert "go run -trimpath . build" in DOCKERFILES["Dockerfile.minio"]
    assert "github.com/minio" not in DOCKERFILES["Dockerfile.minio"]
    assert "!minio-source/**" in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()


def test_dockerfile_minio_states_modification_and_includes_source() -> None:
    built = DOCKERFILES["Dockerfile.minio"].partition(" AS built\n")[2].partition("\nFROM ")[0]
    assert "COPY minio-source/ /usr/share/doc/minio-rowdrop/minio-source/" in built
    assert "/built/LICENSE" in built
    assert "MinIO, modified by Rowdrop" in built


@pytest.mark.parametrize("side", ["api", "worker"])
def test_requirements_of_images_match_run_requirements(side: str) -> None:
    def pins(name: str) -> set[str]:
        return set(
            re.findall(
                r"(?m)^[\w.-]+(?:\[\w+\])?==\S+",
                (ROOT / "requirements" / name).read_text(encoding="utf-8"),
            )
        )

    assert pins(f"{side}.txt")
    assert pins(f"{side}.txt") <= pins("run.txt")
