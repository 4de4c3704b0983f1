"""The router's settings out of an environment that a test makes up."""

import pytest

from services.portfolio.config import Settings


def settings_from(monkeypatch: pytest.MonkeyPatch, **environ: str) -> Settings:
    """The settings, with these variables set beside what the environment holds."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    return Settings()  # type: ignore[call-arg]  # from the environment
