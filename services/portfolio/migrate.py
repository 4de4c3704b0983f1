"""Brings the database's tables up to date, and ends: a step before the routers of a new version.

python -m services.portfolio.migrate

It waits for a database that is not up yet, and takes turns with whoever else migrates. Routers do
the same when they start; done before, the first of a new version has nothing to wait for.
"""

import asyncio
import sys
from typing import Literal

import structlog
from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.portfolio.config import described
from services.portfolio.logs import configure_logs
from services.portfolio.storage.address import BadDatabaseUrlError, UnreachableError
from services.portfolio.storage.database import Database

LONGEST_PAUSE_S = 5.0

log = structlog.get_logger()


class MigrateSettings(BaseSettings):
    """What the environment says of this."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    database_url: str = Field(description="as the router's")
    migrate_within_s: float = Field(
        300.0, ge=0, le=86_400, description="how long to wait for the database to come up"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"


async def migrate(settings: MigrateSettings) -> None:
    """Returns when the tables are up to date; the migrations themselves may take their time.

    Raises:
        BadDatabaseUrlError: DATABASE_URL is wrong, or leads to no usable server in time.
    """
    clock = asyncio.get_running_loop().time
    give_up = clock() + settings.migrate_within_s
    pause_s = 0.1
    while True:
        try:
            database = await Database.connect(settings.database_url)
        except UnreachableError as error:
            if clock() + pause_s > give_up:
                raise
            log.info("waiting", why=str(error), at_most_s=round(give_up - clock()))
        else:
            await database.close()
            return
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, LONGEST_PAUSE_S)


def main() -> None:
    """Migrates; what stands in the way is told in one line, and the exit status is 1."""
    try:
        settings = MigrateSettings()  # type: ignore[call-arg]  # from the environment
    except ValidationError as error:
        sys.exit(f"The tables cannot be brought up to date. {described(error)}.")
    configure_logs(settings.log_level)
    try:
        asyncio.run(migrate(settings))
    except BadDatabaseUrlError as error:
        sys.exit(f"The tables cannot be brought up to date. {error}")
    log.info("migrated")


if __name__ == "__main__":
    main()
