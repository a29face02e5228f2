"""A Ray of one's own that nobody else can use: on the loopback interface, and with a token.

Left to itself, Ray listens on every interface and asks nobody who they are, so that anyone on the network could read
its state and run code in it. Ray reads what is decided here while it is imported: so this comes first.
"""

import os
import secrets
import sys
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from uuid import uuid4

from seedvr2_ray.errors import DeploymentError

LOOPBACK = "127.0.0.1"
"""The address that every process of such a Ray listens on and reaches the others at."""

OWN = "local"
"""What Ray calls the address of a Ray that is started for one program and ends with it."""

_ON_ONE_MACHINE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""At 0, Ray takes itself for a cluster of one machine: its default on desktops, which it spares their firewall's
questions. Its options for addresses do not bring that about: it replaces a loopback address by a public one."""


def confine(environ: MutableMapping[str, str] = os.environ, *, token_file: Path | None = None) -> None:
    """Set this process and its children up for a Ray that listens on loopback and asks for a token.

    What the caller's environment says of tokens stays as it is: whoever turns them off, or brings one, means it.

    Args:
        token_file: holds the token for as long as there is a service, so that another command of the same person can
            talk to it. By default the token lives in the environment and ends with this process.

    Raises:
        DeploymentError: Ray is imported already and would not notice, or others may read the file.
    """
    if environ is os.environ and "ray" in sys.modules and environ.get(_ON_ONE_MACHINE) != "0":
        raise DeploymentError(
            "Ray was imported before it was confined to this machine; call seedvr2_ray.local_ray.confine() first, or "
            "name the address of a Ray that runs"
        )
    environ[_ON_ONE_MACHINE] = "0"
    environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    environ.setdefault("RAY_AUTH_MODE", "token")
    if environ["RAY_AUTH_MODE"] != "token" or "RAY_AUTH_TOKEN" in environ or "RAY_AUTH_TOKEN_PATH" in environ:
        return
    if token_file is None:
        environ["RAY_AUTH_TOKEN"] = _new_token()
    else:
        keep_token(token_file)
        environ["RAY_AUTH_TOKEN_PATH"] = str(token_file)


def address_of(address: str | None, environ: Mapping[str, str] = os.environ) -> str:
    """Return where a job runs: where it says, else where ``RAY_ADDRESS`` says, else on a Ray of its own."""
    return address or environ.get("RAY_ADDRESS") or OWN


def service_token_file(environ: Mapping[str, str] = os.environ) -> Path:
    """Return where the token of this person's services lies; not where Ray would look for one by itself, for there it
    would change every other Ray of theirs."""
    state = environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "seedvr2-ray" / "ray-token"


def keep_token(path: Path) -> None:
    """Write a token that only this person can read, unless there is one.

    Raises:
        DeploymentError: the file cannot be written, or others may read it.
    """
    part = path.with_name(f".{path.name}-{uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write(_new_token())
        try:
            os.link(part, path)  # Of several that start at once, the first decides.
        except FileExistsError:
            pass
        finally:
            part.unlink()
        mode = path.stat().st_mode
    except OSError as error:
        raise DeploymentError(
            f"no token for Ray can be kept at {path}: {error.strerror}; set XDG_STATE_HOME to a folder of yours"
        ) from error
    if mode & 0o077:
        raise DeploymentError(f"{path} holds Ray's token and others may read it; delete it, and a new one is made")


def _new_token() -> str:
    return secrets.token_hex(32)
