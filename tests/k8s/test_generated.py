"""What k8s/generate.py makes is fresh, and the one file is what kustomize makes of base."""

import base64
import json
import subprocess
import sys

import yaml

from tests.k8s.manifests import K8S, OVERLAYS, ROOT, by_name, rendered


def test_the_generated_files_are_fresh() -> None:
    checked = subprocess.run(
        [sys.executable, K8S / "generate.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert checked.returncode == 0, checked.stderr


def test_the_one_file_holds_the_same_objects_as_base() -> None:
    text = (K8S / "EfficientFrontier.yaml").read_text()
    documents = tuple(yaml.load_all(text, yaml.CSafeLoader))

    one_file, base = by_name(documents), by_name(rendered("base"))
    assert len(documents) == len(one_file)
    assert one_file.keys() == base.keys()
    for name, manifest in base.items():
        assert one_file[name] == manifest, name


def test_envoy_gets_the_files_that_the_tests_run_it_with() -> None:
    config = by_name(rendered("base"))["ConfigMap", "efficientfrontier-envoy"]

    assert config["data"]["envoy.yaml"] == (ROOT / "envoy" / "envoy.yaml").read_text()
    descriptors = base64.b64decode(config["binaryData"]["descriptors.binpb"])
    assert descriptors == (ROOT / "envoy" / "descriptors.binpb").read_bytes()


def test_with_mutual_tls_envoy_gets_its_other_files() -> None:
    config = by_name(rendered("overlays/mtls"))["ConfigMap", "efficientfrontier-envoy"]

    for name, source in (
        ("envoy.yaml", "envoy.mtls.yaml"),
        ("certificate.yaml", "certificate.yaml"),
        ("ca.yaml", "ca.yaml"),
    ):
        assert config["data"][name] == (ROOT / "envoy" / source).read_text(), name
    plain = by_name(rendered("base"))["ConfigMap", "efficientfrontier-envoy"]
    assert config["binaryData"] == plain["binaryData"]
    assert config["data"]["drain.sh"] == plain["data"]["drain.sh"]


def test_another_configuration_of_envoy_rolls_its_pods() -> None:
    marks = set()
    for folder in ("base", "overlays/mtls"):
        envoy = by_name(rendered(folder))["Deployment", "efficientfrontier-envoy"]
        marks.add(envoy["spec"]["template"]["metadata"]["annotations"]["efficientfrontier/config"])

    assert len(marks) == 2


def test_a_config_map_fits_into_the_note_that_apply_makes_of_it() -> None:
    for folder in OVERLAYS:
        for manifest in rendered(folder):
            if manifest["kind"] == "ConfigMap":  # annotations are bounded: 256 KiB
                assert len(json.dumps(manifest)) < 200_000, manifest["metadata"]["name"]
