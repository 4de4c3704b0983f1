"""The pages around the figures: HTML that needs nothing from elsewhere.

plotly.js comes from the router itself, or stands in the page where that is to be a file. All that
comes from users is escaped, and the page's policy lets only our own scripts run, each named by its
hash, and nothing be fetched from other places.
"""

import json
from base64 import b64encode
from collections.abc import Sequence
from enum import StrEnum
from functools import cache
from hashlib import sha256
from html import escape
from importlib.util import find_spec
from pathlib import Path

from services.portfolio.domain.capital import RiskReturn
from services.portfolio.pictures.figures import Figure

INDEX_PATH = "/pages"
PLOTLY_PATH = "/pages/plotly.js"
PLOTLY_CACHE = "public, max-age=604800"  # a week: any version of plotly.js draws these figures
HTML = "text/html; charset=utf-8"
JAVASCRIPT = "text/javascript; charset=utf-8"


class Kind(StrEnum):
    """A page: the last part of its path, and its file's name."""

    FRONTIER = "frontier"
    EQUITY = "equity"
    WEIGHTS = "weights"


NAMES = {
    Kind.FRONTIER: "Efficient frontier",
    Kind.EQUITY: "Equity and drawdowns",
    Kind.WEIGHTS: "Weights over time",
}
SHOWS = {
    Kind.FRONTIER: "Expected return against volatility: each strategy, the best that they can be "
    "together, and the portfolio now and proposed.",
    Kind.EQUITY: "What 1 USD has become, by strategy and for the whole, deposits taken out; and "
    "how far each is below its high.",
    Kind.WEIGHTS: "Which share each strategy had, at each close, of what all strategies had. Cash "
    "that no strategy has (the reserve) is left out: GET /allocation tells it.",
}
NOTHING_YET = {
    Kind.FRONTIER: "Nothing to draw yet. Each strategy appears here as a dot as soon as it has "
    "enough closed sessions to estimate its return and its risk, and with them the frontier.",
    Kind.EQUITY: "No session is closed yet. The growth of the whole and of each strategy appears "
    "here after the first close: when the first price of the next session is reported.",
    Kind.WEIGHTS: "No session is closed yet. Each strategy's share appears here after the first "
    "close: when the first price of the next session is reported.",
}


def page(kind: Kind, figure: Figure, title: str, said: str, *, standalone: bool = False) -> bytes:
    """The page that shows a figure, under a title and what is said of it, as UTF-8.

    `standalone` puts plotly.js (4.8 MB) into the page and links to files beside it, for a page that
    is opened as a file.

    Raises:
        ValueError: The figure holds a number that is not finite.
    """
    if not figure.traces:
        return _document(kind, title, said, _paragraph("nothing", NOTHING_YET[kind]), standalone)
    body = f"""\
<div id="picture" role="img" aria-label="{escape(title)}"></div>
<noscript>{_paragraph("nothing", "The picture needs JavaScript.")}</noscript>
{_paragraph("note", figure.note)}
<script type="application/json" id="figure">{_json(figure)}</script>
{"" if standalone else f'<script src="{PLOTLY_PATH}"></script>'}"""
    scripts = [plotly_js().decode()] if standalone else []
    return _document(kind, title, said, body, standalone, [*scripts, _beside("draw.js")])


def index_page() -> bytes:
    """The page that links to all pages, as UTF-8."""
    links = "\n".join(
        f'<dt><a href="{INDEX_PATH}/{kind}">{NAMES[kind]}</a></dt>\n<dd>{SHOWS[kind]}</dd>'
        for kind in Kind
    )
    return _document(
        None, "EfficientFrontier Portfolio", "", f"<dl>\n{links}\n</dl>", standalone=False
    )


def said_of_plan(
    method: str, now: RiskReturn | None, proposed: RiskReturn | None, fallback_reason: str
) -> str:
    """What the frontier's page says of a plan, in words."""
    said = [f"Method: {method}."]
    if proposed:
        said.append(f"Proposed: {_in_words(proposed)}.")
    if now:
        said.append(f"Now: {_in_words(now)}.")
    return " ".join([*said, fallback_reason]).strip()


def plotly_js() -> bytes:
    """plotly.js, as the plotly package ships it.

    Raises:
        ModuleNotFoundError: The package is not there.
    """
    plotly = find_spec("plotly")  # found, but not imported: that would take 0.1 s
    if plotly is None or not plotly.submodule_search_locations:
        raise ModuleNotFoundError("plotly is not installed: install the extra `server`.")
    folder = Path(plotly.submodule_search_locations[0])
    return (folder / "package_data" / "plotly.min.js").read_bytes()


def _in_words(point: RiskReturn) -> str:
    return (
        f"{100 * point.expected_return:.1f} % expected return at {100 * point.volatility:.1f} % "
        "volatility a year"
    )


def _document(
    kind: Kind | None,
    title: str,
    said: str,
    body: str,
    standalone: bool,
    scripts: Sequence[str] = (),
) -> bytes:
    """The HTML around a body. `scripts` run after it, in this order."""
    inline = "\n".join(f"<script>{script}</script>" for script in scripts)
    return f"""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_policy(scripts)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>{_beside("page.css")}</style>
</head>
<body>
{_links(kind, standalone)}
<h1>{escape(title)}</h1>
{_paragraph("said", said)}
{body}
{inline}
</body>
</html>
""".encode()


def _policy(scripts: Sequence[str]) -> str:
    """What the page may do. plotly.js styles what it draws, and saves it as an image."""
    hashes = [f"'sha256-{b64encode(sha256(one.encode()).digest()).decode()}'" for one in scripts]
    sources = " ".join(["'self'", *hashes])
    return (
        f"default-src 'none'; script-src {sources}; "
        "style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _links(current: Kind | None, standalone: bool) -> str:
    """The way to the other pages."""
    if current is None:
        return ""
    links = [] if standalone else [f'<a href="{INDEX_PATH}">All pictures</a>']
    for kind in Kind:
        here = ' aria-current="page"' if kind is current else ""
        link = f"{kind}.html" if standalone else f"{INDEX_PATH}/{kind}"
        links.append(f'<a href="{link}"{here}>{NAMES[kind]}</a>')
    return f"<nav>{' '.join(links)}</nav>"


def _paragraph(style: str, text: str) -> str:
    return f'<p class="{style}">{escape(text)}</p>' if text else ""


def _json(figure: Figure) -> str:
    """The figure as JSON that cannot end the element it stands in."""
    spec = {"traces": figure.traces, "layout": figure.layout, "narrow": figure.narrow}
    text = json.dumps(spec, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@cache
def _beside(name: str) -> str:
    """The text of a file beside this one."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
