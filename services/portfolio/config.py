"""The router's settings: read once, at start, into one frozen object."""

from decimal import Decimal
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """What the environment says. Names are the same in every part of the mesh."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    database_url: str = Field(description="PostgreSQL: postgresql://user:password@host:5432/name")
    router_address: str = Field("0.0.0.0:50051", description="host:port that gRPC listens on")
    metrics_port: int = Field(9464, ge=0, le=65535, description="Prometheus metrics; 0: none")
    trading_mode: Literal["PAPER", "LIVE"] = "PAPER"
    portfolio_capital: Decimal = Field(
        Decimal(100_000), ge=0, le=10**12, description="USD shared among the PAPER books"
    )
    paper_commission: Decimal = Field(
        Decimal(0), ge=0, le=1000, decimal_places=8, description="USD a share"
    )
    paper_fills: Literal["at_once", "by_hand"] = Field(
        "at_once", description="by_hand: orders stay PENDING until their fills are reported"
    )
    ibkr_host: str | None = None
    ibkr_port: int | None = None
    ibkr_client_id: int | None = None
    ibkr_account: str | None = None
    drain_s: float = Field(
        2.0, ge=0, le=300, description="from NOT_SERVING to the stop, for Envoy to turn away"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    check_invariants: bool = Field(False, description="check the ledger's invariants at each move")

    def missing_for_live(self) -> list[str]:
        """The settings that LIVE needs and the environment does not have."""
        needed = ("ibkr_host", "ibkr_port", "ibkr_client_id", "ibkr_account")
        return [name.upper() for name in needed if getattr(self, name) is None]
