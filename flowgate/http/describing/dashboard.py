"""The call that lets somebody into the dashboard; the calls of its own pages are for them alone."""

from __future__ import annotations

from flowgate.errors import Conflict, RateLimited
from flowgate.http.describing.common import ADMIN, ADMIN_TOKEN, WITH_BODY
from flowgate.http.describing.shapes import LABEL, SECONDS, answer, flag, obj, text
from flowgate.http.describing.values import JSON, Example, Operation, Parameter, Reply

OPERATIONS = (
    Operation(
        "POST",
        "/api/v1/admin/users/<user>/link",
        "createSignInLink",
        "Administration",
        "Make a one-time link by which a user comes to a password for the dashboard",
        "The user is made if there is none of this name. Earlier links of the user are worth nothing from then on.",
        parameters=(Parameter("user", "path", text("the name", pattern=LABEL), "the user"),),
        bodies={JSON: obj({"admin": flag("whether the user becomes an administrator; else it stays as it is")})},
        needs_body=False,
        replies={
            201: Reply(
                "the link",
                answer(
                    user=text("the name", pattern=LABEL),
                    link=text("to be opened in a browser, once"),
                    expires_at=SECONDS,
                ),
            )
        },
        refusals=(*ADMIN, *WITH_BODY, Conflict, RateLimited),
        security=ADMIN_TOKEN,
        examples={
            "alice": Example(
                "an administrator",
                201,
                {
                    "user": "alice",
                    "link": "http://127.0.0.1:8080/dashboard/#link=mJ0c6bSgZ8vOqz1bTn3yTtVdO3mXn2r0wTq9E5XkLhA",
                    "expires_at": 1795777200,
                },
                {"user": "alice"},
                {"admin": True},
            )
        },
    ),
)
