"""The nginx that a machine has, with the configuration that we ship, in a folder and on ports of a test's own."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.listening import accepts
from tests.missing import require_programs
from tests.s3_server import free_port

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


@contextmanager
def nginx_before(upstream: int, results: Path, folder: Path) -> Iterator[str]:
    """Run nginx before a service for as long as the block does, and give its address.

    Args:
        upstream: port of the service.
        results: folder of its results.
        folder: of nginx's own files.
    """
    require_programs("nginx")
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    replaced = {
        "listen 80;": f"listen 127.0.0.1:{port};",
        "127.0.0.1:30000": f"127.0.0.1:{upstream}",
        "/srv/seedvr2/data/results/": f"{results}/",
    }
    text = SHIPPED.read_text()
    for old, new in replaced.items():
        assert old in text, old
        text = text.replace(old, new)
    (folder / "shipped.conf").write_text(text)
    (folder / "nginx.conf").write_text(_WHOLE.format(folder=folder))
    command = ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    process = subprocess.Popen(command, env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin"})
    try:
        deadline = time.monotonic() + 20
        while not accepts("127.0.0.1", port):
            assert process.poll() is None and time.monotonic() < deadline, (folder / "error.log").read_text()
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)
