"""The portfolio contract, on the portfolio in memory and on the router through Envoy."""

from collections.abc import Iterator

import pytest

from SureshotSDK import PortfolioClient
from SureshotSDK.testing import InMemoryPortfolio
from tests.sdk.portfolio_contract import PortfolioContract
from tests.sdk.scripted_router import ScriptedRouter
from tests.support.mesh import Mesh


class TestInMemoryPortfolio(PortfolioContract):
    @pytest.fixture
    def portfolio(self) -> InMemoryPortfolio:
        return InMemoryPortfolio()


class TestClientOnLoopback(PortfolioContract):
    """The wire alone: the client against the rules in memory, behind a real gRPC server."""

    @pytest.fixture
    def portfolio(self, router: ScriptedRouter) -> Iterator[PortfolioClient]:
        with PortfolioClient(router.address) as client:
            yield client


class TestClientOnTheMesh(PortfolioContract):
    @pytest.fixture
    def portfolio(self, mesh: Mesh) -> Iterator[PortfolioClient]:
        with PortfolioClient(mesh.grpc_address) as client:
            yield client
