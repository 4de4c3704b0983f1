"""The gateway's settings: read once from the environment, checked, then frozen."""

import re
from decimal import Decimal, InvalidOperation
from pathlib import Path

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.gateway.market import FixedMarket, Market, SampleMarket

MARKETS = "sample, or fixed:SYMBOL=PRICE,SYMBOL=PRICE such as fixed:SPXL=150.5,NVDL=80"


class Settings(BaseSettings):
    """What GATEWAY_NAME=value may set. An empty value is the default."""

    model_config = SettingsConfigDict(
        frozen=True, env_prefix="GATEWAY_", env_ignore_empty=True, extra="ignore"
    )

    host: str = Field(
        default="127.0.0.1", description="where it listens; it asks nobody who they are"
    )
    port: int = Field(default=4002, ge=1, le=65535, description="the API, as of a paper account")
    control_port: int = Field(
        default=4012, ge=1, le=65535, description="gRPC: scenarios and snapshots"
    )
    state: Path | None = Field(
        default=None, description="the file it goes on from; none: it forgets"
    )
    account: str = Field(default="DU1000001", pattern="^[A-Z]{1,3}[0-9]{3,12}$")
    cash: Decimal = Field(
        default=Decimal(1_000_000), ge=0, le=10**12, description="USD at the beginning"
    )
    market: str = Field(default="sample", description=MARKETS)
    day_s: float = Field(default=5.0, gt=0, le=86_400, description="how long a recorded day lasts")
    spread: Decimal = Field(
        default=Decimal("0.01"), ge=0, le=100, description="USD against the trader"
    )
    fill_delay_s: float = Field(
        default=0.0, ge=0, le=3600, description="from Submitted to the fill"
    )

    @field_validator("market")
    @classmethod
    def _known(cls, text: str) -> str:
        """One of MARKETS."""
        if text != "sample":
            _prices(text)
        return text

    def open_market(self) -> Market:
        """The market that `market` names.

        Raises:
            ValueError: The recorded prices are not installed.
        """
        return SampleMarket() if self.market == "sample" else FixedMarket(_prices(self.market))

    @property
    def day_lasts_s(self) -> float | None:
        """How long a day lasts; None: for ever."""
        return self.day_s if self.market == "sample" else None


def _prices(text: str) -> dict[str, Decimal]:
    """The prices in `fixed:SPXL=150.5,NVDL=80`."""
    kind, _, pairs = text.partition(":")
    if kind != "fixed":
        raise ValueError(f"choose {MARKETS}")
    prices = {}
    for pair in pairs.split(","):
        symbol, _, price = pair.partition("=")
        try:
            prices[symbol] = Decimal(price)
        except InvalidOperation:
            prices[symbol] = Decimal(0)
        is_price = prices[symbol].is_finite() and prices[symbol] > 0
        if (
            not text.startswith("fixed:")
            or not re.fullmatch("[A-Z0-9.-]{1,16}", symbol)
            or not is_price
        ):
            raise ValueError(f"choose {MARKETS}")
    return prices
