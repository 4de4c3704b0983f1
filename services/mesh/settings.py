"""The mesh's settings: read once from the environment, checked, then frozen.

Settings that the mesh only passes on (such as LIVE_CAPITAL or PRICE_BUFFER) are not here: its
children read them from the same environment.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from services.mesh.errors import MeshError

STRATEGIES = tuple(f"IncredibleLeverage_{name}" for name in ("SPXL", "PTIR", "NVDL", "HOOD", "AVL"))

SIMULATED = "simulated"
# What a rehearsal takes where nothing is set. It has a folder of its own, because the LIVE books in
# it are not worth a cent; and its days are five seconds long, at any hour of ours.
REHEARSAL = {
    "data_dir": Path(".data-simulated"),
    "ibkr_client_id": 1,
    "ibkr_account": "DU1000001",
    "auth": "none",
    "outside_session": "allow",
    "promotion": "at_once",  # nobody rehearses for sixty days
    "price_feed": "ibkr",
    "interval_s": 2,
}
# What the patterns below ask for, for people.
PATTERNS = {
    "PRICE_FEED": "choose replay, csv:FOLDER, yahoo or ibkr",
    "TRUST_DOMAIN": "1 to 255 of a-z 0-9 . _ -",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "say http://HOST:PORT, such as http://localhost:4317",
}
NEEDED_FOR_LIVE = ("ibkr_host", "ibkr_port", "ibkr_client_id", "ibkr_account", "auth")


class Settings(BaseSettings):
    """What `make up NAME=value` may set. An empty value is the default."""

    model_config = SettingsConfigDict(frozen=True, env_ignore_empty=True, extra="ignore")

    port: int = Field(default=8000, ge=1, le=65535)
    data_dir: Path = Path(".data")
    database_url: str | None = None  # the router checks it
    strategies: Annotated[tuple[str, ...], NoDecode] = STRATEGIES
    price_feed: str = Field(default="replay", pattern=r"^(replay|csv:.+|yahoo|ibkr)$")
    interval_s: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    trading_mode: Literal["PAPER", "LIVE"] = "PAPER"
    ibkr_host: str | None = None
    ibkr_port: int | None = Field(default=None, ge=1, le=65535)
    ibkr_client_id: int | None = Field(default=None, ge=0)
    ibkr_account: str | None = None
    auth: Literal["none", "mtls", "token"] | None = None
    trust_domain: str = Field(default="efficientfrontier", pattern=r"^[a-z0-9._-]{1,255}$")
    outside_session: Literal["refuse", "allow"] | None = None
    promotion: Literal["rule", "at_once"] | None = None
    gateway_control_port: int | None = Field(default=None, ge=1, le=65535)
    metrics_port: int = Field(default=0, ge=0, le=65535)  # of the router; 0: none
    # A collector on this machine or near it: Envoy sends to it without TLS.
    otel_exporter_otlp_endpoint: str | None = Field(
        default=None, pattern=r"^http://[^/:@]+:[0-9]{1,5}/?$"
    )

    @property
    def is_rehearsal(self) -> bool:
        """Whether the broker is the simulated one."""
        return self.ibkr_host == SIMULATED

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, given: dict[str, Any]) -> dict[str, Any]:
        """The defaults that follow from other settings."""
        if given.get("ibkr_host") == SIMULATED:
            return {**REHEARSAL, **given}
        if given.get("trading_mode") == "LIVE":
            return {"price_feed": "ibkr", **given}
        return given

    @field_validator("strategies", mode="before")
    @classmethod
    def _named(cls, text: str | tuple[str, ...]) -> tuple[str, ...]:
        """`all`, `none`, or names parted by commas or spaces, whole or by their endings (SPXL)."""
        if isinstance(text, tuple):
            return text  # the default
        if text in ("all", "none"):
            return STRATEGIES if text == "all" else ()
        known = {name.split("_")[-1]: name for name in STRATEGIES}
        asked = text.replace(",", " ").split()
        if any(name not in known and name not in STRATEGIES for name in asked):
            raise ValueError(f"choose all, none or some of {', '.join(known)}")
        return tuple(dict.fromkeys(known.get(name, name) for name in asked))

    @field_validator("data_dir")
    @classmethod
    def _absolute(cls, folder: Path) -> Path:
        return folder.expanduser().absolute()


def read_settings() -> Settings:
    """Reads the settings from the environment.

    Raises:
        MeshError: one or more are wrong; it names each with its value and its rule.
    """
    try:
        settings = Settings()
    except ValidationError as error:
        wrong = [
            describe(str(one["loc"][0]).upper(), one["input"], one["msg"]) for one in error.errors()
        ]
        raise MeshError("; ".join(wrong)) from None
    refuse_live_by_accident(settings)
    return settings


def refuse_live_by_accident(settings: Settings) -> None:
    """LIVE is spelt out, follows the market of today, and never mixes with a rehearsal.

    Raises:
        MeshError: it does not; what is missing is named.
    """
    if settings.is_rehearsal:
        if settings.database_url:
            raise MeshError(
                "IBKR_HOST=simulated keeps its books in DATA_DIR, so that they never meet real "
                "ones: leave DATABASE_URL out."
            )
        if (settings.data_dir / "postgres").exists() and not state_folder(settings).exists():
            raise MeshError(
                f"DATA_DIR {settings.data_dir} holds books that are no rehearsal's: choose another "
                "for IBKR_HOST=simulated, or leave it out."
            )
    elif settings.trading_mode == "LIVE":
        missing = [name.upper() for name in NEEDED_FOR_LIVE if getattr(settings, name) is None]
        if missing:
            raise MeshError(
                f"TRADING_MODE=LIVE needs {', '.join(missing)}. Set them (AUTH=none is a choice "
                "too), or rehearse first with IBKR_HOST=simulated."
            )
        if settings.strategies and settings.price_feed.startswith(("replay", "csv:")):
            raise MeshError(
                f"PRICE_FEED={settings.price_feed} shows days gone by, and TRADING_MODE=LIVE "
                "trades today: choose ibkr or yahoo."
            )
        if state_folder(settings).exists():
            raise MeshError(
                f"DATA_DIR {settings.data_dir} holds the books of a rehearsal: choose another for "
                "real orders, or leave it out."
            )


def state_folder(settings: Settings) -> Path:
    """Where the simulated gateway keeps its state: the mark of a rehearsal."""
    return settings.data_dir / "gateway"


def describe(name: str, value: object, rule: str) -> str:
    """One wrong setting in words."""
    rule = PATTERNS.get(name, rule.removeprefix("Value error, "))
    return f"{name}={value} does not do: {rule}"
