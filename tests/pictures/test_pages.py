"""The pages, opened in a real browser: they draw what they were given, and run nothing else."""

import json
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import pytest

from services.portfolio.domain.capital import RiskReturn
from services.portfolio.pictures.figures import (
    WHOLE,
    Curve,
    Dot,
    Figure,
    Weights,
    equity,
    frontier,
    weights,
)
from services.portfolio.pictures.pages import (
    HTML,
    INDEX_PATH,
    JAVASCRIPT,
    NAMES,
    NOTHING_YET,
    PLOTLY_PATH,
    Kind,
    index_page,
    page,
    plotly_js,
)
from tests.pictures.browser import CHROMIUM, Tab, browser
from tests.pictures.pages_server import serving
from tests.pictures.samples import CURVE, DOTS, NOW, PROPOSED, history, walk, week
from tests.support.waiting import wait_until

# Scripts, and what plotly.js itself would read as markup.
EVIL = "<script>hacked=1</script><img src=x onerror=hacked=1><b>&lt;<a href=//x.y>%{x}"
FIGURES = {
    Kind.FRONTIER: frontier(DOTS, CURVE, NOW, PROPOSED),
    Kind.EQUITY: equity(
        Curve(WHOLE, week(600), walk(-1, 600), 1.0),
        [Curve(dot.name, week(600), walk(i, 600), 0.2) for i, dot in enumerate(DOTS)],
    ),
    Kind.WEIGHTS: weights(history(20, 600)),
}
EMPTY = Figure([], {})
WIDE, PHONE = (1280, 720), (400, 800)

in_a_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="chromium is not installed (Debian: apt-get install chromium)"
)


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    """A chromium without a window."""
    with browser(tmp_path_factory.mktemp("chromium")) as one:
        yield one


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Where the pages are served, at the paths of the router."""
    served = {
        INDEX_PATH: (HTML, index_page()),
        PLOTLY_PATH: (JAVASCRIPT, plotly_js()),
        **{
            f"{INDEX_PATH}/{kind}": (HTML, page(kind, figure, NAMES[kind], "As of today."))
            for kind, figure in FIGURES.items()
        },
    }
    with serving(lambda path: (200, *served[path])) as url:
        yield url


@in_a_browser
@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("size", [WIDE, PHONE])
def test_a_served_page_draws_each_trace_with_its_numbers_and_complains_of_nothing(
    kind: Kind, size: tuple[int, int], tab: Tab, address: str
) -> None:
    tab.show(*size, "light")
    tab.open(f"{address}{INDEX_PATH}/{kind}")

    assert _drawn(tab) == len(FIGURES[kind].traces)
    assert _shown(tab) == [[trace["x"], trace["y"]] for trace in FIGURES[kind].traces]
    assert tab.evaluate("document.documentElement.scrollWidth") == size[0]
    assert tab.complaints == []


@in_a_browser
@pytest.mark.parametrize("kind", Kind)
def test_a_page_saved_as_a_file_draws_without_any_other(
    kind: Kind, tab: Tab, tmp_path: Path
) -> None:
    tab.show(*WIDE, "light")
    tab.open(_saved(tmp_path, page(kind, FIGURES[kind], NAMES[kind], "", standalone=True)))

    assert _drawn(tab) == len(FIGURES[kind].traces)
    assert tab.evaluate("performance.getEntriesByType('resource').length") == 0
    assert tab.complaints == []


@in_a_browser
def test_the_picture_follows_the_colours_of_the_system_while_it_is_open(
    tab: Tab, address: str
) -> None:
    tab.show(*WIDE, "light")
    tab.open(f"{address}{INDEX_PATH}/{Kind.EQUITY}")
    assert _background(tab) == "rgb(255, 255, 255)"
    tab.show(*WIDE, "dark")
    wait_until(lambda: _background(tab) == "rgb(20, 24, 28)", what="a dark picture")
    assert tab.complaints == []


@in_a_browser
def test_what_users_wrote_is_shown_and_never_run(tab: Tab, tmp_path: Path) -> None:
    day = week(2)
    figures = {
        Kind.FRONTIER: frontier([Dot(EVIL, RiskReturn(0.2, 0.1), 0.5, 0.5)], CURVE, None, None),
        Kind.EQUITY: equity(None, [Curve(EVIL, day, [1.0, 1.1], 1.0)]),
        Kind.WEIGHTS: weights([Weights(one, {EVIL: 0.9}, 0.1) for one in day]),
    }
    tab.show(*WIDE, "light")
    for kind, figure in figures.items():
        html = page(kind, figure, EVIL, EVIL, standalone=True)
        assert EVIL.encode() not in html
        tab.open(_saved(tmp_path, html))

        _drawn(tab)
        assert EVIL in str(tab.evaluate("document.getElementById('picture').textContent"))
        assert tab.evaluate("document.querySelector('.said').textContent") == EVIL
        assert tab.evaluate("document.title") == EVIL
        assert tab.evaluate("window.hacked") is None
        assert tab.complaints == []


@in_a_browser
def test_even_a_script_that_got_into_a_page_is_refused(tab: Tab, tmp_path: Path) -> None:
    html = page(Kind.EQUITY, FIGURES[Kind.EQUITY], "Equity", "", standalone=True)
    tab.open(_saved(tmp_path, html.replace(b"</body>", b"<script>window.hacked=1</script></body>")))

    assert _drawn(tab)
    assert tab.evaluate("window.hacked") is None
    assert "Content Security Policy" in "".join(tab.complaints)


@in_a_browser
def test_a_page_whose_library_did_not_load_says_so(tab: Tab, tmp_path: Path) -> None:
    tab.open(_saved(tmp_path, page(Kind.EQUITY, FIGURES[Kind.EQUITY], "Equity", "")))
    shown = tab.evaluate("document.getElementById('picture').textContent")
    assert shown == "The drawing library did not load: load this page again."


@in_a_browser
def test_the_index_leads_to_every_page(tab: Tab, address: str) -> None:
    tab.open(f"{address}{INDEX_PATH}")
    links = tab.evaluate("[...document.links].map(link => [link.href, link.textContent])")
    assert links == [[f"{address}{INDEX_PATH}/{kind}", NAMES[kind]] for kind in Kind]
    assert tab.complaints == []


@pytest.mark.parametrize("kind", Kind)
def test_a_page_without_history_says_what_will_appear_and_draws_nothing(kind: Kind) -> None:
    html = page(kind, EMPTY, NAMES[kind], "").decode()
    assert escape(NOTHING_YET[kind]) in html
    assert "<script" not in html


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_refused(number: float) -> None:
    figure = frontier([Dot("A", RiskReturn(0.2, number), 0.5, 0.5)], [], None, None)
    with pytest.raises(ValueError, match="not JSON compliant"):
        page(Kind.FRONTIER, figure, "Frontier", "")


def _saved(folder: Path, html: bytes) -> str:
    file = folder / "page.html"
    file.write_bytes(html)
    return file.as_uri()


def _drawn(tab: Tab) -> int:
    """How many traces are drawn, once any is."""
    count = "document.querySelectorAll('#picture .scatterlayer > .trace').length"
    return int(wait_until(lambda: tab.evaluate(count), what="a drawn trace"))


def _shown(tab: Tab) -> list[Any]:
    """What plotly.js holds: x and y of each trace."""
    shown = "JSON.stringify(document.getElementById('picture').data.map(one => [one.x, one.y]))"
    return list(json.loads(tab.evaluate(shown)))


def _background(tab: Tab) -> str:
    return str(tab.evaluate("document.querySelector('#picture .main-svg').style.background"))
