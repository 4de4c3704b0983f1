"""A served router that asks who calls, and those who call it."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc import aio

from services.mesh.tokens import key_set, new_key, token
from services.portfolio.brokers.paper import PaperBroker
from services.portfolio.domain.order import Mode
from services.portfolio.domain.promotion import Rule
from services.portfolio.history.history import History
from services.portfolio.live.lookout import Lookout
from services.portfolio.pictures.gallery import Gallery
from services.portfolio.promotion.reviewer import Reviewer
from services.portfolio.router import Router
from services.portfolio.rpc.admission import OPEN, Admission
from services.portfolio.rpc.errors import DETAILS_KEY
from services.portfolio.rpc.server import SERVICES, Server
from services.portfolio.writer import Writer
from tests.allocation.desk import allocator_on
from tests.ports.stores import Store
from tests.writer.desks import rules

DOMAIN = "spiffe://efficientfrontier"
A, B = "IncredibleLeverage_SPXL", "IncredibleLeverage_HOOD"
ANSWER_S = 20
POOL = descriptor_pool.Default()
METHODS: dict[str, MethodDescriptor] = {
    method.name: method for name in SERVICES for method in POOL.FindServiceByName(name).methods
}


@dataclass(frozen=True)
class Refusal:
    """A failed call, as its caller sees it."""

    code: grpc.StatusCode
    reason: str
    message: str
    figures: dict[str, str]


@dataclass(frozen=True)
class Desk:
    """A served router, and a channel to it."""

    router: Router
    server: Server
    channel: aio.Channel

    async def call(self, name: str, headers: Sequence[tuple[str, str]] = (), **fields: Any) -> Any:
        """The answer of a method of the contract, by its name; of a stream, its first message."""
        return await self.send(name, new_request(name, **fields).SerializeToString(), headers)

    async def send(self, name: str, raw: bytes, headers: Sequence[tuple[str, str]] = ()) -> Any:
        """As call, with whatever bytes."""
        method = METHODS[name]
        path = f"/{method.containing_service.full_name}/{name}"
        parse = message_factory.GetMessageClass(method.output_type).FromString
        metadata = list(headers)
        if method.server_streaming:
            watch: Any = self.channel.unary_stream(path, response_deserializer=parse)
            stream = watch(raw, metadata=metadata, timeout=ANSWER_S)
            message = await stream.read()
            stream.cancel()
            if message is aio.EOF:
                await stream.code()
            return message
        unary: Any = self.channel.unary_unary(path, response_deserializer=parse)
        return await unary(raw, metadata=metadata, timeout=ANSWER_S)

    async def refused(
        self,
        name: str,
        headers: Sequence[tuple[str, str]] = (),
        raw: bytes | None = None,
        **fields: Any,
    ) -> Refusal:
        """How a call fails; of one that does not, the code is OK."""
        if raw is None:
            raw = new_request(name, **fields).SerializeToString()
        try:
            await self.send(name, raw, headers)
        except aio.AioRpcError as error:
            return refusal(error)
        return Refusal(grpc.StatusCode.OK, "", "", {})


@asynccontextmanager
async def served(
    store: Store,
    admission: Admission = OPEN,
    *,
    channel_credentials: grpc.ChannelCredentials | None = None,
    by_hand: bool = False,
    health_address: str | None = None,
) -> AsyncIterator[Desk]:
    """A PAPER router on the store, served on a free port, without its own tasks."""
    writer = Writer(store.ledger, rules(PaperBroker(by_hand=by_hand)))
    lookout = Lookout(store.broker_reads, store.feed, now, Mode.PAPER)
    history = History(store.history)
    router = Router(
        writer,
        store.reads,
        store.feed,
        lookout,
        now,
        history=history,
        reviewer=Reviewer(writer, store.promotion, store.feed, now, Rule(), Mode.PAPER),
        risk=store.risk,
        allocator=allocator_on(store, writer, Mode.PAPER),
        gallery=Gallery(store.reads, history, store.allocation),
    )
    server = Server(router, "127.0.0.1:0", admission=admission, health_address=health_address)
    await server.start()
    address = f"127.0.0.1:{server.port}"
    channel = (
        aio.insecure_channel(address)
        if channel_credentials is None
        else aio.secure_channel(address, channel_credentials)
    )
    try:
        async with channel:
            yield Desk(router, server, channel)
    finally:
        await lookout.stop()
        await server.stop(0)
        await router.stop()


class Keyring:
    """Keys that sign tokens, and the file of their public halves."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.key = new_key()
        self.publish(self.key)

    def publish(self, *keys: bytes) -> None:
        """Has the file hold these keys alone, as rotated by a rename."""
        self.write(key_set(list(keys)))

    def write(self, contents: bytes) -> None:
        """Replaces the file."""
        fresh = self.path.with_suffix(".new")
        fresh.write_bytes(contents)
        fresh.replace(self.path)

    def header(self, name: str, key: bytes | None = None, *, days: float = 30) -> "Headers":
        """The header of a caller, such as strategy/A."""
        return bearer(token(key or self.key, f"{DOMAIN}/{name}", days=days))


Headers = tuple[tuple[str, str], ...]


def bearer(signed: str) -> "Headers":
    """A token as a call carries it."""
    return (("authorization", f"Bearer {signed}"),)


def new_request(name: str, **fields: Any) -> Message:
    """The request of a method; fields that its message does not have are left out."""
    described = METHODS[name].input_type
    known = {field: value for field, value in fields.items() if field in described.fields_by_name}
    return message_factory.GetMessageClass(described)(**known)


def refusal(error: aio.AioRpcError) -> Refusal:
    """The failure, with its reason and figures if it has any."""
    details = dict(error.trailing_metadata() or ()).get(DETAILS_KEY)
    info = error_details_pb2.ErrorInfo()
    if isinstance(details, bytes):
        status_pb2.Status.FromString(details).details[0].Unpack(info)
    return Refusal(error.code(), info.reason, error.details() or "", dict(info.metadata))


def now() -> datetime:
    return datetime.now(UTC)
