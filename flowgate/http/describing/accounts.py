"""The calls that make and end tokens."""

from __future__ import annotations

from flowgate.auth.signing import LONGEST_LIFE
from flowgate.auth.tokens import DEFAULT_LIFE, SHORTEST_LIFE
from flowgate.http.describing.common import ANY, NOBODY
from flowgate.http.describing.shapes import (
    FILTER,
    QUEUE_GRANT,
    answer,
    listing,
    obj,
    or_null,
    ref,
    text,
    whole,
)
from flowgate.http.describing.values import FORM, JSON, Example, Operation, Reply, Schema

KEY = "FGAKX77HWLWCFIZ7IA3O.4xKt9aQ2mLp7Zr0VbNc3WdYe8HfGj1SuTi5OkXq6"
KEY_ID, SECRET = KEY.split(".")
TOKEN = "eyJhbGciOiJFUzI1NiIsInR5cCI6ImF0K2p3dCJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl"

_REQUEST_ID = "5651a7f7092d4ff30000000000000001"

_FILTERS = or_null(listing(FILTER, "in place of the key's own; short names are completed"))
_QUEUES = or_null(listing(QUEUE_GRANT, "in place of the key's own"))
_LIFE = whole("seconds of life", SHORTEST_LIFE, LONGEST_LIFE, default=DEFAULT_LIFE)

_WISH: Schema = obj(
    {
        "api_key": or_null(text("if it is not in the `Authorization` header")),
        "app": or_null(text("has to be the key's application")),
        "ttl": or_null(_LIFE),
        "publish": _FILTERS,
        "subscribe": _FILTERS,
        "queues": _QUEUES,
    }
)
_FORM: Schema = obj(
    {
        "grant_type": {"const": "client_credentials"},
        "client_id": text("the key's id"),
        "client_secret": text("the key's secret"),
        "api_key": text("the whole key, instead of these two"),
        "app": text("has to be the key's application"),
        "ttl": _LIFE,
        "scope": text(
            "narrows: `publish:<filter>`, `subscribe:<filter>`, `queue:<name>`, `queue:send:<name>`; blanks between"
        ),
    },
    ("grant_type",),
    more=True,
)
_ISSUED = answer(
    token=text("the token, a JWT"),
    access_token=text("the same"),
    token_type={"const": "Bearer"},
    expires_in={"type": "integer", "description": "seconds"},
    scope=text("what is granted"),
    user=text("whose token it is"),
    app=text("the application"),
    prefix=text("what full names begin with"),
)


def _oauth(*statuses: int) -> dict[int, Reply]:
    words = {
        400: "what is asked for is malformed, or more than the key grants",
        401: "no key, or one that is not good",
        403: "the key is disabled, or the user suspended",
        413: "the body is too large",
        415: "the body is neither JSON nor a form",
        429: "too many wrong keys from this address, or too many tokens for this key",
        500: "a fault of ours",
        503: "the message bus is away",
    }
    headers = {
        401: {"WWW-Authenticate": "as RFC 6750 says"},
        429: {"Retry-After": "seconds after which to try again"},
        503: {"Retry-After": "seconds after which to try again"},
    }
    return {status: Reply(words[status], ref("OAuthError"), headers=headers.get(status, {})) for status in statuses}


# What is refused before anybody looks at the request is a problem also here.
_BEFORE = tuple(kind for kind in ANY if kind.status in (414, 431))

OPERATIONS = (
    Operation(
        "POST",
        "/token/",
        "issueToken",
        "Tokens",
        "Exchange an API key for a token",
        "The key may be in the body, or in the `Authorization` header as Bearer or Basic.",
        bodies={JSON: _WISH, FORM: _FORM},
        needs_body=False,
        replies={200: Reply("a token", _ISSUED)},
        refusals=_BEFORE,
        others=_oauth(400, 401, 403, 413, 415, 429, 500, 503),
        security=("api_key", "basic", "nobody"),
        examples={
            "json": Example(
                "everything that the key grants",
                200,
                {
                    "token": TOKEN,
                    "access_token": TOKEN,
                    "token_type": "Bearer",
                    "expires_in": 900,
                    "scope": "publish:alice_shop_# subscribe:alice_shop_# queue:*",
                    "user": "alice",
                    "app": "shop",
                    "prefix": "alice_shop_",
                },
                body={"api_key": KEY},
            ),
            "narrowed": Example(
                "less than the key grants, for an hour",
                200,
                {
                    "token": TOKEN + "1",
                    "access_token": TOKEN + "1",
                    "token_type": "Bearer",
                    "expires_in": 3600,
                    "scope": "publish:alice_shop_sales/#",
                    "user": "alice",
                    "app": "shop",
                    "prefix": "alice_shop_",
                },
                body={"api_key": KEY, "ttl": 3600, "publish": ["sales/#"], "subscribe": [], "queues": []},
            ),
            "form": Example(
                "as OAuth clients ask",
                200,
                {
                    "token": TOKEN + "2",
                    "access_token": TOKEN + "2",
                    "token_type": "Bearer",
                    "expires_in": 900,
                    "scope": "subscribe:alice_shop_sales/#",
                    "user": "alice",
                    "app": "shop",
                    "prefix": "alice_shop_",
                },
                body=f"grant_type=client_credentials&client_id={KEY_ID}&client_secret={SECRET}&scope=subscribe:sales/%23",
                media_type=FORM,
            ),
            "no_key": Example(
                "without a key",
                401,
                {
                    "error": "invalid_client",
                    "error_description": 'an API key is required: {"api_key": "…"}, or Authorization: Bearer <API key>',
                    "code": "missing_token",
                    "request_id": _REQUEST_ID,
                },
                body={"ttl": 3600},
            ),
        },
    ),
    Operation(
        "POST",
        "/token/revoke",
        "revokeToken",
        "Tokens",
        "Revoke a token",
        "RFC 7009. Its open connections end on every node. Whoever has a token may revoke it.",
        bodies={
            JSON: obj({"token": text("the token"), "token_type_hint": {"description": "not looked at"}}, ("token",)),
            FORM: obj({"token": text("the token")}, ("token",), more=True),
        },
        needs_body=False,
        replies={200: Reply("it is good for nothing any more", {"type": "object"})},
        refusals=_BEFORE,
        others=_oauth(400, 413, 415, 500, 503),
        security=("token", "nobody"),
        examples={"json": Example("one token", 200, {}, body={"token": TOKEN + "1"})},
    ),
    Operation(
        "GET",
        "/.well-known/jwks.json",
        "keysOfTokens",
        "Tokens",
        "The public key that verifies tokens",
        replies={200: Reply("a JSON Web Key Set", answer(keys=listing({"type": "object"})))},
        refusals=ANY,
        security=NOBODY,
        examples={
            "keys": Example(
                "one key",
                200,
                {
                    "keys": [
                        {
                            "kty": "EC",
                            "crv": "P-256",
                            "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
                            "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
                            "use": "sig",
                            "alg": "ES256",
                            "kid": "0Zq1xJ3v",
                        }
                    ]
                },
            )
        },
    ),
)
