"""``seedvr2-ray keys``: who may use a service."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from seedvr2_ray.errors import DeploymentError

if TYPE_CHECKING:
    from seedvr2_ray.serve.db.key_store import KeyStore
    from seedvr2_ray.serve.security.api_keys import ApiKey

keys_app = typer.Typer(help="Make, list and end the API keys of a service.", no_args_is_help=True)

DatabaseUrl = Annotated[
    str | None,
    typer.Option(envvar="SEEDVR2_DATABASE_URL", help="The service's database: sqlite:////... or postgresql://..."),
]
ConfigFile = Annotated[
    Path | None, typer.Option(help="The service's configuration, which names its database: serve_config.yaml.")
]
Prefix = Annotated[str, typer.Argument(help="The public part of a key, as keys list shows it.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, for programs.")]


@keys_app.command("create")
def create(
    owner: Annotated[str, typer.Argument(help="Whose jobs the key is for; keys of one owner share them.")],
    scope: Annotated[
        list[str] | None, typer.Option(help="jobs:read, jobs:write or admin; may be repeated. By default both of jobs.")
    ] = None,
    name: Annotated[str, typer.Option(help="Where the key is used, for people.")] = "",
    days: Annotated[float | None, typer.Option(min=0, help="How long it opens something; by default for good.")] = None,
    database: DatabaseUrl = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Make a key. Its token is shown once and kept nowhere."""
    from seedvr2_ray.serve.security.api_keys import make_key

    now = datetime.now(UTC)
    ends = None if days is None else now + timedelta(days=days)
    key, token = make_key(owner, scope or ["jobs:read", "jobs:write"], now=now, name=name, expires_at=ends)
    with _opened(database, config) as store:
        store.add(key)
    _show_token(key, token, as_json=as_json)


@keys_app.command("list")
def list_keys(
    owner: Annotated[str | None, typer.Option(help="Of this owner only.")] = None,
    database: DatabaseUrl = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """List the keys, those that have ended included."""
    with _opened(database, config) as store:
        rows = [{**_described(key), "last_used_at": store.last_used_at(key.prefix)} for key in store.list(owner=owner)]
    if as_json:
        typer.echo(json.dumps({"keys": rows}, indent=1, ensure_ascii=False, default=datetime.isoformat))
        return
    table = Table("prefix", "owner", "scopes", "name", "state", "created", "expires", "last used")
    for row in rows:
        moments = (row["created_at"], row["expires_at"], row["last_used_at"])
        shown = [f"{moment:%Y-%m-%d %H:%M}" if moment else "-" for moment in moments]
        table.add_row(row["prefix"], row["owner"], " ".join(row["scopes"]), row["name"], row["state"], *shown)
    Console(highlight=False, soft_wrap=True).print(table)


@keys_app.command("rotate")
def rotate(
    prefix: Prefix,
    grace_hours: Annotated[
        float, typer.Option(min=0, help="How long the old token goes on working, for those who still use it.")
    ] = 24.0,
    database: DatabaseUrl = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Replace a key by another one with the same rights; the new token is shown once."""
    with _opened(database, config) as store:
        key, token = store.rotate(prefix, grace_seconds=grace_hours * 3600)
    _show_token(key, token, as_json=as_json)


@keys_app.command("revoke")
def revoke(prefix: Prefix, database: DatabaseUrl = None, config: ConfigFile = None, as_json: Json = False) -> None:
    """End a key at once. The jobs of its owner stay."""
    with _opened(database, config) as store:
        key = store.end(prefix, revoked_at=datetime.now(UTC))
    if as_json:
        typer.echo(json.dumps(_described(key), indent=1, ensure_ascii=False, default=datetime.isoformat))
    else:
        Console(highlight=False, soft_wrap=True).print(f"key {key.prefix} of {key.owner} opens nothing any more")


@contextmanager
def _opened(database: str | None, config: Path | None) -> "Iterator[KeyStore]":
    """The keys of the service that the options name."""
    from seedvr2_ray.serve.db.database import open_database
    from seedvr2_ray.serve.db.key_store import KeyStore

    opened = open_database(database or _database_in(config))
    try:
        yield KeyStore(opened)
    finally:
        opened.close()


def _database_in(config: Path | None) -> str:
    import yaml
    from pydantic import ValidationError

    from seedvr2_ray.serve.config import ServiceConfig, database_url_of

    if config is None:
        raise DeploymentError("no database is named; pass --database or --config, or set SEEDVR2_DATABASE_URL")
    try:
        read = yaml.safe_load(config.read_text())
        (application,) = read["applications"]
        settings = ServiceConfig.model_validate(application.get("args") or {})
    except FileNotFoundError:
        raise DeploymentError(f"{config} does not exist; name the file that the service is started with") from None
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError, ValidationError) as error:
        raise DeploymentError(f"{config} is no configuration of one service: {error}") from error
    return database_url_of(settings, os.environ)


def _described(key: "ApiKey") -> dict[str, Any]:
    is_valid = key.is_valid(datetime.now(UTC))
    return {
        "prefix": key.prefix,
        "owner": key.owner,
        "scopes": sorted(key.scopes),
        "name": key.name,
        "state": "revoked" if key.revoked_at else "valid" if is_valid else "expired",
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
    }


def _show_token(key: "ApiKey", token: str, *, as_json: bool) -> None:
    if as_json:
        shown = {**_described(key), "token": token}
        typer.echo(json.dumps(shown, indent=1, ensure_ascii=False, default=datetime.isoformat))
        return
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"key {key.prefix} for {key.owner}; this is the only time its token is shown:")
    typer.echo(token)
