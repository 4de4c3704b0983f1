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


def test_a_rehearsal_needs_no_other_setting_and_keeps_apart_from_real_books(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    given(monkeypatch, TRADING_MODE="LIVE", IBKR_HOST="simulated")

    settings = read_settings()

    assert settings.is_rehearsal
    assert settings.data_dir == tmp_path / ".data-simulated"
    assert (settings.ibkr_client_id, settings.ibkr_account) == (1, "DU1000001")
    assert (settings.auth, settings.outside_session) == ("none", "allow")
    assert (settings.price_feed, settings.interval_s) == ("ibkr", 2)
    assert settings.promotion == "at_once"
    given(monkeypatch, PROMOTION="rule")
    assert read_settings().promotion == "rule"


def test_what_is_set_goes_before_what_a_rehearsal_takes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given(
        monkeypatch,
        TRADING_MODE="LIVE",
        IBKR_HOST="simulated",
        IBKR_PORT="4002",
        IBKR_CLIENT_ID="7",
        IBKR_ACCOUNT="U2000002",
        DATA_DIR=str(tmp_path),
        AUTH="token",
        OUTSIDE_SESSION="refuse",
        PRICE_FEED="yahoo",
        INTERVAL_S="9",
    )

    settings = read_settings()

    assert (settings.ibkr_port, settings.ibkr_client_id) == (4002, 7)
    assert (settings.ibkr_account, settings.data_dir) == ("U2000002", tmp_path)
    assert (settings.auth, settings.outside_session) == ("token", "refuse")
    assert (settings.price_feed, settings.interval_s) == ("yahoo", 9)


REAL = {
    "TRADING_MODE": "LIVE",
    "IBKR_HOST": "192.0.2.1",
    "IBKR_PORT": "4002",
    "IBKR_CLIENT_ID": "1",
    "IBKR_ACCOUNT": "DU1234567",
    "AUTH": "none",
}


def given(monkeypatch: pytest.MonkeyPatch, **settings: str) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)


def test_live_takes_its_prices_from_the_broker_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given(monkeypatch, **REAL, DATA_DIR=str(tmp_path))
    assert not read_settings().is_rehearsal
    assert read_settings().price_feed == "ibkr"

    given(monkeypatch, PRICE_FEED="yahoo")
    assert read_settings().price_feed == "yahoo"


@pytest.mark.parametrize("missing", [name for name in REAL if name != "TRADING_MODE"])
def test_live_names_the_one_setting_that_is_missing(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given(monkeypatch, **{name: value for name, value in REAL.items() if name != missing})

    refusal = refused()

    assert f"TRADING_MODE=LIVE needs {missing}. " in refusal


def test_live_names_every_setting_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, TRADING_MODE="LIVE")

    assert "needs IBKR_HOST, IBKR_PORT, IBKR_CLIENT_ID, IBKR_ACCOUNT, AUTH. " in refused()


@pytest.mark.parametrize("feed", ["replay", "csv:prices"])
def test_real_orders_never_follow_days_gone_by(feed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, **REAL, PRICE_FEED=feed)

    assert f"PRICE_FEED={feed} shows days gone by" in refused()


def test_real_orders_are_refused_on_the_books_of_a_rehearsal(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "gateway").mkdir()
    given(monkeypatch, **REAL, DATA_DIR=str(tmp_path))

    assert f"DATA_DIR {tmp_path} holds the books of a rehearsal" in refused()


def test_a_rehearsal_is_refused_on_real_books(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "postgres").mkdir()
    given(monkeypatch, IBKR_HOST="simulated", DATA_DIR=str(tmp_path))
    assert "holds books that are no rehearsal's" in refused()

    (tmp_path / "gateway").mkdir()
    assert read_settings().data_dir == tmp_path

    given(monkeypatch, DATABASE_URL="postgresql://me@localhost/books")
    assert "leave DATABASE_URL out" in refused()


def refused() -> str:
    with pytest.raises(MeshError) as refusal:
        read_settings()
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


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
        ("IBKR_PORT", "0", "greater than or equal to 1"),
        ("IBKR_CLIENT_ID", "one", "integer"),
        ("AUTH", "password", "'none', 'mtls' or 'token'"),
        ("OUTSIDE_SESSION", "yes", "'refuse' or 'allow'"),
        ("TRUST_DOMAIN", "Über uns", "1 to 255 of a-z 0-9 . _ -"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://h:4317", "say http://HOST:PORT, such as"),
    ],
)
def test_a_wrong_setting_is_named_with_its_rule(
    name: str, value: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)

    refusal = refused()

    assert name in refusal
    assert words in refusal
