"""The calls of the keys that sign tokens."""

from __future__ import annotations

from flowgate.errors import Conflict
from flowgate.http.describing.common import ADMIN, ADMIN_TOKEN, WITH_BODY
from flowgate.http.describing.shapes import SECONDS, answer, flag, listing, obj, or_null, text, whole
from flowgate.http.describing.values import JSON, Example, Operation, Reply, Schema
from flowgate.http.signing import MOST_GENERATIONS

_KEYS = answer(
    keys=listing(
        answer(
            id=text("its `kid`"),
            generation=whole("its number", 1, MOST_GENERATIONS),
            use={"enum": ["announced", "signing", "verifying"], "description": "what it is for now"},
            published_at=SECONDS,
            signs_from=SECONDS,
            retired_at={
                "type": ["integer", "null"],
                "description": "from when on it verifies nothing; null as long as no other is announced",
            },
        )
    )
)
_ROTATION: Schema = obj(
    {
        "immediately": flag("give all keys up that there are: their tokens are refused, and connections with them end"),
        "generation": or_null(
            whole("the newest that you know: if there is a newer one, nothing is done", 1, MOST_GENERATIONS)
        ),
    }
)


def _shown(id_: str, generation: int, use: str, since: int, retired_at: int | None) -> dict[str, object]:
    return {
        "id": id_,
        "generation": generation,
        "use": use,
        "published_at": since,
        "signs_from": since + 600 if since else 0,
        "retired_at": retired_at,
    }


OPERATIONS = (
    Operation(
        "GET",
        "/api/v1/admin/signing-keys",
        "listSigningKeys",
        "Administration",
        "List the keys that verify tokens now or will",
        replies={200: Reply("the keys, the newest first", _KEYS)},
        refusals=ADMIN,
        security=ADMIN_TOKEN,
        examples={
            "first": Example("the first one", 200, {"keys": [_shown("0Zq1xJ3vK9dRmW2s", 1, "signing", 0, None)]})
        },
    ),
    Operation(
        "POST",
        "/api/v1/admin/signing-keys/rotate",
        "rotateSigningKeys",
        "Administration",
        "Have another key sign tokens",
        "It is published at once and signs after the time of announcement; the one before it verifies until the tokens "
        "that it has signed have expired. While a key is announced, nothing is done.",
        bodies={JSON: _ROTATION},
        needs_body=False,
        replies={
            200: Reply("nothing was to be done", _KEYS),
            201: Reply("there is a new key", _KEYS),
        },
        refusals=(*ADMIN, *WITH_BODY, Conflict),
        security=ADMIN_TOKEN,
        examples={
            "announced": Example(
                "a second key",
                201,
                {
                    "keys": [
                        _shown("B7tQe0uZ5nLcXa1y", 2, "announced", 1795690800, None),
                        _shown("0Zq1xJ3vK9dRmW2s", 1, "signing", 0, 1795778100),
                    ]
                },
                body={},
            )
        },
    ),
)
