"""Laws of watching processes: what is needed travels to every replica, and no secret is shown on the way."""

import json
import pickle
import subprocess
import sys

import pytest

from seedvr2_ray.serve.observability.instrumentation import instrumentation_of
from seedvr2_ray.serve.secrets import Secrets


def test_what_travels_holds_the_settings_of_traces_and_shows_no_secret() -> None:
    secrets = Secrets(jwt_key="jwt-jwt-jwt", sentry_dsn="https://public@sentry.example.org/1")
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_EXPORTER_OTLP_HEADERS": "x=word"}
    environ = {**endpoint, "PATH": "/"}
    instrumentation = instrumentation_of(environ, secrets, "postgresql://u:data-base-word@host/x")
    assert set(instrumentation.known_secrets) == {
        "jwt-jwt-jwt",
        "https://public@sentry.example.org/1",
        "data-base-word",
    }
    assert instrumentation.traces == endpoint
    assert pickle.loads(pickle.dumps(instrumentation)) == instrumentation
    assert repr(instrumentation) == "Instrumentation(level='INFO')"


@pytest.mark.slow
def test_a_watched_process_writes_json_lines_without_the_deployments_secrets() -> None:
    program = (
        "import logging\n"
        "from seedvr2_ray.serve.observability.instrumentation import Instrumentation\n"
        "Instrumentation(known_secrets=('jwt-jwt-jwt',)).start('runner')\n"
        "logging.getLogger('x').warning('it is jwt-jwt-jwt')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    [line] = map(json.loads, done.stderr.splitlines())
    assert (line["message"], line["level"]) == ("it is ***", "WARNING")
