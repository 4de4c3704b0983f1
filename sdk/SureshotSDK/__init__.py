# ruff: noqa: N999 - the documented import path
"""The SDK: what a strategy or a notebook needs to trade through the portfolio router.

    from SureshotSDK.Scheduler import Scheduler      # a strategy: subclass it, write on_data
    from SureshotSDK import PortfolioClient          # the router's methods, with safe retries
    from SureshotSDK import AsyncPortfolioClient     # the same for asyncio
    from SureshotSDK.indicators import SMA           # incremental indicators
    from SureshotSDK.testing import InMemoryPortfolio, run_over   # for tests of strategies

`Scheduler` is not re-exported here: the name SureshotSDK.Scheduler is its module.
"""

from SureshotSDK._aio_client import AsyncPortfolioClient
from SureshotSDK._client import PortfolioClient
from SureshotSDK._interface import PortfolioInterface
from SureshotSDK.errors import (
    InvalidRequestError,
    NotAllowedError,
    NotFoundError,
    PortfolioError,
    RefusedError,
    RequestIdReusedError,
    UnauthenticatedError,
    UnavailableError,
)

__all__ = [
    "AsyncPortfolioClient",
    "InvalidRequestError",
    "NotAllowedError",
    "NotFoundError",
    "PortfolioClient",
    "PortfolioError",
    "PortfolioInterface",
    "RefusedError",
    "RequestIdReusedError",
    "UnauthenticatedError",
    "UnavailableError",
]
