"""The audit log: before the action, without secrets, and never more than fits."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from flowgate.auth.audit import AUDIT, Actor, Audit
from flowgate.bus.books import MAX_VALUE
from flowgate.bus.memory_journal import MemoryJournal
from flowgate.errors import BusUnavailable, Conflict

NOW = 1_800_000_000.0
ADMIN = Actor("admin", address="192.0.2.1", request_id="r1")
KEY = "FGAK" + "A" * 16 + "." + "b" * 40
TOKEN = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl"


class AuditTests(SynchronousTestCase):
    """Writing and reading."""

    def setUp(self) -> None:
        self.journal = MemoryJournal(lambda: NOW)
        self.audit = Audit(self.journal, lambda: NOW)

    def note(self, action: str = "key.create", subject: str = "FGAKX", **more: Any) -> None:
        self.successResultOf(self.audit.note(ADMIN, action, subject, **more))

    def page(self, *arguments: Any) -> list[Any]:
        return self.successResultOf(self.audit.page(*arguments))

    def test_entry(self) -> None:
        """An entry says who did what, on what, when and from where."""
        self.note(user="alice", app="shop", publish=["a", "b"], days=3, open=False, nothing=None, empty="")
        (entry,) = self.page()
        self.assertEqual((entry.actor, entry.action, entry.subject), (ADMIN, "key.create", "FGAKX"))
        self.assertEqual((entry.user, entry.outcome, entry.at), ("alice", "", NOW))
        self.assertEqual(entry.detail, {"app": "shop", "publish": ["a", "b"], "days": 3, "open": False})

    def test_actors(self) -> None:
        """Actors of every kind are read as they were written."""
        actors = [Actor("user", "alice", "::1"), Actor("key", "FGAKX"), Actor("gateway"), ADMIN]
        for actor in actors:
            self.successResultOf(self.audit.note(actor, "x", "y"))
        self.assertEqual([entry.actor for entry in self.page()], actors[::-1])

    def test_pages_of_an_account(self) -> None:
        """The entries about one account are found by its name, page by page; others have none of them."""
        for number in range(5):
            self.note(subject=str(number), user="alice")
            self.note(subject=str(number), user="bob")
        self.note(subject="gateway")
        newest, second = self.page("alice", None, 2)
        self.assertEqual([newest.subject, second.subject], ["4", "3"])
        self.assertEqual([entry.subject for entry in self.page("alice", second.sequence, 10)], ["2", "1", "0"])
        self.assertEqual(len(self.page()), 11)
        self.assertEqual(self.page()[0].user, "")

    def test_account_that_is_none(self) -> None:
        """What is no name of an account is not taken for one; an account may be called like the sign for none."""
        self.note(user="*")
        self.note(user="A_B")
        self.note(user="-")
        self.assertEqual([entry.user for entry in self.page()], ["-", "", ""])

    def test_no_secrets(self) -> None:
        """What looks like an API key or a token is taken out, wherever it stands."""
        self.note(subject=f"x{KEY}", name=KEY, publish=["a", f"b/{TOKEN}"], user="alice")
        self.successResultOf(self.audit.note(Actor("admin", KEY, TOKEN, KEY), "x", TOKEN))
        for entry in self.successResultOf(self.journal.page(AUDIT, "", None, 10)):
            self.assertNotIn(b"b" * 40, entry.value)
            self.assertNotIn(b"c2lnbmF0", entry.value)
        self.assertEqual(self.page("alice")[0].detail["publish"], ["a", "b/[hidden]"])

    def test_too_much(self) -> None:
        """What does not fit is left out, and named; who did what is always there."""
        wide = ["\U0001f600" * 500] * 100
        self.note(subject="\U0001f600" * 10_000, user="alice", publish=wide, subscribe=wide, name="till")
        (stored,) = self.successResultOf(self.journal.page(AUDIT, "", None, 10))
        self.assertLessEqual(len(stored.value), MAX_VALUE)
        (entry,) = self.page()
        self.assertEqual(entry.detail, {"name": "till"})
        self.assertEqual(set(entry.left_out), {"publish", "subscribe"})
        self.note(publish=[str(number) for number in range(100)])
        self.assertEqual(self.page()[0].detail["publish"][-1], "and 80 more")

    def test_ids(self) -> None:
        """Two entries that say the same are two."""
        self.note()
        self.note()
        self.assertEqual(len(self.page()), 2)


class AroundTests(SynchronousTestCase):
    """Entries around actions."""

    def setUp(self) -> None:
        self.journal = MemoryJournal(lambda: NOW)
        self.audit = Audit(self.journal, lambda: NOW)
        self.acted = 0

    def page(self, user: str = "") -> list[Any]:
        return self.successResultOf(self.audit.page(user))

    def act(self) -> Deferred[str]:
        self.acted += 1
        return succeed("done")

    def around(self, act: Any) -> Deferred[Any]:
        return self.audit.around(ADMIN, "key.revoke", "FGAKX", act, user="alice", app="shop")

    def test_before(self) -> None:
        """The entry is there before the action begins, and the action's result is given."""

        def act() -> Deferred[str]:
            self.assertEqual(len(self.page("alice")), 1)
            return self.act()

        self.assertEqual(self.successResultOf(self.around(act)), "done")
        self.assertEqual([(entry.action, entry.outcome) for entry in self.page()], [("key.revoke", "")])

    def test_cannot_be_written(self) -> None:
        """An action whose entry cannot be written is not carried out."""
        self.journal.go_away()
        self.failureResultOf(self.around(self.act), BusUnavailable)
        self.journal.come_back()
        self.assertEqual((self.acted, self.page()), (0, []))

    def test_refused(self) -> None:
        """An action that is refused after all has a second entry that says so."""
        self.failureResultOf(self.around(lambda: fail(Conflict("no"))), Conflict)
        self.assertEqual([entry.outcome for entry in self.page("alice")], ["conflict", ""])

    def test_away_in_the_middle(self) -> None:
        """If the bus goes away meanwhile the first entry stands, the refusal is told, and the log says what lacks."""

        def act() -> Deferred[str]:
            self.journal.go_away()
            return fail(BusUnavailable())

        with capturedLogs() as logged:
            self.failureResultOf(self.around(act), BusUnavailable)
        self.journal.come_back()
        self.assertEqual([entry.outcome for entry in self.page("alice")], [""])
        self.assertEqual([event["action"] for event in logged], ["key.revoke"])
