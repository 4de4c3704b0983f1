"""The mesh's settings: read once from the environment, checked, then frozen.

Settings that the mesh only passes on (such as IBKR_HOST or AUTH) are not here: its children read
them from the same environment.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from services.mesh.errors import MeshError

STRATEGIES = tuple(f"IncredibleLeverage_{name}" for name in ("SPXL", "PTIR", "NVDL", "HOOD", "AVL"))


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
        return Settings()
    except ValidationError as error:
        wrong = [
            describe(str(one["loc"][0]).upper(), one["input"], one["msg"]) for one in error.errors()
        ]
        raise MeshError("; ".join(wrong)) from None


def describe(name: str, value: object, rule: str) -> str:
    """One wrong setting in words."""
    if name == "PRICE_FEED":
        rule = "choose replay, csv:FOLDER, yahoo or ibkr"
    return f"{name}={value} does not do: {rule.removeprefix('Value error, ')}"
