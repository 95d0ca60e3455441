"""Paths to handlers: Klein, and around it what holds for every request."""

# mypy: disallow-untyped-calls=False
# (much of twisted.web has no annotations)
from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any
from urllib.parse import unquote_to_bytes

from klein import Klein
from klein.resource import KleinResource
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET
from werkzeug.exceptions import HTTPException
from werkzeug.exceptions import MethodNotAllowed as WrongMethod
from werkzeug.routing import BaseConverter

from flowgate.errors import BusUnavailable, Internal, InvalidParameter, NotFound, Refused
from flowgate.http.answers import Answer, Route, problem_answer, send, wrong_method
from flowgate.http.calls import Call
from flowgate.http.paths import Paths
from flowgate.http.request import Request

_log = Logger()

_METHODS = (b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE")
_ALLOW = b", ".join((*_METHODS, b"OPTIONS"))

_PREFLIGHT = Answer(
    204,
    content_type=None,
    headers=(
        (b"Allow", _ALLOW),
        (b"Access-Control-Allow-Methods", _ALLOW),
        (
            b"Access-Control-Allow-Headers",
            b"Authorization, Content-Type, Idempotency-Key, Last-Event-ID, X-Request-Id, X-Amz-Target, X-Amz-Date, "
            b"X-Amz-Content-Sha256, X-Amz-Security-Token, X-Amz-User-Agent, X-Amzn-Query-Mode, Amz-Sdk-Request, "
            b"Amz-Sdk-Invocation-Id",
        ),
        (b"Access-Control-Max-Age", b"86400"),
    ),
)


class _TopicConverter(BaseConverter):
    """A topic in a path: any text, slashes and line ends included, also at its ends."""

    regex = r"[\s\S]+?"
    part_isolating = False


async def respond(request: Request, route: Route, parts: dict[str, Any]) -> None:
    """Call a route's handler and send its answer, or the problem that it met."""
    request.route = route
    try:
        answer = await route.handler(request, **parts)
    except CancelledError:
        # The client has gone; or somebody below was cancelled because this node stops.
        answer = problem_answer(BusUnavailable(), request.request_id)
    except Refused as refusal:
        if refusal.status == 500:
            _log.failure("request {request_id}: refused by a fault of ours", request_id=request.request_id)
        answer = problem_answer(refusal, request.request_id)
    except Exception:
        if not request.gone:
            _log.failure("request {request_id} failed", request_id=request.request_id)
        answer = problem_answer(Internal(), request.request_id)
    if answer is not None:
        send(request, answer)


def _endpoint(route: Route) -> Callable[..., Deferred[None]]:
    def endpoint(request: IRequest, **parts: Any) -> Deferred[None]:
        assert isinstance(request, Request)
        return Deferred.fromCoroutine(respond(request, route, parts))

    return endpoint


def _not_routed(request: IRequest, failure: Failure) -> None:
    assert isinstance(request, Request)
    error = failure.value
    if isinstance(error, WrongMethod):
        send(request, wrong_method(request, ", ".join(sorted(error.valid_methods or ()))))
    else:
        request.refuse(NotFound())


def make_klein(routes: Iterable[Route]) -> Klein:
    """The routes as a Klein application."""
    app = Klein()
    app.url_map.converters["topic"] = _TopicConverter
    app.url_map.strict_slashes = False
    for route in routes:
        name = f"{route.method} {route.path}"
        app.route(route.path, methods=[route.method], endpoint=name)(_endpoint(route))
    app.handle_errors(HTTPException)(_not_routed)
    return app


class Root(Resource):
    """Everything that is served.

    Klein is right for what is called now and then; its routing costs more than a publish itself, so paths of plain
    segments are looked up first.

    :ivar brief: the methods and paths of the routes that say so.
    """

    isLeaf = True

    def __init__(
        self, routes: list[Route], websockets: Mapping[bytes, IResource], draining: Callable[[], bool]
    ) -> None:
        super().__init__()
        self._paths = Paths(routes)
        self._routes = routes
        self._websockets = websockets
        self._draining = draining
        self.brief = frozenset((route.method.encode(), route.path.encode()) for route in routes if route.brief)

    @cached_property
    def _klein(self) -> KleinResource:
        # To compile its rules takes longer than all else that is done to make a site.
        return make_klein(self._routes).resource()

    def render(self, request: Request) -> Any:
        if self._draining():
            request.close_after()
        method, path = request.method, request.path
        found = self._paths.find(method, path)
        if found is not None:
            call = Call(respond(request, *found))
            call.go_on()
            if not request.finished:
                request.cancel = call.cancel
        elif method == b"OPTIONS":
            send(request, _PREFLIGHT)
        elif path in self._websockets:
            if method == b"GET":
                if request.channel.flush():
                    return self._websockets[path].render(request)
                request.abort()  # it does not read what it asked for before, and that may not come in between
            else:
                send(request, wrong_method(request, "GET"))
        elif method not in _METHODS:
            send(request, wrong_method(request, _ALLOW.decode()))
        elif not _is_text(path):
            send(request, problem_answer(InvalidParameter("the path is not UTF-8"), request.request_id))
        else:
            return self._klein.render(request)
        return NOT_DONE_YET


def _is_text(path: bytes) -> bool:
    try:
        unquote_to_bytes(path).decode()
    except UnicodeDecodeError:
        return False
    return True
