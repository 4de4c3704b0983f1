"""A mesh's identities, and a real Envoy that asks for them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from services.mesh.envoy import Envoy
from services.mesh.identity import OPERATOR, Identities
from tests.edge.upstream import Upstream

TRUST_DOMAIN = "efficientfrontier"
PARTS = ("door", "router", "strategy/Edge_SPXL", OPERATOR)


@dataclass(frozen=True)
class Door:
    """A running Envoy with mutual TLS, and what it calls."""

    envoy: Envoy
    upstream: Upstream
    identities: Identities

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.envoy.port}"

    def get(self, path: str, who: str | Path = OPERATOR, **headers: str) -> requests.Response:
        """GETs as somebody, on a connection of its own: a part's name, or a folder."""
        return requests.get(
            f"https://{self.address}{path}", headers=headers, timeout=10, **self.shown_by(who)
        )

    def shown_by(self, who: str | Path) -> dict[str, Any]:
        folder = self.identities.folder_of(who) if isinstance(who, str) else who
        return {
            "cert": (str(folder / "tls.crt"), str(folder / "tls.key")),
            "verify": str(folder / "ca.crt"),
        }

    def passes(self, who: str | Path = OPERATOR) -> bool:
        """Whether a call of theirs goes through at this moment."""
        try:
            return self.get("/portfolio", who).status_code == 200
        except requests.ConnectionError:
            return False


@pytest.fixture(autouse=True)
def _nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("IDENTITY_DIR", "TOKEN_FILE", "PORTFOLIO_ADDRESS", "AUTH", "TRUST_DOMAIN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def identities(tmp_path: Path) -> Identities:
    """Certificates and tokens for a few parts."""
    made = Identities(tmp_path / "identity", TRUST_DOMAIN)
    made.keep_certificates(PARTS)
    made.keep_tokens(PARTS)
    return made


@pytest.fixture
def door(identities: Identities, tmp_path: Path) -> Iterator[Door]:
    """An Envoy with mutual TLS in front of an upstream that believes the door alone."""
    with Upstream(identities.folder_of("router")) as upstream:
        envoy = Envoy(
            0,
            [upstream.address],
            tmp_path / "envoy",
            tmp_path,
            identity=identities.folder_of("door"),
        )
        try:
            envoy.start()
            envoy.wait_ready(20)
            yield Door(envoy, upstream, identities)
        finally:
            envoy.stop(drain_s=0)
