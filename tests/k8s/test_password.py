"""The database's password: services/portfolio/password.py against a real HTTPS server."""

import json
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from sqlalchemy.engine import make_url

from services.portfolio.password import (
    NAME,
    NoSecretError,
    PasswordSettings,
    create_secret,
    new_secret,
)
from tests.support.process import Process

TOKEN = "a-token-of-the-kubelet"
PATH = "/api/v1/namespaces/mesh/secrets"


@dataclass
class ApiServer:
    """As much of Kubernetes' API server as creating Secrets takes."""

    url: str = ""
    folder: Path = Path()
    kept: dict[str, Any] = field(default_factory=dict)
    refuse: int = 0
    calls: int = 0

    def answer(self, path: str, token: str, body: Any) -> tuple[int, dict[str, Any]]:
        """The status and what it says; a Secret of a new name is kept."""
        self.calls += 1
        if token != f"Bearer {TOKEN}":
            return 401, {"kind": "Status", "message": "Unauthorized"}
        if self.refuse:
            return self.refuse, {"kind": "Status", "message": f"refused: {'x' * 1000}"}
        if path != PATH or body["kind"] != "Secret":
            return 404, {"kind": "Status", "message": f"no {path}"}
        name = body["metadata"]["name"]
        if name in self.kept:
            return 409, {"kind": "Status", "message": f'secrets "{name}" already exists'}
        self.kept[name] = body
        return 201, body

    @property
    def settings(self) -> PasswordSettings:
        return PasswordSettings(kubernetes_api=self.url, service_account_dir=self.folder)


def write_certificate(folder: Path) -> ssl.SSLContext:
    """A throw-away certificate of `localhost`, which is also whom to trust (ca.crt)."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(hours=1))
        .not_valid_after(datetime.now(UTC) + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "ca.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "server.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "ca.crt", folder / "server.key")
    return context


@pytest.fixture
def api_server(tmp_path: Path) -> Iterator[ApiServer]:
    """It listens on localhost with a certificate of its own; its folder is the pod's mount."""
    one = ApiServer(folder=tmp_path)
    (tmp_path / "token").write_text(TOKEN + "\n")
    (tmp_path / "namespace").write_text("mesh")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            code, said = one.answer(self.path, self.headers.get("Authorization", ""), body)
            text = json.dumps(said).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_request(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = write_certificate(tmp_path).wrap_socket(server.socket, server_side=True)
    one.url = f"https://localhost:{server.server_port}"
    serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    serving.start()
    yield one
    server.shutdown()
    serving.join()
    server.server_close()


def test_the_secret_is_made_with_passwords_that_fit_each_other(api_server: ApiServer) -> None:
    assert create_secret(api_server.settings) is True

    made = api_server.kept[NAME]
    keys = made["stringData"]
    url = make_url(keys["uri"])
    assert made["metadata"]["namespace"] == "mesh"
    assert (url.username, url.password) == (keys["username"], keys["password"])
    assert (url.host, str(url.port), url.database) == (keys["host"], keys["port"], keys["dbname"])
    assert len(keys["password"]) >= 40
    assert keys["superuser-password"] != keys["password"]


def test_a_secret_that_exists_is_left_alone(api_server: ApiServer) -> None:
    create_secret(api_server.settings)
    first = dict(api_server.kept)

    assert create_secret(api_server.settings) is False
    assert api_server.kept == first


def test_two_passwords_are_never_the_same() -> None:
    made: list[Any] = [new_secret("mesh")["stringData"] for _ in range(20)]

    assert len({one["password"] for one in made}) == 20


def test_what_refuses_is_told_with_its_reason_and_without_the_password(
    api_server: ApiServer,
) -> None:
    api_server.refuse = 403

    with pytest.raises(NoSecretError) as caught:
        create_secret(api_server.settings)

    told = str(caught.value)
    assert "refused to create the Secret efficientfrontier-postgres (403): refused: xxx" in told
    assert len(told) < 500
    assert TOKEN not in told


def test_an_api_server_that_is_not_trusted_gets_no_token(
    api_server: ApiServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other")
    write_certificate(other)
    (api_server.folder / "ca.crt").write_bytes((other / "ca.crt").read_bytes())

    with pytest.raises(NoSecretError, match="CERTIFICATE_VERIFY_FAILED"):
        create_secret(api_server.settings)

    assert api_server.calls == 0


def test_a_pod_without_a_service_account_is_told_so(tmp_path: Path) -> None:
    settings = PasswordSettings.model_validate({"service_account_dir": tmp_path})

    with pytest.raises(NoSecretError, match="set automountServiceAccountToken"):
        create_secret(settings)


def test_the_command_says_what_it_did_and_never_the_password(
    api_server: ApiServer, tmp_path: Path
) -> None:
    told = []
    for _ in range(2):
        environ = {
            "KUBERNETES_API": api_server.url,
            "SERVICE_ACCOUNT_DIR": str(api_server.folder),
        }
        one = Process.of_module(
            "services.portfolio.password", log=tmp_path / "password.log", environ=environ
        )
        with one:
            assert one.wait() == 0, one.output()
            told.append(one.output().strip())

    assert told == [f"The Secret {NAME} is made.", f"The Secret {NAME} exists; it stays as it is."]


def test_the_command_fails_in_one_line_so_that_the_job_tries_again(
    api_server: ApiServer, tmp_path: Path
) -> None:
    api_server.refuse = 500
    environ = {"KUBERNETES_API": api_server.url, "SERVICE_ACCOUNT_DIR": str(api_server.folder)}
    one = Process.of_module(
        "services.portfolio.password", log=tmp_path / "password.log", environ=environ
    )
    with one:
        assert one.wait() == 1

    (line,) = one.output().strip().splitlines()
    assert line.startswith("No password was made. https://localhost:")


def test_a_setting_that_cannot_be_is_told_in_one_line(tmp_path: Path) -> None:
    one = Process.of_module(
        "services.portfolio.password",
        log=tmp_path / "password.log",
        environ={"KUBERNETES_API": "http://kubernetes"},
    )
    with one:
        assert one.wait() == 1

    (line,) = one.output().strip().splitlines()
    assert line.startswith("No password was made. KUBERNETES_API: ")
