"""Changes of accounts, and their entries in the audit log."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from flowgate.auth.accounts import Accounts
from flowgate.auth.audit import Actor, Audit
from flowgate.auth.keys import Keyring
from flowgate.bus.memory_journal import MemoryJournal
from flowgate.bus.memory_store import MemoryStore
from flowgate.errors import BusUnavailable, Conflict, InvalidParameter, InvalidTopic, NotFound, Refused

NOW = 1_800_000_000
ADMIN = Actor("admin", address="192.0.2.1")


class AccountsTests(SynchronousTestCase):
    """Each change, with its entry."""

    def setUp(self) -> None:
        self.store = MemoryStore()
        self.journal = MemoryJournal(lambda: NOW)
        self.keyring = Keyring(self.store, b"m" * 43, lambda: NOW)
        self.successResultOf(self.keyring.start())
        self.accounts = Accounts(self.keyring, Audit(self.journal, lambda: NOW), {"free", "gold"})

    def done(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.successResultOf(Deferred.fromCoroutine(work))

    def refused(self, work: Coroutine[Any, Any, Any], error: type[Refused]) -> None:
        self.failureResultOf(Deferred.fromCoroutine(work), error)

    def entries(self, user: str = "") -> list[tuple[str, str]]:
        found = self.successResultOf(self.accounts.audit.page(user))
        return [(entry.action, entry.subject) for entry in reversed(found)]

    def test_story(self) -> None:
        """Everything that is done has an entry, with the id of what is made, found by the account that it is about."""
        accounts = self.accounts
        key, text = self.done(accounts.create_key(ADMIN, "alice", "shop", name="till", expires_days=1))
        self.done(accounts.create_user(ADMIN, "bob", "free"))
        self.done(accounts.set_plan(ADMIN, "bob", "gold"))
        self.done(accounts.suspend(ADMIN, "bob", True))
        self.done(accounts.suspend(ADMIN, "bob", False))
        share = self.done(accounts.create_share(ADMIN, "alice", "shop", "bob", subscribe=["a/#"]))
        fresh, fresh_text = self.done(accounts.rotate_key(ADMIN, key.id, 60))
        self.done(accounts.revoke_share(ADMIN, share.id))
        self.done(accounts.revoke_key(ADMIN, fresh.id))
        self.done(accounts.delete_user(ADMIN, "bob"))
        self.assertEqual(
            self.entries(),
            [
                ("key.create", key.id),
                ("user.create", "bob"),
                ("user.plan", "bob"),
                ("user.suspend", "bob"),
                ("user.resume", "bob"),
                ("share.create", share.id),
                ("key.rotate", key.id),
                ("share.revoke", share.id),
                ("key.revoke", fresh.id),
                ("user.delete", "bob"),
            ],
        )
        self.assertEqual(len(self.entries("alice")), 5)
        found = self.successResultOf(accounts.audit.page("alice"))
        self.assertEqual({entry.actor for entry in found}, {ADMIN})
        self.assertEqual(found[-1].detail["expires_at"], NOW + 86400)
        self.assertEqual(found[2].detail, {"app": "shop", "successor": fresh.id, "overlap_seconds": 60})
        for entry in self.successResultOf(self.journal.page("audit", "", None, 100)):
            for secret in (text, fresh_text):
                self.assertNotIn(secret.partition(".")[2].encode(), entry.value)

    def test_nothing_without_an_entry(self) -> None:
        """While no entry can be written nothing is done, whatever it is."""
        accounts = self.accounts
        key, _ = self.done(accounts.create_key(ADMIN, "alice", "shop"))
        self.done(accounts.create_user(ADMIN, "bob"))
        share = self.done(accounts.create_share(ADMIN, "alice", "shop", "bob", publish=["a"]))
        before = (self.keyring.keys(), self.keyring.users(), self.keyring.shares.all())
        self.journal.go_away()
        for work in (
            accounts.create_user(ADMIN, "carol"),
            accounts.suspend(ADMIN, "bob", True),
            accounts.set_plan(ADMIN, "bob", "gold"),
            accounts.delete_user(ADMIN, "bob"),
            accounts.create_key(ADMIN, "alice", "shop"),
            accounts.rotate_key(ADMIN, key.id, 0),
            accounts.revoke_key(ADMIN, key.id),
            accounts.create_share(ADMIN, "alice", "shop", "bob", publish=["b"]),
            accounts.revoke_share(ADMIN, share.id),
        ):
            self.refused(work, BusUnavailable)
        self.assertEqual((self.keyring.keys(), self.keyring.users(), self.keyring.shares.all()), before)

    def test_refused_at_once(self) -> None:
        """What can be seen to be wrong is refused without an entry."""
        accounts = self.accounts
        key, _ = self.done(accounts.create_key(ADMIN, "alice", "shop"))
        self.done(accounts.rotate_key(ADMIN, key.id, 0))
        count = len(self.entries())
        for work, error in (
            (accounts.create_user(ADMIN, "A_B"), InvalidParameter),
            (accounts.create_user(ADMIN, "bob", "silver"), InvalidParameter),
            (accounts.set_plan(ADMIN, "alice", "silver"), InvalidParameter),
            (accounts.set_plan(ADMIN, "bob", "free"), NotFound),
            (accounts.suspend(ADMIN, "bob", True), NotFound),
            (accounts.delete_user(ADMIN, "bob"), NotFound),
            (accounts.create_key(ADMIN, "alice", "S"), InvalidParameter),
            (accounts.create_key(ADMIN, "alice", "shop", publish=["a/#/b"]), InvalidTopic),
            (accounts.rotate_key(ADMIN, key.id, 0), Conflict),
            (accounts.rotate_key(ADMIN, "FGAK", 0), NotFound),
            (accounts.revoke_key(ADMIN, "FGAK"), NotFound),
            (accounts.create_share(ADMIN, "alice", "shop", "bob", publish=["a"]), NotFound),
            (accounts.create_share(ADMIN, "bob", "shop", "alice", publish=["a"]), NotFound),
            (accounts.create_share(ADMIN, "alice", "shop", "alice", publish=["a"]), InvalidParameter),
            (accounts.revoke_share(ADMIN, "FGSH"), NotFound),
        ):
            self.refused(work, error)
        self.assertEqual(len(self.entries()), count)

    def test_there_already(self) -> None:
        """A user who is there stays as it is, which nobody has to know of."""
        self.done(self.accounts.create_user(ADMIN, "bob", "gold"))
        again = self.done(self.accounts.create_user(ADMIN, "bob", "free"))
        self.assertEqual((again.plan, len(self.entries())), ("gold", 1))

    def test_any_plan(self) -> None:
        """Where nobody says what plans there are, each name is one."""
        accounts = Accounts(self.keyring, self.accounts.audit)
        self.assertEqual(self.done(accounts.create_user(ADMIN, "bob", "silver")).plan, "silver")
