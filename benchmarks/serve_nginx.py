"""The nginx that this machine has, with the configuration that we ship, in a folder and on a port of its own."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serve_cluster import free_port

SHIPPED = Path(__file__).parents[1] / "examples" / "nginx.conf"
_WHOLE = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {folder}/bodies;
    proxy_temp_path {folder}/proxied;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/shipped.conf;
}}
"""


@dataclass(frozen=True)
class Nginx:
    """One that takes connections on loopback."""

    port: int
    pid: int


def find_nginx() -> str | None:
    """Return the program, which Debian puts where only root looks."""
    return shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")


@contextmanager
def nginx_before(upstream: int, results: Path, folder: Path, *, port: int | None = None) -> Iterator[Nginx]:
    """Run nginx before a service for as long as the block does.

    Args:
        upstream: port of the service.
        results: folder of its results.
        folder: of nginx's own files.
        port: where it is to listen; by default one that nobody has now.

    Raises:
        RuntimeError: there is no nginx here, or it does not start.
    """
    program = find_nginx()
    if program is None:
        raise RuntimeError("nginx is not installed; `make system-packages` installs it")
    port = free_port() if port is None else port
    folder.mkdir(parents=True, exist_ok=True)
    replaced = {
        "listen 80;": f"listen 127.0.0.1:{port};",
        "127.0.0.1:30000": f"127.0.0.1:{upstream}",
        "/srv/seedvr2/data/results/": f"{results}/",
    }
    text = SHIPPED.read_text()
    for old, new in replaced.items():
        if old not in text:
            raise RuntimeError(f"{SHIPPED.name} has no {old!r} to be replaced")
        text = text.replace(old, new)
    (folder / "shipped.conf").write_text(text)
    (folder / "nginx.conf").write_text(_WHOLE.format(folder=folder))
    log = folder / "error.log"
    process = subprocess.Popen([program, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(log)])
    try:
        deadline = time.monotonic() + 240
        while not _accepts(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"nginx does not start: {log.read_text()}")
            time.sleep(0.02)
        yield Nginx(port, process.pid)
    finally:
        process.terminate()
        process.wait(240)


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
