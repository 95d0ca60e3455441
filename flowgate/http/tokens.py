"""``/token/``: API keys for tokens, in the words of OAuth 2.0 (RFC 6749), and the keys that verify them."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Awaitable, Callable
from math import ceil
from typing import Any
from urllib.parse import parse_qs, unquote

import attrs
import orjson
from twisted.logger import Logger

from flowgate.auth.keys import ApiKey, Keyring
from flowgate.auth.signing import LONGEST_LIFE, MAX_AGE
from flowgate.auth.tokens import DEFAULT_LIFE, SHORTEST_LIFE, TokenService
from flowgate.errors import (
    AccountSuspended,
    BusUnavailable,
    InsufficientScope,
    Internal,
    InvalidParameter,
    InvalidToken,
    InvalidTopic,
    KeyDisabled,
    MissingField,
    MissingToken,
    RateLimited,
    Refused,
)
from flowgate.http.answers import JSON, Answer, Handler, Route, json_answer
from flowgate.http.bodies import Members, media_type, read_object
from flowgate.http.credentials import authorization
from flowgate.http.problems import problem_headers
from flowgate.http.request import Request
from flowgate.rates.attempts import Attempts, network_of

_log = Logger()

_FORM = b"application/x-www-form-urlencoded"
_KEPT = b"public, max-age=%d" % MAX_AGE
_MOST_FIELDS = 32

MOST_FAILURES, FAILURES_SECONDS = 60, 60
"""So many wrong API keys in so many seconds from one address, or one network of IPv6: the next ones get 429."""
_KINDS = {"publish": "publish", "subscribe": "subscribe", "queue": "queues"}


class _UnsupportedGrantType(InvalidParameter):
    """The form asks for a grant type that there is not."""


# RFC 6749 section 5.2; its own codes are few, so ours goes along as "code".
_ERRORS: tuple[tuple[type[Refused], str, int], ...] = (
    (MissingToken, "invalid_client", 401),
    (InvalidToken, "invalid_client", 401),
    (KeyDisabled, "unauthorized_client", 403),
    (AccountSuspended, "unauthorized_client", 403),
    (InsufficientScope, "invalid_scope", 400),
    (InvalidTopic, "invalid_scope", 400),
    (_UnsupportedGrantType, "unsupported_grant_type", 400),
    (BusUnavailable, "temporarily_unavailable", 503),
    (Internal, "server_error", 500),
)


@attrs.frozen(slots=True)
class _Wish:
    """What is asked for; ``api_key`` is empty if the body has none."""

    api_key: str = attrs.field(default="", repr=False)
    app: str | None = None
    ttl: int | None = None
    publish: tuple[str, ...] | None = None
    subscribe: tuple[str, ...] | None = None
    queues: tuple[str, ...] | None = None


def oauth_error(refusal: Refused, request: Request) -> Answer:
    """A refusal as the token endpoint says it."""
    other = ("invalid_request", refusal.status if refusal.status in (413, 415, 429) else 400)
    name, status = next(((name, status) for kind, name, status in _ERRORS if isinstance(refusal, kind)), other)
    body = {
        "error": name,
        "error_description": refusal.title if status == 500 else refusal.detail,
        "code": refusal.code,
        "request_id": request.request_id,
    }
    headers = problem_headers(refusal)
    if status == 401:
        # A Basic challenge makes browsers open a dialog: only for those who came with Basic ("MUST", section 5.2).
        basic = request.requestHeaders.getRawHeaders(b"Authorization", [b""])[0][:6].lower() == b"basic "
        headers = ((b"WWW-Authenticate", b'%b realm="flow-gate"' % (b"Basic" if basic else b"Bearer")),)
    return Answer(status, orjson.dumps(body), JSON, headers, refusal.code)


def _speaks_oauth(handler: Callable[[Request], Awaitable[Answer]]) -> Handler:
    async def wrapped(request: Request, **parts: Any) -> Answer:
        try:
            return await handler(request, **parts)
        except Refused as refusal:
            if refusal.status == 500:
                _log.failure("request {request_id}: refused by a fault of ours", request_id=request.request_id)
            return oauth_error(refusal, request)

    return wrapped


class TokenEndpoint:
    """Makes, revokes and explains tokens."""

    def __init__(
        self,
        tokens: TokenService,
        keyring: Keyring,
        now: Callable[[], float],
        take_token: Callable[[ApiKey], None] = lambda _: None,
    ) -> None:
        """Serve.

        :param now: seconds.
        :param take_token: counts a token that a key is exchanged for; raises if that is one too many.
        """
        self._tokens = tokens
        self._keyring = keyring
        self._take_token = take_token
        self._failures = Attempts(now, MOST_FAILURES, FAILURES_SECONDS)

    def routes(self) -> list[Route]:
        return [
            Route("POST", "/token/", _speaks_oauth(self.issue)),
            Route("POST", "/token/revoke", _speaks_oauth(self.revoke)),
            Route("GET", "/.well-known/jwks.json", self.jwks),
        ]

    async def issue(self, request: Request) -> Answer:
        in_header = _key_in_header(request)
        wish = _wish(request, in_header is not None)
        key = self._authenticate(request, in_header, wish.api_key)
        self._take_token(key)
        issued = self._tokens.issue(
            key,
            app=wish.app,
            ttl=DEFAULT_LIFE if wish.ttl is None else wish.ttl,
            publish=wish.publish,
            subscribe=wish.subscribe,
            queues=wish.queues,
        )
        return json_answer(
            {
                "token": issued.token,
                "access_token": issued.token,
                "token_type": "Bearer",
                "expires_in": issued.expires_in,
                "scope": issued.scope,
                "user": issued.user,
                "app": issued.app,
                "prefix": issued.prefix,
            }
        )

    def _authenticate(self, request: Request, in_header: str | None, in_body: str) -> ApiKey:
        if in_header is not None and in_body:
            raise InvalidParameter("the API key is given in the Authorization header or in the body, not in both")
        text = in_header or in_body
        if not text:
            raise MissingToken('an API key is required: {"api_key": "…"}, or Authorization: Bearer <API key>')
        address = network_of(request.address)
        try:
            return self._keyring.authenticate(text)
        except InvalidToken:
            # Whoever has a good key is let in all the same: addresses are shared.
            wait = self._failures.wait(address)
            if wait:
                raise RateLimited("too many wrong API keys from this address", retry_after=max(1, ceil(wait))) from None
            self._failures.add(address)
            raise

    async def revoke(self, request: Request) -> Answer:
        """RFC 7009.  Whoever has a token may revoke it; one that is good for nothing is as good as revoked."""
        if media_type(request) == _FORM:
            token = _form(request).get("token", "")
        elif request.body():
            body = Members(read_object(request))
            body.only("token", "token_type_hint")
            token = body.text("token")
        else:
            scheme, token = authorization(request)
            if scheme != "bearer":
                token = ""
        if not token:
            raise MissingField("the member 'token' is missing")
        try:
            principal = self._tokens.recognize(token)  # that of a suspended user too: the suspension may end
        except InvalidToken:
            return json_answer({})
        await self._tokens.revoke(principal)
        return json_answer({})

    async def jwks(self, request: Request) -> Answer:
        return json_answer(self._tokens.jwks(), headers=((b"Cache-Control", _KEPT),))


def _key_in_header(request: Request) -> str | None:
    """The API key of the Authorization header: as a bearer token, or as id and secret (RFC 6749 section 2.3.1)."""
    scheme, value = authorization(request)
    if not scheme:
        return None
    if scheme == "bearer":
        return value
    if scheme != "basic":
        raise InvalidToken("the Authorization header must be Bearer <API key>, or Basic with key id and secret")
    try:
        key_id, _, secret = b64decode(value, validate=True).decode().partition(":")
    except ValueError:  # of base64 or of UTF-8
        raise InvalidToken("the Basic credentials cannot be read") from None
    return f"{unquote(key_id)}.{unquote(secret)}"


def _wish(request: Request, optional: bool) -> _Wish:
    if media_type(request) == _FORM:
        return _wish_of_form(_form(request))
    if optional and not request.body():
        return _Wish()
    body = Members(read_object(request))
    body.only("api_key", "app", "ttl", "publish", "subscribe", "queues")
    return _Wish(
        body.optional_text("api_key") or "",
        body.optional_text("app"),
        body.integer("ttl", SHORTEST_LIFE, LONGEST_LIFE),
        body.texts("publish"),
        body.texts("subscribe"),
        body.texts("queues"),
    )


def _form(request: Request) -> dict[str, str]:
    """A form; parameters that are not known are for the caller to ignore (RFC 6749 section 3.2)."""
    try:
        fields = parse_qs(request.body().decode(), strict_parsing=True, errors="strict", max_num_fields=_MOST_FIELDS)
    except ValueError:
        raise InvalidParameter("the body is not a form; for JSON send Content-Type: application/json") from None
    for name, values in fields.items():
        if len(values) > 1:
            raise InvalidParameter(f"the parameter {name[:40]!r} is given twice")
    return {name: values[0] for name, values in fields.items()}


def _wish_of_form(form: dict[str, str]) -> _Wish:
    if form.get("grant_type") != "client_credentials":
        raise _UnsupportedGrantType("grant_type must be client_credentials")
    key = form.get("api_key", "")
    if "client_id" in form and "client_secret" in form:
        key = f"{form['client_id']}.{form['client_secret']}"
    ttl = form.get("ttl")
    if ttl is not None and not (ttl.isascii() and ttl.isdigit() and len(ttl) < 10):
        raise InvalidParameter("ttl must be a number of seconds")
    narrowed: dict[str, list[str]] = {}
    if form.get("scope"):
        narrowed = {kind: [] for kind in _KINDS.values()}
        for part in form["scope"].split():
            kind, _, name = part.partition(":")
            if kind not in _KINDS or not name:
                raise InsufficientScope("a scope has the form publish:<filter>, subscribe:<filter> or queue:<name>")
            narrowed[_KINDS[kind]].append(unquote(name))  # as the scope of an answer has it
    return _Wish(
        key,
        form.get("app"),
        None if ttl is None else int(ttl),
        **{kind: tuple(names) for kind, names in narrowed.items()},
    )
