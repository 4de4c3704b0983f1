from pathlib import Path

import pytest

from services.mesh.errors import MeshError
from services.mesh.settings import STRATEGIES, Settings, read_settings

NAMES = [*Settings.model_fields]


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name.upper(), raising=False)


def test_nothing_set_gives_the_documented_defaults() -> None:
    settings = read_settings()

    assert settings.port == 8000
    assert settings.data_dir == Path.cwd() / ".data"
    assert settings.database_url is None
    assert settings.strategies == STRATEGIES
    assert settings.price_feed == "replay"
    assert settings.interval_s is None
    assert settings.trading_mode == "PAPER"


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_value_is_the_default(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = read_settings()
    monkeypatch.setenv(name.upper(), "")

    assert read_settings() == bare


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("all", STRATEGIES),
        ("none", ()),
        ("SPXL", ("IncredibleLeverage_SPXL",)),
        ("HOOD,IncredibleLeverage_AVL", ("IncredibleLeverage_HOOD", "IncredibleLeverage_AVL")),
        ("HOOD AVL HOOD", ("IncredibleLeverage_HOOD", "IncredibleLeverage_AVL")),
    ],
)
def test_strategies_are_chosen_by_their_names(
    text: str, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STRATEGIES", text)

    assert read_settings().strategies == names


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("PORT", "abc", "PORT=abc does not do"),
        ("PORT", "0", "greater than or equal to 1"),
        ("PORT", "65536", "less than or equal to 65535"),
        ("STRATEGIES", "SPXX", "choose all, none or some of SPXL, PTIR, NVDL, HOOD, AVL"),
        ("PRICE_FEED", "csv:", "choose replay, csv:FOLDER, yahoo or ibkr"),
        ("PRICE_FEED", "bloomberg", "choose replay, csv:FOLDER, yahoo or ibkr"),
        ("INTERVAL_S", "0", "greater than 0"),
        ("INTERVAL_S", "inf", "finite"),
        ("TRADING_MODE", "live", "'PAPER' or 'LIVE'"),
    ],
)
def test_a_wrong_setting_is_named_with_its_rule(
    name: str, value: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(MeshError) as refusal:
        read_settings()

    assert name in str(refusal.value)
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)
