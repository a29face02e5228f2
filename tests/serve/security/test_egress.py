"""Laws of pinned connections: TLS speaks of the name, the connection goes to the address that was checked."""

import datetime
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from seedvr2_ray.serve.config import FetchRules, Limits
from seedvr2_ray.serve.problems import FetchRefusal
from seedvr2_ray.serve.security.egress import Egress
from seedvr2_ray.serve.security.fetch import fetch_url
from tests.serve.servers import redirecting, saying, serving

RULES = FetchRules(allow_private=("127.0.0.0/8",))
LIMITS = Limits(max_upload_bytes=100_000, fetch_seconds=240)
CONTENT = bytes(range(256))


def _certificate(folder: Path, name: str) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    (folder / "certificate.pem").write_bytes(pem)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "both.pem").write_bytes(private + pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "both.pem")
    return context


def test_tls_is_checked_against_the_name_and_never_left_again(
    tmp_path: Path,
) -> None:
    target = tmp_path / "film"
    asked_names = []
    context = _certificate(tmp_path, "films.example.org")
    context.sni_callback = lambda _, name, __: asked_names.append(name)
    egress = Egress(
        resolver=lambda host, port: ["127.0.0.1"],
        tls=ssl.create_default_context(cafile=str(tmp_path / "certificate.pem")),
        allow_private=("127.0.0.0/8",),
    )
    with serving() as server, serving(context) as secure:
        secure.answers["/film.mp4"] = saying(CONTENT)
        secure.answers["/down"] = redirecting(server.url("/film.mp4"))
        base = f"https://films.example.org:{secure.port}"
        fetch_url(f"{base}/film.mp4", target, RULES, LIMITS, egress=egress)
        assert (target.read_bytes(), asked_names) == (CONTENT, ["films.example.org"])
        target.unlink()
        for url, reason in (
            (f"{base}/down", "redirects from https to http"),
            (f"https://other.example.org:{secure.port}/film.mp4", "no valid certificate for its name"),
        ):
            with pytest.raises(FetchRefusal, match=reason):
                fetch_url(url, target, RULES, LIMITS, egress=egress)
        with pytest.raises(FetchRefusal, match="no valid certificate"):
            fetch_url(
                f"{base}/film.mp4",
                target,
                RULES,
                LIMITS,
                egress=Egress(resolver=lambda host, port: ["127.0.0.1"], allow_private=("127.0.0.0/8",)),
            )
        assert server.requests == []
