"""The door with mutual TLS: what AUTH=mtls changes in Envoy's configuration, and nothing else.

    python -m services.mesh.door_tls           write envoy/envoy.mtls.yaml and its two secrets
    python -m services.mesh.door_tls --check   exit 1 when a committed file is not fresh

envoy/envoy.yaml stays the one source. Every caller needs a certificate of our authority with one
of our names in it; the router hears that name from Envoy alone, which in turn asks for the
router's. Files are watched by Envoy, so that new certificates count without a restart.
"""

import argparse
import copy
import sys
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).resolve().parents[2] / "envoy"
SOURCE = FOLDER / "envoy.yaml"
GENERATED = "# GENERATED from envoy.yaml by `python -m services.mesh.door_tls`. Do not edit.\n"
# Where a cluster mounts them.
CONFIG_AT = Path("/etc/envoy")
IDENTITY_AT = Path("/etc/envoy/identity")
TRUST_DOMAIN = "efficientfrontier"
PROBES_AT = {"socket_address": {"address": "0.0.0.0", "port_value": 8001}}  # noqa: S104 (a pod's)
CONNECTION_LASTS = "3600s"

TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"
MANAGER = (
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3"
    ".HttpConnectionManager"
)


def with_mtls(
    plain: dict[str, Any], *, trust_domain: str, secrets_at: Path, probes_at: dict[str, Any]
) -> dict[str, Any]:
    """A copy of a plain configuration in which callers and the router prove who they are.

    Args:
        plain: a whole bootstrap; its listener `door` and cluster `router` are changed.
        trust_domain: which names are ours: spiffe://TRUST_DOMAIN/...
        secrets_at: the folder where `secrets` lie.
        probes_at: the address of /healthz and /readyz without TLS; a kubelet has no certificate.
    """
    # Whatever reads secrets must have a name, though nobody asks for it.
    config = {"node": {"id": "door", "cluster": "efficientfrontier-envoy"}, **copy.deepcopy(plain)}
    resources = config["static_resources"]
    (door,) = (one for one in resources["listeners"] if one["name"] == "door")
    (router,) = (one for one in resources["clusters"] if one["name"] == "router")
    ((chain,), manager) = (door["filter_chains"], manager_of(door))
    chain["transport_socket"] = _asks_for_certificates(trust_domain, secrets_at)
    # The caller's name goes to the router; what a caller claims in that header does not.
    manager["forward_client_cert_details"] = "SANITIZE_SET"
    manager["set_current_client_cert_details"] = {"uri": True}
    # Now and then each caller connects, and so proves its name, anew. Calls under way may end.
    manager["common_http_protocol_options"]["max_connection_duration"] = CONNECTION_LASTS
    router["transport_socket"] = _shows_the_doors(trust_domain, secrets_at)
    resources["listeners"].append(_probes(manager, probes_at))
    return config


def secrets(identity_at: Path) -> dict[str, dict[str, Any]]:
    """The files that tell Envoy of the door's certificate and of the authorities, by name.

    They stand apart from the bootstrap because Envoy watches only what comes to it as a file of
    its own. `identity_at` holds tls.crt, tls.key and ca.crt; it is read again when a file is moved
    into it, as a Kubernetes Secret's and the mesh's own are.
    """
    watched = {"path": str(identity_at)}
    return {
        "certificate.yaml": _secret(
            "certificate",
            "tls_certificate",
            {
                "certificate_chain": {"filename": str(identity_at / "tls.crt")},
                "private_key": {"filename": str(identity_at / "tls.key")},
                "watched_directory": watched,
            },
        ),
        "ca.yaml": _secret(
            "ca",
            "validation_context",
            {
                "trusted_ca": {"filename": str(identity_at / "ca.crt")},
                "watched_directory": watched,
            },
        ),
    }


def manager_of(listener: dict[str, Any]) -> dict[str, Any]:
    """The settings of a listener's http_connection_manager."""
    ((manager,),) = (chain["filters"] for chain in listener["filter_chains"])
    settings: dict[str, Any] = manager["typed_config"]
    return settings


def as_yaml(config: dict[str, Any]) -> str:
    """The configuration as text, everything written out where it counts."""
    return yaml.dump(config, Dumper=_WithoutAliases, sort_keys=False, width=100)


def _asks_for_certificates(trust_domain: str, secrets_at: Path) -> dict[str, Any]:
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{TLS}.DownstreamTlsContext",
            "require_client_certificate": True,
            # A resumed session would not look at the certificate again.
            "disable_stateless_session_resumption": True,
            "disable_stateful_session_resumption": True,
            "common_tls_context": {
                **_tls(secrets_at, {"prefix": f"spiffe://{trust_domain}/"}),
                "alpn_protocols": ["h2", "http/1.1"],
            },
        },
    }


def _shows_the_doors(trust_domain: str, secrets_at: Path) -> dict[str, Any]:
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{TLS}.UpstreamTlsContext",
            "common_tls_context": {
                **_tls(secrets_at, {"exact": f"spiffe://{trust_domain}/router"}),
                "alpn_protocols": ["h2"],  # without it gRPC servers hang up
            },
        },
    }


def _tls(secrets_at: Path, peer: dict[str, str]) -> dict[str, Any]:
    """The door's own certificate, and whom it believes."""
    return {
        "tls_params": {
            "tls_minimum_protocol_version": "TLSv1_2",
            "tls_maximum_protocol_version": "TLSv1_3",
        },
        "tls_certificate_sds_secret_configs": [_read_from("certificate", secrets_at)],
        "combined_validation_context": {
            "default_validation_context": {
                "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": peer}]
            },
            "validation_context_sds_secret_config": _read_from("ca", secrets_at),
        },
    }


def _read_from(name: str, secrets_at: Path) -> dict[str, Any]:
    return {
        "name": name,
        "sds_config": {
            "resource_api_version": "V3",
            "path_config_source": {"path": str(secrets_at / f"{name}.yaml")},
        },
    }


def _secret(name: str, kind: str, value: dict[str, Any]) -> dict[str, Any]:
    return {"resources": [{"@type": f"{TLS}.Secret", "name": name, kind: value}]}


def _probes(door: dict[str, Any], address: dict[str, Any]) -> dict[str, Any]:
    """A listener of /healthz and the door's own /readyz; whatever else is asked there is 404."""
    (readyz,) = (
        one for one in door["http_filters"] if one["name"] == "envoy.filters.http.health_check"
    )
    alive = {
        "match": {"path": "/healthz"},
        "direct_response": {"status": 200, "body": {"inline_string": "ok"}},
    }
    router = {
        "name": "envoy.filters.http.router",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
        },
    }
    manager = {
        "@type": MANAGER,
        "stat_prefix": "probes",
        "common_http_protocol_options": {"idle_timeout": "60s", "max_headers_count": 100},
        "request_headers_timeout": "10s",
        "http_filters": [readyz, router],
        "route_config": {
            "virtual_hosts": [{"name": "probes", "domains": ["*"], "routes": [alive]}]
        },
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    return {
        "name": "probes",
        "address": address,
        "enable_reuse_port": False,
        "ignore_global_conn_limit": True,  # a flood at the door does not make the pod look dead
        "filter_chains": [{"filters": filters}],
    }


class _WithoutAliases(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 (yaml's signature)
        return True


def main() -> None:
    """Writes the variant that a cluster runs, or checks that the committed one is fresh."""
    parser = argparse.ArgumentParser(prog="python -m services.mesh.door_tls")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when stale")
    check = parser.parse_args().check
    stale = []
    for name, text in generated().items():
        file = FOLDER / name
        if check and (not file.exists() or file.read_text() != text):
            stale.append(str(file))
        elif not check:
            file.write_text(text)
    if stale:
        sys.exit(f"Not fresh: {', '.join(stale)}. Run: python -m services.mesh.door_tls")


def generated() -> dict[str, str]:
    """What stands in envoy/ for a cluster, by file name."""
    config = with_mtls(
        yaml.safe_load(SOURCE.read_text()),
        trust_domain=TRUST_DOMAIN,
        secrets_at=CONFIG_AT,
        probes_at=PROBES_AT,
    )
    files = {"envoy.mtls.yaml": config, **secrets(IDENTITY_AT)}
    return {name: GENERATED + as_yaml(value) for name, value in files.items()}


if __name__ == "__main__":
    main()
