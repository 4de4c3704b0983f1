"""The peer's tables, as ORM classes: the same facts as the router keeps for each order."""

from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    DateTime,
    Enum,
    ForeignKey,
    Index,
    Numeric,
    String,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from uuid_utils.compat import uuid7

Amount = Numeric(24, 8)


class Side(StrEnum):
    """Which way an order trades."""

    BUY = "BUY"
    SELL = "SELL"


class Status(StrEnum):
    """Where an order is in its life."""

    PENDING = "PENDING"
    EXECUTED = "EXECUTED"
    CANCELLED = "CANCELLED"
    REJECTED = "REJECTED"
    UNKNOWN = "UNKNOWN"


class Mode(StrEnum):
    """Where orders are executed; the peer only knows PAPER."""

    PAPER = "PAPER"
    LIVE = "LIVE"


def now() -> datetime:
    """The moment a row is made or changed (UTC)."""
    return datetime.now(UTC)


class Base(DeclarativeBase):
    """What the tables share: how Python's types are stored, and how constraints are named."""

    type_annotation_map = {  # noqa: RUF012 -- SQLAlchemy reads it from the class
        Decimal: Amount,
        datetime: DateTime(timezone=True),
        Side: Enum(Side, native_enum=False, length=16),
        Status: Enum(Status, native_enum=False, length=16),
        Mode: Enum(Mode, native_enum=False, length=16),
    }


class Book(Base):
    """One strategy: its cash and its profit and loss."""

    __tablename__ = "books"
    __table_args__ = (CheckConstraint("cash >= 0", name="cash_not_negative"),)

    book_id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    strategy_name: Mapped[str] = mapped_column(String(64), unique=True)
    mode: Mapped[Mode] = mapped_column(default=Mode.PAPER)
    cash: Mapped[Decimal]
    realized_pnl: Mapped[Decimal] = mapped_column(default=Decimal(0))
    update_time: Mapped[datetime] = mapped_column(default=now, onupdate=now)


class Position(Base):
    """What a book holds of one symbol."""

    __tablename__ = "positions"
    __table_args__ = (
        UniqueConstraint("book_id", "symbol"),
        CheckConstraint("quantity >= 0", name="quantity_not_negative"),
    )

    position_id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    book_id: Mapped[UUID] = mapped_column(ForeignKey(Book.book_id))
    symbol: Mapped[str] = mapped_column(String(16))
    quantity: Mapped[Decimal] = mapped_column(default=Decimal(0))
    average_cost: Mapped[Decimal] = mapped_column(default=Decimal(0))
    market_price: Mapped[Decimal] = mapped_column(default=Decimal(0))
    realized_pnl: Mapped[Decimal] = mapped_column(default=Decimal(0))
    update_time: Mapped[datetime] = mapped_column(default=now, onupdate=now)


class Order(Base):
    """A market order; in PAPER it is filled when it is made."""

    __tablename__ = "orders"
    __table_args__ = (
        Index("orders_of_strategy", "strategy_name", "order_id"),
        CheckConstraint("quantity > 0", name="quantity_positive"),
    )

    order_id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    book_id: Mapped[UUID] = mapped_column(ForeignKey(Book.book_id))
    strategy_name: Mapped[str] = mapped_column(String(64))
    symbol: Mapped[str] = mapped_column(String(16))
    side: Mapped[Side]
    quantity: Mapped[Decimal]
    price: Mapped[Decimal]
    status: Mapped[Status]
    mode: Mapped[Mode]
    filled_quantity: Mapped[Decimal]
    average_fill_price: Mapped[Decimal]
    commission: Mapped[Decimal] = mapped_column(default=Decimal(0))
    reason: Mapped[str] = mapped_column(default="")
    request_id: Mapped[str | None] = mapped_column(String(64), unique=True)
    create_time: Mapped[datetime] = mapped_column(default=now)
    update_time: Mapped[datetime] = mapped_column(default=now, onupdate=now)

    fills: Mapped[list["Fill"]] = relationship()
    cash_entries: Mapped[list["CashEntry"]] = relationship()


class Fill(Base):
    """Shares that changed hands for an order. Never changed."""

    __tablename__ = "fills"

    fill_id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    order_id: Mapped[UUID] = mapped_column(ForeignKey(Order.order_id), index=True)
    quantity: Mapped[Decimal]
    price: Mapped[Decimal]
    commission: Mapped[Decimal] = mapped_column(default=Decimal(0))
    create_time: Mapped[datetime] = mapped_column(default=now)


class CashEntry(Base):
    """Cash that came into a book (above 0) or left it (below 0), and why. Never changed."""

    __tablename__ = "cash_entries"

    entry_id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    book_id: Mapped[UUID] = mapped_column(ForeignKey(Book.book_id), index=True)
    order_id: Mapped[UUID | None] = mapped_column(ForeignKey(Order.order_id))
    amount: Mapped[Decimal]
    kind: Mapped[str] = mapped_column(String(16))
    create_time: Mapped[datetime] = mapped_column(default=now)
