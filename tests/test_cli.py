"""The ``flowgate`` command, against a gateway of a few lines in memory."""

# mypy: disallow-untyped-calls=False
# (much of twisted.web has no annotations)
from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from treq.testing import StubTreq
from twisted.internet import reactor, task
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.error import ConnectError, ConnectionRefusedError, DNSLookupError
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import ResponseFailed
from twisted.web.resource import Resource
from twisted.web.server import Request

from flowgate import cli, errors
from flowgate.cli import terminal
from flowgate.client import Gap, Message, Published, Unreachable

URL = "http://127.0.0.1:8080"
KEY = "FGAKAAAAAAAAAAAAAAAA." + "s" * 40
JWT = "header.claims.signature"
CURSOR = "e-1"


class FakeGateway(Resource):
    """Answers by heart, and remembers what it was asked."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, str, str, Any]] = []
        self.answers: dict[str, tuple[int, bytes]] = {}

    def say(self, call: str, status: int = 200, body: Any = None) -> None:
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        self.answers[call] = (status, data)

    def render(self, request: Request) -> Any:
        path = request.uri.decode()
        body = request.content.read() if request.content is not None else b""
        bearer = request.getHeader("Authorization") or ""
        self.asked.append(
            (
                f"{request.method.decode()} {path}",
                bearer.removeprefix("Bearer "),
                request.getHeader("Content-Type") or "",
                json.loads(body) if body else None,
            )
        )
        status, data = self.answers.get(self.asked[-1][0], (404, b'{"detail": "No such thing here"}'))
        request.setResponseCode(status)
        return data


class FakeClient:
    """Stands for :class:`flowgate.client.tx.Client`, and for its one subscription."""

    def __init__(self) -> None:
        self.connected = False
        self.refused: Exception | None = None
        self.answer: Deferred[Published] | None = None
        self.published: list[tuple[str, object]] = []
        self.filter = ""
        self._on_gap: Callable[[Gap], None] | None = None
        self._waiting: Deferred[Any] = Deferred()

    async def __aenter__(self) -> FakeClient:
        self.connected = True
        if self.refused is not None:
            raise self.refused
        return self

    async def __aexit__(self, *_: object) -> None:
        self.connected = False

    def publish(self, topic: str, value: object) -> Deferred[Published]:
        self.published.append((topic, value))
        return self.answer or succeed(Published(CURSOR, topic))

    def subscribe(self, filter_: str, *, on_gap: Callable[[Gap], None]) -> FakeClient:
        self.filter = filter_
        self._on_gap = on_gap
        return self

    def __aiter__(self) -> FakeClient:
        return self

    async def __anext__(self) -> Message:
        message: Message = await self._waiting
        return message

    def say(self, said: Message | Exception) -> None:
        waiting, self._waiting = self._waiting, Deferred()
        if isinstance(said, Exception):
            waiting.errback(said)
        else:
            waiting.callback(said)

    def gap(self, gap: Gap) -> None:
        assert self._on_gap is not None
        self._on_gap(gap)


class _Tests(SynchronousTestCase):
    def setUp(self) -> None:
        self.client = FakeClient()
        self.clients: list[tuple[str, str]] = []
        self.clock = task.Clock()
        self.gateway = FakeGateway()
        self.gateway.say("POST /token/", 200, {"token": JWT})
        self.data = Path(self.mktemp())
        self.data.mkdir()
        (self.data / "gateway.json").write_text(json.dumps({"url": URL, "pid": 1}))
        (self.data / "admin.token").write_text("the-admin-token\n")
        self.environment: dict[str, str] = {"FLOWGATE_KEY": KEY}
        self.stdin = b""
        self.treq: Any = StubTreq(self.gateway)

    def begin(self, *arguments: str, data: bool = True) -> tuple[Deferred[None], io.StringIO]:
        """Carry out a command line; return what becomes of it, and its output."""
        line = ["--data", str(self.data), *arguments] if data else list(arguments)
        out = io.StringIO()
        stdin = mock.Mock(buffer=io.BytesIO(self.stdin))
        self.patch(sys, "stdout", out)
        self.patch(sys, "stdin", stdin)
        with mock.patch.dict(os.environ, self.environment, clear=True):
            options = cli.parse(line)
            place = cli.Place.find(options)
            api = cli.Api(place, self.treq, self.clock, self.connect)
            done = Deferred.fromCoroutine(cli.execute(options, api))
        self.patch(sys, "stdout", sys.__stdout__)
        return done, out

    def connect(self, url: str, key: str) -> Any:
        self.clients.append((url, key))
        return self.client

    def run_command(self, *arguments: str, data: bool = True) -> str:
        done, out = self.begin(*arguments, data=data)
        self.flush()
        self.successResultOf(done)
        return out.getvalue()

    def flush(self) -> None:
        self.treq.flush()

    def sentence(self, *arguments: str, data: bool = True) -> str:
        """The one sentence with which a command fails."""
        try:
            done, _ = self.begin(*arguments, data=data)
        except cli.Failed as failed:
            sentence = str(failed)
        else:
            sentence = str(self.failureResultOf(done, cli.Failed).value)
        self.assertNotIn("\n", sentence)
        self.assertNotEqual(sentence, "")
        return sentence


class KeyTests(_Tests):
    """``flowgate key``."""

    def test_create(self) -> None:
        """The key alone is printed; the administrator's token comes from the data directory."""
        self.gateway.say("POST /api/v1/admin/keys", 201, {"key": KEY, "id": "FGAK", "user": "alice"})
        self.assertEqual(self.run_command("key", "create", "alice", "shop"), KEY + "\n")
        self.assertEqual(
            self.gateway.asked,
            [("POST /api/v1/admin/keys", "the-admin-token", "application/json", {"user": "alice", "app": "shop"})],
        )

    def test_create_with_everything(self) -> None:
        """Grants can be repeated."""
        self.gateway.say("POST /api/v1/admin/keys", 201, {"key": KEY})
        self.run_command(
            *("key", "create", "--name", "the till", "alice", "--publish", "a/#", "--publish=b", "shop"),
            *("--subscribe", "+", "--queue", "jobs", "--queue", "mail*", "--expires", "30"),
        )
        self.assertEqual(
            self.gateway.asked[0][3],
            {
                "user": "alice",
                "app": "shop",
                "name": "the till",
                "publish": ["a/#", "b"],
                "subscribe": ["+"],
                "queues": ["jobs", "mail*"],
                "expires_days": 30,
            },
        )

    def test_create_as_json(self) -> None:
        """With ``--json`` the whole answer is printed."""
        self.gateway.say("POST /api/v1/admin/keys", 201, {"key": KEY, "id": "FGAK"})
        self.assertEqual(json.loads(self.run_command("key", "create", "a", "b", "--json")), {"key": KEY, "id": "FGAK"})

    def test_list(self) -> None:
        """One line for each key; as JSON, everything."""
        keys = [
            {"id": "FGAK1", "user": "alice", "app": "shop", "name": "till", "disabled": False},
            {"id": "FGAK2", "user": "bob", "app": "cafe", "name": "", "disabled": True},
        ]
        self.gateway.say("GET /api/v1/admin/keys", 200, {"keys": keys})
        self.assertEqual(
            self.run_command("key", "list"),
            "FGAK1  alice/shop  active  used never  till\nFGAK2  bob/cafe  revoked  used never\n",
        )
        self.assertEqual(json.loads(self.run_command("key", "list", "--json")), keys)

    def test_list_of_some(self) -> None:
        """Only a user's or an application's keys are asked for, all pages of them."""
        one = {"id": "FGAK1", "user": "alice", "app": "shop", "name": "a\nb", "disabled": False}
        used = {**one, "name": "till", "last_used_at": 1795690800, "successor": "FGAK9"}
        self.gateway.say("GET /api/v1/admin/keys?user=alice&app=shop", 200, {"keys": [one], "next": "1-FGAK1"})
        self.gateway.say(
            "GET /api/v1/admin/keys?user=alice&app=shop&cursor=1-FGAK1", 200, {"keys": [used], "next": None}
        )
        self.assertEqual(
            self.run_command("key", "list", "--user", "alice", "--app", "shop"),
            'FGAK1  alice/shop  active  used never  "a\\nb"\n'
            "FGAK1  alice/shop  rotated  used 2026-11-26T11:00Z  till\n",
        )

    def test_rotate(self) -> None:
        """The new key alone is printed; without a word of the overlap the gateway's own holds."""
        self.gateway.say("POST /api/v1/admin/keys/FGAK1/rotate", 201, {"key": KEY, "id": "FGAK"})
        self.assertEqual(self.run_command("key", "rotate", "FGAK1"), KEY + "\n")
        self.run_command("key", "rotate", "FGAK1", "--overlap", "0")
        self.assertEqual([asked[3] for asked in self.gateway.asked], [{}, {"overlap_seconds": 0}])

    def test_revoke(self) -> None:
        """The key of this id is revoked; the id cannot lead elsewhere."""
        self.gateway.say("DELETE /api/v1/admin/keys/FGAK1", 204)
        self.assertEqual(self.run_command("key", "revoke", "FGAK1"), "")
        self.sentence("key", "revoke", "../users?x")
        self.assertEqual(self.gateway.asked[-1][0], "DELETE /api/v1/admin/keys/..%2Fusers%3Fx")


class UserTests(_Tests):
    """``flowgate user``."""

    def test_create(self) -> None:
        """A user is made."""
        self.gateway.say("POST /api/v1/admin/users", 201, {"user": "alice"})
        self.run_command("user", "create", "alice")
        self.assertEqual(self.gateway.asked[0][3], {"user": "alice"})

    def test_name_cannot_lead_elsewhere(self) -> None:
        """A name is one part of the path, whatever it holds."""
        self.sentence("user", "suspend", "../keys?x")
        self.assertEqual(self.gateway.asked[-1][0], "POST /api/v1/admin/users/..%2Fkeys%3Fx/suspend")

    def test_list(self) -> None:
        """One line for each user."""
        users = [{"user": "alice", "suspended": False}, {"user": "bob", "suspended": True}]
        self.gateway.say("GET /api/v1/admin/users", 200, {"users": users})
        self.assertEqual(self.run_command("user", "list"), "alice  active\nbob  suspended\n")
        self.assertEqual(json.loads(self.run_command("--json", "user", "list")), users)

    def test_suspend(self) -> None:
        """A suspension begins, and ends."""
        self.gateway.say("POST /api/v1/admin/users/alice/suspend", 200, {})
        self.run_command("user", "suspend", "alice")
        self.run_command("user", "suspend", "alice", "--resume")
        self.assertEqual([asked[3] for asked in self.gateway.asked], [{"suspended": True}, {"suspended": False}])

    def test_resume(self) -> None:
        """A suspension has a command for its end, too."""
        self.gateway.say("POST /api/v1/admin/users/alice/suspend", 200, {})
        self.run_command("user", "resume", "alice")
        self.assertEqual(self.gateway.asked[0][3], {"suspended": False})

    def test_plan(self) -> None:
        """A user has a plan from the beginning, gets another, or the default one."""
        self.gateway.say("POST /api/v1/admin/users", 201, {})
        self.gateway.say("PUT /api/v1/admin/users/alice/plan", 200, {})
        self.run_command("user", "create", "alice", "--plan", "free")
        self.run_command("user", "plan", "alice", "gold")
        self.run_command("user", "plan", "alice")
        self.assertEqual(
            [asked[3] for asked in self.gateway.asked],
            [{"user": "alice", "plan": "free"}, {"plan": "gold"}, {"plan": None}],
        )

    def test_show(self) -> None:
        """A line for everything that is known of a user."""
        user = {
            "user": "alice",
            "created_at": 1795690800,
            "suspended": True,
            "plan": "",
            "apps": ["cafe", "shop"],
            "keys": 2,
        }
        self.gateway.say("GET /api/v1/admin/users/alice", 200, user)
        self.assertEqual(
            self.run_command("user", "show", "alice"),
            "user: alice\nmade: 2026-11-26T11:00Z\nstate: suspended\nplan: (default)\n"
            "applications: cafe, shop\ngood keys: 2\n",
        )
        self.assertEqual(json.loads(self.run_command("user", "show", "alice", "--json")), user)

    def test_delete(self) -> None:
        """A user is removed."""
        self.gateway.say("DELETE /api/v1/admin/users/alice", 204)
        self.assertEqual(self.run_command("user", "delete", "alice"), "")


class ShareTests(_Tests):
    """``flowgate share``."""

    def test_create(self) -> None:
        """The id is printed; what is shared can be repeated."""
        self.gateway.say("POST /api/v1/admin/shares", 201, {"id": "FGSH1"})
        self.assertEqual(self.run_command("share", "create", "alice", "shop", "bob", "--publish", "a"), "FGSH1\n")
        self.run_command(
            *("share", "create", "alice", "shop", "bob", "--to-app", "cafe"),
            *("--subscribe", "a/#", "--subscribe", "b", "--name", "for bob"),
        )
        whose = {"owner": "alice", "app": "shop", "grantee": "bob"}
        self.assertEqual(
            [asked[3] for asked in self.gateway.asked],
            [
                {**whose, "publish": ["a"]},
                {**whose, "grantee_app": "cafe", "subscribe": ["a/#", "b"], "name": "for bob"},
            ],
        )

    def test_list(self) -> None:
        """One line for each share."""
        share = {"id": "FGSH1", "owner": "alice", "app": "shop", "grantee": "bob", "grantee_app": None}
        shares = [
            {**share, "publish": ["alice_shop_a"], "subscribe": ["alice_shop_b", "alice_shop_c/#"]},
            {**share, "grantee_app": "cafe", "publish": [], "subscribe": ["alice_shop_\x1b[31m"]},
        ]
        self.gateway.say("GET /api/v1/admin/shares?owner=alice&grantee=bob", 200, {"shares": shares, "next": None})
        self.assertEqual(
            self.run_command("share", "list", "--owner", "alice", "--grantee", "bob"),
            "FGSH1  alice/shop to bob  publish alice_shop_a, subscribe alice_shop_b, subscribe alice_shop_c/#\n"
            'FGSH1  alice/shop to bob/cafe  "subscribe alice_shop_\\u001b[31m"\n',
        )

    def test_revoke(self) -> None:
        """A share is ended; its id cannot lead elsewhere."""
        self.gateway.say("DELETE /api/v1/admin/shares/FGSH1", 204)
        self.assertEqual(self.run_command("share", "revoke", "FGSH1"), "")
        self.sentence("share", "revoke", "../users/alice")
        self.assertEqual(self.gateway.asked[-1][0], "DELETE /api/v1/admin/shares/..%2Fusers%2Falice")


class AuditTests(_Tests):
    """``flowgate audit``."""

    ENTRY = {
        "sequence": 7,
        "at": "2026-11-26T11:00:00.000Z",
        "actor": "admin",
        "actor_name": None,
        "address": "192.0.2.1",
        "request_id": "r",
        "action": "key.revoke",
        "subject": "FGAK1",
        "user": "alice",
        "refused": None,
        "detail": {"app": "shop"},
        "left_out": [],
    }

    def test_lines(self) -> None:
        """One line for each entry, as many as are wanted, page after page."""
        other = {
            **self.ENTRY,
            "actor": "user",
            "actor_name": "bob",
            "address": None,
            "refused": "conflict",
            "detail": {},
        }
        self.gateway.say("GET /api/v1/admin/audit?user=alice&limit=3", 200, {"entries": [self.ENTRY], "next": 7})
        self.gateway.say("GET /api/v1/admin/audit?user=alice&before=7&limit=2", 200, {"entries": [other], "next": None})
        self.assertEqual(
            self.run_command("audit", "--user", "alice", "--max", "3"),
            '2026-11-26T11:00:00.000Z  admin from 192.0.2.1  key.revoke FGAK1  {"app": "shop"}\n'
            "2026-11-26T11:00:00.000Z  user bob  key.revoke FGAK1  refused: conflict\n",
        )

    def test_json(self) -> None:
        """As JSON, a line for each entry, with everything."""
        self.gateway.say("GET /api/v1/admin/audit?limit=1", 200, {"entries": [self.ENTRY], "next": 7})
        self.assertEqual(json.loads(self.run_command("audit", "--max", "1", "--json")), self.ENTRY)


class SigningKeyTests(_Tests):
    """``flowgate signing-key``."""

    KEYS = [
        {"id": "c", "generation": 3, "use": "announced", "signs_from": 1795691400, "retired_at": None},
        {"id": "b", "generation": 2, "use": "signing", "signs_from": 5, "retired_at": 1795778100},
        {"id": "a", "generation": 1, "use": "verifying", "signs_from": 0, "retired_at": 1795778100},
    ]
    SHOWN = (
        "c  3  announced  signs from 2026-11-26T11:10:00Z\nb  2  signing\na  1  verifying  until 2026-11-27T11:15:00Z\n"
    )

    def test_list(self) -> None:
        """One line for each key, the newest first, with what is to come of it."""
        self.gateway.say("GET /api/v1/admin/signing-keys", 200, {"keys": self.KEYS})
        self.assertEqual(self.run_command("signing-key", "list"), self.SHOWN)
        self.assertEqual(json.loads(self.run_command("signing-key", "list", "--json")), self.KEYS)
        self.assertEqual(self.gateway.asked[0][1], "the-admin-token")

    def test_rotate(self) -> None:
        """A rotation shows the keys that there are then; only who says so gives the others up."""
        self.gateway.say("POST /api/v1/admin/signing-keys/rotate", 201, {"keys": self.KEYS})
        self.assertEqual(self.run_command("signing-key", "rotate"), self.SHOWN)
        self.run_command("signing-key", "rotate", "--immediately")
        self.assertEqual([asked[3] for asked in self.gateway.asked], [{}, {"immediately": True}])


class StatusTests(_Tests):
    """``flowgate status``."""

    NODE = {
        "node": "n1",
        "version": "1.2.3",
        "uptime_seconds": 93784.4,
        "age_seconds": 0.0,
        "bus": {"available": True, "congested": False, "backlog_messages": 5, "reconnects": 1},
        "connections": {"mqtt": 120, "sse": 3},
        "subscriptions": 260,
        "sessions": 100,
        "messages": {
            "received": {"count": {"mqtt": 8000, "http": 123}, "per_second": {"mqtt": 12.5, "http": 0.25}},
            "sent": {"count": {}, "per_second": {}},
        },
        "queues": {"open": 2, "visible": 7, "in_flight": 1, "delayed": 0, "oldest_age_seconds": 61.2},
        "errors": {"count": 0, "last": "", "last_at": None},
    }

    def test_shown(self) -> None:
        """Each node with its age, the bus, connections, rates, queues and errors; for administrators."""
        other = {
            **self.NODE,
            "node": "n2",
            "age_seconds": 9.7,
            "bus": {"available": False, "congested": True, "backlog_messages": 0, "reconnects": 0},
            "errors": {"count": 2, "last": "a fault\n\x1b[31m", "last_at": 1795690800.5},
        }
        self.gateway.say("GET /api/v1/admin/status", 200, {"nodes": [self.NODE, other]})
        lines = self.run_command("status").splitlines()
        self.assertEqual(self.gateway.asked[0][:2], ("GET /api/v1/admin/status", "the-admin-token"))
        self.assertEqual(
            lines[:7],
            [
                "node n1: Flow-Gate 1.2.3, up 1d 2h",
                "  NATS         within reach; 5 messages wait for it, 1 reconnects",
                "  connections  mqtt 120, sse 3; 260 subscriptions, 100 MQTT sessions",
                "  in           12.8/s (http 0.2, mqtt 12.5), 8123 in all",
                "  out          0.0/s (none), 0 in all",
                "  queues       2 open: 7 visible, 1 in flight, 0 delayed; the oldest 1m 1s",
                "  errors       0",
            ],
        )
        self.assertEqual(lines[7], "node n2: Flow-Gate 1.2.3, up 1d 2h, 10s ago")
        self.assertIn("AWAY, publishers are held back", lines[8])
        last = '  last error   2026-11-26T11:00:00Z "a fault\\n\\u001b[31m"'
        self.assertEqual(lines[13:], ["  errors       2", last])

    def test_json(self) -> None:
        """As JSON it is what the gateway says."""
        self.gateway.say("GET /api/v1/admin/status", 200, {"nodes": [self.NODE]})
        self.assertEqual(json.loads(self.run_command("status", "--json")), [self.NODE])

    def test_strange(self) -> None:
        """What is no status is said to be none."""
        self.gateway.say("GET /api/v1/admin/status", 200, {"nodes": [{"node": "n1"}]})
        self.assertIn("not a Flow-Gate", self.sentence("status"))


class BalanceTests(_Tests):
    """``balance``: what a user has used, and what was paid in."""

    def test_shown(self) -> None:
        """What there is to know is shown in a few lines, or as it came."""
        usage = {"user": "alice", "plan": "free", "period": "2026-11", "resets_at": "2026-12-01T00:00:00Z", "used": 3}
        usage |= {"limit": 10, "remaining": 7, "balance": None}
        self.gateway.say("GET /api/v1/admin/users/alice/balance", 200, usage)
        out = self.run_command("balance", "alice")
        self.assertEqual(
            out,
            "alice: plan free, 10 units in 2026-11, which ends 2026-12-01T00:00:00Z\n  used      3\n  remaining 7\n",
        )
        self.assertEqual(json.loads(self.run_command("balance", "alice", "--json")), usage)
        self.gateway.say("GET /api/v1/admin/users/alice/balance", 200, usage | {"plan": "", "limit": None})
        self.assertIn("no plan, no limit", self.run_command("balance", "alice"))

    def test_added(self) -> None:
        """Units are added under an id, one of its own if none is given."""
        call = "POST /api/v1/admin/users/alice/balance"
        self.gateway.say(call, 200, {"user": "alice", "balance": 50, "changed": True})
        out = self.run_command("balance", "alice", "--add", "50", "--id", "i1", "--note", "paid")
        self.assertEqual(out, "50 units\n")
        self.assertEqual(self.gateway.asked[0][3], {"units": 50, "id": "i1", "note": "paid"})
        for _ in range(2):
            self.run_command("balance", "alice", "--add", "-5")
        ids = [asked[3]["id"] for asked in self.gateway.asked]
        self.assertEqual((len(set(ids)), self.gateway.asked[1][3]["units"]), (3, -5))
        self.gateway.say(call, 200, {"user": "alice", "balance": 50, "changed": False})
        self.assertIn("had been made before", self.run_command("balance", "alice", "--add", "50", "--id", "i1"))


class MessageTests(_Tests):
    """``flowgate token``, ``publish`` and ``subscribe``."""

    def test_token(self) -> None:
        """The token alone is printed."""
        self.assertEqual(self.run_command("token", KEY), JWT + "\n")
        self.run_command("token", KEY, "--ttl", "60")
        self.assertEqual([asked[3] for asked in self.gateway.asked], [{"api_key": KEY}, {"api_key": KEY, "ttl": 60}])

    def test_publish(self) -> None:
        """A message is published by a client of the key, and its id is printed; as JSON, the whole answer."""
        self.assertEqual(self.run_command("publish", "t", "Hello World!"), CURSOR + "\n")
        self.assertEqual(self.clients, [(URL, KEY)])
        self.assertEqual(self.client.published, [("t", "Hello World!")])
        self.assertEqual(
            json.loads(self.run_command("publish", "t", "x", "--json")),
            {"id": CURSOR, "topic": "t", "duplicate": False},
        )
        self.assertFalse(self.client.connected)

    def test_publish_input(self) -> None:
        """``-`` or nothing is the standard input, as it is."""
        self.stdin = "größer\n".encode()
        for line in (("publish", "t", "-"), ("publish", "t")):
            self.run_command(*line)
            self.assertEqual(self.client.published.pop(), ("t", "größer\n"))

    def test_publish_binary_input(self) -> None:
        """Input that is not UTF-8 is refused, not changed."""
        self.stdin = b"\xff"
        self.assertIn("UTF-8", self.sentence("publish", "t", "-"))

    def test_publish_unanswered(self) -> None:
        """An answer that does not come, since the gateway went away, is not waited for forever."""
        self.client.answer = Deferred()
        done, _ = self.begin("publish", "t", "x")
        self.assertNoResult(done)
        self.clock.advance(30)
        self.assertIn("no gateway answers", str(self.failureResultOf(done, cli.Failed).value))

    def test_client_fails(self) -> None:
        """Whatever a client raises is one sentence."""
        for error, said in (
            (errors.InsufficientScope("the token does\nnot permit it"), "the token does not permit it"),
            (Unreachable("nobody there"), f"no gateway answers at {URL}: is `twistd flowgate` running?"),
            (errors.ProtocolViolation("no"), f"what answers at {URL} is not a Flow-Gate, or one of another version"),
        ):
            self.client.refused = error
            for line in (("publish", "t", "m"), ("subscribe", "t")):
                self.assertEqual(self.sentence(*line), said)

    def test_subscribe(self) -> None:
        """Messages are printed as they come, a line for each; what is missing is told on the standard error."""
        self.patch(sys, "stderr", io.StringIO())
        done, out = self.begin("subscribe", "a/#")
        self.patch(sys, "stdout", out)
        self.assertEqual(self.client.filter, "a/#")
        self.client.say(Message("a", "one", "e-1", "2026-11-24T02:56:38.371Z"))
        self.client.say(Message("a/b", {"n": [1, "ö"]}))
        self.client.gap(Gap("a/#", "e-7"))
        self.client.say(Message("a", "two\nlines \x1b[2J"))
        self.client.say(Message("a", b"\xff"))
        self.assertEqual(
            out.getvalue().split("\n"), ["a\tone", 'a/b\t{"n": [1, "ö"]}', 'a\t"two\\nlines \\u001b[2J"', "a\t/w==", ""]
        )
        assert isinstance(sys.stderr, io.StringIO)
        self.assertEqual(sys.stderr.getvalue(), "flowgate: messages on 'a/#' before e-7 may be missing\n")
        self.assertNoResult(done)

    def test_subscribe_as_json(self) -> None:
        """With ``--json`` a line is the whole message."""
        _, out = self.begin("subscribe", "a", "--json")
        self.patch(sys, "stdout", out)
        self.client.say(Message("a", b"\xff", "e-1", "2026-11-24T02:56:38.371Z"))
        self.client.say(Message("a", "now"))
        first, second = out.getvalue().splitlines()
        self.assertEqual(
            json.loads(first),
            {"topic": "a", "data": "/w==", "encoding": "base64", "id": "e-1", "ts": "2026-11-24T02:56:38.371Z"},
        )
        self.assertEqual(json.loads(second), {"topic": "a", "data": "now"})

    def test_subscribe_to_the_end(self) -> None:
        """A subscription ends with the sentence of its error."""
        done, _ = self.begin("subscribe", "a")
        self.client.say(errors.KeyDisabled("the API key is disabled"))
        self.assertEqual(str(self.failureResultOf(done, cli.Failed).value), "the API key is disabled")
        self.assertFalse(self.client.connected)

    def test_nobody_reads(self) -> None:
        """A closed pipe ends the subscription."""
        done, _ = self.begin("subscribe", "a")
        self.patch(sys, "stdout", mock.Mock(write=mock.Mock(side_effect=BrokenPipeError)))
        self.client.say(Message("a", "x"))
        self.assertIn("nobody reads", str(self.failureResultOf(done, cli.Failed).value))
        sys.stdout.close()

    def test_output_closed(self) -> None:
        """A closed pipe ends the command with a sentence, not with a traceback at the end of the process."""
        broken = mock.Mock(write=mock.Mock(side_effect=BrokenPipeError))
        self.patch(sys, "stdout", broken)
        self.assertRaises(cli.Failed, terminal.say, "x")
        self.assertIsNot(sys.stdout, broken)
        sys.stdout.close()


class QueueTests(_Tests):
    """``flowgate queue``."""

    MESSAGES = "/api/v1/queues/jobs/messages"

    def asked(self) -> Any:
        """The last body."""
        return self.gateway.asked[-1][3]

    def test_create(self) -> None:
        """A queue is made with what was said of it; nothing is printed but with ``--json``."""
        self.gateway.say("PUT /api/v1/queues/jobs.fifo", 201, {"name": "jobs.fifo"})
        self.assertEqual(self.run_command("queue", "create", "jobs.fifo"), "")
        self.assertEqual(self.gateway.asked[-1], ("PUT /api/v1/queues/jobs.fifo", JWT, "application/json", {}))
        out = self.run_command(
            *("queue", "create", "jobs.fifo", "--visibility", "60", "--delay", "5", "--wait", "20", "--json"),
            *("--retention", "3600", "--max-bytes", "2048", "--dead-letter", "dead.fifo", "--max-receives", "3"),
            *("--content-dedup", "--dedup-scope", "group", "--tag", "team=a=b", "--tag", "empty="),
        )
        self.assertEqual(json.loads(out), {"name": "jobs.fifo"})
        self.assertEqual(
            self.asked(),
            {
                "visibility": 60,
                "delay": 5,
                "receive_wait": 20,
                "retention": 3600,
                "max_message_bytes": 2048,
                "content_dedup": True,
                "dedup_scope": "group",
                "dead_letter": {"queue": "dead.fifo", "max_receives": 3},
                "tags": {"team": "a=b", "empty": ""},
            },
        )

    def test_create_wrongly(self) -> None:
        """What cannot be meant is one sentence, and nothing is asked."""
        self.assertIn("--dead-letter", self.sentence("queue", "create", "jobs", "--max-receives", "3"))
        self.assertIn("NAME=VALUE", self.sentence("queue", "create", "jobs", "--tag", "team"))
        self.assertIn("NAME=VALUE", self.sentence("queue", "send", "jobs", "x", "--attribute", "=1"))
        self.assertEqual(self.gateway.asked, [])

    def test_refused(self) -> None:
        """What the gateway says is the sentence."""
        self.gateway.say("PUT /api/v1/queues/jobs", 409, {"detail": "the queue exists with another configuration"})
        self.assertEqual(
            self.failure("queue", "create", "jobs", "--delay", "1"), "the queue exists with another configuration"
        )

    def failure(self, *arguments: str) -> str:
        done, _ = self.begin(*arguments)
        self.flush()
        return str(self.failureResultOf(done, cli.Failed).value)

    def test_list(self) -> None:
        """One line for each queue, of all pages; as JSON, everything."""
        dead = {"queue": "dead", "max_receives": 3}
        first = {"name": "a", "config": {"type": "standard", "dead_letter": None}}
        second = {"name": "b.fifo", "config": {"type": "fifo", "dead_letter": dead}}
        call = "GET /api/v1/queues?prefix=x%26&limit=1000"
        self.gateway.say(call, 200, {"queues": [first], "next": "a&b"})
        self.gateway.say(f"{call}&cursor=a%26b", 200, {"queues": [second], "next": None})
        line = ("queue", "list", "--prefix", "x&")
        self.assertEqual(self.run_command(*line), "a  standard\nb.fifo  fifo  dead letters to dead\n")
        self.assertEqual(json.loads(self.run_command(*line, "--json")), [first, second])

    def test_delete_and_purge(self) -> None:
        """A queue is emptied, and removed, without a word."""
        self.gateway.say("POST /api/v1/queues/jobs/purge", 204)
        self.gateway.say("DELETE /api/v1/queues/jobs", 204)
        self.assertEqual(self.run_command("queue", "purge", "jobs") + self.run_command("queue", "delete", "jobs"), "")

    def test_send(self) -> None:
        """A message is sent, and its id is printed."""
        self.gateway.say(f"POST {self.MESSAGES}", 201, {"id": "m1", "md5": "x"})
        self.assertEqual(self.run_command("queue", "send", "jobs", "do it"), "m1\n")
        self.assertEqual(self.gateway.asked[-1][1:], (JWT, "application/json", {"body": "do it"}))

    def test_send_with_everything(self) -> None:
        """A message may have a delay, attributes, a group and a deduplication id."""
        self.gateway.say(f"POST {self.MESSAGES}", 201, {"id": "m1"})
        self.run_command(
            *("queue", "send", "jobs", "--delay", "0", "do it", "--group", "g", "--dedup-id", "d"),
            *("--attribute", "a=1", "--attribute", "b=x=y"),
        )
        sent = {"body": "do it", "delay": 0, "group": "g", "dedup_id": "d", "attributes": {"a": "1", "b": "x=y"}}
        self.assertEqual(self.asked(), sent)

    def test_body_anywhere(self) -> None:
        """The body may stand before and behind options; without one it is the standard input."""
        self.gateway.say(f"POST {self.MESSAGES}", 201, {"id": "m1"})
        self.stdin = b"from there"
        for words, body in (
            (["jobs", "do it", "--delay", "1"], "do it"),
            (["jobs", "--delay", "1", "do it"], "do it"),
            (["--delay", "1", "jobs", "do it"], "do it"),
            (["--delay", "1", "jobs", "--", "--json"], "--json"),
            (["jobs", "--delay", "1"], "from there"),
        ):
            self.run_command("queue", "send", *words)
            self.assertEqual(self.asked(), {"body": body, "delay": 1}, words)
        self.assertIn("too many", self.sentence("queue", "send", "jobs", "a", "--delay", "1", "b"))
        self.assertIn("too many", self.sentence("queue", "send", "jobs", "--delay", "1", "a", "b"))

    def test_receive(self) -> None:
        """Receipt and body are printed."""
        messages = [{"id": "m1", "receipt": "r1", "body": "do it"}, {"id": "m2", "receipt": "r2", "body": "and\nthis"}]
        self.gateway.say(f"POST {self.MESSAGES}/receive", 200, {"messages": messages})
        line = ("queue", "receive", "jobs", "--max", "2", "--wait", "20", "--visibility", "5")
        self.assertEqual(self.run_command(*line), 'r1\tdo it\nr2\t"and\\nthis"\n')
        self.assertEqual(self.gateway.asked[-1][3], {"max": 2, "wait": 20, "visibility": 5})
        self.assertEqual(json.loads(self.run_command("--json", *line)), messages)

    def test_receive_bytes(self) -> None:
        """A body of bytes is printed as base64."""
        message = {"id": "m1", "receipt": "r1", "body_base64": "AAE="}
        self.gateway.say(f"POST {self.MESSAGES}/receive", 200, {"messages": [message]})
        self.assertEqual(self.run_command("queue", "receive", "jobs"), "r1\tAAE=\n")

    def test_receive_and_delete(self) -> None:
        """With ``--delete`` the body alone is printed, and each message is deleted after that."""
        messages = [{"receipt": "r/1", "body": "do it"}]
        self.gateway.say(f"POST {self.MESSAGES}/receive", 200, {"messages": messages})
        self.gateway.say(f"DELETE {self.MESSAGES}/r%2F1", 204)
        self.assertEqual(self.run_command("queue", "receive", "jobs", "--delete"), "do it\n")
        self.assertEqual(self.gateway.asked[-1][:2], (f"DELETE {self.MESSAGES}/r%2F1", JWT))
        self.assertEqual(self.gateway.asked[-2][3], {"max": 1, "wait": 0})

    def test_name_cannot_lead_elsewhere(self) -> None:
        """A name is one part of the path, whatever it holds."""
        self.sentence("queue", "stats", "../usage?x")
        self.assertEqual(self.gateway.asked[-1][0], "GET /api/v1/queues/..%2Fusage%3Fx")

    def test_stats(self) -> None:
        """What the queue holds is printed."""
        self.gateway.say("GET /api/v1/queues/jobs", 200, {"stats": {"visible": 3, "in_flight": 0}})
        self.assertEqual(self.run_command("queue", "stats", "jobs"), "visible: 3\nin_flight: 0\n")

    def test_peek(self) -> None:
        """Messages are looked at: id, receive count, body."""
        messages = [{"id": "m1", "body": "do it", "receive_count": 0}, {"id": "m2", "body": "a\tb", "receive_count": 2}]
        self.gateway.say(f"GET {self.MESSAGES}/peek?limit=10", 200, {"messages": messages})
        self.assertEqual(self.run_command("queue", "peek", "jobs"), 'm1\t0\tdo it\nm2\t2\t"a\\tb"\n')
        self.gateway.say(f"GET {self.MESSAGES}/peek?limit=2", 200, {"messages": messages})
        self.assertEqual(json.loads(self.run_command("queue", "peek", "jobs", "--max", "2", "--json")), messages)

    def test_redrive(self) -> None:
        """A task is begun and its id printed; tasks are listed; one is ended, and what it has moved is printed."""
        path = "/api/v1/queues/dead/redrive"
        task = {"task": "t/1", "status": "running", "moved": 3, "to_move": 10}
        self.gateway.say(f"POST {path}", 202, task)
        self.assertEqual(self.run_command("queue", "redrive", "dead"), "t/1\n")
        self.assertEqual(self.asked(), {})
        self.run_command("queue", "redrive", "dead", "--to", "jobs", "--rate", "100")
        self.assertEqual(self.asked(), {"destination": "jobs", "max_per_second": 100})
        self.gateway.say(f"GET {path}", 200, {"tasks": [task]})
        self.assertEqual(self.run_command("queue", "redrive", "dead", "--list"), "t/1  running  3 of 10\n")
        self.assertEqual(json.loads(self.run_command("queue", "redrive", "dead", "--list", "--json")), [task])
        self.gateway.say(f"DELETE {path}/t%2F1", 200, task)
        self.assertEqual(self.run_command("queue", "redrive", "dead", "--cancel", "t/1"), "3\n")
        self.assertEqual(json.loads(self.run_command("queue", "redrive", "dead", "--cancel", "t/1", "--json")), task)

    def test_subscriptions(self) -> None:
        """A queue is subscribed to a filter, its filters are listed, and it is unsubscribed."""
        path = "/api/v1/queues/jobs/subscriptions"
        self.gateway.say(f"PUT {path}", 201, {"topic": "orders/#"})
        self.assertEqual(self.run_command("queue", "subscribe", "jobs", "orders/#"), "")
        self.assertEqual(self.asked(), {"topic": "orders/#"})
        self.gateway.say(f"GET {path}", 200, {"subscriptions": [{"topic": "orders/#"}, {"topic": "a"}]})
        self.assertEqual(self.run_command("queue", "subscribe", "jobs"), "orders/#\na\n")
        found = json.loads(self.run_command("queue", "subscribe", "jobs", "--json"))
        self.assertEqual(found, [{"topic": "orders/#"}, {"topic": "a"}])
        self.gateway.say(f"DELETE {path}", 204)
        self.assertEqual(self.run_command("queue", "unsubscribe", "jobs", "orders/#"), "")
        self.assertEqual(self.asked(), {"topic": "orders/#"})


class LineTests(_Tests):
    """The command line."""

    def test_options_anywhere(self) -> None:
        """The options that every command takes may stand at any place of the line."""
        self.environment = {}
        words = ["publish", "t", "hello"]
        for place in range(len(words) + 1):
            for option in (["--key", KEY], [f"--key={KEY}"]):
                line = [*words[:place], *option, "--url", URL, *words[place:]]
                self.assertEqual(self.run_command(*line, data=False), CURSOR + "\n", line)
                self.assertEqual(self.client.published[-1], ("t", "hello"))

    def test_message_that_looks_like_an_option(self) -> None:
        """Behind ``--`` nothing is an option."""
        for message in ("--json", "--key", "-x", "-"):
            self.stdin = b"-"
            self.run_command("publish", "t", "--", message)
            self.assertEqual(self.client.published[-1], ("t", message))

    def test_help(self) -> None:
        """Every command has a help that names the options for all of them."""
        for line in ("", "key", "key create", "queue receive", "subscribe"):
            self.patch(sys, "stdout", io.StringIO())
            ended = self.assertRaises(SystemExit, cli.parse, [*line.split(), "--help"])
            assert isinstance(sys.stdout, io.StringIO)
            self.assertEqual(ended.code, 0)
            for option in ("--data", "--url", "--admin-token", "--key", "--json"):
                self.assertIn(option, sys.stdout.getvalue())

    def test_wrong_lines(self) -> None:
        """A line that is not understood is one sentence."""
        for line in (
            "",
            "key",
            "fly",
            "key create alice",
            "token",
            "publish",
            "token x --ttl soon",
            "key list x",
            "--data",
        ):
            self.assertRaises(cli.Failed, cli.parse, line.split())

    def test_wrong_lines_show_no_secret(self) -> None:
        """A key or a token in the wrong place of the line is not repeated."""
        for line, named in (
            (f"publish t m {KEY}", "too many arguments"),
            (f"publish t m --kee {KEY}", "--kee"),
            (f"publish t m --kee={KEY}", "--kee"),
            (f"key list --admin_token={'s' * 40}", "--admin_token"),
            (f"key list --admin_token {'s' * 40}", "--admin_token"),
            (f"{KEY}", "FGAKAAAAAAAAAAAAAAAA.…"),
            (f"token --ttl {KEY} 60", "FGAKAAAAAAAAAAAAAAAA.…"),
        ):
            sentence = str(self.assertRaises(cli.Failed, cli.parse, line.split()))
            self.assertIn(named, sentence)
            self.assertNotIn("s" * 40, sentence)


class PlaceTests(_Tests):
    """Where the gateway is, and who may command it."""

    def find(self, *arguments: str, **environment: str) -> cli.Place:
        with mock.patch.dict(os.environ, environment, clear=True):
            return cli.Place.find(cli.parse([*arguments, "key", "list"]))

    def test_data(self) -> None:
        """The data directory tells both, named by option, environment or default."""
        expected = cli.Place(URL, "the-admin-token")
        self.assertEqual(self.find("--data", str(self.data)), expected)
        self.assertEqual(self.find(FLOWGATE_DATA=str(self.data)), expected)
        self.addCleanup(os.chdir, os.getcwd())
        self.data.rename(self.data.parent / "flowgate-data")
        os.chdir(self.data.parent)
        self.assertEqual(self.find(), expected)

    def test_url(self) -> None:
        """URL and token can be given; options go before the environment."""
        place = self.find("--url", URL + "/", "--admin-token", "x")
        self.assertEqual(place, cli.Place(URL, "x"))
        place = self.find("--url", URL, FLOWGATE_URL="http://other", FLOWGATE_ADMIN_TOKEN="y")
        self.assertEqual(place, cli.Place(URL, "y"))

    def test_token_in_a_file(self) -> None:
        """The token may stand in a file that the environment names, as the gateway's own may."""
        file = self.data / "mounted"
        file.write_text("mounted-token\n")
        place = self.find("--url", URL, FLOWGATE_ADMIN_TOKEN_FILE=str(file))
        self.assertEqual(place, cli.Place(URL, "mounted-token"))
        self.assertEqual(self.find("--data", str(self.data), FLOWGATE_ADMIN_TOKEN_FILE=str(file)), place)
        self.assertEqual(self.find("--url", URL, FLOWGATE_ADMIN_TOKEN_FILE=str(self.data / "none")).admin_token, "")

    def test_token_of_another_gateway(self) -> None:
        """The token of the default directory is not sent to a gateway that is named by its URL alone."""
        self.addCleanup(os.chdir, os.getcwd())
        self.data.rename(self.data.parent / "flowgate-data")
        os.chdir(self.data.parent)
        self.assertEqual(self.find("--url", "https://elsewhere.example").admin_token, "")
        self.assertEqual(self.find("--url", URL, "--data", "flowgate-data").admin_token, "the-admin-token")

    def test_token_is_not_shown(self) -> None:
        """The place as a text does not show the token."""
        self.assertNotIn("the-admin-token", repr(cli.Place(URL, "the-admin-token")))

    def test_no_gateway_here(self) -> None:
        """A directory in which no gateway runs is named."""
        for content in (None, "", "[]", "{}", "{"):
            (self.data / "gateway.json").unlink(missing_ok=True)
            if content is not None:
                (self.data / "gateway.json").write_text(content)
            self.assertIn(str(self.data), self.sentence("key", "list"))

    def test_wrong_url(self) -> None:
        """What is no URL is named."""
        for url in ("nonsense", "ftp://a", "http://", "http://[", "http://a:b", "http://a:99999"):
            self.assertIn(url, self.sentence("key", "list", "--url", url, data=False))
        (self.data / "gateway.json").write_text('{"url": ""}')
        self.sentence("key", "list")

    def test_no_admin_token(self) -> None:
        """Without the administrator's token, its commands say so before they ask."""
        (self.data / "admin.token").unlink()
        self.assertIn("--admin-token", self.sentence("key", "list"))
        self.assertEqual(self.gateway.asked, [])

    def test_no_key(self) -> None:
        """Without an API key, its commands say so before they ask."""
        self.environment = {}
        self.assertIn("FLOWGATE_KEY", self.sentence("publish", "t", "m"))
        self.assertEqual(self.gateway.asked, [])


class FailureTests(_Tests):
    """What goes wrong is one sentence."""

    def test_refused(self) -> None:
        """A refusal is told in the gateway's words."""
        for body, expected in (
            ({"detail": "there is no API key x", "title": "No such thing here"}, "there is no API key x"),
            ({"title": "No such thing here"}, "No such thing here"),
            ({"error": "invalid_client", "error_description": "the API key is not known"}, "the API key is not known"),
            ({"detail": "two\nlines"}, "two lines"),
            ({}, "the gateway answered with status 404"),
            ([1], "the gateway answered with status 404"),
            (b"<html>", "the gateway answered with status 404"),
            (b"\xff", "the gateway answered with status 404"),
        ):
            self.gateway.say("GET /api/v1/admin/keys", 404, body)
            self.assertEqual(self.sentence("key", "list"), expected)

    def test_no_answer(self) -> None:
        """If no gateway answers, the sentence says where, and what may be missing."""
        for error in (
            ConnectionRefusedError(),
            ConnectError(),
            DNSLookupError(),
            ResponseFailed([]),
            CancelledError(),
        ):
            self.treq = mock.Mock(request=lambda *_, error=error, **__: fail(error))
            self.assertEqual(
                self.sentence("key", "list"), f"no gateway answers at {URL}: is `twistd flowgate` running?"
            )

    def test_time_is_limited(self) -> None:
        """A gateway that does not answer is not waited for without end."""
        request = mock.Mock(return_value=fail(CancelledError()))
        self.treq = mock.Mock(request=request)
        self.sentence("key", "list")
        self.assertEqual(request.call_args.kwargs["timeout"], 30)

    def test_something_else_answers(self) -> None:
        """What is not a gateway is not taken for one."""
        for body in (b"<html>", b"{}", b"[]", b"5", b"", b"\xff"):
            self.gateway.say("GET /api/v1/admin/keys", 200, body)
            self.assertIn(URL, self.sentence("key", "list"))

    def test_redirect(self) -> None:
        """The token is not carried to where somebody sends us."""
        self.gateway.say("GET /api/v1/admin/keys", 302)
        self.assertIn("302", self.sentence("key", "list"))
        self.assertEqual(len(self.gateway.asked), 1)

    def test_argument_that_is_not_text(self) -> None:
        """An argument that is not UTF-8 is a sentence."""
        self.assertIn("UTF-8", self.sentence("queue", "stats", "\udcff"))


class MainTests(_Tests):
    """The process."""

    def run_main(self, *arguments: str) -> tuple[int, str, str]:
        """Exit status, standard output and standard error."""
        out, err = io.StringIO(), io.StringIO()
        self.patch(sys, "stdout", out)
        self.patch(sys, "stderr", err)

        def react(run: Any, _: object, reactor: object) -> None:
            done = Deferred.fromCoroutine(run(reactor))
            self.treq.flush()
            self.successResultOf(done)
            sys.exit(0)

        self.patch(task, "react", react)
        with (
            mock.patch.dict(os.environ, self.environment, clear=True),
            mock.patch.dict(sys.modules, {"treq": self.treq}),
        ):
            ended = self.assertRaises(SystemExit, cli.main, ["--data", str(self.data), *arguments])
        if isinstance(ended.code, str):
            return 1, out.getvalue(), ended.code + "\n"  # what the interpreter does with it
        return int(ended.code or 0), out.getvalue(), err.getvalue()

    def test_success(self) -> None:
        """Status 0, and nothing on the standard error."""
        self.assertEqual(self.run_main("token", KEY), (0, JWT + "\n", ""))

    def test_failure(self) -> None:
        """Status 1, one sentence on the standard error, and nothing on the standard output."""
        self.gateway.say("POST /token/", 401, {"error_description": "the API key is not known"})
        self.assertEqual(self.run_main("token", KEY), (1, "", "flowgate: the API key is not known\n"))

    def test_interrupted(self) -> None:
        """Ctrl-C, which stops the reactor under the command, is status 1 and one sentence, and nothing else."""
        out, err = io.StringIO(), io.StringIO()
        self.patch(sys, "stdout", out)
        self.patch(sys, "stderr", err)
        stopping: list[Callable[[], object]] = []
        self.patch(
            reactor, "addSystemEventTrigger", lambda _phase, _event, call, *what: stopping.append(lambda: call(*what))
        )

        def react(run: Any, _: object, reactor: object) -> None:
            done = Deferred.fromCoroutine(run(reactor))
            for stop in stopping:
                stop()
            done.cancel()
            self.failureResultOf(done, CancelledError)
            sys.exit(0)

        self.patch(task, "react", react)
        with (
            mock.patch.dict(os.environ, self.environment, clear=True),
            mock.patch.dict(sys.modules, {"treq": self.treq}),
        ):
            ended = self.assertRaises(SystemExit, cli.main, ["--data", str(self.data), "subscribe", "a", "--key", KEY])
        self.assertEqual((ended.code, out.getvalue(), err.getvalue()), (1, "", "flowgate: interrupted\n"))

    def test_wrong_line(self) -> None:
        """A wrong command line is status 1 and one sentence too."""
        status, out, err = self.run_main("fly")
        self.assertEqual((status, out, err.count("\n")), (1, "", 1))
        self.assertTrue(err.startswith("flowgate: "), err)
