"""The calls of administrators: users, keys, shares and the audit log."""

from __future__ import annotations

from flowgate.auth.keys import LONGEST_OVERLAP
from flowgate.auth.shares import MAX_FILTERS
from flowgate.errors import Conflict, InsufficientScope, InvalidTopic, KeyDisabled, NotFound
from flowgate.http.admin.access import MOST
from flowgate.http.admin.audit import DEFAULT_LIMIT
from flowgate.http.admin.keys import DEFAULT_OVERLAP
from flowgate.http.describing.accounts import KEY, KEY_ID
from flowgate.http.describing.common import ADMIN, ADMIN_TOKEN, WITH_BODY
from flowgate.http.describing.shapes import (
    FILTER,
    LABEL,
    QUEUE_GRANT,
    SECONDS,
    USER,
    answer,
    flag,
    listing,
    obj,
    or_null,
    ref,
    text,
    whole,
)
from flowgate.http.describing.values import JSON, Example, Operation, Parameter, Reply, Schema

_TAG = "Administration"
_SECOND_KEY = "FGAKBJ5ZKQ7D2TUM4NXR.Xo81BvTqLs6YwZk3Re0HgPm7Cd5NfAj2UiQ4tK9y"
_SHARE_ID = "FGSH5C0A91E7D2B8F346"
_CREATED = 1795690800

_KEY_ID = Parameter("key_id", "path", text("the public part of the key", minLength=1), "the key")
_USER_NAME = Parameter("user", "path", text("the name", minLength=1), "the user")
_SHARE = Parameter("share_id", "path", text("the id of the share", minLength=1), "the share")
_LIMIT = Parameter("limit", "query", whole("how many at most", 1, MOST, default=MOST), "the size of the page")
_CURSOR = Parameter("cursor", "query", text("`next` of the page before"), "where the page begins")

_FILTERS = or_null(listing(FILTER, "filters; short names are completed, full ones of others need a share"))
_QUEUES = or_null(listing(QUEUE_GRANT))
_NEXT: Schema = {"type": ["string", "null"], "description": "`cursor` of the page that follows, if there is one"}

_NEW_KEY = answer(
    key=text("`<key id>.<secret>`"),
    id=text("the key id"),
    user=text("its user"),
    app=text("its application"),
    name=text("what it is for"),
    created_at=SECONDS,
    expires_at={"type": ["integer", "null"]},
)


def _shown_new(key: str) -> dict[str, object]:
    return {
        "key": key,
        "id": key.partition(".")[0],
        "user": "alice",
        "app": "shop",
        "name": "till",
        "created_at": _CREATED,
        "expires_at": None,
    }


_SHOWN_KEY = {
    "id": KEY_ID,
    "user": "alice",
    "app": "shop",
    "name": "till",
    "publish": ["alice_shop_#"],
    "subscribe": ["alice_shop_#"],
    "queues": ["*"],
    "created_at": _CREATED,
    "expires_at": None,
    "last_used_at": None,
    "disabled": False,
    "successor": None,
}


def _shown_user(name: str, suspended: bool = False) -> dict[str, object]:
    return {"user": name, "created_at": _CREATED, "suspended": suspended, "plan": ""}


_SHOWN_SHARE = {
    "id": _SHARE_ID,
    "owner": "alice",
    "app": "shop",
    "grantee": "bob",
    "grantee_app": None,
    "publish": [],
    "subscribe": ["alice_shop_sales/#"],
    "name": "figures for bob",
    "created_at": _CREATED,
}

_KEYS = (
    Operation(
        "POST",
        "/api/v1/admin/keys",
        "createKey",
        _TAG,
        "Make an API key",
        "It makes the user too if there is none. Without grants the key may do everything inside the application.",
        bodies={
            JSON: obj(
                {
                    "user": text("whose key it is", pattern=LABEL),
                    "app": text("the application", pattern=LABEL),
                    "name": or_null(text("what it is for", maxLength=100)),
                    "publish": _FILTERS,
                    "subscribe": _FILTERS,
                    "queues": _QUEUES,
                    "expires_days": or_null(whole("days until it expires; never if absent", 1, 36500)),
                },
                ("user", "app"),
            )
        },
        replies={201: Reply("the key, which is shown this once", _NEW_KEY)},
        refusals=(*ADMIN, *WITH_BODY, InvalidTopic, Conflict, InsufficientScope),
        security=ADMIN_TOKEN,
        examples={
            "till": Example(
                "a key for everything", 201, _shown_new(KEY), body={"user": "alice", "app": "shop", "name": "till"}
            )
        },
    ),
    Operation(
        "GET",
        "/api/v1/admin/keys",
        "listKeys",
        _TAG,
        "List API keys, without their secrets",
        parameters=(
            Parameter("user", "query", text("a user's name"), "only this user's keys"),
            Parameter("app", "query", text("an application"), "only this application's keys"),
            _LIMIT,
            _CURSOR,
        ),
        replies={200: Reply("the keys, the oldest first", answer(keys=listing(ref("ApiKey")), next=_NEXT))},
        refusals=ADMIN,
        security=ADMIN_TOKEN,
        examples={"keys": Example("the keys of a user", 200, {"keys": [_SHOWN_KEY], "next": None}, {"user": "alice"})},
    ),
    Operation(
        "GET",
        "/api/v1/admin/keys/<key_id>",
        "describeKey",
        _TAG,
        "Describe an API key",
        parameters=(_KEY_ID,),
        replies={200: Reply("the key", ref("ApiKey"))},
        refusals=(*ADMIN, NotFound),
        security=ADMIN_TOKEN,
        examples={"key": Example("a key", 200, _SHOWN_KEY, {"key_id": KEY_ID})},
    ),
    Operation(
        "POST",
        "/api/v1/admin/keys/<key_id>/rotate",
        "rotateKey",
        _TAG,
        "Put a new API key in the place of one",
        "The new one has the same name, grants and life. The old one, and the tokens made from it, are accepted for "
        "`overlap_seconds` more; then its connections end.",
        parameters=(_KEY_ID,),
        bodies={
            JSON: obj(
                {
                    "overlap_seconds": or_null(
                        whole(
                            "seconds for which the old one is still accepted",
                            0,
                            LONGEST_OVERLAP,
                            default=DEFAULT_OVERLAP,
                        )
                    )
                }
            )
        },
        replies={201: Reply("the new key, which is shown this once", _NEW_KEY)},
        refusals=(*ADMIN, *WITH_BODY, NotFound, Conflict, KeyDisabled),
        security=ADMIN_TOKEN,
        examples={
            "till": Example(
                "a new key, and an hour to hand it out",
                201,
                _shown_new(_SECOND_KEY),
                {"key_id": KEY_ID},
                {"overlap_seconds": 3600},
            )
        },
    ),
    Operation(
        "DELETE",
        "/api/v1/admin/keys/<key_id>",
        "revokeKey",
        _TAG,
        "Revoke an API key, and every token made from it",
        parameters=(_KEY_ID,),
        replies={204: Reply("it is disabled for good")},
        refusals=(*ADMIN, NotFound),
        security=ADMIN_TOKEN,
        examples={"key": Example("a key", 204, None, {"key_id": KEY_ID})},
    ),
)

_USERS = (
    Operation(
        "POST",
        "/api/v1/admin/users",
        "createUser",
        _TAG,
        "Make a user, or find the one of that name",
        "One that is there already stays as it is.",
        bodies={
            JSON: obj(
                {
                    "user": text("the name", pattern=LABEL),
                    "plan": or_null(text("of a new user; the default plan if absent", pattern="^[A-Za-z0-9_-]{0,64}$")),
                },
                ("user",),
            )
        },
        replies={201: Reply("the user", ref("User"))},
        refusals=(*ADMIN, *WITH_BODY, Conflict),
        security=ADMIN_TOKEN,
        examples={"bob": Example("a user", 201, _shown_user("bob"), body={"user": "bob"})},
    ),
    Operation(
        "GET",
        "/api/v1/admin/users",
        "listUsers",
        _TAG,
        "List users",
        parameters=(
            Parameter("prefix", "query", text("the beginning of names"), "only users whose names begin so"),
            _LIMIT,
            _CURSOR,
        ),
        replies={200: Reply("the users, by name", answer(users=listing(ref("User")), next=_NEXT))},
        refusals=ADMIN,
        security=ADMIN_TOKEN,
        examples={
            "users": Example(
                "two users", 200, {"users": [_shown_user("alice"), _shown_user("bob")], "next": None}, {"limit": 10}
            )
        },
    ),
    Operation(
        "GET",
        "/api/v1/admin/users/<user>",
        "describeUser",
        _TAG,
        "Describe a user",
        parameters=(_USER_NAME,),
        replies={
            200: Reply(
                "the user",
                answer(
                    **USER,
                    apps=listing({"type": "string"}, "applications for which there are keys"),
                    keys={"type": "integer", "description": "how many keys are good"},
                ),
            )
        },
        refusals=(*ADMIN, NotFound),
        security=ADMIN_TOKEN,
        examples={
            "alice": Example("a user", 200, {**_shown_user("alice"), "apps": ["shop"], "keys": 1}, {"user": "alice"})
        },
    ),
    Operation(
        "POST",
        "/api/v1/admin/users/<user>/suspend",
        "suspendUser",
        _TAG,
        "Suspend a user, or end the suspension",
        parameters=(_USER_NAME,),
        bodies={JSON: obj({"suspended": flag("`false` ends it")}, ("suspended",))},
        replies={200: Reply("the user", ref("User"))},
        refusals=(*ADMIN, *WITH_BODY, NotFound),
        security=ADMIN_TOKEN,
        examples={
            "bob": Example("a user", 200, _shown_user("bob", suspended=True), {"user": "bob"}, {"suspended": True})
        },
    ),
    Operation(
        "PUT",
        "/api/v1/admin/users/<user>/plan",
        "setPlan",
        _TAG,
        "Give a user another plan",
        parameters=(_USER_NAME,),
        bodies={
            JSON: obj(
                {"plan": or_null(text("its name; the default plan if null", pattern="^[A-Za-z0-9_-]{0,64}$"))},
                ("plan",),
            )
        },
        replies={200: Reply("the user", ref("User"))},
        refusals=(*ADMIN, *WITH_BODY, NotFound),
        security=ADMIN_TOKEN,
        examples={"bob": Example("back to the default plan", 200, _shown_user("bob"), {"user": "bob"}, {"plan": None})},
    ),
    Operation(
        "DELETE",
        "/api/v1/admin/users/<user>",
        "deleteUser",
        _TAG,
        "Remove a user, with all keys and shares",
        "The name is not given again: what is left in topics and queues would belong to whoever had it.",
        parameters=(_USER_NAME,),
        replies={204: Reply("there is no such user any more")},
        refusals=(*ADMIN, NotFound),
        security=ADMIN_TOKEN,
        examples={"bob": Example("a user", 204, None, {"user": "bob"})},
    ),
)

_SHARED = or_null(listing(FILTER, "filters inside the owner's application", maxItems=MAX_FILTERS))

_SHARES = (
    Operation(
        "POST",
        "/api/v1/admin/shares",
        "createShare",
        _TAG,
        "Let the keys of one account use topics of another",
        "Keys of the grantee may then be granted filters that it takes in, by their full names.",
        bodies={
            JSON: obj(
                {
                    "owner": text("whose topics they are", pattern=LABEL),
                    "app": text("the owner's application", pattern=LABEL),
                    "grantee": text("whose keys may use them", pattern=LABEL),
                    "grantee_app": or_null(text("the application whose keys may; all if absent", pattern=LABEL)),
                    "publish": _SHARED,
                    "subscribe": _SHARED,
                    "name": or_null(text("what it is for", maxLength=100)),
                },
                ("owner", "app", "grantee"),
            )
        },
        replies={201: Reply("the share", ref("Share"))},
        refusals=(*ADMIN, *WITH_BODY, InvalidTopic, NotFound, Conflict),
        security=ADMIN_TOKEN,
        examples={
            "sales": Example(
                "bob may follow alice's sales",
                201,
                _SHOWN_SHARE,
                body={
                    "owner": "alice",
                    "app": "shop",
                    "grantee": "bob",
                    "subscribe": ["sales/#"],
                    "name": "figures for bob",
                },
            )
        },
    ),
    Operation(
        "GET",
        "/api/v1/admin/shares",
        "listShares",
        _TAG,
        "List shares",
        parameters=(
            Parameter("owner", "query", text("a user's name"), "only shares of this owner's topics"),
            Parameter("grantee", "query", text("a user's name"), "only shares for this user's keys"),
            _LIMIT,
            _CURSOR,
        ),
        replies={200: Reply("the shares, by id", answer(shares=listing(ref("Share")), next=_NEXT))},
        refusals=ADMIN,
        security=ADMIN_TOKEN,
        examples={
            "alice": Example(
                "the shares of an owner", 200, {"shares": [_SHOWN_SHARE], "next": None}, {"owner": "alice"}
            )
        },
    ),
    Operation(
        "GET",
        "/api/v1/admin/shares/<share_id>",
        "describeShare",
        _TAG,
        "Describe a share",
        parameters=(_SHARE,),
        replies={200: Reply("the share", ref("Share"))},
        refusals=(*ADMIN, NotFound),
        security=ADMIN_TOKEN,
        examples={"sales": Example("a share", 200, _SHOWN_SHARE, {"share_id": _SHARE_ID})},
    ),
    Operation(
        "DELETE",
        "/api/v1/admin/shares/<share_id>",
        "revokeShare",
        _TAG,
        "End a share",
        "Connections that reach where only it let them end; keys and tokens keep their other grants.",
        parameters=(_SHARE,),
        replies={204: Reply("it grants nothing any more")},
        refusals=(*ADMIN, NotFound),
        security=ADMIN_TOKEN,
        examples={"sales": Example("a share", 204, None, {"share_id": _SHARE_ID})},
    ),
)

_AUDIT = (
    Operation(
        "GET",
        "/api/v1/admin/audit",
        "listAudit",
        _TAG,
        "What was done, by whom, and from where",
        "An entry is written before its action; one that is refused after all has a second entry that says so.",
        parameters=(
            Parameter("user", "query", text("a user's name"), "only what is about this account"),
            Parameter(
                "limit", "query", whole("how many at most", 1, MOST, default=DEFAULT_LIMIT), "the size of the page"
            ),
            Parameter("before", "query", whole("`next` of the page before", 1, 2**53 - 1), "only older entries"),
        ),
        replies={
            200: Reply(
                "the entries, the newest first",
                answer(
                    entries=listing(ref("AuditEntry")),
                    next={
                        "type": ["integer", "null"],
                        "description": "`before` of the page that follows; null if there is none",
                    },
                ),
            )
        },
        refusals=ADMIN,
        security=ADMIN_TOKEN,
        examples={
            "till": Example(
                "a key was made",
                200,
                {
                    "entries": [
                        {
                            "sequence": 1,
                            "at": "2026-11-26T11:00:00.000Z",
                            "actor": "admin",
                            "actor_name": None,
                            "address": "127.0.0.1",
                            "request_id": "5651a7f7092d4ff30000000000000a01",
                            "action": "key.create",
                            "subject": KEY_ID,
                            "user": "alice",
                            "refused": None,
                            "detail": {
                                "app": "shop",
                                "name": "till",
                                "publish": ["alice_shop_#"],
                                "subscribe": ["alice_shop_#"],
                                "queues": ["*"],
                            },
                            "left_out": [],
                        }
                    ],
                    "next": None,
                },
                {"user": "alice", "limit": 1},
            )
        },
    ),
)

OPERATIONS = (*_KEYS, *_USERS, *_SHARES, *_AUDIT)
