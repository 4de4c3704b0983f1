"""The simulated IB Gateway: a broker on one's own machine that speaks the TWS wire protocol.

The real client libraries connect to it over TCP and know nothing. It has named scenarios for what
goes wrong at a real broker, and a control interface to set them; its state survives a kill.
"""

from services.gateway.exchange import Snapshot
from services.gateway.market import FixedMarket, Market, MarketData, SampleMarket
from services.gateway.records import Execution, Order, Receipt, Side, Status
from services.gateway.scenario import Scenario
from services.gateway.server import SimulatedGateway

__all__ = [
    "Execution",
    "FixedMarket",
    "Market",
    "MarketData",
    "Order",
    "Receipt",
    "SampleMarket",
    "Scenario",
    "Side",
    "SimulatedGateway",
    "Snapshot",
    "Status",
]
