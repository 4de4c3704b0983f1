"""A mesh in which callers prove who they are: the real router and the real Envoy, by AUTH."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import requests

from services.mesh.envoy import Envoy
from services.mesh.identity import Identities
from services.mesh.ports import free_port
from SureshotSDK import PortfolioClient
from tests.support.database import fresh_database
from tests.support.mesh import running
from tests.support.router import Router

TRUST_DOMAIN = "efficientfrontier"
A, B = "IncredibleLeverage_SPXL", "IncredibleLeverage_HOOD"
PARTS = (f"strategy/{A}", f"strategy/{B}", "operator/alice", "reader/bob")
ANSWER_S = 20


@dataclass(frozen=True)
class Secured:
    """A running mesh with AUTH=mtls or token. A caller is a part's name, or a folder."""

    auth: str
    envoy: Envoy
    router: Router
    identities: Identities

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.envoy.port}"

    def folder(self, who: str | Path) -> Path:
        return self.identities.folder_of(who) if isinstance(who, str) else who

    def rest(
        self, method: str, path: str, who: str | Path | None, body: Any = None, **headers: str
    ) -> requests.Response:
        """A REST call on a connection of its own; without a caller nothing is shown."""
        scheme = "https" if self.auth == "mtls" else "http"
        shown: dict[str, Any] = {}
        if self.auth == "mtls":
            shown["verify"] = str(self.folder("door") / "ca.crt")
        if who is not None and self.auth == "mtls":
            folder = self.folder(who)
            shown["cert"] = (str(folder / "tls.crt"), str(folder / "tls.key"))
            shown["verify"] = str(folder / "ca.crt")
        if who is not None and self.auth == "token":
            headers["authorization"] = f"Bearer {(self.folder(who) / 'token').read_text()}"
        url = f"{scheme}://{self.address}{path}"
        return requests.request(method, url, json=body, headers=headers, timeout=ANSWER_S, **shown)

    def client(
        self, who: str | Path, *, address: str = "", retry_for_s: float = 0
    ) -> PortfolioClient:
        """The SDK's client."""
        folder = self.folder(who)
        return PortfolioClient(
            address or self.address,
            identity_dir=folder if self.auth == "mtls" else None,
            token_file=folder / "token" if self.auth == "token" else None,
            retry_for_s=retry_for_s,
        )

    def channel(self, who: str | Path | None) -> grpc.Channel:
        """A channel of grpc alone, as a notebook makes one."""
        if self.auth == "token":
            return grpc.insecure_channel(self.address)
        believed = (self.folder("door") / "ca.crt").read_bytes()
        if who is None:
            return grpc.secure_channel(self.address, grpc.ssl_channel_credentials(believed))
        key, certificate = (
            (self.folder(who) / name).read_bytes() for name in ("tls.key", "tls.crt")
        )
        return grpc.secure_channel(
            self.address, grpc.ssl_channel_credentials(believed, key, certificate)
        )

    def metadata(self, who: str | Path | None) -> tuple[tuple[str, str], ...]:
        """What goes with a call of grpc alone."""
        if who is None or self.auth == "mtls":
            return ()
        return (("authorization", f"Bearer {(self.folder(who) / 'token').read_text()}"),)

    def works(self, who: str | Path) -> bool:
        """Whether a new connection of theirs is let in at this moment."""
        try:
            return self.rest("GET", "/portfolio", who).status_code == 200
        except requests.ConnectionError:
            return False

    def assert_balanced(self) -> None:
        audit = self.rest("GET", "/audit", "operator/alice")
        assert audit.json()["balanced"], audit.text


@contextmanager
def secured_mesh(auth: str, server_url: str, folder: Path) -> Iterator[Secured]:
    """Starts one on a new database of the server, and ends it."""
    identities = Identities(folder / "identity", TRUST_DOMAIN)
    environ = {"AUTH": auth}
    if auth == "mtls":
        identities.keep_certificates(["door", "router", *PARTS])
        environ["IDENTITY_DIR"] = str(identities.folder_of("router"))
        environ["HEALTH_ADDRESS"] = f"127.0.0.1:{free_port()}"
    else:
        identities.keep_tokens(PARTS)
        environ["TOKEN_KEYS"] = str(identities.key_set)
    with fresh_database(server_url) as database_url:
        router = Router(database_url, folder / "router.log", environ)
        door = identities.folder_of("door") if auth == "mtls" else None
        envoy = Envoy(0, [router.address], folder / "envoy", folder, identity=door)
        with running(router, envoy):
            yield Secured(auth, envoy, router, identities)


def uri(who: str) -> str:
    """A part's name in full."""
    return f"spiffe://{TRUST_DOMAIN}/{who}"
