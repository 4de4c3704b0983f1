"""Who may call in this mesh, by AUTH: what each part is given, and what our own calls show.

none    nobody proves anything
mtls    each part has a certificate; the door asks every caller for one
token   each caller has a token; there is no TLS, as all stays on this machine
"""

import ssl
import urllib.request
from pathlib import Path

import grpc

from services.mesh.errors import MeshError
from services.mesh.identity import OPERATOR, READER, identities_of
from services.mesh.settings import Settings

Metadata = tuple[tuple[str, str], ...]


class Access:
    """What the settings' AUTH asks for. `keep` makes the files; all else only names them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._auth = settings.auth or "none"
        self._identities = identities_of(settings)
        strategies = [f"strategy/{name}" for name in settings.strategies]
        self._callers = [*strategies, OPERATOR, READER]

    @property
    def has_tls(self) -> bool:
        """Whether callers of the door and the router need certificates."""
        return self._auth == "mtls"

    @property
    def door_identity(self) -> Path | None:
        """The folder of Envoy's certificate; None: no TLS."""
        return self._identities.folder_of("door") if self.has_tls else None

    @property
    def url(self) -> str:
        """Where REST is."""
        return f"{'https' if self.has_tls else 'http'}://localhost:{self._settings.port}"

    def keep(self) -> list[str]:
        """Makes what is missing and renews what is half over; returns whose was renewed.

        Raises:
            MeshError: The folder cannot be used, or an authority or key in it is damaged.
        """
        try:
            if self._auth == "mtls":
                return self._identities.keep_certificates(["door", "router", *self._callers])
            if self._auth == "token":
                return self._identities.keep_tokens(self._callers)
        except (OSError, ValueError) as error:
            raise MeshError(
                f"{self._identities.folder} cannot be used: {error}. Put right what is damaged "
                "there, or remove the folder: all certificates and tokens are then made anew."
            ) from None
        return []

    def router_environ(self, health_address: str) -> dict[str, str]:
        """What the router is told. With TLS, its health is told at an address apart."""
        environ = {"AUTH": self._auth, "TRUST_DOMAIN": self._settings.trust_domain}
        if self._auth == "mtls":
            environ["IDENTITY_DIR"] = str(self._identities.folder_of("router"))
            environ["HEALTH_ADDRESS"] = health_address
        if self._auth == "token":
            environ["TOKEN_KEYS"] = str(self._identities.key_set)
        return environ

    def strategy_environ(self, name: str) -> dict[str, str]:
        """What a strategy is told: this, and never what our own environment says."""
        folder = self._identities.folder_of(f"strategy/{name}")
        return {
            "IDENTITY_DIR": str(folder) if self._auth == "mtls" else "",
            "TOKEN_FILE": str(folder / "token") if self._auth == "token" else "",
        }

    def channel(self, address: str) -> grpc.Channel:
        """A new channel to the router, as a reader, with the certificates of this moment."""
        if not self.has_tls:
            return grpc.insecure_channel(address)
        folder = self._identities.folder_of(READER)
        authorities, key, certificate = (
            (folder / name).read_bytes() for name in ("ca.crt", "tls.key", "tls.crt")
        )
        return grpc.secure_channel(
            address, grpc.ssl_channel_credentials(authorities, key, certificate)
        )

    @property
    def metadata(self) -> Metadata | None:
        """What a call to the router carries, as a reader."""
        if self._auth != "token":
            return None
        return (("authorization", _bearer(self._identities.folder_of(READER))),)

    def opener(self) -> urllib.request.OpenerDirector:
        """Opens REST addresses as the operator at this machine."""
        folder = self._identities.folder_of(OPERATOR)
        if self.has_tls:
            context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
            context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
            return urllib.request.build_opener(urllib.request.HTTPSHandler(context=context))
        opener = urllib.request.build_opener()
        if self._auth == "token":
            opener.addheaders = [("authorization", _bearer(folder))]
        return opener

    def how_to_call(self) -> list[str]:
        """Lines that tell a person how to call; none when there is nothing to know."""
        folder = self._identities.folder_of(OPERATOR)
        port = self._settings.port
        if self._auth == "mtls":
            files = {name: folder / name for name in ("ca.crt", "tls.crt", "tls.key")}
            return [
                f"Callers need a certificate (AUTH=mtls). You are {OPERATOR}:",
                f"  curl --cacert {files['ca.crt']} --cert {files['tls.crt']} "
                f"--key {files['tls.key']} {self.url}/portfolio",
                f"  grpcurl -cacert {files['ca.crt']} -cert {files['tls.crt']} "
                f"-key {files['tls.key']} localhost:{port} list",
                f"  SureshotSDK: IDENTITY_DIR={folder}",
            ]
        if self._auth == "token":
            bearer = f'-H "authorization: Bearer $(cat {folder / "token"})"'
            return [
                f"Callers need a token (AUTH=token). You are {OPERATOR}:",
                f"  curl {bearer} {self.url}/portfolio",
                f"  grpcurl -plaintext {bearer} localhost:{port} list",
                f"  SureshotSDK: TOKEN_FILE={folder / 'token'}",
            ]
        return []


def _bearer(folder: Path) -> str:
    return f"Bearer {(folder / 'token').read_text().strip()}"
