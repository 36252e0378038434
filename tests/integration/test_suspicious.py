"""Suspicious rows on their way through the real pipeline, the API and the command line."""

from pathlib import Path

from shared.settings import Settings
from tests.api_process import ApiProcess, wait_until
from tests.integration.stepping import RowdropHarness
from tests.integration.test_cli import environment_of, run

ZOE_COMPOSED = "Zo\u00eb"
ZOE_DECOMPOSED = "Zoe\u0308"
CSV = "first_name,last_name,birthts\nZo,Ek,{}\n"


def test_suspicious_rows_are_published_and_listed(
    rowdrop: RowdropHarness, settings: Settings, tmp_path: Path
) -> None:
    births = {ZOE_COMPOSED: 599_616_000_000, ZOE_DECOMPOSED: 599_616_000_001, "new": 599_616_000}
    for user_id, birthts in births.items():
        rowdrop.put_files(user_id, CSV.format(birthts).encode())
    rowdrop.process_users(*births)
    environment = environment_of(settings)
    with ApiProcess(environment, tmp_path / "api.log") as api:
        wait_until(lambda: api.get("/data").status == 200)
        rows = {row["user_id"]: row["birthts"] for row in api.get("/data").json}
        errors = api.get("/errors").json
        # The number is null while a busy machine needs longer than a request waits.
        wait_until(lambda: api.get("/health/ready").json["suspicious"] == 3)
    assert rows == births
    assert [(error["kind"], error["user_id"], error["file"]) for error in errors] == [
        ("suspicious", ZOE_DECOMPOSED, "/files/Zoe%CC%88.csv"),
        ("suspicious", ZOE_COMPOSED, "/files/Zo%C3%AB.csv"),
        ("suspicious", "new", "/files/new.csv"),
    ]
    assert errors[0]["reason"].startswith("looks the same as another user ID (different Unicode")
    assert errors[2]["reason"].startswith("born 1970-01-07: are these seconds?")

    listed = run(environment, "errors")
    assert listed.exit_code == 0  # suspicious rows are valid
    assert "new.csv: suspicious\n  born 1970-01-07: are these seconds?" in listed.output
    assert run(environment, "status", "--json").json["suspicious"] == 3
