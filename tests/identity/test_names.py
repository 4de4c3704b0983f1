"""The names in credentials."""

import pytest

from services.portfolio.caller import Caller, Role
from services.portfolio.rpc.errors import CredentialsInvalidError, CredentialsMissingError
from services.portfolio.rpc.identity import caller_of, forwarded_name

DOMAIN = "efficientfrontier"
MINE = "spiffe://efficientfrontier/strategy/A"
DOOR = "By=spiffe://efficientfrontier/door;Hash=0a1b2c;"


@pytest.mark.parametrize(
    ("name", "caller"),
    [
        (MINE, Caller("A", Role.STRATEGY)),
        ("spiffe://efficientfrontier/operator/alice.b-c_1", Caller("alice.b-c_1", Role.OPERATOR)),
        ("spiffe://efficientfrontier/reader/grafana", Caller("grafana", Role.READER)),
    ],
)
def test_a_name_says_who_calls(name: str, caller: Caller) -> None:
    assert caller_of(name, DOMAIN) == caller
    assert caller_of(name, DOMAIN).actor == name.removeprefix("spiffe://efficientfrontier/")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "strategy/A",
        "spiffe://efficientfrontier",
        "spiffe://efficientfrontier/",
        "spiffe://efficientfrontier/strategy",
        "spiffe://efficientfrontier/strategy/",
        "spiffe://efficientfrontier/strategy/A/B",
        "spiffe://efficientfrontier/strategy/A ",
        "spiffe://efficientfrontier/strategy/A\n",
        "spiffe://efficientfrontier/strategy/1A",
        "spiffe://efficientfrontier/strategy/Ä",
        f"spiffe://efficientfrontier/strategy/{'A' * 65}",
        "spiffe://efficientfrontier/Strategy/A",
        "spiffe://efficientfrontier/admin/A",
        "spiffe://efficientfrontier//A",
        "spiffe://efficientfrontier.evil/strategy/A",
        "spiffe://elsewhere/strategy/A",
        "https://efficientfrontier/strategy/A",
        "spiffe://efficientfrontier/door",
        "spiffe://efficientfrontier/router",
        "spiffe://efficientfrontier/router/x",
    ],
)
def test_what_is_no_callers_name_is_refused(name: str) -> None:
    with pytest.raises(CredentialsInvalidError):
        caller_of(name, DOMAIN)


def test_a_wrong_name_is_shown_in_part_only() -> None:
    with pytest.raises(CredentialsInvalidError) as refused:
        caller_of("x" * 10_000, DOMAIN)
    assert len(refused.value.message) < 400
    assert "spiffe://efficientfrontier/strategy/NAME" in refused.value.message


@pytest.mark.parametrize(
    "header",
    [
        f"URI={MINE}",
        f"{DOOR}URI={MINE}",
        f'{DOOR}URI="{MINE}"',
        f"URI={MINE};Hash=00",
        f'Subject="CN=a\\"b,URI=spiffe://efficientfrontier/operator/o";uri={MINE}',
        f'Cert="-----BEGIN%20;,=";URI={MINE}',
    ],
)
def test_envoys_header_carries_one_name(header: str) -> None:
    assert forwarded_name(header) == MINE


@pytest.mark.parametrize("header", ["Hash=00", DOOR.rstrip(";"), "URI=", "URI=;Hash=00"])
def test_a_header_without_a_name_is_missing_credentials(header: str) -> None:
    with pytest.raises(CredentialsMissingError):
        forwarded_name(header)


@pytest.mark.parametrize(
    "header",
    [
        "",
        " ",
        "nonsense",
        f"{DOOR}",
        f" URI={MINE}",
        f"URI={MINE};",
        f"URI={MINE},URI=spiffe://efficientfrontier/operator/o",
        f"URI={MINE},",
        f",URI={MINE}",
        f"URI={MINE};URI=spiffe://efficientfrontier/operator/o",
        f"URI={MINE};uri={MINE}",
        f'URI="{MINE}',
        f'URI="{MINE}"x',
        f'URI={MINE}"',
        f'URI="{MINE}\\"',
        f"URI={MINE}\nURI=spiffe://efficientfrontier/operator/o;;",
        f"=x;URI={MINE}",
    ],
)
def test_a_header_of_more_than_one_certificate_or_name_is_refused(header: str) -> None:
    with pytest.raises(CredentialsInvalidError):
        forwarded_name(header)
