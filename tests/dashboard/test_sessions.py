"""Sessions."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from flowgate.auth.keys import Keyring
from flowgate.bus.memory_store import MemoryStore
from flowgate.dashboard import sessions as module
from flowgate.dashboard.logins import Login, Logins
from flowgate.dashboard.sessions import (
    IDLE_SECONDS,
    LIFE_SECONDS,
    MOST_OF_USER,
    SESSIONS,
    Sessions,
    csrf_token,
    name_of,
)
from flowgate.errors import AccountSuspended, MissingToken, RateLimited
from tests.contracts.at_once import AtOnceTestCase
from tests.dashboard.case import CHEAP, PASSWORD, at_once


class SessionTests(AtOnceTestCase):
    """Sessions on one store."""

    async def setUp(self) -> None:  # type: ignore[override]
        self.now = 1_800_000_000.0
        self.store = MemoryStore()
        self.keyring = Keyring(self.store, b"master", lambda: self.now)
        await self.keyring.start()
        await self.keyring.create_user("alice")
        self.logins = Logins(self.store, at_once, CHEAP)
        await self.logins.start()
        self.login: Login = await self.logins.set_password("alice", PASSWORD, app="shop")
        self.sessions = await self.node()

    async def node(self) -> Sessions:
        sessions = Sessions(self.store, self.logins, self.keyring, lambda: self.now)
        await sessions.start()
        return sessions

    async def over(self, session_id: str, node: Sessions | None = None) -> None:
        await self.assertFailure(Deferred.fromCoroutine((node or self.sessions).find(session_id)), MissingToken)

    async def test_everywhere(self) -> None:
        """A session is known to every node, and to one that starts later."""
        other = await self.node()
        session_id = await self.sessions.begin(self.login)
        for node in (self.sessions, other, await self.node()):
            session, login = await node.find(session_id)
            self.assertEqual((session.user, login), ("alice", self.login))

    async def test_not_heard_of_yet(self) -> None:
        """A session that was begun on another node a moment ago is found, though nobody told of it yet."""
        other = await self.node()
        other.stop()
        session_id = await self.sessions.begin(self.login)
        self.assertEqual((await other.find(session_id))[0].user, "alice")

    async def test_heard_of_before_its_login(self) -> None:
        """A session that another node hears of before the new password that it began with is good there."""
        logins = Logins(self.store, at_once, CHEAP)
        await logins.start()
        logins.stop()
        other = Sessions(self.store, logins, self.keyring, lambda: self.now)
        await other.start()
        session_id = await self.sessions.begin(await self.logins.set_password("alice", "another horse battery"))
        self.assertEqual((await other.find(session_id))[1].generation, 2)
        await self.keyring.create_user("bob")
        session_id = await self.sessions.begin(await self.logins.set_password("bob", PASSWORD, app="cafe"))
        self.assertEqual((await other.find(session_id))[1].user, "bob")

    async def test_heard_of_before_its_account(self) -> None:
        """A session of an account that a node has not heard of yet is not good there, and does not end by that."""
        keyring = Keyring(self.store, b"master", lambda: self.now)
        await keyring.start()
        keyring.stop()
        other = Sessions(self.store, self.logins, keyring, lambda: self.now)
        await other.start()
        await self.keyring.create_user("bob")
        session_id = await self.sessions.begin(await self.logins.set_password("bob", PASSWORD, app="cafe"))
        await self.over(session_id, other)
        await self.sessions.find(session_id)

    async def test_ids_are_ours(self) -> None:
        """An id that was not made here is no session, whatever it looks like: none can be fixed beforehand."""
        for session_id in ("", "x" * 43, "A" * 44, "../x", "é" * 43, name_of("x")):
            await self.over(session_id)
        self.assertEqual(len({await self.sessions.begin(self.login) for _ in range(5)}), 5)

    async def test_id_is_not_stored(self) -> None:
        """What is stored does not let anybody take over a session."""
        session_id = await self.sessions.begin(self.login)
        entry = await self.store.get(SESSIONS, name_of(session_id))
        assert entry is not None
        self.assertNotIn(session_id.encode(), entry.value)
        await self.over(name_of(session_id)[:43])

    async def test_idle(self) -> None:
        """A session that is not used for two hours ends; one that is used goes on."""
        idle, used = await self.sessions.begin(self.login), await self.sessions.begin(self.login)
        for _ in range(2):
            self.now += IDLE_SECONDS * 0.6
            await self.sessions.find(used)
        await self.over(idle)
        self.assertEqual(len(self.sessions), 1)

    async def test_life(self) -> None:
        """A session ends after twelve hours, however much it is used."""
        session_id = await self.sessions.begin(self.login)
        steps = 12
        for _ in range(steps - 1):
            self.now += LIFE_SECONDS / steps
            await self.sessions.find(session_id)
        self.now += LIFE_SECONDS / steps
        await self.over(session_id)

    async def test_use_is_noted_once_a_minute(self) -> None:
        """Use is written down, but not at each request."""
        session_id = await self.sessions.begin(self.login)
        written: list[str] = []
        await self.store.watch(SESSIONS, lambda key, value: written.append(key))
        written.clear()
        for _ in range(120):
            self.now += 1
            await self.sessions.find(session_id)
        self.assertEqual(len(written), 2)

    async def test_ended(self) -> None:
        """An ended session is over on every node, and its listeners are told; again is no error."""
        other = await self.node()
        session_id = await self.sessions.begin(self.login)
        ended: list[str] = []
        other.on_ended(ended.append)
        await self.sessions.end(name_of(session_id))
        await self.sessions.end(name_of(session_id))
        await self.over(session_id)
        await self.over(session_id, other)
        self.assertEqual(ended, [name_of(session_id)])

    async def test_not_brought_back(self) -> None:
        """A session that ends while another node notes its use does not come back."""
        session_id = await self.sessions.begin(self.login)
        self.now += 61
        get = self.store.get

        def ended_meanwhile(bucket: str, key: str) -> Any:
            answer = get(bucket, key)
            self.successResultOf(self.store.delete(bucket, key))
            return answer

        self.patch(self.store, "get", ended_meanwhile)
        await self.sessions.find(session_id)
        self.patch(self.store, "get", get)
        self.assertIsNone(await self.store.get(SESSIONS, name_of(session_id)))
        await self.over(session_id)

    async def test_new_password(self) -> None:
        """A new password ends all sessions, also those that nobody ended one by one."""
        session_id = await self.sessions.begin(self.login)
        login = await self.logins.set_password("alice", "another horse battery")
        await self.over(session_id)
        await self.sessions.find(await self.sessions.begin(login))

    async def test_suspended(self) -> None:
        """Suspension ends sessions and lets none begin; afterwards one has to sign in anew."""
        session_id = await self.sessions.begin(self.login)
        unseen = await self.node()
        await self.keyring.suspend("alice", True)
        await self.assertFailure(Deferred.fromCoroutine(self.sessions.begin(self.login)), AccountSuspended)
        await self.keyring.suspend("alice", False)
        await self.over(session_id)
        await self.over(session_id, unseen)
        await self.sessions.find(await self.sessions.begin(self.login))

    async def test_most_of_a_user(self) -> None:
        """Of too many sessions of one user the oldest ends."""
        ids = []
        for _ in range(MOST_OF_USER + 1):
            self.now += 1
            ids.append(await self.sessions.begin(self.login))
        await self.over(ids[0])
        for session_id in ids[1:]:
            await self.sessions.find(session_id)

    async def test_most(self) -> None:
        """There are not endlessly many; those that are over make room."""
        self.patch(module, "MOST", 3)
        for _ in range(3):
            await self.sessions.begin(self.login)
        await self.assertFailure(Deferred.fromCoroutine(self.sessions.begin(self.login)), RateLimited)
        self.now += IDLE_SECONDS
        await self.sessions.begin(self.login)
        self.assertEqual(len(self.sessions), 1)

    async def test_damaged(self) -> None:
        """A record that cannot be read is no session."""
        session_id = await self.sessions.begin(self.login)
        for value in (b"", b"{}", b"[]", b'["alice", 1, 2]', b'["alice", true, 2, 3]', b"\xff"):
            await self.store.put(SESSIONS, name_of(session_id), value)
            await self.over(session_id)

    def test_csrf_token(self) -> None:
        """Each session has a token of its own, which does not tell its id."""
        self.assertNotEqual(csrf_token("a" * 43), csrf_token("b" * 43))
        self.assertEqual(csrf_token("a" * 43), csrf_token("a" * 43))
        self.assertNotIn("aaaa", csrf_token("a" * 43))
