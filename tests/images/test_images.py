"""Both images, built by their Dockerfiles and run: read-only root, no capabilities, user 10001.

The base is not the Dockerfiles' own, which is in a registry, but one of the same Debian and Python;
and it is crun that runs them, not a daemon or a cluster.
"""

import datetime
import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from efficientfrontier.v1 import allocation_service_pb2 as allocation
from efficientfrontier.v1.allocation_service_pb2_grpc import AllocationServiceStub
from efficientfrontier.v1.page_service_pb2 import GetPageRequest
from efficientfrontier.v1.page_service_pb2_grpc import PageServiceStub
from services.mesh.ports import free_port
from SureshotSDK import PortfolioClient
from tests.images.container import Container, database_inside
from tests.images.workshop import ROOT, NoMirrorError, Workshop, dockerfile, run, why_not_here
from tests.support.database import fresh_database
from tests.support.waiting import wait_until

AllocationPolicy = allocation.AllocationPolicy
SERVES_WITHIN_S = 90
SOLVED = ("MAXIMUM_SHARPE", "MINIMUM_VARIANCE", "RISK_PARITY")
FIRST_SESSION = datetime.date(2026, 1, 5)
SESSIONS = 30
NOT_THE_ROUTERS = ["SureshotSDK", "services.mesh", "services.gateway", "services.strategy"]
NOT_A_STRATEGYS = ["services.portfolio", "services.mesh", "numpy", "pandas", "sqlalchemy"]
LOADS_WHAT_LIVE_NEEDS = """
import asyncio, exchange_calendars, zoneinfo
from services.portfolio.brokers import ib_library

async def load():
    ib_library.load()

asyncio.run(load())
print(exchange_calendars.get_calendar("XNYS").name, zoneinfo.ZoneInfo("America/New_York"))
"""
LARGE_ANSWERS = [("grpc.max_receive_message_length", 32 << 20)]
LISTS_PACKAGES = """
from importlib.metadata import distributions
print(*(f"{one.metadata['Name']}=={one.version}" for one in distributions()))
"""
BUILDERS = ["pip", "setuptools", "wheel"]


@pytest.fixture
def workshop(tmp_path: Path) -> Iterator[Workshop]:
    """A workshop that has the base. What it built goes with it: images are large."""
    if lacking := why_not_here():
        pytest.skip(f"Images are not built here: {lacking}.")
    folder = tmp_path / "workshop"
    try:
        one = Workshop(folder)
        one.make_base()
        yield one
    except NoMirrorError as offline:
        pytest.skip(f"Images are not built here: no base could be made ({offline}).")
    finally:
        run(["rm", "-rf", str(folder)])


# One test, so that one worker builds the images, and once: that takes two minutes of one core.
@pytest.mark.timeout(900)
def test_both_images_do_their_work_with_a_read_only_root_and_no_rights(
    workshop: Workshop, postgres_url: str
) -> None:
    about = {"VERSION": "1.2.3", "REVISION": "0a1b2c3"}
    routers = workshop.build("portfolio", **about)
    says_what_it_is_and_is_small(workshop, routers, "portfolio_efficientfrontier", limit_mb=550)
    strategys = workshop.build("strategy", **about, STRATEGY="spxl")
    says_what_it_is_and_is_small(workshop, strategys, "incredibleleverage", limit_mb=40)

    with running_router(workshop, routers, postgres_url) as router:
        the_router_solves_every_allocation(router)
        stops_when_told_to(router)
    with running_router(workshop, routers, postgres_url) as router:
        the_router_fills_an_order_and_serves_its_pages(router)
        the_router_has_what_live_needs(router)
        the_routers_health_check_fails_where_no_router_is(router)
        has_only_what_is_pinned(router)
        has_nothing_of(router, NOT_THE_ROUTERS)
        is_confined(router)
        with running_strategy(workshop, strategys, router) as strategy:
            the_strategy_trades_on_sample_data(strategy, router)
            an_unknown_strategy_would_be_refused_by_the_build(strategy)
            has_only_what_is_pinned(strategy)
            has_nothing_of(strategy, NOT_A_STRATEGYS)
            is_confined(strategy)
            the_strategy_is_unhealthy_while_its_loop_hangs(strategy)
            stops_when_told_to(strategy)


@contextmanager
def running_router(workshop: Workshop, image: str, server_url: str) -> Iterator[Container]:
    """A router in a container, on a database of its own, once its health check passes."""
    with fresh_database(server_url) as url:
        database, files = database_inside(url)
        environ = {
            "DATABASE_URL": database,
            "ROUTER_ADDRESS": f"127.0.0.1:{free_port()}",
            "METRICS_PORT": "0",
            "DRAIN_S": "0",
        }
        with Container(workshop, image, environ, files=files) as container:
            wait_until(lambda: is_healthy(container), SERVES_WITHIN_S, "a healthy router")
            yield container


@contextmanager
def running_strategy(workshop: Workshop, image: str, router: Container) -> Iterator[Container]:
    """A strategy in a container, on sample data, with the router in its own."""
    environ = {"PORTFOLIO_ADDRESS": router.environ["ROUTER_ADDRESS"], "INTERVAL_S": "0.2"}
    with Container(workshop, image, environ) as container:
        wait_until(lambda: is_healthy(container), SERVES_WITHIN_S, "a healthy strategy")
        yield container


def is_healthy(container: Container) -> bool:
    """Whether the container's health check passes; fails when the container has ended."""
    assert container.exit_code() is None, f"it ended:\n{container.output()}"
    return container.check_health().returncode == 0


def says_what_it_is_and_is_small(
    workshop: Workshop, image: str, title: str, limit_mb: float
) -> None:
    settings = workshop.settings(image)
    labels = {name.rpartition(".")[2]: text for name, text in settings["Labels"].items()}
    assert settings["User"] == "10001:10001"
    assert (labels["title"], labels["version"], labels["revision"]) == (title, "1.2.3", "0a1b2c3")
    assert labels["description"]
    added_mb = workshop.size_mb(image, "opt/venv", "app")
    print(f"{title} adds {added_mb:.0f} MB to its base.")
    assert added_mb < limit_mb


def the_router_solves_every_allocation(router: Container) -> None:
    address = router.environ["ROUTER_ADDRESS"]
    with PortfolioClient(address) as client:
        trade_for_some_sessions(client)
    with grpc.insecure_channel(address) as channel:
        stub = AllocationServiceStub(channel)
        for name in SOLVED:
            method = AllocationPolicy.Method.Value(name)
            policy = AllocationPolicy(method=method, min_days=SESSIONS - 5)
            request = allocation.PlanAllocationRequest(policy=policy)
            plan = stub.PlanAllocation(request, timeout=120)
            assert plan.method == method, plan.fallback_reason
            assert len(plan.frontier) > 2
            assert math.isclose(sum(row.target_weight for row in plan.rows), 1, abs_tol=1e-6)


def trade_for_some_sessions(client: PortfolioClient) -> None:
    """Every strategy buys, and sees its share go its own way up and down."""
    names = sorted(one.strategy_name for one in client.list_portfolios())
    assert len(names) == 5
    for number, name in enumerate(names):
        symbol = name.rpartition("_")[2]
        client.buy_all(name, symbol, 100.0)
        for session in range(SESSIONS):
            price = 100 + session * (number + 1) / 10 + 5 * math.sin(session * (number + 2))
            day = FIRST_SESSION + datetime.timedelta(days=session)
            client.report_prices(name, {symbol: round(price, 2)}, session=day)


def the_router_fills_an_order_and_serves_its_pages(router: Container) -> None:
    address = router.environ["ROUTER_ADDRESS"]
    with PortfolioClient(address) as client:
        order = client.buy_all("IncredibleLeverage_HOOD", "HOOD", 150.0)
        assert (order.status, order.quantity) == (order.EXECUTED, 133)
        assert client.audit().balanced
    with grpc.insecure_channel(address, LARGE_ANSWERS) as channel:
        pages = PageServiceStub(channel)
        drawing = pages.GetPage(GetPageRequest(page="plotly.js"), timeout=30).data
        page = pages.GetPage(GetPageRequest(page="weights"), timeout=30).data
    assert len(drawing) > 4_000_000
    assert b"<style>" in page


def the_router_has_what_live_needs(router: Container) -> None:
    assert router.python(LOADS_WHAT_LIVE_NEEDS) == "XNYS America/New_York"


def the_routers_health_check_fails_where_no_router_is(router: Container) -> None:
    nobody = f"ROUTER_ADDRESS=127.0.0.1:{free_port()}"
    check = router.execute("env", nobody, *router.settings["Healthcheck"]["Test"][1:])
    assert check.returncode == 1
    assert "UNAVAILABLE" in check.stderr


def the_strategy_trades_on_sample_data(strategy: Container, router: Container) -> None:
    name = "IncredibleLeverage_SPXL"
    with PortfolioClient(router.environ["ROUTER_ADDRESS"]) as client:
        orders = wait_until(lambda: list(client.list_orders(strategy_name=name)), 60, "an order")
    assert orders[0].status == orders[0].EXECUTED
    strategy.wait_for_line("sample data")


def an_unknown_strategy_would_be_refused_by_the_build(strategy: Container) -> None:
    # What the build ends with. A build of its own for this would take long.
    check = json.loads(dockerfile("strategy").rpartition("\nRUN ")[2].replace("\\\n", ""))
    refused = strategy.execute("env", "STRATEGY=gold", *check)
    assert (refused.returncode, refused.stderr) == (1, "No strategy is called 'gold'.\n")


def the_strategy_is_unhealthy_while_its_loop_hangs(strategy: Container) -> None:
    strategy.signal("STOP")
    strategy.execute("touch", "-d", "1 minute ago", "/tmp/health")
    late = strategy.check_health()
    assert late.returncode == 1
    assert "loop is 6" in late.stderr
    strategy.signal("CONT")
    wait_until(lambda: is_healthy(strategy), 30, "a healthy strategy, again")


def stops_when_told_to(container: Container) -> None:
    container.signal("TERM")
    assert container.wait(30) == 0, container.output()


def has_only_what_is_pinned(container: Container) -> None:
    pins = set(
        re.findall(r"^(\S+?==[^\s;]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    )
    found = container.python(LISTS_PACKAGES).split()
    assert len(found) >= 4
    assert {canonical(one) for one in found} <= {canonical(pin) for pin in pins}


def canonical(pin: str) -> str:
    return re.sub(r"[-_.]+", "-", pin).lower()


def has_nothing_of(container: Container, names: list[str]) -> None:
    """Neither those packages, nor what builds and installs software."""
    program = f"from importlib.util import find_spec; print(*filter(find_spec, {names + BUILDERS}))"
    assert container.python(program) == ""
    with_base = container.execute("/usr/local/bin/python3", "-I", "-c", "import pip")
    assert "No module named 'pip'" in with_base.stderr
    tools = "pip pip3 gcc cc make ld git curl"
    assert container.execute("sh", "-c", f"command -v {tools}").stdout == ""


def is_confined(container: Container) -> None:
    """It runs as 10001 without a right, and can write to nothing but /tmp."""
    assert container.execute("id", "-u").stdout.strip() == "10001"
    status = container.execute("cat", "/proc/1/status").stdout
    rights = dict(line.split(":\t") for line in status.splitlines())
    assert int(rights["CapEff"], 16) == int(rights["CapBnd"], 16) == 0
    assert rights["NoNewPrivs"] == "1"
    assert container.execute("touch", "/tmp/written").returncode == 0
    for folder in ("/", "/app", "/opt/venv", "/var/lib"):
        assert "Read-only" in container.execute("touch", f"{folder}/written").stderr, folder
    # Where somebody lets the root be written to, these files are root's all the same.
    owned = [Path(found) for part in ("opt/venv", "app") for found in container.tree.glob(part)]
    for path in [below for folder in owned for below in (folder, *folder.rglob("*"))]:
        about = path.lstat()
        assert about.st_uid == 0, path
        assert path.is_symlink() or not about.st_mode & 0o022, path
