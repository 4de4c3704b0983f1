"""Makes the database's passwords in a cluster, once, so that none is ever written down by a person.

python -m services.portfolio.password

It asks the Kubernetes API server to create the Secret `efficientfrontier-postgres` in its own
namespace, with passwords that it has just made up. A Secret that exists stays as it is. The pod's
service account may create Secrets and nothing else; the passwords are not printed.

The Secret's keys are those that CloudNativePG gives its own (username, password, host, port,
dbname, uri), so that everything else takes either; superuser-password is beside them.
"""

import json
import secrets
import ssl
import sys
import urllib.error
import urllib.request
from http import HTTPStatus
from pathlib import Path

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.portfolio.config import described

NAME = "efficientfrontier-postgres"
ANSWER_WITHIN_S = 10
LONGEST_REASON = 300  # characters of the API server's answer that are told


class PasswordSettings(BaseSettings):
    """What the environment says of this; in a cluster the defaults are right."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    kubernetes_api: str = Field("https://kubernetes.default.svc", pattern="^https://")
    service_account_dir: Path = Field(
        Path("/var/run/secrets/kubernetes.io/serviceaccount"),
        description="where the kubelet keeps token, ca.crt and namespace",
    )


class NoSecretError(Exception):
    """The Secret could not be created; the message says why, and whether to try again."""


def create_secret(settings: PasswordSettings) -> bool:
    """Creates the Secret with new passwords; False: it existed, and was left alone.

    Raises:
        NoSecretError: the API server cannot be reached or trusted, or refuses.
    """
    request, trust = prepared(settings)
    try:
        # The address begins with https://, which the settings check.
        with urllib.request.urlopen(request, timeout=ANSWER_WITHIN_S, context=trust):  # noqa: S310
            return True
    except urllib.error.HTTPError as error:
        with error:
            if error.code == HTTPStatus.CONFLICT:
                return False
            raise NoSecretError(
                f"{settings.kubernetes_api} refused to create the Secret {NAME} "
                f"({error.code}): {reason(error.read())}"
            ) from None
    except OSError as error:
        raise NoSecretError(f"{settings.kubernetes_api} cannot be used: {error}") from None


def prepared(settings: PasswordSettings) -> tuple[urllib.request.Request, ssl.SSLContext]:
    """The call that creates the Secret, and whom to trust with it."""
    folder = settings.service_account_dir
    try:
        token = (folder / "token").read_text().strip()
        namespace = (folder / "namespace").read_text().strip()
        trust = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    except OSError as error:
        raise NoSecretError(
            f"This pod has no service account in {folder} ({error}): "
            "set automountServiceAccountToken, and mount it."
        ) from None
    request = urllib.request.Request(  # noqa: S310 (https, as above)
        f"{settings.kubernetes_api}/api/v1/namespaces/{namespace}/secrets",
        data=json.dumps(new_secret(namespace)).encode(),
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        method="POST",
    )
    return request, trust


def new_secret(namespace: str) -> dict[str, object]:
    """The Secret, with passwords that nobody has seen; they need no escaping in a URL."""
    password = secrets.token_urlsafe(32)
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": NAME, "namespace": namespace, "labels": {"app": "efficientfrontier"}},
        "stringData": {
            "username": "efficientfrontier",
            "password": password,
            "superuser-password": secrets.token_urlsafe(32),
            "host": NAME,
            "port": "5432",
            "dbname": "efficientfrontier",
            "uri": f"postgresql://efficientfrontier:{password}@{NAME}:5432/efficientfrontier",
        },
    }


def reason(answer: bytes) -> str:
    """What the API server says in its answer, a Status object, else the beginning of what came."""
    try:
        said = json.loads(answer)["message"]
    except (ValueError, KeyError, TypeError):
        said = answer.decode(errors="replace")
    return str(said)[:LONGEST_REASON]


def main() -> None:
    """Creates it; what stands in the way is told in one line, and the exit status is 1."""
    try:
        made = create_secret(PasswordSettings())  # type: ignore[call-arg]  # from the environment
    except ValidationError as error:
        sys.exit(f"No password was made. {described(error)}.")
    except NoSecretError as error:
        sys.exit(f"No password was made. {error}")
    print(f"The Secret {NAME} " + ("is made." if made else "exists; it stays as it is."))


if __name__ == "__main__":
    main()
