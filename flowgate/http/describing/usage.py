"""The calls that show what an account has used, and change its balance."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from flowgate.billing.plans import MOST_UNITS
from flowgate.errors import Conflict, NotFound
from flowgate.http.describing.common import ADMIN, ADMIN_TOKEN, TOKEN, WITH_BODY, WITH_GRANT, WITH_TOKEN
from flowgate.http.describing.shapes import LABEL, TIME, answer, listing, obj, or_null, text, whole
from flowgate.http.describing.values import JSON, Example, Operation, Parameter, Reply, Schema
from flowgate.http.usage import MOST_ENTRIES

_UNITS: Schema = {"type": "integer"}
_MAYBE: Schema = {"type": ["integer", "null"]}
_USED = listing(answer(**{"from": TIME, "used": _UNITS}))
_USAGE = answer(
    user=text("whose usage it is"),
    plan=text("the name of the plan; empty for the one without limits"),
    period=text("the month or day: `2026-11` or `2026-11-26`"),
    started_at={**TIME, "description": "when it began"},
    resets_at={**TIME, "description": "when the next one begins"},
    used={**_UNITS, "description": "units used in the period"},
    limit={**_MAYBE, "description": "units of the plan; null for no limit"},
    remaining={**_MAYBE, "description": "units that can still be used, with the balance; null for no limit"},
    balance={**_MAYBE, "description": "units paid in advance that are not spent"},
    keys={
        "type": "object",
        "additionalProperties": _UNITS,
        "description": "by API keys, as far as they are entered; not for a token that was narrowed",
    },
    hours={**_USED, "description": "the last 24 hours and the current one"},
    days={**_USED, "description": "the last 30 days and today"},
)
# A token that was narrowed is not shown the keys.
_USAGE["required"].remove("keys")
_ENTRY = obj(
    {
        "sequence": {"type": "integer", "description": "its place in the ledger"},
        "id": text("of each id there is one entry of an account"),
        "at": TIME,
        "kind": {"enum": ["usage", "topup", "adjust"]},
        "units": {**_UNITS, "description": "that were used"},
        "balance": {**_UNITS, "description": "by how much the balance changed"},
        "period": text("that the units belong to"),
        "plan": text("of that time"),
        "keys": {"type": "object", "additionalProperties": _UNITS, "description": "the units by API keys"},
        "deliveries": {**_UNITS, "description": "messages that were sent to clients"},
        "connection_minutes": _UNITS,
        "note": text("what a change of the balance was for"),
    },
    ("sequence", "id", "at", "kind", "units", "balance", "period"),
    more=True,
)
_NOW = datetime(2026, 11, 26, 14, tzinfo=timezone.utc)
_SHOWN = {
    "user": "alice",
    "plan": "",
    "period": "2026-11",
    "started_at": "2026-11-01T00:00:00.000Z",
    "resets_at": "2026-12-01T00:00:00.000Z",
    "used": 0,
    "limit": None,
    "remaining": None,
    "balance": None,
    "keys": {},
    "hours": [
        {"from": f"{_NOW - timedelta(hours=ago):%Y-%m-%dT%H}:00:00.000Z", "used": 0} for ago in range(24, -1, -1)
    ],
    "days": [{"from": f"{_NOW - timedelta(days=ago):%Y-%m-%d}T00:00:00.000Z", "used": 0} for ago in range(30, -1, -1)],
}
_USER = Parameter("user", "path", text("the name", minLength=1), "the user")

OPERATIONS = (
    Operation(
        "GET",
        "/api/v1/usage",
        "usage",
        "Usage",
        "What the account has used, and what is left",
        replies={200: Reply("the usage", _USAGE)},
        refusals=WITH_TOKEN,
        security=TOKEN,
        examples={"usage": Example("without a plan, and nothing is used yet", 200, _SHOWN)},
    ),
    Operation(
        "GET",
        "/api/v1/usage/ledger",
        "ledger",
        "Usage",
        "The account's ledger, the newest entries first",
        parameters=(
            Parameter(
                "before", "query", whole("a place", 1, 2**63 - 1), "only entries before it: `before` of the page before"
            ),
            Parameter("limit", "query", whole("how many at most", 1, MOST_ENTRIES, default=100), "entries of the page"),
        ),
        replies={
            200: Reply(
                "a page",
                answer(entries=listing(_ENTRY), before={**_MAYBE, "description": "for the next page; null: none"}),
            )
        },
        refusals=WITH_GRANT,
        security=TOKEN,
        examples={
            "page": Example(
                "what was paid in",
                200,
                {
                    "entries": [
                        {
                            "sequence": 1,
                            "id": "balance:invoice-7",
                            "at": "2026-11-26T13:59:00.000Z",
                            "kind": "topup",
                            "units": 0,
                            "balance": 5000,
                            "period": "2026-11",
                            "note": "invoice 7",
                        },
                    ],
                    "before": None,
                },
            )
        },
    ),
    Operation(
        "GET",
        "/api/v1/admin/users/<user>/balance",
        "userUsage",
        "Administration",
        "What a user has used, and what is left",
        parameters=(_USER,),
        replies={200: Reply("the usage", _USAGE)},
        refusals=(*ADMIN, NotFound),
        security=ADMIN_TOKEN,
        examples={"alice": Example("a user", 200, {**_SHOWN, "balance": 5000}, {"user": "alice"})},
    ),
    Operation(
        "POST",
        "/api/v1/admin/users/<user>/balance",
        "changeBalance",
        "Administration",
        "Add units to a user's balance, or take some away",
        "Each `id` changes the balance of a user once, however often it is sent, and for ever.",
        parameters=(_USER,),
        bodies={
            JSON: obj(
                {
                    "units": whole("more, or fewer if negative; not 0", -MOST_UNITS, MOST_UNITS),
                    "id": text("names the change", pattern="^[A-Za-z0-9_-]{1,64}$"),
                    "note": or_null(text("what it is for; shown to the user", maxLength=200)),
                },
                ("units", "id"),
            )
        },
        replies={
            200: Reply(
                "the balance",
                answer(
                    user=text("the user", pattern=LABEL),
                    balance=_UNITS,
                    changed={"type": "boolean", "description": "false if the change had been made before"},
                ),
            )
        },
        refusals=(*ADMIN, *WITH_BODY, NotFound, Conflict),
        security=ADMIN_TOKEN,
        examples={
            "paid": Example(
                "an invoice is paid",
                200,
                {"user": "alice", "balance": 5000, "changed": True},
                {"user": "alice"},
                {"units": 5000, "id": "invoice-7", "note": "invoice 7"},
            )
        },
    ),
)
