"""Price feeds: what they show, when they have nothing to show, and where they go on."""

import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from SureshotSDK.feeds import Quote, RecordedFeed, YahooFeed, open_feed, sample_feed
from SureshotSDK.feeds._replay import LEVERAGED, STAND_INS, sample_closes
from SureshotSDK.feeds._table import read_closes


def write_csv(folder: Path, symbol: str, closes: Mapping[str, float]) -> None:
    rows = [f"{day},0,{close}\n" for day, close in closes.items()]
    (folder / f"{symbol}.csv").write_text("Date,open,Close\n" + "".join(rows))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_csv(tmp_path, "SPY", {f"2024-01-0{n}": 100 + n for n in range(1, 7)})
    write_csv(tmp_path, "SPXL", {"2024-01-04": 50, "2024-01-06": 52})
    return tmp_path


def test_a_csv_feed_begins_with_a_full_window_behind_it(folder: Path) -> None:
    feed = open_feed(f"csv:{folder}", symbol="SPY", window=3)
    assert feed.latest("SPY") == Quote(103.0, date(2024, 1, 3))
    assert feed.history("SPY", 2) == [101.0, 102.0]
    assert feed.history("SPY", 99) == [101.0, 102.0]
    assert feed.history("SPY", 0) == []


def test_each_tick_is_the_next_day_until_the_end(folder: Path) -> None:
    feed = open_feed(f"csv:{folder}", symbol="SPY", window=5)
    assert feed.advance()
    assert feed.latest("SPY") == Quote(106.0, date(2024, 1, 6))
    assert not feed.advance()
    assert not feed.advance()
    assert feed.latest("SPY") is None
    assert feed.history("SPY", 2) == [105.0, 106.0]


def test_another_symbol_has_a_price_only_on_days_that_it_has(folder: Path) -> None:
    feed = open_feed(f"csv:{folder}", symbol="SPY", window=4)
    assert feed.latest("SPXL") == Quote(50.0, date(2024, 1, 4))
    feed.advance()
    assert feed.latest("SPXL") is None
    feed.advance()
    assert feed.latest("SPXL") == Quote(52.0, date(2024, 1, 6))
    assert feed.history("SPXL", 5) == [50.0]
    assert feed.latest("NOFILE") is None


def test_a_restarted_feed_goes_on_after_the_last_day_done(folder: Path) -> None:
    place = folder / "replay" / "S.json"
    feed = open_feed(f"csv:{folder}", symbol="SPY", window=2, cursor=place)
    feed.advance()
    feed.advance()
    again = open_feed(f"csv:{folder}", symbol="SPY", window=2, cursor=place)
    assert again.latest("SPY") == feed.latest("SPY") == Quote(104.0, date(2024, 1, 4))
    for _ in range(3):
        again.advance()
    ended = open_feed(f"csv:{folder}", symbol="SPY", window=2, cursor=place)
    assert ended.latest("SPY") is None
    assert [path.name for path in place.parent.iterdir()] == ["S.json"]


def test_a_place_kept_for_another_feed_or_symbol_is_not_used(folder: Path) -> None:
    place = folder / "S.json"
    open_feed(f"csv:{folder}", symbol="SPY", window=1, cursor=place).advance()
    other = open_feed(f"csv:{folder}", symbol="SPXL", window=1, cursor=place)
    assert other.latest("SPXL") == Quote(50.0, date(2024, 1, 4))


@pytest.mark.parametrize("broken", ["", "{", "[]", '{"feed": 1}', "null"])
def test_a_broken_place_is_said_and_the_history_begins_again(
    folder: Path, broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    place = folder / "S.json"
    place.write_text(broken)
    feed = open_feed(f"csv:{folder}", symbol="SPY", window=1, cursor=place)
    assert feed.latest("SPY") == Quote(101.0, date(2024, 1, 1))
    assert "begins again" in caplog.text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("date,price\n", "needs the columns date and close"),
        ("", "needs the columns date and close"),
        ("date,close\nyesterday,1\n", "line 2"),
        ("date,close\n2024-01-01,1\n2024-01-02\n", "line 3"),
        ("date,close\n2024-01-01,-1\n", "no price"),
        ("date,close\n2024-01-01,nan\n", "no price"),
    ],
)
def test_a_csv_that_cannot_be_read_is_named_with_its_line(
    tmp_path: Path, text: str, says: str
) -> None:
    path = tmp_path / "SPY.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=says) as wrong:
        read_closes(path)
    assert str(path) in str(wrong.value)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("ibkr", "needs IBKR_HOST and IBKR_PORT"),
        ("nasdaq", "not a price feed; use replay"),
        ("csv:", "not a price feed"),
        ("csv:/no/such/folder", "no such folder"),
    ],
)
def test_a_feed_that_cannot_be_opened_says_what_to_choose(name: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        open_feed(name, symbol="SPY", window=1)


def test_a_csv_feed_without_the_followed_symbol_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="no prices of PLTR"):
        open_feed(f"csv:{folder}", symbol="PLTR", window=1)


def test_the_replay_has_sensible_prices_for_every_symbol_of_the_strategies() -> None:
    for symbol in (*STAND_INS, *LEVERAGED):
        closes = sample_closes(symbol)
        shown = [close for day, close in closes.items() if day >= date(2012, 1, 3)]
        assert len(shown) > 2500
        assert min(shown) > 1
        assert max(shown) < 7000


@pytest.mark.parametrize("symbol", sorted(LEVERAGED))
def test_a_leveraged_sample_moves_by_its_multiple_each_day(symbol: str) -> None:
    followed, multiple = LEVERAGED[symbol]
    closes, base = sample_closes(symbol), sample_closes(followed)
    days = sorted(closes)[:100]
    for before, day in pairwise(days):
        expected = closes[before] * (1 + multiple * (base[day] / base[before] - 1))
        assert closes[day] == pytest.approx(expected, abs=0.02)


def test_the_replay_says_that_it_is_sample_data_and_begins_with_its_history() -> None:
    feed = sample_feed("SPY", 50)
    assert "sample data" in feed.description
    assert feed.latest("SPY") == Quote(1277.06, date(2012, 1, 3))
    assert feed.latest("SPXL") == Quote(50.0, date(2012, 1, 3))
    assert len(feed.history("SPY", 49)) == 49


def test_the_replay_does_not_import_the_package_that_carries_it() -> None:
    code = (
        "import sys; from SureshotSDK.feeds import sample_feed; sample_feed('SPY', 50);"
        "print({'skfolio', 'pandas', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


NOW = datetime(2024, 1, 5, 20, 0, tzinfo=UTC)


class FakeYfinance:
    """Shaped like yfinance: Ticker(symbol).history(...)["Close"].items()."""

    def __init__(self, minutes: object, days: object = None) -> None:
        self.minutes, self.days = minutes, days
        self.asked: list[dict[str, object]] = []

    def Ticker(self, symbol: str) -> "FakeYfinance":  # noqa: N802
        return self

    def history(self, **wanted: object) -> dict[str, object]:
        self.asked.append(wanted)
        found = self.minutes if wanted["interval"] == "1m" else self.days
        if isinstance(found, Exception):
            raise found
        return {"Close": found}


def test_yahoo_gives_the_last_minutes_price_and_asks_once_for_a_tick() -> None:
    fake = FakeYfinance({NOW - timedelta(minutes=2): 10.0, NOW - timedelta(minutes=1): 11.0})
    feed = YahooFeed(yfinance=fake, now=lambda: NOW)
    assert feed.latest("SPY") == feed.latest("SPY") == Quote(11.0, date(2024, 1, 5))
    assert len(fake.asked) == 1
    assert feed.advance()


def test_yahoo_gives_the_closes_before_the_current_session() -> None:
    days = {NOW - timedelta(days=n): 100.0 - n for n in (3, 2, 1, 0)}
    feed = YahooFeed(yfinance=FakeYfinance({NOW: 1.0}, days), now=lambda: NOW)
    assert feed.history("SPY", 2) == [98.0, 99.0]
    assert feed.history("SPY", 0) == []


@pytest.mark.parametrize(
    "minutes",
    [
        {NOW - timedelta(hours=1): 10.0},
        {NOW: float("nan")},
        {},
        ConnectionError("no network"),
        None,
    ],
)
def test_yahoo_has_no_price_when_it_is_old_or_cannot_be_had(minutes: object) -> None:
    feed = YahooFeed(yfinance=FakeYfinance(minutes), now=lambda: NOW)
    assert feed.latest("SPY") is None


def test_a_recorded_feed_suits_one_look_a_second() -> None:
    assert RecordedFeed.interval_s == 1
    assert YahooFeed.interval_s == 60
