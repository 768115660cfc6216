"""Makes the application of a server, which can also be mounted in another one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, cast

from .arguments import ServerLimits, check_api_key, check_libraries

if TYPE_CHECKING:
    from fastapi import FastAPI
    from fastapi.routing import APIRoute

    from ..data.label_file import LabelFile
    from ..search.search_index import SearchIndex
    from .served_model import ServedModel


def create_app(
    models: Sequence[ServedModel],
    limits: ServerLimits | None = None,
    *,
    api_key: str | None = None,
    truncate: bool = False,
    index: SearchIndex | None = None,
    labels: LabelFile | None = None,
) -> FastAPI:
    """Make an application that serves models to clients of OpenAI and of text-embeddings-inference.

    Args:
        models: The models, see `load_served_model`. A request without the name of one gets the first that can do what
            it asks for.
        limits: What the server takes at once.
        api_key: The key that requests must send as `Authorization: Bearer KEY`; None if they need none.
        truncate: Whether to cut texts that are too long, unless a request says otherwise.
        index: An index to search. One of the models must have computed its vectors.
        labels: A file whose texts people label at `/label`.

    Returns:
        The application. `app.state.service` has its models, queue and metrics.

    Raises:
        MissingLibraryError: If the extra `serve` is not installed.
        UsageError: If there are no models, two have the same name, requests cannot send the key, or the vectors of the
            index are from another model.
    """
    check_libraries("create_app")
    from fastapi import FastAPI, Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import Response
    from starlette.exceptions import HTTPException

    from .extraction_routes import extraction_routes
    from .guard import Guard
    from .hub_routes import hub_routes
    from .openai_routes import openai_routes
    from .page_routes import label_routes, page_route, status_routes
    from .responses import RequestError, error_response, invalid_body
    from .service import Service
    from .tei_routes import tei_routes
    from .token_routes import token_routes

    check_api_key(api_key)
    service = Service(models, limits or ServerLimits(), truncate)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.stopping = True
        service.scheduler.close()

    app = FastAPI(title="sequence-encoder", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service = service
    making = (openai_routes, tei_routes, token_routes, extraction_routes, hub_routes, status_routes)
    routers = [make(service) for make in making]
    routers.append(page_route())
    if index is not None:
        from .search_routes import search_routes

        routers.append(search_routes(service, index))
    if labels is not None:
        routers += [page_route("/label", "label.html"), label_routes(labels)]
    for router in routers:
        app.include_router(router)

    def path_of(request: Request) -> str:
        return str(request.scope["path"]).removeprefix(request.scope.get("root_path", ""))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        if path_of(request) == "/search" and index is None:
            error = RequestError(404, "This server has no index. Start it with --index.")
        if path_of(request) in ("/label", "/labels") and labels is None:
            error = RequestError(404, "This server has no texts to label. Start it with --label_file.")
        return error_response(path_of(request), error)

    @app.exception_handler(RequestValidationError)
    async def body_error(request: Request, error: RequestValidationError) -> Response:
        return error_response(path_of(request), invalid_body(list(error.errors())))

    @app.exception_handler(Exception)
    async def own_error(request: Request, error: Exception) -> Response:
        # The log has the traceback, which is of no use to a client.
        return error_response(path_of(request), RequestError(500, "The server has an internal error."))

    paths = frozenset(route.path for router in routers for route in cast("list[APIRoute]", router.routes))
    app.add_middleware(Guard, service=service, routes=paths, api_key=api_key)
    return app
