"""The router's settings: read once, at start, into one frozen object."""

from decimal import Decimal
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.portfolio.domain.promotion import Rule


class Settings(BaseSettings):
    """What the environment says. Names are the same in every part of the mesh."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    database_url: str = Field(description="PostgreSQL: postgresql://user:password@host:5432/name")
    router_address: str = Field("0.0.0.0:50051", description="host:port that gRPC listens on")
    metrics_port: int = Field(9464, ge=0, le=65535, description="Prometheus metrics; 0: none")
    metrics_every_s: float = Field(
        15.0, gt=0, le=3600, description="between two readings of the ledger for the metrics"
    )
    otel_exporter_otlp_endpoint: str | None = Field(
        None, description="OpenTelemetry collector: http://host:4317 (gRPC); none: no traces"
    )
    trading_mode: Literal["PAPER", "LIVE"] = "PAPER"
    portfolio_capital: Decimal = Field(
        Decimal(100_000), ge=0, le=10**12, description="USD shared among the PAPER books"
    )
    live_capital: Decimal | None = Field(
        None, ge=0, le=10**12, description="USD shared among the LIVE books; PORTFOLIO_CAPITAL"
    )
    paper_commission: Decimal = Field(
        Decimal(0), ge=0, le=1000, decimal_places=8, description="USD a share"
    )
    paper_fills: Literal["at_once", "by_hand"] = Field(
        "at_once", description="by_hand: orders stay PENDING until their fills are reported"
    )
    ibkr_host: str | None = None
    ibkr_port: int | None = Field(None, ge=1, le=65535)
    ibkr_client_id: int | None = Field(
        None, ge=0, lt=100_000, description="higher ones are for the price feeds of strategies"
    )
    ibkr_account: str | None = None
    auth: Literal["none", "mtls", "token"] | None = Field(
        None, description="how callers prove who they are; LIVE wants it spelt out, none included"
    )
    trust_domain: str = Field(
        "efficientfrontier", pattern=r"^[a-z0-9._-]{1,255}$", description="of the names in AUTH"
    )
    identity_dir: Path | None = Field(
        None, description="AUTH=mtls: the folder with tls.crt, tls.key and ca.crt"
    )
    token_keys: Path | None = Field(None, description="AUTH=token: a JWKS file of public keys")
    health_address: str | None = Field(
        None, description="host:port for health checks alone, without TLS; none: with the rest"
    )
    rate_limit: int | None = Field(
        None, ge=1, le=1_000_000, description="calls a second, of each caller and replica"
    )
    price_buffer: Decimal = Field(
        Decimal("0.02"), ge=0, le=1, description="share of its price that a LIVE buy may cost more"
    )
    price_distance: Decimal | None = Field(
        Decimal("0.05"), gt=0, le=10, description="of a LIVE price from the broker's; off: any"
    )
    outside_session: Literal["refuse", "allow"] = Field(
        "refuse", description="allow: LIVE orders wait for the next open at the broker"
    )
    answer_within_s: float = Field(
        10.0, gt=0, le=600, description="then an order the broker has not spoken of is UNKNOWN"
    )
    queue_within_s: float = Field(
        30.0, gt=0, le=3600, description="then a LIVE order that could not be sent is REJECTED"
    )
    reconcile_every_s: float = Field(
        60.0, gt=0, le=3600, description="between two comparisons with the broker"
    )
    promotion: Literal["rule", "at_once"] = Field(
        "rule", description="which strategies on AUTO are LIVE; at_once: all, for rehearsals"
    )
    promote_min_days: int = Field(60, ge=1, le=5000, description="sessions on paper")
    promote_min_trades: int = Field(10, ge=0, le=1000, description="filled orders on paper")
    promote_min_sharpe: float = Field(0.5, allow_inf_nan=False, description="a year, on paper")
    promote_max_drawdown: float = Field(0.25, ge=0, le=1, description="share, on paper")
    promote_price_age_s: float = Field(
        86_400.0, gt=0, allow_inf_nan=False, description="of the last price it reported"
    )
    demote_max_drawdown: float = Field(0.2, ge=0, le=1, description="share, since it is LIVE")
    demote_min_sharpe: float = Field(
        -1.0, allow_inf_nan=False, description="a year, of the last DEMOTE_DAYS sessions LIVE"
    )
    demote_days: int = Field(60, ge=2, le=5000, description="sessions LIVE")
    drain_s: float = Field(
        2.0, ge=0, le=300, description="from NOT_SERVING to the stop, for Envoy to turn away"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    check_invariants: bool = Field(False, description="check the ledger's invariants at each move")

    @field_validator("price_distance", mode="before")
    @classmethod
    def _off(cls, given: object) -> object:
        return None if given == "off" else given

    @property
    def promotion_rule(self) -> Rule:
        """Which strategies on AUTO are LIVE."""
        return Rule(
            self.promotion == "at_once",
            self.promote_min_days,
            self.promote_min_trades,
            self.promote_min_sharpe,
            self.promote_max_drawdown,
            self.promote_price_age_s,
            self.demote_max_drawdown,
            self.demote_min_sharpe,
            self.demote_days,
        )

    @property
    def capital_of_live(self) -> Decimal:
        """USD to share among the LIVE books, as far as the account has it."""
        return self.portfolio_capital if self.live_capital is None else self.live_capital

    def missing_for_live(self) -> list[str]:
        """The settings that LIVE needs and the environment does not have."""
        needed = ("ibkr_host", "ibkr_port", "ibkr_client_id", "ibkr_account", "auth")
        return [name.upper() for name in needed if getattr(self, name) is None]


def described(error: ValidationError) -> str:
    """The settings that are wrong, without their values: one may be a password."""
    return "; ".join(
        f"{str(problem['loc'][0]).upper()}: {problem['msg']}" for problem in error.errors()
    )
