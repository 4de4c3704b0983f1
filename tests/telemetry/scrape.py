"""What a running part exports, as Prometheus reads it."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import requests

SCRAPE_S = 10
# Not prometheus_client's own parser: it renames Envoy's counters, which do not end in _total.
DECLARED = re.compile(r"# (TYPE|HELP) ([a-zA-Z0-9_:]+) ?(.*)")
SAMPLE = re.compile(r"([a-zA-Z0-9_:]+)(\{.*\})? (\S+)")
LABEL = re.compile(r'([a-zA-Z0-9_]+)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class Family:
    """One metric as it was declared."""

    kind: str
    meaning: str


@dataclass(frozen=True)
class Scrape:
    """All samples of one scrape: (name, labels, value)."""

    samples: list[tuple[str, dict[str, str], float]]
    families: dict[str, Family]

    @classmethod
    def of(cls, port: int, path: str = "/metrics") -> "Scrape":
        """Scrapes 127.0.0.1."""
        answer = requests.get(f"http://127.0.0.1:{port}{path}", timeout=SCRAPE_S)
        assert answer.status_code == 200, answer.text
        return cls.read(answer.text)

    @classmethod
    def read(cls, text: str) -> "Scrape":
        """Reads Prometheus' text format."""
        samples: list[tuple[str, dict[str, str], float]] = []
        kinds: dict[str, str] = {}
        meanings: dict[str, str] = {}
        for line in text.splitlines():
            if found := DECLARED.fullmatch(line):
                (kinds if found[1] == "TYPE" else meanings)[found[2]] = found[3]
            elif found := SAMPLE.fullmatch(line):
                samples.append((found[1], dict(LABEL.findall(found[2] or "")), float(found[3])))
            else:
                assert not line or line.startswith("#"), line
        return cls(
            samples, {name: Family(kind, meanings.get(name, "")) for name, kind in kinds.items()}
        )

    def all(self, name: str, **labels: str) -> list[float]:
        """The values of this name whose labels are these, and maybe more."""
        return [
            value
            for found, has, value in self.samples
            if found == name and labels.items() <= has.items()
        ]

    def one(self, name: str, **labels: str) -> float | None:
        """The one value of this name and these labels; None: there is none."""
        found = self.all(name, **labels)
        assert len(found) < 2, (name, labels, found)
        return found[0] if found else None


def labels_by_name(scrapes: Iterable[Scrape]) -> dict[str, list[dict[str, str]]]:
    """The labels of each series, by its name."""
    found: dict[str, list[dict[str, str]]] = {}
    for scrape in scrapes:
        for name, labels, _ in scrape.samples:
            found.setdefault(name, []).append(labels)
    return found
