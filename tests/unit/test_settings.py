"""Tests of `shared.settings`: defaults, validation, tokens, and that no error shows a secret."""

from dataclasses import fields
from pathlib import Path

import pytest

from shared.settings import InvalidSettings, PageLink, Settings
from shared.tokens import TokenKind

REQUIRED = {
    "MINIO_ENDPOINT": "http://127.0.0.1:9000",
    "MINIO_ACCESS_KEY": "key",
    "MINIO_SECRET_KEY": "a-secret",
    "REDIS_URL": "redis://:redis-secret@127.0.0.1:6379/0",
}

TOKENS = (
    "API_TOKEN", "API_TOKENS", "READ_TOKENS", "GENERATED_API_TOKEN", "EVENTS_TOKEN", "PUBLIC_READ",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        *REQUIRED,
        "SWEEP_INTERVAL_S",
        "SOURCE_BUCKET",
        "OUTPUT_BUCKET",
        "LOG_LEVEL",
        "MINIO_PROMETHEUS_TOKEN",
        *TOKENS,
    ):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(f"{name}_FILE", raising=False)
    for name, value in REQUIRED.items():
        monkeypatch.setenv(name, value)


def test_settings_defaults_equal_those_of_class() -> None:
    """Tests build `Settings` without an environment; test_docs.py compares the docs."""
    given = {"minio_endpoint", "minio_access_key", "minio_secret_key", "redis_url"}
    settings = Settings.from_environment()
    for each in fields(Settings):
        if each.name not in given:
            assert getattr(settings, each.name) == each.default, each.name


def test_settings_repr_hides_secrets() -> None:
    shown = repr(Settings.from_environment())
    assert "a-secret" not in shown
    assert "redis-secret" not in shown


def test_settings_errors_name_all_variables_without_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MINIO_ENDPOINT")
    monkeypatch.setenv("REDIS_URL", "rediss://:redis-secret@host/1")
    monkeypatch.setenv("SWEEP_INTERVAL_S", "often")
    with pytest.raises(InvalidSettings) as refused:
        Settings.from_environment()
    message = str(refused.value)
    for name in ("MINIO_ENDPOINT", "REDIS_URL", "SWEEP_INTERVAL_S"):
        assert name in message
    assert "plain TCP" in message
    assert "redis-secret" not in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MINIO_ENDPOINT", "127.0.0.1:9000"),
        ("MINIO_ENDPOINT", "http://host/path"),
        ("REDIS_URL", "redis://host/3"),
        ("REDIS_URL", "redis://host:99999/0"),
        ("MINIO_ENDPOINT", "http://host:99999"),
        ("SWEEP_INTERVAL_S", "0"),
        ("LOG_LEVEL", "LOUD"),
        ("MINIO_SECRET_KEY", ""),
        ("OUTPUT_BUCKET", "src-data"),
        ("OUTPUT_BUCKET", "ab"),
        ("SOURCE_BUCKET", "My-Data"),
        ("SOURCE_BUCKET", "my_data"),
    ],
)
def test_settings_refuse_invalid_value_by_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidSettings, match=name):
        Settings.from_environment()


def test_settings_read_secret_from_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("from-a-file\n")
    monkeypatch.delenv("MINIO_SECRET_KEY")
    monkeypatch.setenv("MINIO_SECRET_KEY_FILE", str(file))
    assert Settings.from_environment().minio_secret_key == "from-a-file"
    file.unlink()
    with pytest.raises(InvalidSettings, match="MINIO_SECRET_KEY_FILE"):
        Settings.from_environment()


def test_settings_refuse_invalid_bind_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIND_ADDRESS", "everywhere")
    with pytest.raises(InvalidSettings, match=r"BIND_ADDRESS.*must be an IP address"):
        Settings.from_environment()


@pytest.mark.parametrize("seconds", ["-1", "21"])
def test_settings_limit_publish_interval(monkeypatch: pytest.MonkeyPatch, seconds: str) -> None:
    monkeypatch.setenv("PUBLISH_MIN_INTERVAL_S", seconds)
    with pytest.raises(InvalidSettings, match=r"PUBLISH_MIN_INTERVAL_S.*from 0 to 20"):
        Settings.from_environment()


def test_settings_split_hosts_and_origins(monkeypatch: pytest.MonkeyPatch) -> None:
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
        ("MAX_UNPACKED_MB", "0"),
    ],
)
def test_settings_refuse_invalid_hosts_and_origins(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidSettings, match=name):
        Settings.from_environment()


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("", ""),
        ("cp866", "cp866"),
        ("CP866", "cp866"),
        ("866", "cp866"),
        ("Shift-JIS", "shift_jis"),
    ],
)
def test_settings_normalize_codec_of_zip_names(
    monkeypatch: pytest.MonkeyPatch, value: str, name: str
) -> None:
    monkeypatch.setenv("ZIP_NAMES", value)
    assert Settings.from_environment().zip_names == name


@pytest.mark.parametrize("value", ["russian", "base64", "rot13", "undefined", "cp866,cp850"])
def test_settings_refuse_unknown_codec_of_zip_names(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("ZIP_NAMES", value)
    with pytest.raises(InvalidSettings, match="ZIP_NAMES: must be the name of a Python codec"):
        Settings.from_environment()


# -- tokens of the API ---------------------------------------------------------------------------
VALID_TOKEN = "token-0123456789-abcdefg"
OTHER = "token-9876543210-zyxwvut"
ALL_SYMBOLS = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) != ",")


def test_settings_have_no_tokens_by_default() -> None:
    settings = Settings.from_environment()
    assert (settings.all_tokens, settings.public_read) == ((), False)


def test_settings_read_token_names_and_kinds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("API_TOKEN", VALID_TOKEN)
    monkeypatch.setenv("API_TOKENS", f"ci={ALL_SYMBOLS}, Import-2_x={OTHER}==")
    (tmp_path / "generated").write_text("the-generated-token-0123\n")
    monkeypatch.setenv("GENERATED_API_TOKEN_FILE", str(tmp_path / "generated"))
    (tmp_path / "read").write_text(
        "grafana=read-token-0123456789\nreport=another-read-token-0123\n"
    )
    monkeypatch.setenv("READ_TOKENS_FILE", str(tmp_path / "read"))
    settings = Settings.from_environment()
    assert [(token.name, token.value, token.kind) for token in settings.all_tokens] == [
        ("API_TOKEN", VALID_TOKEN, TokenKind.WRITE),
        ("generated", "the-generated-token-0123", TokenKind.GENERATED),
        ("ci", ALL_SYMBOLS, TokenKind.WRITE),
        ("Import-2_x", f"{OTHER}==", TokenKind.WRITE),
        ("grafana", "read-token-0123456789", TokenKind.READ),
        ("report", "another-read-token-0123", TokenKind.READ),
    ]
    shown = f"{settings!r} {settings.all_tokens!r} {settings.api_tokens!s}"
    assert "grafana" in shown
    assert not any(token.value in shown for token in settings.all_tokens)


@pytest.mark.parametrize("name", ["API_TOKEN", "GENERATED_API_TOKEN", "EVENTS_TOKEN"])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("a", "at least 20 characters"),
        (VALID_TOKEN[:19], "at least 20 characters"),
        ("pass wörd of 20 letters", "printable ASCII"),
        (f"{VALID_TOKEN}\xe9", "printable ASCII"),
        (f"{VALID_TOKEN} {OTHER}", "printable ASCII"),
        (f"{VALID_TOKEN},{OTHER}", "printable ASCII"),
        (f"{VALID_TOKEN}\x7f", "printable ASCII"),
        (f"{VALID_TOKEN}\n{OTHER}", "printable ASCII"),
    ],
)
def test_settings_refuse_unusable_token(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidSettings, match=rf"\b{name}: .*{message}") as refused:
        Settings.from_environment()
    assert len(value) == 1 or value not in str(refused.value)  # "a" occurs in every message


@pytest.mark.parametrize("name", ["API_TOKENS", "READ_TOKENS"])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (VALID_TOKEN, "entry 1 must have a name"),
        (f"ci={VALID_TOKEN} {OTHER}", "entry 2 must have a name"),
        (f"={VALID_TOKEN}", "the name of entry 1"),
        (f"{VALID_TOKEN}=", "entry 1 must have a name"),
        (f"{VALID_TOKEN}==", "entry 1 must have a name"),
        ("ci=", "entry 1 must have a name"),
        (f"the.ci={VALID_TOKEN}", "the name of entry 1"),
        (f"zoë={VALID_TOKEN}", "the name of entry 1"),
        (f"{'x' * 41}={VALID_TOKEN}", "the name of entry 1"),
        (f"ci={VALID_TOKEN[:19]}", "the token ci must have at least 20 characters"),
        (f"a={VALID_TOKEN},ci=short", "the token ci must have at least 20 characters"),
        (f"ci={VALID_TOKEN}\xe9", "the token ci must be printable ASCII"),
        (f"API_TOKEN={VALID_TOKEN}", "API_TOKEN is a name that Rowdrop itself uses"),
        (f"generated={VALID_TOKEN}", "generated is a name that Rowdrop itself uses"),
        (f"local={VALID_TOKEN}", "local is a name that Rowdrop itself uses"),
        (f"ci={VALID_TOKEN},ci={OTHER}", "the name ci is used 2 times"),
        (f"ci={VALID_TOKEN},old={VALID_TOKEN}", "ci and old have the same value"),
    ],
)
def test_settings_refuse_unusable_named_token(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidSettings, match=rf"\b{name}\b.*: .*{message}") as refused:
        Settings.from_environment()
    assert not any(secret in str(refused.value) for secret in (VALID_TOKEN[:19], OTHER, "short"))


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (
            ("API_TOKENS", f"ci={VALID_TOKEN}"),
            ("READ_TOKENS", f"ci={OTHER}"),
            "the name ci is used 2 times",
        ),
        (
            ("API_TOKENS", f"ci={VALID_TOKEN}"),
            ("READ_TOKENS", f"web={VALID_TOKEN}"),
            "ci and web have the same value",
        ),
        (
            ("API_TOKEN", VALID_TOKEN),
            ("READ_TOKENS", f"web={VALID_TOKEN}"),
            "API_TOKEN and web have the same value",
        ),
        (
            ("API_TOKEN", VALID_TOKEN),
            ("GENERATED_API_TOKEN", VALID_TOKEN),
            "API_TOKEN and generated have the same value",
        ),
        (
            ("EVENTS_TOKEN", VALID_TOKEN),
            ("READ_TOKENS", f"web={VALID_TOKEN}"),
            "EVENTS_TOKEN and web have the same value",
        ),
        (
            ("GENERATED_API_TOKEN", VALID_TOKEN),
            ("API_TOKENS", f"a={VALID_TOKEN}"),
            "generated and a have the same value",
        ),
    ],
)
def test_settings_refuse_tokens_with_same_name_or_value(
    monkeypatch: pytest.MonkeyPatch, first: tuple[str, str], second: tuple[str, str], message: str
) -> None:
    for name, value in (first, second):
        monkeypatch.setenv(name, value)
    with pytest.raises(InvalidSettings, match=message) as refused:
        Settings.from_environment()
    assert first[0] in str(refused.value)
    assert second[0] in str(refused.value)
    assert VALID_TOKEN not in str(refused.value)


def test_settings_parse_page_links(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings.from_environment().page_links == ()
    monkeypatch.setenv("PAGE_LINKS", "Flower=http://127.0.0.1:5555, A b=https://x.org/?a=1%2C2 ,")
    assert Settings.from_environment().page_links == (
        PageLink("Flower", "http://127.0.0.1:5555"),
        PageLink("A b", "https://x.org/?a=1%2C2"),
    )


@pytest.mark.parametrize(
    "links",
    [
        "http://127.0.0.1:5555",
        "=http://127.0.0.1:5555",
        "Flower",
        "Flower=127.0.0.1:5555",
        "Flower=javascript:alert(1)",
        "Flower=http://",
        "Flower=http://user:password@host/",
        "Flower=http://a b/",
        "Flower=http://a/,x",
    ],
)
def test_settings_refuse_invalid_page_links(monkeypatch: pytest.MonkeyPatch, links: str) -> None:
    monkeypatch.setenv("PAGE_LINKS", links)
    with pytest.raises(InvalidSettings, match="PAGE_LINKS: must be title=address"):
        Settings.from_environment()


def test_settings_parse_public_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUBLIC_READ", "true")
    assert Settings.from_environment().public_read
    monkeypatch.setenv("PUBLIC_READ", "perhaps")
    with pytest.raises(InvalidSettings, match="PUBLIC_READ"):
        Settings.from_environment()
