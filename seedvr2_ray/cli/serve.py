"""``seedvr2-ray serve``: the service on this machine."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from seedvr2_ray.errors import SettingsError
from seedvr2_ray.local_ray import confine, service_token_file

PROXY_CALLBACK = ("RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", "seedvr2_ray.serve.http.proxy:middlewares")
"""Bounds what callers may send, in every proxy that Serve starts."""
BEHIND_NGINX = {
    "RAY_SERVE_ENABLE_DIRECT_INGRESS": "1",
    # The ports that examples/nginx.conf knows; one that is free again may be taken again.
    "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": "30000",
    "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": "30003",
    "RAY_SERVE_PORT_QUARANTINE_S": "0",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
}
"""Has every ingress listen by itself: what goes through Ray's proxy costs as much again, and moves in small pieces."""
_SERVE = "from ray.serve.scripts import cli; cli(prog_name='serve')"


def serve(
    config: Annotated[Path, typer.Argument(help="The service's configuration.")] = Path("serve_config.yaml"),
    behind_nginx: Annotated[
        bool,
        typer.Option("--behind-nginx", help="Listen for an nginx on this machine too, at 127.0.0.1:30000 to 30003."),
    ] = False,
) -> None:
    """Start the service on this machine; Ctrl-C ends it.

    Ray listens on loopback only and asks for a token, which lies in a file that only you can read. The page and the
    API listen where the configuration says.

    To change a running service: RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=~/.local/state/seedvr2-ray/ray-token serve
    deploy serve_config.yaml
    """
    if not config.is_file():
        raise SettingsError(f"there is no configuration {config}; name the service's file, such as serve_config.yaml")
    environ = dict(os.environ)
    confine(environ, token_file=service_token_file(environ))
    environ.setdefault(*PROXY_CALLBACK)
    for name, value in BEHIND_NGINX.items() if behind_nginx else ():
        environ.setdefault(name, value)
    # Ray's own command in place of this process, so that signals reach it and it reads the environment as it starts.
    # "local": a Ray that runs here already may listen anywhere.
    command = [sys.executable, "-c", _SERVE, "run", "--address", "local", str(config)]
    os.execve(sys.executable, command, environ)
