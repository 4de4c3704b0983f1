"""A REST caller that asserts status and content type, and hands back the JSON."""

from dataclasses import dataclass
from typing import Any

import requests

TIMEOUT_S = 30


@dataclass(frozen=True)
class Rest:
    """Calls one mesh."""

    url: str

    def ok(self, method: str, path: str, body: object = None, /, **query: object) -> Any:
        """The JSON of a call that must succeed."""
        answer = self.raw(method, path, body, **query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def error(
        self, expected: int, method: str, path: str, body: object = None, /, **query: object
    ) -> Any:
        """The JSON of a call that must fail, its form checked: code, message, one ErrorInfo."""
        answer = self.raw(method, path, body, **query)
        assert answer.status_code == expected, f"{answer.status_code} {answer.text}"
        return checked_error(answer)

    def raw(
        self, method: str, path: str, body: object = None, **query: object
    ) -> requests.Response:
        """The answer as it came."""
        params: Any = query or None
        return requests.request(
            method, self.url + path, json=body, params=params, timeout=TIMEOUT_S
        )


def checked_error(answer: requests.Response) -> Any:
    """An error's JSON, with its form checked."""
    assert answer.headers["content-type"].startswith("application/json"), answer.headers
    error = answer.json()
    assert set(error) == {"code", "message", "details"}, error
    infos = [d for d in error["details"] if d["@type"].endswith("google.rpc.ErrorInfo")]
    assert len(infos) == 1, error
    assert infos[0]["domain"] == "efficientfrontier"
    assert error["message"]
    return {**error, "reason": infos[0]["reason"], "metadata": infos[0].get("metadata", {})}
