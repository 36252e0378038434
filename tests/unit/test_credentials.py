"""Credentials of the containers: generated once, kept, and limited to what each container needs."""

import stat
from pathlib import Path
from urllib.parse import urlsplit

import jwt
import pytest
from dotenv import dotenv_values

from shared.formats.records import Buckets
from worker.commands.provisioning.credential_files import (
    PreparationError,
    format_settings,
    make_folders,
    prepare_credentials,
)
from worker.commands.provisioning.credential_set import (
    MINIO_ROLES,
    PROCESSES,
    REDIS_ROLES,
    Credentials,
    InvalidCredentials,
    parse_redis_user,
    parse_users,
)
from worker.commands.provisioning.server_users import ServerUser, digest_users, format_redis_acl

NOW = 1_767_225_600.0
BUCKETS = Buckets("src-data", "processed-data")
TOKEN = "a-token-of-at-least-twenty-characters"
OWN_MINIO = {
    "MINIO_ENDPOINT": "https://minio.example.org",
    "MINIO_ACCESS_KEY": "me",
    "MINIO_SECRET_KEY": "mine",
}


def complete(
    given: dict[str, str] | None = None, saved: dict[str, str] | None = None
) -> Credentials:
    return Credentials.complete(given or {}, saved or {}, "redis:6379", NOW)


def test_credentials_are_generated_and_never_repeat(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one = prepare_credentials(tmp_path / "a", {}, BUCKETS, NOW)
    other = prepare_credentials(tmp_path / "b", {}, BUCKETS, NOW)
    for credentials in (one, other):
        users = [credentials.root, *credentials.minio.values(), *credentials.redis.values()]
        assert len({user.name for user in users}) == len(users)
        assert all(len(user.password) >= 20 for user in users)
    assert {user.name for user in one.minio.values()}.isdisjoint(
        user.name for user in other.minio.values()
    )
    assert one.root.name != other.root.name
    assert one.generated_api_token != other.generated_api_token
    assert len(one.generated_api_token) >= 20


def test_credentials_generated_names_have_64_random_bits() -> None:
    names = [user.name.partition("-")[2] for user in complete().minio.values()]
    assert {len(bytes.fromhex(name)) for name in names} == {8}


def test_prepare_credentials_keeps_generated_values(tmp_path: Path) -> None:
    first = prepare_credentials(tmp_path, {}, BUCKETS, NOW)
    assert prepare_credentials(tmp_path, {}, BUCKETS, NOW) == first


def test_prepare_credentials_renews_values_on_request(tmp_path: Path) -> None:
    first = prepare_credentials(tmp_path, {}, BUCKETS, NOW)
    second = prepare_credentials(tmp_path, {}, BUCKETS, NOW, renew=True)
    assert {user.password for user in first.minio.values()}.isdisjoint(
        user.password for user in second.minio.values()
    )
    assert {user.password for user in first.redis.values()}.isdisjoint(
        user.password for user in second.redis.values()
    )
    assert first.root.password != second.root.password
    assert first.flower.password != second.flower.password
    assert first.generated_api_token != second.generated_api_token


def test_prepare_credentials_prefers_given_values(tmp_path: Path) -> None:
    prepare_credentials(tmp_path, {}, BUCKETS, NOW)
    given = {"MINIO_ROOT_PASSWORD": "given-password", "FLOWER_PASSWORD": "f", "API_TOKEN": TOKEN}
    credentials = prepare_credentials(tmp_path, given, BUCKETS, NOW)
    assert (credentials.root.password, credentials.flower.password) == ("given-password", "f")
    assert (tmp_path / "init" / "minio_root_password").read_text() == "given-password"
    assert (tmp_path / "api" / "api_token").read_text() == TOKEN
    # Only the given token allows writing.
    assert (tmp_path / "api" / "generated_api_token").read_text() == ""


def test_prepare_credentials_writes_only_own_values_per_container(tmp_path: Path) -> None:
    credentials = prepare_credentials(tmp_path, {}, BUCKETS, NOW)
    minio_user = ["minio_access_key", "minio_secret_key"]
    redis_user = ["redis_url"]
    metrics = ["minio_prometheus_token"]
    expected = {
        "listener": [*minio_user, *redis_user, *metrics],
        "worker": [*minio_user, *redis_user, *metrics],
        "publisher": [*minio_user, *redis_user],
        "flower": [*redis_user, "flower_user", "flower_password"],
        "api": [
            *minio_user,
            *redis_user,
            "api_token",
            "api_tokens",
            "read_tokens",
            "events_token",
            "generated_api_token",
        ],
        "loader": minio_user,
        "init": [
            *minio_user,
            *redis_user,
            "minio_root_user",
            "minio_root_password",
            "minio_users",
            "events_token",
        ],
        "minio": ["minio.env", "users_id"],
        "redis": ["redis.conf", "health_user", "health_password"],
    }
    files_by_process = {
        folder.name: sorted(file.name for file in folder.iterdir())
        for folder in tmp_path.iterdir()
        if folder.is_dir()
    }
    assert files_by_process == {process: sorted(files) for process, files in expected.items()}
    passwords = {
        user.password for user in (*credentials.minio.values(), *credentials.redis.values())
    }
    for process in PROCESSES.keys() - {"init"}:
        own = {
            users[process].password
            for users in (credentials.minio, credentials.redis)
            if process in users
        }
        contents = "".join(file.read_text() for file in (tmp_path / process).iterdir())
        assert not [password for password in passwords - own if password in contents], process
        assert credentials.root.password not in contents


def test_prepare_credentials_writes_files_for_owner_only(tmp_path: Path) -> None:
    prepare_credentials(tmp_path, {}, BUCKETS, NOW)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o400}
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir() if path.is_dir()} == {
        0o700
    }


def test_prepare_credentials_cleans_single_volume_of_earlier_version(tmp_path: Path) -> None:
    for name in ("minio.env", "redis_url", "minio_secret_key"):
        (tmp_path / name).write_text("a secret of root")
    (tmp_path / "kept.env").write_text(
        "MINIO_ROOT_PASSWORD='of-an-earlier-version'\nREDIS_PASSWORD='r'\n"
    )
    credentials = prepare_credentials(tmp_path, {}, BUCKETS, NOW)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["kept.env"]
    assert credentials.root.name.startswith("root-")


@pytest.mark.parametrize("source", ["given", "kept"])
def test_credentials_replace_root_name_of_earlier_version(source: str) -> None:
    earlier = {"MINIO_ROOT_USER": "rowdrop", "MINIO_ROOT_PASSWORD": "a-password"}
    credentials = complete(earlier, {}) if source == "given" else complete({}, earlier)
    assert credentials.root.name.startswith("root-")
    assert complete({"MINIO_ROOT_USER": "another"}).root.name == "another"


def test_prepare_credentials_writes_root_and_event_target_for_minio(tmp_path: Path) -> None:
    credentials = prepare_credentials(tmp_path, {}, BUCKETS, NOW)
    variables = dotenv_values(tmp_path / "minio" / "minio.env")
    assert variables["MINIO_ROOT_USER"] == credentials.root.name
    assert variables["MINIO_ROOT_PASSWORD"] == credentials.root.password
    user = credentials.redis["minio"]
    assert {key: value for key, value in variables.items() if "NOTIFY" in key} == {
        "MINIO_NOTIFY_REDIS_ADDRESS_FAST": "redis:6379",
        "MINIO_NOTIFY_REDIS_USER_FAST": user.name,
        "MINIO_NOTIFY_REDIS_PASSWORD_FAST": user.password,
    }


def test_prepare_credentials_writes_redis_conf_without_passwords(tmp_path: Path) -> None:
    credentials = prepare_credentials(tmp_path, {}, BUCKETS, NOW)
    conf = (tmp_path / "redis" / "redis.conf").read_text()
    assert "user default off" in conf
    assert "requirepass" not in conf
    assert not [user for user in credentials.redis.values() if user.password in conf]


def test_prepare_credentials_writes_external_redis_for_minio(tmp_path: Path) -> None:
    prepare_credentials(
        tmp_path, {"REDIS_URL": "redis://me:p%40ss@cache.example.org:7000/0"}, BUCKETS, NOW
    )
    variables = dotenv_values(tmp_path / "minio" / "minio.env")
    assert variables["MINIO_NOTIFY_REDIS_ADDRESS_FAST"] == "cache.example.org:7000"
    assert variables["MINIO_NOTIFY_REDIS_USER_FAST"] == "me"
    assert variables["MINIO_NOTIFY_REDIS_PASSWORD_FAST"] == "p@ss"


def test_credentials_external_redis_may_have_own_users() -> None:
    given = {
        "REDIS_URL": "redis://:p@cache.example.org:7000/0",
        "REDIS_USERS": "api=for-api:password-1, minio=for-minio:password-2",
    }
    urls = complete(given).redis_urls
    assert urls["api"] == "redis://for-api:password-1@cache.example.org:7000/0"
    assert urls["minio"] == "redis://for-minio:password-2@cache.example.org:7000/0"
    assert urls["worker"] == "redis://:p@cache.example.org:7000/0"


def test_credentials_external_minio_uses_given_keys() -> None:
    credentials = complete(OWN_MINIO | {"MINIO_USERS": "api=for-api:secret-of-it"})
    assert set(credentials.minio.values()) == {
        ServerUser("me", "mine"),
        ServerUser("for-api", "secret-of-it"),
    }
    assert credentials.settings_of("api")["MINIO_ACCESS_KEY"] == "for-api"
    assert "MINIO_ROOT_PASSWORD" not in credentials.settings_of("init")  # an external MinIO
    assert "MINIO_USERS" not in credentials.settings_of("init")


def test_credentials_keys_without_endpoint_belong_to_drop_user() -> None:
    credentials = complete({"MINIO_ACCESS_KEY": "people", "MINIO_SECRET_KEY": "their-secret"})
    assert credentials.minio["drop"] == ServerUser("people", "their-secret")
    assert credentials.minio["worker"].name != "people"
    of_root = complete({"MINIO_ACCESS_KEY": "rowdrop", "MINIO_SECRET_KEY": "of-an-earlier-version"})
    assert of_root.minio["drop"].name.startswith("drop-")


@pytest.mark.parametrize("given", [{"MINIO_ACCESS_KEY": "me"}, {"MINIO_SECRET_KEY": "mine"}])
def test_credentials_refuse_one_key_without_other(given: dict[str, str]) -> None:
    with pytest.raises(InvalidCredentials, match="together"):
        complete(given)


def test_credentials_refuse_external_minio_without_keys() -> None:
    with pytest.raises(InvalidCredentials, match="MINIO_ENDPOINT is given"):
        complete({"MINIO_ENDPOINT": "https://minio.example.org"})


def test_credentials_refuse_password_invalid_for_minio() -> None:
    with pytest.raises(InvalidCredentials, match="at least 8"):
        complete({"MINIO_ROOT_PASSWORD": "short"})


@pytest.mark.parametrize("setting", ["API_TOKEN", "API_TOKENS", "READ_TOKENS", "EVENTS_TOKEN"])
def test_credentials_refuse_token_invalid_for_api(setting: str) -> None:
    with pytest.raises(InvalidCredentials, match=f"{setting}: .*at least 20 characters") as refused:
        complete({setting: "ci=tooshort" if setting.endswith("S") else "tooshort"})
    assert "tooshort" not in str(refused.value)


@pytest.mark.parametrize(
    "entry", ["worker", "worker=", "worker=name", "nobody=name:password", "minio=name:password"]
)
def test_parse_users_refuses_malformed_entries(entry: str) -> None:
    with pytest.raises(
        InvalidCredentials, match=r"MINIO_USERS must be entries of role=name:password.*publisher"
    ):
        parse_users(entry, "MINIO_USERS")


@pytest.mark.parametrize("name", ["", "ab", 'a"b', "a:b", "a b", "a/b", "n" * 65, "\u00e9t\u00e9"])
def test_parse_users_refuses_invalid_name(name: str) -> None:
    with pytest.raises(InvalidCredentials, match=r"the name must be|must be entries"):
        parse_users(f"worker={name}:a-password", "MINIO_USERS")


@pytest.mark.parametrize(
    "password", ["short", "with-a-'-quote", 'with-a-"-quote', "with-a-\\-backslash", "\u00e9" * 9]
)
def test_parse_users_refuses_invalid_password_without_showing_it(password: str) -> None:
    with pytest.raises(InvalidCredentials, match="worker: the password must be") as refused:
        parse_users(f"worker=name:{password}", "MINIO_USERS")
    assert password not in str(refused.value)
    with pytest.raises(
        InvalidCredentials, match="MINIO_ACCESS_KEY and MINIO_SECRET_KEY: the password must be"
    ):
        complete({"MINIO_ACCESS_KEY": "people", "MINIO_SECRET_KEY": password})


def test_parse_users_accepts_characters_of_other_generators() -> None:
    written = "api=AKIAIOSFODNN7EXAMPLE:wJalrXUtn/K7MDENG+bPxRfiCY=:~"
    assert parse_users(written, "MINIO_USERS")["api"].password.endswith("=:~")
    url = complete({"REDIS_USERS": "worker=name:p@x/y?z#%41["}).redis_urls["worker"]
    assert parse_redis_user(url) == ServerUser("name", "p@x/y?z#%41[")
    assert urlsplit(url).hostname == "redis"


@pytest.mark.parametrize(
    "given",
    [
        {"MINIO_USERS": "drop=same:a-password,api=same:a-password"},
        {"MINIO_USERS": "drop=admin:a-password", "MINIO_ROOT_USER": "admin"},
        {"REDIS_USERS": "worker=same:a-password,api=same:a-password"},
        {"REDIS_USERS": "worker=default:a-password"},
    ],
)
def test_credentials_refuse_shared_user(given: dict[str, str]) -> None:
    with pytest.raises(InvalidCredentials, match="is used more than once"):
        complete(given)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"API_TOKEN": TOKEN}, TOKEN),
        ({"API_TOKENS": f"ci={TOKEN} other=another-{TOKEN}"}, TOKEN),
        ({"READ_TOKENS": f"reader={TOKEN}"}, None),
        ({}, None),
    ],
)
def test_credentials_always_have_read_token(given: dict[str, str], expected: str | None) -> None:
    credentials = complete(given)
    assert credentials.any_token == (expected or credentials.generated_api_token)


def test_credentials_give_events_token_to_api_and_init_only() -> None:
    credentials = complete({"EVENTS_TOKEN": TOKEN})
    holders = {name for name in PROCESSES if TOKEN in credentials.settings_of(name).values()}
    assert holders == {"api", "init"}
    assert credentials.any_token == credentials.generated_api_token
    assert credentials.settings_of("init").keys() & {"API_TOKEN", "GENERATED_API_TOKEN"} == set()
    with pytest.raises(InvalidCredentials, match="have the same value"):
        complete({"API_TOKEN": TOKEN, "EVENTS_TOKEN": TOKEN})


def test_credentials_refuse_equal_tokens() -> None:
    with pytest.raises(InvalidCredentials, match="have the same value"):
        complete({"API_TOKEN": TOKEN, "READ_TOKENS": f"reader={TOKEN}"})


def test_prepare_credentials_refuses_values_unsafe_for_shell(tmp_path: Path) -> None:
    with pytest.raises(PreparationError, match="MINIO_ROOT_PASSWORD must not contain quotes"):
        prepare_credentials(tmp_path, {"MINIO_ROOT_PASSWORD": "it's a secret"}, BUCKETS, NOW)


def test_credentials_metrics_token_belongs_to_powerless_user() -> None:
    credentials = complete()
    options = {"verify_exp": False}
    secret = credentials.minio["metrics"].password
    with pytest.warns(UserWarning, match="HMAC key"):
        claims = jwt.decode(credentials.prometheus_token, secret, ["HS512"], options=options)  # type: ignore[arg-type]
    assert claims["sub"] == credentials.minio["metrics"].name
    assert claims["iss"] == "prometheus"


def test_digest_users_changes_with_users_and_buckets() -> None:
    users = complete().minio
    renewed = {**users, "api": ServerUser.generate("api")}
    ids = {
        digest_users(users, BUCKETS),
        digest_users(renewed, BUCKETS),
        digest_users(users, Buckets("other", "processed-data")),
    }
    assert len(ids) == 3
    assert digest_users(dict(reversed(list(users.items()))), BUCKETS) == digest_users(
        users, BUCKETS
    )


def test_format_redis_acl_grants_no_admin_commands() -> None:
    lines = format_redis_acl(complete().redis)
    assert len(lines) == len(REDIS_ROLES) + 1
    for line in lines[1:]:
        granted = line.partition("-@all")[2].split()
        assert "+@all" not in granted or {"-@admin", "-@dangerous"} <= set(granted)
        assert not [
            rule for rule in granted if rule in {"+@admin", "+@dangerous", "allcommands", "+info"}
        ]


def test_format_settings_shows_people_or_one_process() -> None:
    credentials = complete()
    user_settings = format_settings(credentials, "", "http://127.0.0.1:9000")
    assert credentials.minio["drop"].password in user_settings
    assert credentials.generated_api_token in user_settings
    assert credentials.root.password not in user_settings
    worker = format_settings(credentials, "worker", "http://127.0.0.1:9000")
    assert credentials.minio["worker"].password in worker
    assert credentials.minio["drop"].password not in worker


def test_processes_with_server_access_have_roles() -> None:
    assert {process for process, kinds in PROCESSES.items() if "minio" in kinds} <= set(MINIO_ROLES)
    assert {process for process, kinds in PROCESSES.items() if "redis" in kinds} <= set(REDIS_ROLES)


def test_make_folders_explains_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "volume").write_text("a file where a folder should be")
    with pytest.raises(PreparationError, match=r"sudo chown -R \d+:\d+ /host/data"):
        make_folders([tmp_path / "volume" / "data"], {tmp_path / "volume": "/host/data"})


def test_make_folders_creates_folders(tmp_path: Path) -> None:
    make_folders([tmp_path / "a" / "b", tmp_path / "c"], {})
    assert (tmp_path / "a" / "b").is_dir()
    assert list((tmp_path / "c").iterdir()) == []
