"""Usage, limits and the ledger; plans of accounts."""

from __future__ import annotations

from twisted.internet.defer import Deferred, fail, succeed

from flowgate.billing.account import Account
from flowgate.billing.balances import Balance
from flowgate.billing.plans import Plan, Plans
from flowgate.billing.usage import LedgerEntry, Usage, usage_of
from flowgate.errors import InvalidParameter
from flowgate.rates.plan import RateLimits
from tests.dashboard.case import DashboardCase
from tests.http_client import NOW

FREE = Plan("free", units=1000, rates=RateLimits(publish_rate=100))


class FakeBilling:
    """Knows one account, and a ledger of so many entries."""

    def __init__(self) -> None:
        self.plans = Plans({"free": FREE, "big": Plan("big")}, "free")
        self.account = Account(period=FREE.now(NOW).name, used=250)
        self.entries = 60
        self.asked: list[str] = []
        self.balances = self
        self.changes: list[tuple[str, int, str, str]] = []

    def add(self, user: str, units: int, change_id: str, note: str = "") -> Deferred[Balance]:
        if not units:
            return fail(InvalidParameter("nothing"))
        known = change_id in {one[2] for one in self.changes}
        if not known:
            self.changes.append((user, units, change_id, note))
        return succeed(Balance(sum(one[1] for one in self.changes), not known))

    def usage(self, user: str) -> Deferred[Usage]:
        self.asked.append(user)
        return succeed(usage_of(user, FREE, self.account, 7, NOW))

    def ledger(self, user: str, before: int | None, limit: int) -> Deferred[list[LedgerEntry]]:
        self.asked.append(user)
        last = self.entries if before is None else before - 1
        places = range(last, max(0, last - limit), -1)
        return succeed(
            [LedgerEntry(at, f"e{at}", int(NOW), "usage", at, -at, "2027-01", {"note": "<b>"}) for at in places]
        )


class UsageTests(DashboardCase):
    """The page of usage."""

    def setUp(self) -> None:
        self.bills = self.billing = FakeBilling()
        super().setUp()
        self.browser = self.signed_in()

    def test_usage(self) -> None:
        """What was used, what is left, the rates of the plan, and how it was over time."""
        shown = self.browser.ask("GET", "usage").json()
        self.assertEqual((shown["plan"], shown["used"], shown["limit"], shown["remaining"]), ("free", 257, 1000, 743))
        self.assertEqual((shown["balance"], shown["rates"]), (None, {"publish_rate": 100}))
        self.assertEqual((len(shown["hours"]), len(shown["days"])), (25, 31))
        self.assertEqual(shown["days"][-1][1], 7)
        self.assertIn("message_bytes", shown["limits"])

    def test_own(self) -> None:
        """Only the own account is asked about."""
        self.signed_in("bob").ask("GET", "usage")
        self.signed_in("bob").ask("GET", "usage/ledger")
        self.assertEqual(self.bills.asked, ["bob", "bob"])
        self.assertEqual(self.browser.ask("GET", "usage/ledger?user=bob").status, 400)

    def test_ledger(self) -> None:
        """The ledger is shown page by page."""
        first = self.browser.ask("GET", "usage/ledger").json()
        self.assertEqual((len(first["entries"]), first["entries"][0]["sequence"], first["next"]), (50, 60, 11))
        second = self.browser.ask("GET", "usage/ledger?before=11").json()
        self.assertEqual((len(second["entries"]), second["next"]), (10, None))
        self.assertEqual(second["entries"][0]["note"], "<b>")

    def test_told(self) -> None:
        """The pages know that there is usage to be shown."""
        self.assertTrue(self.browser.ask("GET", "session").json()["usage"])

    def test_plans(self) -> None:
        """An administrator gives an account another plan, of those that there are."""
        shown = self.browser.ask("GET", "admin/accounts").json()
        self.assertEqual((shown["plans"], shown["default_plan"]), (["big", "free"], "free"))
        changed = self.browser.ask("POST", "admin/accounts/bob/plan", {"plan": "big"})
        self.assertEqual(changed.json()["plan"], "big")
        self.assertEqual(self.browser.ask("POST", "admin/accounts/bob/plan", {"plan": "nix"}).status, 400)
        self.assertEqual(self.browser.ask("POST", "admin/accounts/nobody/plan", {"plan": "big"}).status, 404)
        self.assertEqual(self.browser.ask("POST", "admin/accounts/bob/plan", {"plan": ""}).json()["plan"], "")

    def test_balance(self) -> None:
        """An administrator adds units to a balance, once for each id, and takes them away; it is in the audit log."""
        path = "admin/accounts/bob/balance"
        shown = self.browser.ask("GET", path).json()
        self.assertEqual((shown["balance"], shown["used"], shown["prepaid"]), (0, 257, False))
        body = {"units": 500, "id": "one", "note": "invoice 7"}
        for changed in (True, False):
            answer = self.browser.ask("POST", path, body).json()
            self.assertEqual((answer["balance"], answer["changed"]), (500, changed))
        self.assertEqual(self.browser.ask("POST", path, {"units": -20, "id": "two"}).json()["balance"], 480)
        self.assertEqual(self.bills.changes, [("bob", 500, "one", "invoice 7"), ("bob", -20, "two", "")])
        noted = self.successResultOf(self.client.accounts.audit.page("bob"))
        self.assertEqual(
            [(entry.actor.name, entry.detail) for entry in noted if entry.action == "balance.change"],
            [
                ("alice", {"units": -20, "id": "two"}),
                ("alice", {"units": 500, "id": "one"}),
                ("alice", {"units": 500, "id": "one"}),
            ],
        )

    def test_no_balance(self) -> None:
        """What is no number of units changes nothing; there has to be such an account."""
        path = "admin/accounts/bob/balance"
        for body in (
            {"id": "x"},
            {"units": 1},
            {"units": 0, "id": "x"},
            {"units": 1.5, "id": "x"},
            {"units": "1", "id": "x"},
        ):
            self.assertEqual(self.browser.ask("POST", path, body).status, 400, body)
        nobody = "admin/accounts/nobody/balance"
        self.assertEqual(self.browser.ask("GET", nobody).status, 404)
        self.assertEqual(self.browser.ask("POST", nobody, {"units": 1, "id": "x"}).status, 404)
        self.assertEqual(self.bills.changes, [])
        bob = self.signed_in("bob")
        self.assertEqual(self.problem(bob.ask("POST", path, {"units": 9, "id": "y"})), (404, "not_found"))
        self.assertEqual(self.problem(bob.ask("GET", path)), (404, "not_found"))
        self.assertEqual(self.bills.changes, [])


class WithoutTests(DashboardCase):
    """Where nobody counts."""

    def test_without(self) -> None:
        """There is no page of usage, and the pages know it."""
        browser = self.signed_in()
        self.assertFalse(browser.ask("GET", "session").json()["usage"])
        self.assertEqual(browser.ask("GET", "usage").status, 404)
        self.assertFalse(browser.ask("GET", "admin/accounts").json()["balances"])
        self.assertEqual(browser.ask("GET", "admin/accounts/bob/balance").status, 404)
