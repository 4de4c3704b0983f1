"""MutationService: unpack, call one use case, pack."""

from efficientfrontier.v1 import mutation_service_pb2 as pb
from efficientfrontier.v1.mutation_service_pb2_grpc import MutationServiceServicer
from services.portfolio.domain.mutation import Mutation
from services.portfolio.ports import MutationFilter
from services.portfolio.router import Router
from services.portfolio.rpc.context import Context
from services.portfolio.rpc.pages import place_of, size_of, token_of
from services.portfolio.rpc.wire import timestamp, uuid_of


class MutationServicer(MutationServiceServicer):
    """Who changed what, over gRPC."""

    def __init__(self, router: Router) -> None:
        self._reads = router.reads

    async def ListMutations(
        self, request: pb.ListMutationsRequest, context: Context
    ) -> pb.ListMutationsResponse:
        """Lists changes, newest first."""
        which = MutationFilter(request.strategy_name or None, request.actor or None)
        before = place_of(request.page_token, which, uuid_of)
        size = size_of(request.page_size)
        found = await self._reads.mutations(which, before, size + 1)
        token = token_of([str(found[size - 1].mutation_id)], which) if len(found) > size else ""
        return pb.ListMutationsResponse(
            mutations=map(mutation_message, found[:size]), next_page_token=token
        )


def mutation_message(mutation: Mutation) -> pb.Mutation:
    """A mutation as the contract has it."""
    return pb.Mutation(
        mutation_id=str(mutation.mutation_id),
        create_time=timestamp(mutation.create_time),
        actor=mutation.actor,
        method=mutation.method,
        strategy_name=mutation.strategy_name,
        subject=mutation.subject,
        request_id=mutation.request_id,
        trace_id=mutation.trace_id,
    )
