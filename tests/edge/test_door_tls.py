"""The door with mutual TLS: the real Envoy before an upstream that believes the door alone."""

import socket
import ssl
from pathlib import Path

import grpc
import pytest
import requests
import yaml
from cryptography import x509

from efficientfrontier.v1.portfolio_service_pb2 import ListPortfoliosRequest
from efficientfrontier.v1.portfolio_service_pb2_grpc import PortfolioServiceStub
from services.mesh import door_tls
from services.mesh.authority import Authority, Identity, issue, new_authority
from services.mesh.envoy import DESCRIPTORS, Envoy, find_binary, validate
from services.mesh.identity import OPERATOR, Identities, swap
from tests.edge.conftest import TRUST_DOMAIN, Door
from tests.edge.upstream import Upstream
from tests.support.certificates import shows
from tests.support.waiting import wait_until

ALICE = f"spiffe://{TRUST_DOMAIN}/{OPERATOR}"
FORGED = f"By=spiffe://{TRUST_DOMAIN}/door;URI=spiffe://{TRUST_DOMAIN}/operator/mallory"


def authority_of(identities: Identities) -> Authority:
    return identities._signer()


def believed_in(identities: Identities) -> bytes:
    return (identities.folder_of("door") / "ca.crt").read_bytes()


def shown_certificate(door: Door) -> x509.Certificate:
    """What the door shows to a new caller."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", door.envoy.port), timeout=5) as plain,
        context.wrap_socket(plain) as secure,
    ):
        return x509.load_der_x509_certificate(secure.getpeercert(binary_form=True) or b"")


def test_what_a_cluster_runs_is_fresh() -> None:
    for name, text in door_tls.generated().items():
        committed = (door_tls.FOLDER / name).read_text()
        assert committed == text, f"{name}: run `python -m services.mesh.door_tls`"


def test_what_a_cluster_runs_is_valid(identities: Identities, tmp_path: Path) -> None:
    for name, text in door_tls.generated().items():
        here = text.replace("/etc/envoy/identity", str(identities.folder_of("door")))
        here = here.replace("/etc/envoy/descriptors.binpb", str(DESCRIPTORS))
        (tmp_path / name).write_text(here.replace("/etc/envoy", str(tmp_path)))

    validate(find_binary(), tmp_path / "envoy.mtls.yaml")


def test_only_tls_the_callers_name_and_the_probes_differ_from_the_plain_door() -> None:
    plain = yaml.safe_load(door_tls.SOURCE.read_text())
    mtls = yaml.safe_load(door_tls.generated()["envoy.mtls.yaml"])
    listeners = {one["name"]: one for one in mtls["static_resources"]["listeners"]}
    clusters = {one["name"]: one for one in mtls["static_resources"]["clusters"]}

    del listeners["door"]["filter_chains"][0]["transport_socket"]
    manager = door_tls.manager_of(listeners["door"])
    assert manager.pop("forward_client_cert_details") == "SANITIZE_SET"
    assert manager.pop("set_current_client_cert_details") == {"uri": True}
    assert manager["common_http_protocol_options"].pop("max_connection_duration") == "3600s"
    del clusters["router"]["transport_socket"]
    mtls["static_resources"]["listeners"].remove(listeners["probes"])
    del mtls["node"]
    assert (
        door_tls.manager_of(plain["static_resources"]["listeners"][0]).pop(
            "forward_client_cert_details"
        )
        == "SANITIZE"
    )
    assert mtls == plain


@pytest.mark.parametrize("who", [OPERATOR, "strategy/Edge_SPXL"])
def test_the_upstream_hears_the_callers_name_and_not_what_the_caller_claims(
    door: Door, who: str
) -> None:
    answer = door.get("/portfolio", who, **{"x-forwarded-client-cert": FORGED})

    assert answer.status_code == 200
    (call,) = door.upstream.calls
    elements = dict(part.split("=", 1) for part in call["x-forwarded-client-cert"].split(";"))
    assert elements["URI"] == f"spiffe://{TRUST_DOMAIN}/{who}"
    assert elements["By"] == f"spiffe://{TRUST_DOMAIN}/door"
    assert "mallory" not in str(call)


def test_grpc_callers_are_named_too_and_a_token_passes_untouched(door: Door) -> None:
    folder = door.identities.folder_of(OPERATOR)
    key, certificate, believed = (
        (folder / name).read_bytes() for name in ("tls.key", "tls.crt", "ca.crt")
    )
    credentials = grpc.ssl_channel_credentials(believed, key, certificate)
    metadata = (("authorization", "Bearer a.b.c"), ("x-forwarded-client-cert", FORGED))

    with grpc.secure_channel(door.address, credentials) as channel:
        portfolios = PortfolioServiceStub(channel)
        answer = portfolios.ListPortfolios(ListPortfoliosRequest(), timeout=10, metadata=metadata)
        assert not answer.portfolios

    (call,) = door.upstream.calls
    assert call["authorization"] == "Bearer a.b.c"
    assert f"URI={ALICE}" in call["x-forwarded-client-cert"]
    assert "mallory" not in str(call)


def test_whoever_proves_nothing_reaches_nothing(door: Door, tmp_path: Path) -> None:
    ours, theirs = authority_of(door.identities), new_authority()
    believed = believed_in(door.identities)
    intruders = {
        "another authority's": issue(theirs, ALICE),
        "an expired": issue(ours, ALICE, days=-1),
        "another trust domain's": issue(ours, "spiffe://elsewhere/operator/local"),
        "one that begins like ours": issue(ours, f"spiffe://{TRUST_DOMAIN}x/operator/local"),
    }
    for name, made in intruders.items():
        folder = shows(tmp_path / name, made, believed)
        with pytest.raises(requests.ConnectionError):
            door.get("/portfolio", folder)
        assert not door.passes(folder), name
    context = ssl.create_default_context(cafile=door.shown_by(OPERATOR)["verify"])
    plain = socket.create_connection(("127.0.0.1", door.envoy.port), timeout=5)
    nameless = context.wrap_socket(plain, server_hostname="127.0.0.1")
    with nameless, pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"):
        nameless.recv(1)
    with pytest.raises(requests.ConnectionError):
        requests.get(f"http://{door.address}/portfolio", timeout=10)

    assert door.upstream.calls == []
    assert door.passes()


def test_an_old_session_is_not_taken_up_again(door: Door) -> None:
    folder = door.identities.folder_of(OPERATOR)
    context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    context.load_cert_chain(folder / "tls.crt", folder / "tls.key")

    def call(session: ssl.SSLSession | None) -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", door.envoy.port), timeout=5)
        secure = context.wrap_socket(plain, server_hostname="127.0.0.1", session=session)
        with secure:
            secure.sendall(b"GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            while secure.recv(4096):
                pass
            reused.append(secure.session_reused)
            sessions.append(secure.session)
        return secure

    reused: list[bool | None] = []
    sessions: list[ssl.SSLSession | None] = []
    call(None)
    call(sessions[0])
    assert reused == [False, False]


def test_probes_need_no_certificate_and_see_nothing_else(door: Door) -> None:
    probes = f"http://127.0.0.1:{door.envoy._listens_on('probes')}"

    assert requests.get(f"{probes}/healthz", timeout=5).text == "ok"
    assert requests.get(f"{probes}/readyz", timeout=5).status_code == 200
    for path in ("/portfolio", "/orders", "/", "/stats/prometheus", "/healthz/x"):
        assert requests.get(probes + path, timeout=5).status_code == 404
    assert requests.post(f"{probes}/orders/buy_all", json={}, timeout=5).status_code == 404
    assert door.upstream.calls == []

    door.envoy._admin("POST", "/healthcheck/fail")
    assert requests.get(f"{probes}/readyz", timeout=5).status_code == 503
    assert requests.get(f"{probes}/healthz", timeout=5).status_code == 200


def test_an_origin_that_is_not_allowed_is_refused_as_ever(door: Door) -> None:
    answer = door.get("/portfolio", origin="https://evil.example.com")

    assert answer.status_code == 403
    assert answer.json()["details"][0]["reason"] == "ORIGIN_NOT_ALLOWED"
    assert door.upstream.calls == []


def test_the_doors_new_certificate_is_shown_without_a_restart(door: Door) -> None:
    before = shown_certificate(door).serial_number
    folder = door.identities.folder_of("door")

    shows(folder, door.identities.certificate("door"))  # as a Secret
    wait_until(lambda: shown_certificate(door).serial_number != before, 10, "a new certificate")
    swapped = shown_certificate(door).serial_number
    made = door.identities.certificate("door")
    for name, content in (("tls.key", made.key), ("tls.crt", made.certificate)):  # file by file
        (folder / "new").write_bytes(content)
        (folder / "new").replace(folder / name)
    wait_until(lambda: shown_certificate(door).serial_number != swapped, 10, "another one")

    assert door.passes()


def test_a_new_authority_is_believed_and_a_withdrawn_one_no_more(
    door: Door, tmp_path: Path
) -> None:
    other = new_authority()
    believed = believed_in(door.identities)
    alice = shows(tmp_path / "alice", issue(other, ALICE), believed)
    folder = door.identities.folder_of("door")
    own = Identity((folder / "tls.crt").read_bytes(), (folder / "tls.key").read_bytes())
    assert not door.passes(alice)

    shows(folder, own, other.certificate + believed)
    wait_until(lambda: door.passes(alice), 10, "the new authority counts")
    assert door.passes(OPERATOR)
    shows(folder, own, believed)
    wait_until(lambda: not door.passes(alice), 10, "it counts no more")
    assert door.passes(OPERATOR)


def test_half_written_files_leave_the_door_as_it_was(door: Door) -> None:
    folder = door.identities.folder_of("door")
    before = shown_certificate(door).serial_number
    other = door.identities.certificate("door")

    swap(folder, {"tls.crt": other.certificate, "tls.key": b"no key", "ca.crt": b"none"})
    log = Path(door.envoy._log)
    wait_until(lambda: "Failed to reload certificates" in log.read_text(), 10, "Envoy looked")

    assert shown_certificate(door).serial_number == before
    assert door.passes()


def test_the_door_calls_nobody_but_the_router(identities: Identities, tmp_path: Path) -> None:
    made = issue(
        authority_of(identities), f"spiffe://{TRUST_DOMAIN}/strategy/Edge_SPXL", ["127.0.0.1"]
    )
    fake = shows(tmp_path / "fake", made, believed_in(identities))
    with Upstream(fake) as upstream:
        envoy = Envoy(
            0, [upstream.address], tmp_path / "e", tmp_path, identity=identities.folder_of("door")
        )
        try:
            envoy.start()
            envoy.wait_serving(20)
            door = Door(envoy, upstream, identities)
            assert door.get("/portfolio").status_code == 503
            assert upstream.calls == []
        finally:
            envoy.stop(drain_s=0)
