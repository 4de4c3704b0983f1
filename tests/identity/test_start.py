"""What AUTH needs is there when the router starts, or it says what is missing."""

from pathlib import Path

import pytest

from services.mesh.authority import issue, new_authority
from services.mesh.tokens import key_set, new_key
from services.portfolio.__main__ import RefusedError, admission
from tests.identity.desk import DOMAIN
from tests.support.process import Process
from tests.support.settings import settings_from

pytestmark = pytest.mark.usefixtures("no_settings")


@pytest.mark.parametrize(("auth", "missing"), [("mtls", "IDENTITY_DIR"), ("token", "TOKEN_KEYS")])
def test_auth_names_what_it_needs(monkeypatch: pytest.MonkeyPatch, auth: str, missing: str) -> None:
    with pytest.raises(RefusedError, match=f"AUTH={auth} needs {missing}"):
        admission(settings_from(monkeypatch, AUTH=auth))


@pytest.mark.parametrize("auth", [{}, {"AUTH": "none"}])
def test_paper_is_open_unless_told(monkeypatch: pytest.MonkeyPatch, auth: dict[str, str]) -> None:
    found = admission(settings_from(monkeypatch, **auth))
    assert (found.identify, found.rate, found.credentials) == (None, None, None)


def test_each_way_is_composed_as_it_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    authority = new_authority()
    own = issue(authority, f"{DOMAIN}/router", ["localhost"])
    (tmp_path / "tls.crt").write_bytes(own.certificate)
    (tmp_path / "tls.key").write_bytes(own.key)
    (tmp_path / "ca.crt").write_bytes(authority.certificate)
    (tmp_path / "keys.json").write_bytes(key_set([new_key()]))
    with monkeypatch.context() as one:
        found = admission(
            settings_from(one, AUTH="mtls", IDENTITY_DIR=str(tmp_path), RATE_LIMIT="9")
        )
        assert found.identify
        assert found.rate
        assert found.credentials
    found = admission(
        settings_from(monkeypatch, AUTH="token", TOKEN_KEYS=str(tmp_path / "keys.json"))
    )
    assert found.identify
    assert not found.rate
    assert not found.credentials


@pytest.mark.parametrize(
    ("environ", "why"),
    [
        ({"AUTH": "mtls"}, "AUTH=mtls needs IDENTITY_DIR"),
        ({"AUTH": "mtls", "IDENTITY_DIR": "/nowhere"}, "/nowhere/tls.crt cannot be read"),
        ({"AUTH": "token", "TOKEN_KEYS": "/nowhere"}, "/nowhere cannot be read"),
        ({"TRADING_MODE": "LIVE"}, "TRADING_MODE=LIVE needs"),
    ],
)
def test_the_router_ends_with_one_line(tmp_path: Path, environ: dict[str, str], why: str) -> None:
    started = {"DATABASE_URL": "postgresql://localhost:1/x", **environ}
    with Process.of_module(
        "services.portfolio", log=tmp_path / "router.log", environ=started
    ) as router:
        assert router.wait() == 1
        said = router.output()
    assert "The router cannot start. " in said
    assert why in said
    assert "Traceback" not in said
