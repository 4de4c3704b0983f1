"""Access: who may call a method, by the rule that stands beside it in the contract."""

from dataclasses import dataclass

from google.protobuf import descriptor_pool
from google.protobuf.message import Message

from efficientfrontier.v1.access_pb2 import ACCESS_OWN, ACCESS_READ, Access, access
from efficientfrontier.v1.order_service_pb2 import Order, UpdateOrderStatusRequest
from services.portfolio.caller import Caller, Role
from services.portfolio.domain.errors import NotAllowedError

LONGEST_SHOWN = 64  # characters of a name that an error repeats
FIGURES = ("filled_quantity", "average_fill_price", "commission")


@dataclass(frozen=True, slots=True)
class Rule:
    """Who may call one method. Without credentials (AUTH=none) everybody may, and none is asked."""

    method: str
    access: "Access.ValueType"

    def require_role(self, caller: Caller) -> None:
        """Checks what can be told before the message is read.

        Raises:
            NotAllowedError: No call of this method is open to the caller's role.
        """
        if caller.role is Role.OPERATOR or self.access == ACCESS_READ:
            return
        if caller.role is not Role.STRATEGY or self.access != ACCESS_OWN:
            raise NotAllowedError(caller.actor, f"call {self.method}", caller.rights)

    def require_own(self, caller: Caller, request: Message) -> None:
        """Checks a strategy's message: that it is about itself.

        It is the message that decides, not the path it came by. An order that is named by its id
        is looked at where its owner is known, under the ledger's lock.

        Raises:
            NotAllowedError: It is about another strategy, or reports what only an operator may.
        """
        if caller.role is not Role.STRATEGY or self.access != ACCESS_OWN:
            return
        if isinstance(request, UpdateOrderStatusRequest):
            told = {field.name for field, _ in request.ListFields()}  # 0 too, when it is given
            if request.status != Order.CANCELLED or any(name in told for name in FIGURES):
                raise NotAllowedError(
                    caller.actor, "report what became of an order, only cancel it", caller.rights
                )
            return
        name: str = getattr(request, "strategy_name", "")
        if name != caller.name:
            shown = name[:LONGEST_SHOWN] or "a strategy without a name"
            raise NotAllowedError(caller.actor, f"trade as {shown}", caller.rights)


def rule_of(service: str, method: str) -> Rule:
    """The rule of a method, from the contract itself; without one it is for operators."""
    pool = descriptor_pool.Default()
    described = pool.FindServiceByName(service).FindMethodByName(method)
    return Rule(method, described.GetOptions().Extensions[access])
