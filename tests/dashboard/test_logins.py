"""Who may sign in."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from flowgate.bus.memory_store import MemoryStore
from flowgate.dashboard.logins import LOGINS, MOST_DEVICES, WAITING, Logins
from flowgate.dashboard.passwords import Cost
from flowgate.errors import InvalidParameter, InvalidToken, RateLimited
from tests.contracts.at_once import AtOnceTestCase
from tests.dashboard.case import CHEAP, PASSWORD, at_once


class LoginTests(AtOnceTestCase):
    """Logins on one store."""

    async def setUp(self) -> None:  # type: ignore[override]
        self.store = MemoryStore()
        self.worked: list[str] = []
        self.logins = await self.node()
        await self.logins.set_password("alice", PASSWORD, app="shop", admin=True)

    async def node(self, cost: Cost = CHEAP) -> Logins:
        def threads(work: Any, *values: Any) -> Any:
            self.worked.append(work.__name__)
            return at_once(work, *values)

        logins = Logins(self.store, threads, cost)
        await logins.start()
        return logins

    async def test_right(self) -> None:
        """The right password finds the login."""
        login = await self.logins.check("alice", PASSWORD)
        self.assertEqual((login.user, login.app, login.admin, login.generation), ("alice", "shop", True, 1))

    async def test_wrong_and_unknown_are_the_same(self) -> None:
        """A wrong password and an unknown user get the same answer, after the same work."""
        seen = []
        for user in ("alice", "nobody"):
            self.worked.clear()
            error: Any = await self.assertFailure(
                Deferred.fromCoroutine(self.logins.check(user, "wrong")), InvalidToken
            )
            seen.append((str(error), list(self.worked)))
        self.assertEqual(seen[0], seen[1])
        self.assertEqual(seen[0][1], ["fits"])

    async def test_empty_password_of_nobody(self) -> None:
        """What an unknown user is compared with lets nobody in."""
        await self.assertFailure(Deferred.fromCoroutine(self.logins.check("nobody", "")), InvalidToken)

    async def test_other_nodes(self) -> None:
        """A login and its changes are known to other nodes, and after a new start."""
        other = await self.node()
        await self.logins.set_password("alice", "another horse battery")
        await self.assertFailure(Deferred.fromCoroutine(other.check("alice", PASSWORD)), InvalidToken)
        login = await other.check("alice", "another horse battery")
        self.assertEqual((login.generation, login.admin, login.app), (2, True, "shop"))

    async def test_stopped(self) -> None:
        """After the stop nothing is followed."""
        other = await self.node()
        other.stop()
        await self.logins.set_password("bob", PASSWORD, app="cafe")
        self.assertIsNone(other.find("bob"))

    async def test_rules(self) -> None:
        """A password that is not allowed changes nothing."""
        changing = Deferred.fromCoroutine(self.logins.set_password("alice", "short"))
        await self.assertFailure(changing, InvalidParameter)
        await self.logins.check("alice", PASSWORD)

    async def test_new_cost(self) -> None:
        """After the cost was raised a password is hashed anew when it is next known; sessions go on."""
        dearer = await self.node(Cost(4, 1, 1))
        before = dearer.find("alice")
        login = await dearer.check("alice", PASSWORD)
        self.assertEqual(login.password.cost, Cost(4, 1, 1))
        self.assertEqual(login.generation, before and before.generation)
        await self.logins.check("alice", PASSWORD)

    async def test_damaged(self) -> None:
        """A record that cannot be read lets nobody in, and is told to the operator; a new password replaces it."""
        for wrong in (b"", b"[]", b"{}", b'{"user": "alice"}', b"\xff"):
            await self.store.put(LOGINS, "alice", wrong)
            self.assertEqual(len(self.flushLoggedErrors()), 0)
            await self.assertFailure(Deferred.fromCoroutine(self.logins.check("alice", PASSWORD)), InvalidToken)
        await self.logins.set_password("alice", PASSWORD, app="shop")
        await self.logins.check("alice", PASSWORD)

    async def test_record_of_another(self) -> None:
        """A record under another user's name is nobody's."""
        entry = await self.store.get(LOGINS, "alice")
        assert entry is not None
        await self.store.put(LOGINS, "bob", entry.value)
        self.assertIsNone(self.logins.find("bob"))

    async def test_bounded(self) -> None:
        """Two passwords are hashed at once; when too many wait, whoever comes is told so."""
        logins = await self.node()
        work: list[Deferred[bool]] = []

        def slow(_work: Any, *_: Any) -> Deferred[bool]:
            work.append(Deferred())
            return work[-1]

        self.patch(logins, "_threads", slow)
        asked = [Deferred.fromCoroutine(logins.check("alice", PASSWORD)) for _ in range(WAITING)]
        self.assertEqual(len(work), 2)
        await self.assertFailure(Deferred.fromCoroutine(logins.check("alice", PASSWORD)), RateLimited)
        for index in range(WAITING):
            work[index].callback(True)
        self.assertEqual(len([await one for one in asked]), WAITING)
        self.assertEqual(len(work), WAITING)

    async def test_keys(self) -> None:
        """The keys of the pages are noted by application."""
        await self.logins.note_key("alice", "shop", "FGAK1")
        await self.logins.note_key("alice", "cafe", "FGAK2")
        login = (await self.node()).find("alice")
        self.assertEqual(login and login.keys, {"shop": "FGAK1", "cafe": "FGAK2"})

    async def test_devices(self) -> None:
        """Of too many browsers the first one is forgotten; with a new password all are."""
        for number in range(MOST_DEVICES + 1):
            login = await self.logins.note_device("alice", f"d{number}")
        self.assertEqual((len(login.devices), login.devices[0]), (MOST_DEVICES, "d1"))
        self.assertEqual((await self.node()).find("alice"), login)
        self.assertEqual((await self.logins.set_password("alice", PASSWORD)).devices, [])
