"""``/api/v1/usage``, balances, and what queues cost, over HTTP."""

from __future__ import annotations

import json
from typing import Any, cast

import attrs
from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from flowgate.allowances import FREE
from flowgate.auth.permissions import Grants
from flowgate.auth.tokens import TokenService
from flowgate.billing.plans import Plan
from flowgate.errors import BusUnavailable, LimitReached, NotFound, Refused
from flowgate.http.admin.access import AdminAccess
from flowgate.http.answers import Route
from flowgate.http.credentials import Credentials
from flowgate.http.usage import UsageCalls
from flowgate.queues.model import Outgoing, Sent
from flowgate.queues.paying import send_paid
from tests.billing.world import Node, World
from tests.http_client import ADMIN_TOKEN, Answer, HttpClient


class UsageTests(SynchronousTestCase):
    """What users and administrators are shown."""

    def setUp(self) -> None:
        self.world = World(Plan("p", units=10, prepaid=True))
        self.node = Node(self.world, alone=True)
        self.client = HttpClient(further=self.routes)
        self.client.keyring.create_user("alice")
        good = self.client.tokens.known["good"]
        self.client.tokens.known["good"] = attrs.evolve(good, grants=Grants.everything(good.home))

    def routes(self, client: HttpClient) -> list[Route]:
        credentials = Credentials(cast(TokenService, client.tokens))
        return UsageCalls(self.node.billing, client.accounts, credentials, AdminAccess(ADMIN_TOKEN)).routes()

    def call(self, method: str, path: str, body: object = None, token: str = "good") -> Any:
        connection = self.client.open(method, path, body, token=token)
        self.world.settle()
        self.client.settle()
        answer = Answer(connection.received, method)
        return answer.status, answer.json()

    def publish(self, count: int) -> None:
        for _ in range(count):
            self.node.publish().addErrback(lambda failure: failure.trap(Refused))
        self.world.settle()

    def test_usage(self) -> None:
        """A user sees what was used of what, and what is left, now and over time."""
        self.publish(4)
        status, usage = self.call("GET", "/api/v1/usage")
        self.assertEqual(status, 200)
        hours, days = usage.pop("hours"), usage.pop("days")
        self.assertEqual((len(hours), len(days)), (25, 31))
        self.assertEqual(hours[-1], {"from": "2026-11-26T11:00:00.000Z", "used": 4})
        self.assertEqual(days[-1], {"from": "2026-11-26T00:00:00.000Z", "used": 4})
        self.assertEqual(
            usage,
            {
                "user": "alice",
                "plan": "p",
                "period": "2026-11",
                "started_at": "2026-11-01T00:00:00.000Z",
                "resets_at": "2026-12-01T00:00:00.000Z",
                "used": 4,
                "limit": 10,
                "remaining": 6,
                "balance": 0,
                "keys": {},
            },
        )
        self.node.stop()
        self.assertEqual(self.call("GET", "/api/v1/usage")[1]["keys"], {"FGAK1": 4})

    def test_narrowed(self) -> None:
        """A token that was narrowed sees how much is left, but neither the keys nor the ledger."""
        good = self.client.tokens.known["good"]
        narrow = attrs.evolve(good, grants=Grants.everything(good.home).narrowed(good.home, publish=["a"]))
        self.client.tokens.known["narrow"] = narrow
        status, usage = self.call("GET", "/api/v1/usage", token="narrow")
        self.assertEqual((status, usage["limit"], "keys" in usage), (200, 10, False))
        status, problem = self.call("GET", "/api/v1/usage/ledger", token="narrow")
        self.assertEqual((status, problem["code"]), (403, "insufficient_scope"))

    def test_ledger(self) -> None:
        """The ledger comes page by page, the newest entries first."""
        for number in range(5):
            self.node.billing.balances.add("alice", 1 + number, f"n{number}", "gift")
            self.world.settle()
        status, page = self.call("GET", "/api/v1/usage/ledger?limit=3")
        self.assertEqual((status, [entry["balance"] for entry in page["entries"]]), (200, [5, 4, 3]))
        entry = page["entries"][0]
        self.assertEqual(
            (entry["id"], entry["kind"], entry["at"], entry["note"]),
            ("balance:n4", "topup", "2026-11-26T11:00:00.000Z", "gift"),
        )
        _, rest = self.call("GET", f"/api/v1/usage/ledger?limit=3&before={page['before']}")
        self.assertEqual([entry["balance"] for entry in rest["entries"]], [2, 1])
        self.assertIsNone(rest["before"])

    def test_balance(self) -> None:
        """An administrator adds units once for each id, and sees the user's usage; the audit log knows of it."""
        path = "/api/v1/admin/users/alice/balance"
        for changed in (True, False):
            answer = self.call("POST", path, {"units": 7, "id": "a"}, ADMIN_TOKEN)
            self.assertEqual(answer, (200, {"user": "alice", "balance": 7, "changed": changed}))
        status, problem = self.call("POST", path, {"units": 8, "id": "a"}, ADMIN_TOKEN)
        self.assertEqual((status, problem["code"]), (409, "conflict"))
        self.publish(13)
        status, usage = self.call("GET", path, None, ADMIN_TOKEN)
        self.assertEqual((status, usage["used"], usage["balance"], usage["remaining"]), (200, 13, 4, 4))
        self.assertEqual(self.call("GET", path.replace("alice", "nobody"), None, ADMIN_TOKEN)[0], 404)
        self.assertEqual(self.call("GET", path)[0], 401)
        audit = self.call("GET", "/api/v1/admin/audit", None, ADMIN_TOKEN)[1]["entries"]
        self.assertEqual({entry["action"] for entry in audit if entry["user"] == "alice"}, {"balance.change"})

    def test_refused(self) -> None:
        """A change needs an id and a number."""
        path = "/api/v1/admin/users/alice/balance"
        for body, code in (
            ({"units": 0, "id": "a"}, "invalid_parameter"),
            ({"units": 1}, "missing_field"),
            ({"units": 1, "id": "a b"}, "invalid_parameter"),
            ({"units": 1, "id": "a", "note": "\x1b"}, "invalid_parameter"),
        ):
            status, problem = self.call("POST", path, body, ADMIN_TOKEN)
            self.assertEqual((status, problem["code"]), (400, code), body)


def sent(duplicate: bool = False) -> Sent:
    return Sent("id", "md5", "", "", "0", duplicate)


class QueueTests(SynchronousTestCase):
    """Messages that are sent to queues cost what those on topics cost."""

    def setUp(self) -> None:
        self.world = World(Plan("p", units=3))
        self.node = Node(self.world, alone=True)

    def send(self, count: int, answer: Any) -> Deferred[list[Sent | Refused]]:
        messages = [Outgoing(f"{number}") for number in range(count)]
        done = Deferred.fromCoroutine(send_paid(self.node.allowance(), messages, answer))
        self.world.settle()
        return done

    def used(self) -> int:
        return self.node.usage().used

    def test_as_far_as_it_goes(self) -> None:
        """Of a batch the first messages are sent, the others refused; who has nothing left does not reach the queue."""
        asked: list[int] = []

        def queue(messages: Any) -> Deferred[Any]:
            asked.append(len(messages))
            return succeed([sent() for _ in messages])

        results = self.successResultOf(self.send(5, queue))
        self.assertEqual([isinstance(result, Sent) for result in results], [True] * 3 + [False] * 2)
        self.assertIsInstance(results[4], LimitReached)
        self.assertIsInstance(self.successResultOf(self.send(1, queue))[0], LimitReached)
        self.assertEqual((asked, self.used()), ([3], 3))

    def test_free(self) -> None:
        """What is refused, fails or is a repetition costs nothing."""
        outcomes = [sent(True), NotFound(), sent()]
        results = self.successResultOf(self.send(3, lambda _: succeed(outcomes)))
        self.assertEqual(results, outcomes)
        self.failureResultOf(self.send(2, lambda _: fail(BusUnavailable())), BusUnavailable)
        self.assertEqual(self.used(), 1)
        self.assertEqual(len(self.successResultOf(self.send(2, lambda some: succeed([sent() for _ in some])))), 2)
        self.assertEqual(self.used(), 3)

    def test_nobody_pays(self) -> None:
        """Without an allowance everything is passed on."""
        done = Deferred.fromCoroutine(send_paid(FREE, [Outgoing("x")] * 9, lambda some: succeed([sent()] * len(some))))
        self.assertEqual(len(self.successResultOf(done)), 9)

    def test_told_at_once(self) -> None:
        """What went to queues is told with the next word about the account: nothing in the stream would tell of it."""
        self.send(2, lambda some: succeed([sent() for _ in some]))
        self.world.pass_(2)
        self.node.die()
        other = Node(self.world, alone=True)
        self.world.pass_(1)
        self.assertEqual(other.usage().used, 2)
        self.assertEqual(self.world.charged(), 2)
        entry: list[Any] = []
        self.world.journal.page("ledger", "alice", None, 1).addCallback(entry.extend)
        self.assertEqual(json.loads(entry[0].value)["kind"], "usage")
