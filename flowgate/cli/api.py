"""The gateway that the command talks to: where it is, and requests over HTTP."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import attrs
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.error import ConnectError, ConnectingCancelledError, ConnectionClosed, DNSLookupError
from twisted.internet.interfaces import IReactorTime
from twisted.web.client import RequestTransmissionFailed, ResponseFailed
from twisted.web.iweb import IResponse

from flowgate.client import Unreachable
from flowgate.client.tx import Client
from flowgate.errors import ProtocolViolation, Refused

_T = TypeVar("_T")
Connect = Callable[[str, str], Client]

DEFAULT_DATA = "flowgate-data"
_TIMEOUT = 30

_NO_ANSWER = (
    ConnectError,
    ConnectionClosed,
    DNSLookupError,
    RequestTransmissionFailed,
    ResponseFailed,
    # What the time-out makes of a request, before there is a connection.
    CancelledError,
    ConnectingCancelledError,
)


class Failed(Exception):
    """The command cannot do what it was told; the text is one sentence."""


@attrs.frozen(slots=True)
class Place:
    """Where the gateway is.

    :ivar url: without a slash at the end.
    :ivar admin_token: for what only administrators may do; empty if there is none at hand.
    """

    url: str
    admin_token: str = attrs.field(repr=False)

    @classmethod
    def find(cls, options: argparse.Namespace) -> Place:
        """Find a gateway by the options, the environment, or what it wrote into its data directory.

        The token in the data directory belongs to the gateway there: another one, named by its URL alone, is not
        shown it.

        :raises Failed: if nothing tells, or the URL is none.
        """
        named = options.data or os.environ.get("FLOWGATE_DATA")
        data = Path(named or DEFAULT_DATA)
        url = options.url or os.environ.get("FLOWGATE_URL") or ""
        here = bool(named) or not url
        if not url:
            try:
                url = json.loads((data / "gateway.json").read_text())["url"]
            except (OSError, ValueError, KeyError, TypeError):
                raise Failed(
                    f"no gateway runs with the data directory {data}: start it with twistd -n flowgate,"
                    " or give --data or --url"
                ) from None
        _check_url(url)
        token = options.admin_token or os.environ.get("FLOWGATE_ADMIN_TOKEN") or ""
        file = os.environ.get("FLOWGATE_ADMIN_TOKEN_FILE")
        if not token and (file or here):
            try:
                token = (Path(file) if file else data / "admin.token").read_text().strip()
            except (OSError, UnicodeDecodeError):
                token = ""
        return cls(url.rstrip("/"), token)


def _check_url(url: object) -> None:
    try:
        parts = urlsplit(url) if isinstance(url, str) else urlsplit("")
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise Failed(f"{url!r} is not the URL of a gateway, such as http://127.0.0.1:8080")


class Api:
    """Requests to one gateway, and clients of it.

    :param treq: the treq module, or what stands for it in tests.
    :param reactor: for the time-outs.
    :param connect: makes a client of a URL and an API key.
    """

    def __init__(self, place: Place, treq: Any, reactor: IReactorTime, connect: Connect) -> None:
        self._place = place
        self._treq = treq
        self._reactor = reactor
        self._connect = connect

    @property
    def url(self) -> str:
        """Of the gateway."""
        return self._place.url

    @asynccontextmanager
    async def client(self, key: str) -> AsyncIterator[Client]:
        """A client while it is connected.

        :raises Failed: for whatever goes wrong with it.
        """
        url = self._place.url
        try:
            async with self._connect(url, key) as client:
                yield client
        except Refused as refusal:
            raise Failed(" ".join(refusal.detail.split())) from None
        except Unreachable:
            raise Failed(_no_answer(url)) from None
        except ProtocolViolation:
            raise Failed(f"what answers at {url} is not a Flow-Gate, or one of another version") from None

    async def in_time(self, answer: Deferred[_T]) -> _T:
        """Wait for an answer, but not for ever.

        :raises Failed: if it does not come.
        """
        try:
            return await answer.addTimeout(_TIMEOUT, self._reactor)
        except TimeoutError:
            raise Failed(_no_answer(self._place.url)) from None

    async def request(self, method: str, path: str, body: object = None, token: str | None = None) -> IResponse:
        """Make a request.

        :raises Failed: if no gateway answers, or it refuses.
        """
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        arguments: dict[str, Any] = {"headers": headers}
        if body is not None:
            arguments["data"] = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        try:
            response: IResponse = await self._treq.request(
                method,
                self._place.url + path,
                timeout=_TIMEOUT,
                unbuffered=True,
                allow_redirects=False,  # the token is for this place only
                **arguments,
            )
        except _NO_ANSWER:
            raise Failed(_no_answer(self._place.url)) from None
        if not 200 <= response.code < 300:
            raise Failed(_reason(response.code, await self._content(response)))
        return response

    async def _content(self, response: IResponse) -> bytes:
        try:
            content: bytes = await self._treq.content(response)
        except _NO_ANSWER:
            raise Failed(f"the answer of the gateway at {self._place.url} broke off") from None
        return content

    async def json(self, method: str, path: str, body: object = None, token: str | None = None) -> Any:
        response = await self.request(method, path, body, token)
        text = await self._content(response)
        try:
            return json.loads(text) if text else None
        except ValueError:
            raise Failed(f"what answers at {self._place.url} is not a Flow-Gate") from None

    async def admin(self, method: str, path: str, body: object = None) -> Any:
        """Make a request of the administrator."""
        if not self._place.admin_token:
            raise Failed("the admin token is not at hand: give --data of the gateway, or --admin-token")
        return await self.json(method, "/api/v1/admin" + path, body, self._place.admin_token)

    async def token(self, key: str, ttl: int | None = None) -> str:
        """Exchange an API key for a token."""
        body: dict[str, object] = {"api_key": key}
        if ttl is not None:
            body["ttl"] = ttl
        answer = await self.json("POST", "/token/", body)
        token: str = answer["token"]
        return token


def _no_answer(url: str) -> str:
    return f"no gateway answers at {url}: is `twistd flowgate` running?"


def _reason(status: int, text: bytes) -> str:
    try:
        problem = json.loads(text)
        said = problem.get("detail") or problem.get("error_description") or problem.get("title")
    except (ValueError, AttributeError):
        said = None
    return " ".join(str(said).split()) if said else f"the gateway answered with status {status}"
