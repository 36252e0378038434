"""The credentials of a Rowdrop in containers: generated once, kept, and written in the form that each server reads."""

import stat
from pathlib import Path

import jwt
import pytest
from dotenv import dotenv_values

from worker.credentials import CannotPrepare, Credentials, make_folders, prepare

NOW = 1_767_225_600.0


def test_without_anything_given_all_is_generated_and_never_twice_the_same(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, other = prepare(tmp_path / "a", {}, NOW), prepare(tmp_path / "b", {}, NOW)
    for name in ("root_password", "redis_password", "flower_password"):
        assert len(getattr(one, name)) >= 20
        assert getattr(one, name) != getattr(other, name)


def test_what_was_generated_is_kept(tmp_path: Path) -> None:
    first = prepare(tmp_path, {}, NOW)
    assert prepare(tmp_path, {}, NOW) == first


def test_renewing_generates_new_ones(tmp_path: Path) -> None:
    first = prepare(tmp_path, {}, NOW)
    second = prepare(tmp_path, {}, NOW, renew=True)
    assert first.root_password != second.root_password
    assert first.redis_password != second.redis_password
    assert first.flower_password != second.flower_password


def test_what_is_given_wins_over_what_is_kept(tmp_path: Path) -> None:
    prepare(tmp_path, {}, NOW)
    given = {"MINIO_ROOT_PASSWORD": "given-password", "FLOWER_PASSWORD": "f", "API_TOKEN": "t"}
    credentials = prepare(tmp_path, given, NOW)
    assert (credentials.root_password, credentials.flower_password) == ("given-password", "f")
    assert (tmp_path / "minio_secret_key").read_text() == "given-password"
    assert (tmp_path / "api_token").read_text() == "t"


def test_the_files_can_be_read_by_their_owner_alone(tmp_path: Path) -> None:
    prepare(tmp_path, {}, NOW)
    files = list(tmp_path.iterdir())
    assert len(files) == 10
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o400}


def test_minio_is_told_root_and_where_its_events_go(tmp_path: Path) -> None:
    credentials = prepare(tmp_path, {}, NOW)
    told = dotenv_values(tmp_path / "minio.env")
    assert told["MINIO_ROOT_USER"] == "rowdrop"
    assert told["MINIO_ROOT_PASSWORD"] == credentials.root_password
    for target in ("FAST", "SAFE"):
        assert told[f"MINIO_NOTIFY_REDIS_ADDRESS_{target}"] == "redis:6379"
        assert told[f"MINIO_NOTIFY_REDIS_PASSWORD_{target}"] == credentials.redis_password


def test_a_redis_of_ones_own_is_told_to_minio(tmp_path: Path) -> None:
    prepare(tmp_path, {"REDIS_URL": "redis://me:p%40ss@cache.example.org:7000/0"}, NOW)
    told = dotenv_values(tmp_path / "minio.env")
    assert told["MINIO_NOTIFY_REDIS_ADDRESS_FAST"] == "cache.example.org:7000"
    assert told["MINIO_NOTIFY_REDIS_USER_FAST"] == "me"
    assert told["MINIO_NOTIFY_REDIS_PASSWORD_FAST"] == "p@ss"


def test_a_minio_of_ones_own_is_used_with_its_keys() -> None:
    credentials = Credentials.complete({"MINIO_ACCESS_KEY": "me", "MINIO_SECRET_KEY": "mine"}, {}, NOW)
    assert credentials.files()["minio_access_key"] == "me"
    assert credentials.files()["minio_secret_key"] == "mine"


def test_one_key_without_the_other_is_refused() -> None:
    with pytest.raises(CannotPrepare, match="together"):
        Credentials.complete({"MINIO_ACCESS_KEY": "me"}, {}, NOW)


def test_a_password_that_minio_would_refuse_is_refused() -> None:
    with pytest.raises(CannotPrepare, match="at least 8"):
        Credentials.complete({"MINIO_ROOT_PASSWORD": "short"}, {}, NOW)


def test_a_value_that_a_shell_or_minio_would_read_differently_is_refused() -> None:
    with pytest.raises(CannotPrepare, match="MINIO_ROOT_PASSWORD must be without quotes"):
        Credentials.complete({"MINIO_ROOT_PASSWORD": "it's a secret"}, {}, NOW).files()


def test_the_token_for_minios_metrics_is_signed_with_the_secret_key() -> None:
    credentials = Credentials.complete({}, {}, NOW)
    options = {"verify_exp": False}
    with pytest.warns(UserWarning, match="HMAC key"):
        claims = jwt.decode(credentials.prometheus_token, credentials.secret_key, ["HS512"], options=options)  # type: ignore[arg-type]
    assert claims["sub"] == "rowdrop"
    assert claims["iss"] == "prometheus"


def test_a_folder_that_cannot_be_written_is_named_with_the_command_that_mends_it(tmp_path: Path) -> None:
    (tmp_path / "volume").write_text("a file where a folder should be")
    with pytest.raises(CannotPrepare, match=r"sudo chown -R \d+:\d+ /host/data"):
        make_folders([tmp_path / "volume" / "data"], {tmp_path / "volume": "/host/data"})


def test_the_folders_are_made(tmp_path: Path) -> None:
    make_folders([tmp_path / "a" / "b", tmp_path / "c"], {})
    assert (tmp_path / "a" / "b").is_dir()
    assert list((tmp_path / "c").iterdir()) == []
