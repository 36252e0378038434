"""Settings come from the environment, all wrong ones are named at once, and no secret is ever shown."""

from pathlib import Path

import pytest

from shared.settings import InvalidSettings, Settings

WHOLE = {
    "MINIO_ENDPOINT": "http://127.0.0.1:9000",
    "MINIO_ACCESS_KEY": "key",
    "MINIO_SECRET_KEY": "a-secret",
    "REDIS_URL": "redis://:redis-secret@127.0.0.1:6379/0",
}


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*WHOLE, "SWEEP_INTERVAL_S", "SOURCE_BUCKET", "OUTPUT_BUCKET", "LOG_LEVEL", "MINIO_PROMETHEUS_TOKEN"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(f"{name}_FILE", raising=False)
    for name, value in WHOLE.items():
        monkeypatch.setenv(name, value)


def test_the_defaults_are_those_of_the_readme() -> None:
    settings = Settings.from_environment()
    assert (settings.source_bucket, settings.output_bucket) == ("src-data", "processed-data")
    assert settings.sweep_interval_s == 3600


def test_secrets_are_not_shown() -> None:
    shown = repr(Settings.from_environment())
    assert "a-secret" not in shown
    assert "redis-secret" not in shown


def test_all_that_is_wrong_is_named_at_once_and_no_value_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MINIO_ENDPOINT")
    monkeypatch.setenv("REDIS_URL", "rediss://:redis-secret@host/1")
    monkeypatch.setenv("SWEEP_INTERVAL_S", "often")
    with pytest.raises(InvalidSettings) as refused:
        Settings.from_environment()
    said = str(refused.value)
    for name in ("MINIO_ENDPOINT", "REDIS_URL", "SWEEP_INTERVAL_S"):
        assert name in said
    assert "plain TCP" in said
    assert "redis-secret" not in said


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MINIO_ENDPOINT", "127.0.0.1:9000"),
        ("MINIO_ENDPOINT", "http://host/path"),
        ("REDIS_URL", "redis://host/3"),
        ("SWEEP_INTERVAL_S", "0"),
        ("LOG_LEVEL", "LOUD"),
        ("MINIO_SECRET_KEY", ""),
        ("OUTPUT_BUCKET", "src-data"),
    ],
)
def test_a_wrong_value_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidSettings, match=name):
        Settings.from_environment()


def test_a_secret_may_lie_in_a_file_with_a_line_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("from-a-file\n")
    monkeypatch.delenv("MINIO_SECRET_KEY")
    monkeypatch.setenv("MINIO_SECRET_KEY_FILE", str(file))
    assert Settings.from_environment().minio_secret_key == "from-a-file"
    file.unlink()
    with pytest.raises(InvalidSettings, match="MINIO_SECRET_KEY_FILE"):
        Settings.from_environment()


@pytest.mark.parametrize(
    ("address", "outside"),
    [
        ("127.0.0.1", False),
        ("127.8.0.1", False),
        ("[::1]", False),
        ("0.0.0.0", True),  # noqa: S104
        ("192.0.2.1", True),
        ("[::]", True),
    ],
)
def test_who_can_reach_what_is_served(monkeypatch: pytest.MonkeyPatch, address: str, outside: bool) -> None:
    monkeypatch.setenv("BIND_ADDRESS", address)
    assert Settings.from_environment().is_reachable_from_outside is outside


def test_a_bind_address_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIND_ADDRESS", "everywhere")
    with pytest.raises(InvalidSettings, match=r"BIND_ADDRESS.*must be an IP address"):
        Settings.from_environment()


@pytest.mark.parametrize("seconds", ["-1", "21"])
def test_a_publish_interval_must_be_short_enough_to_keep_promises(
    monkeypatch: pytest.MonkeyPatch, seconds: str
) -> None:
    monkeypatch.setenv("PUBLISH_MIN_INTERVAL_S", seconds)
    with pytest.raises(InvalidSettings, match=r"PUBLISH_MIN_INTERVAL_S.*from 0 to 20"):
        Settings.from_environment()


def test_names_and_origins_are_lists_by_blanks_or_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings.from_environment().allowed_hosts == ()
    monkeypatch.setenv("ALLOWED_HOSTS", "rowdrop.example.org, *.lab.example.org api")
    monkeypatch.setenv("CORS_ORIGINS", "https://app.example.org:8443,http://[::1]:3000")
    settings = Settings.from_environment()
    assert settings.allowed_hosts == ("rowdrop.example.org", "*.lab.example.org", "api")
    assert settings.cors_origins == ("https://app.example.org:8443", "http://[::1]:3000")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALLOWED_HOSTS", "http://rowdrop.example.org"),
        ("ALLOWED_HOSTS", "rowdrop.example.org:8080"),
        ("ALLOWED_HOSTS", "*example.org"),
        ("CORS_ORIGINS", "app.example.org"),
        ("CORS_ORIGINS", "https://app.example.org/"),
        ("CORS_ORIGINS", "https://*.example.org"),
        ("MAX_UPLOAD_MB", "0"),
    ],
)
def test_what_is_no_name_or_origin_is_refused_with_an_example(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidSettings, match=name):
        Settings.from_environment()
