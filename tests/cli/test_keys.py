"""Laws of ``seedvr2-ray keys``: a token is shown once, opens the service, and stops when it is told to."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from seedvr2_ray.cli.main import main
from seedvr2_ray.serve.config import ServiceConfig, database_url_of
from seedvr2_ray.serve.db.database import open_database
from seedvr2_ray.serve.db.key_store import KeyStore
from seedvr2_ray.serve.problems import AuthenticationRefusal
from seedvr2_ray.serve.secrets import Secrets
from seedvr2_ray.serve.security.auth import Authenticator, Caller


@pytest.fixture(autouse=True)
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    url = f"sqlite:///{tmp_path / 'data' / 'service.db'}"
    monkeypatch.setenv("SEEDVR2_DATABASE_URL", url)
    return url


def _run(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    capsys.readouterr()
    assert main(["keys", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def _sign_in(url: str, token: str) -> Caller:
    database = open_database(url)
    try:
        authenticator = Authenticator(ServiceConfig(), Secrets(), KeyStore(database))
        return authenticator.authenticate({"x-api-key": token}, {}, "203.0.113.9")
    finally:
        database.close()


@pytest.mark.slow
def test_a_key_is_made_used_rotated_and_revoked(capsys: pytest.CaptureFixture[str], database: str) -> None:
    made = _run(capsys, "create", "ada", "--scope", "jobs:read", "--name", "laptop", "--days", "30")
    caller = _sign_in(database, made["token"])
    assert (caller.owner, caller.scopes, caller.key_id) == ("ada", frozenset({"jobs:read"}), made["prefix"])

    new = _run(capsys, "rotate", made["prefix"], "--grace-hours", "1")
    assert (new["owner"], new["scopes"], new["name"]) == ("ada", ["jobs:read"], "laptop")
    assert _sign_in(database, new["token"]).key_id == new["prefix"]
    assert _sign_in(database, made["token"]).owner == "ada", "for another hour"

    assert _run(capsys, "revoke", made["prefix"])["state"] == "revoked"
    with pytest.raises(AuthenticationRefusal, match="was revoked"):
        _sign_in(database, made["token"])

    states = {row["prefix"]: row["state"] for row in _run(capsys, "list", "--owner", "ada")["keys"]}
    assert states == {made["prefix"]: "revoked", new["prefix"]: "valid"}
    assert _run(capsys, "list", "--owner", "bob")["keys"] == []


def test_a_token_is_shown_once_and_kept_nowhere(
    capsys: pytest.CaptureFixture[str], database: str, tmp_path: Path
) -> None:
    assert main(["keys", "create", "ada"]) == 0
    token = capsys.readouterr().out.strip()
    secret = token[-43:]
    assert _sign_in(database, token).scopes == {"jobs:read", "jobs:write"}
    assert main(["keys", "list"]) == 0
    shown = capsys.readouterr().out
    assert "ada" in shown and secret not in shown
    for path in (tmp_path / "data").iterdir():
        assert secret.encode() not in path.read_bytes()


def test_a_key_is_known_to_have_been_used(capsys: pytest.CaptureFixture[str], database: str) -> None:
    made = _run(capsys, "create", "ada")
    assert _run(capsys, "list")["keys"][0]["last_used_at"] is None
    _sign_in(database, made["token"])
    used = datetime.fromisoformat(_run(capsys, "list")["keys"][0]["last_used_at"])
    assert abs((datetime.now(UTC) - used).total_seconds()) < 60


def test_the_services_configuration_names_its_database(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("SEEDVR2_DATABASE_URL")
    config = tmp_path / "serve_config.yaml"
    config.write_text(f"applications:\n- name: x\n  import_path: x:y\n  args:\n    data: {tmp_path / 'here'}\n")
    made = _run(capsys, "create", "ada", "--config", str(config))
    url = database_url_of(ServiceConfig(data=str(tmp_path / "here")), {})
    assert _sign_in(url, made["token"]).owner == "ada"
    assert (tmp_path / "here" / "service.db").is_file()


@pytest.mark.parametrize(
    ("arguments", "reason", "code"),
    [
        (["create", "ada", "--scope", "jobs:fly"], "choose from jobs:read, jobs:write, admin", 2),
        (["revoke", "nothing"], "there is no key 'nothing'", 1),
        (["rotate", "nothing"], "there is no key 'nothing'", 1),
        (["list", "--database", "mysql://x/y"], "postgresql://", 6),
    ],
)
def test_a_mistake_is_one_sentence(
    capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str, code: int
) -> None:
    assert main(["keys", *arguments]) == code
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "does not exist"),
        ("[", "is no configuration of one service"),
        ("applications: []", "is no configuration of one service"),
        ("applications: [{args: {dataa: x}}]", "dataa"),
        ("applications: [{args: {data: 's3://bucket/x'}}]", "set database_url or SEEDVR2_DATABASE_URL"),
    ],
)
def test_a_configuration_that_names_no_database_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str | None, reason: str
) -> None:
    monkeypatch.delenv("SEEDVR2_DATABASE_URL")
    config = tmp_path / "serve_config.yaml"
    if text is not None:
        config.write_text(text)
    assert main(["keys", "list", "--config", str(config)]) == 6
    assert reason in capsys.readouterr().err
    assert main(["keys", "list"]) == 6
    assert "pass --database or --config" in capsys.readouterr().err
