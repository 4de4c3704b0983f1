"""PageService: the pictures, as HTML."""

from functools import cache

from google.api.httpbody_pb2 import HttpBody

from efficientfrontier.v1 import page_service_pb2 as pb
from efficientfrontier.v1.page_service_pb2_grpc import PageServiceServicer
from services.portfolio.domain.errors import NotFoundError
from services.portfolio.pictures.pages import (
    HTML,
    JAVASCRIPT,
    PLOTLY_CACHE,
    Kind,
    index_page,
    plotly_js,
)
from services.portfolio.router import Router
from services.portfolio.rpc.context import Context

PLOTLY = "plotly.js"
KINDS = {kind.value: kind for kind in Kind}


class PageNotFoundError(NotFoundError):
    """There is no such page."""

    reason = "UNKNOWN_PATH"

    def __init__(self, page: str) -> None:
        super().__init__(
            f"There is no page {page}. There are {', '.join(KINDS)}; /pages lists them.", page=page
        )


class PageServicer(PageServiceServicer):
    """The pictures over gRPC, and through Envoy for a browser."""

    def __init__(self, router: Router) -> None:
        self._router = router

    async def GetPage(self, request: pb.GetPageRequest, context: Context) -> HttpBody:
        """A page, or what draws it."""
        if request.page == PLOTLY:
            await context.send_initial_metadata((("cache-control", PLOTLY_CACHE),))
            return HttpBody(content_type=JAVASCRIPT, data=_plotly_js())
        if not request.page:
            return HttpBody(content_type=HTML, data=index_page())
        if request.page not in KINDS:
            raise PageNotFoundError(request.page)
        return HttpBody(
            content_type=HTML, data=await self._router.gallery.page(KINDS[request.page])
        )


@cache  # 5 MB, once anyone looks at a page
def _plotly_js() -> bytes:
    return plotly_js()
