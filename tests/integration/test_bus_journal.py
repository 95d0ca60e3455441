"""The journal over a real nats-server."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.trial.unittest import TestCase

from flowgate.bus.journal import JetStreamJournal
from flowgate.bus.link import Link
from flowgate.errors import BusUnavailable
from tests.contracts.journal import JournalContract
from tests.integration.links import LinkOwner, make_link
from tests.integration.nats import NatsServer, nats_server


class JetStreamJournalTests(JournalContract, TestCase):
    """The contract, over JetStream, and what only a real bus can do."""

    timeout = 30
    server: NatsServer
    link: Link
    owner: LinkOwner

    async def setUp(self) -> None:  # type: ignore[override]
        self.server = nats_server(self)
        self.link, self.owner = await make_link(self, self.server.url)
        self.journal = JetStreamJournal(reactor, self.link)

    async def go_away(self) -> None:
        down = self.owner.down()
        self.server.kill()
        await down

    async def come_back(self) -> None:
        up = self.owner.up()
        self.server.start()
        await up

    async def api(self, verb: str, body: object = None) -> dict[str, Any]:
        message = await self.link.request(f"$JS.API.{verb}", json.dumps(body).encode() if body else b"")
        answer: dict[str, Any] = json.loads(message[4])
        return answer

    async def test_nothing_is_removed(self) -> None:
        """The server itself refuses to delete or to purge entries, and to write over one."""
        await self.fill("alice", range(2))
        self.assertIn("error", await self.api("STREAM.MSG.DELETE.FG_BOOK_audit", {"seq": 1}))
        self.assertIn("error", await self.api("STREAM.PURGE.FG_BOOK_audit"))
        answer = json.loads((await self.link.request("fg.book.audit.alice.e0", b"other"))[4])
        self.assertIn("error", answer)
        self.assertEqual([entry.value for entry in await self.journal.page("audit", "", None, 9)], [b"1", b"0"])

    async def test_two_nodes(self) -> None:
        """Of the same entries written by two nodes at once, each is there once, and both read the same."""
        link, _ = await make_link(self, self.server.url)
        other = JetStreamJournal(reactor, link)
        appended = [node.append("audit", "alice", f"e{n}", b"") for n in range(50) for node in (self.journal, other)]
        written = await gatherResults(appended)
        self.assertEqual(sorted(written), [False] * 50 + [True] * 50)
        page = await self.journal.page("audit", "alice", None, 100)
        self.assertEqual(len({entry.entry_id for entry in page}), 50)
        self.assertEqual(await other.page("audit", "alice", None, 100), page)

    async def test_outcome_that_is_not_known(self) -> None:
        """After an outage in the middle of a write the same id tells whether it was stored, and it is there once."""
        await self.fill("alice", range(1))
        self.server.freeze()
        appended = [self.journal.append("audit", "alice", f"x{n}", b"") for n in range(9)]
        failures = [self.assertFailure(one, BusUnavailable) for one in appended]
        await self.go_away()
        for failure in failures:
            await failure
        await self.come_back()
        for number in range(9):
            await self.journal.append("audit", "alice", f"x{number}", b"")
        self.assertEqual(sorted(await self.ids("alice")), ["e0", *(f"x{number}" for number in range(9))])

    async def test_missing(self) -> None:
        """A book whose stream somebody deleted is begun anew."""
        await self.fill("alice", range(1))
        await self.api("STREAM.DELETE.FG_BOOK_audit")
        await self.fill("alice", range(1))
        await self.api("STREAM.DELETE.FG_BOOK_audit")
        self.assertEqual(await self.ids(), [])

    async def test_pages_of_one_among_many(self) -> None:
        """A page of an owner with few entries among very many is read without reading the others'."""
        await self.fill("bob", range(3))
        for start in range(0, 3000, 500):
            await gatherResults([self.journal.append("audit", "alice", f"{start + n}", b"") for n in range(500)])
        await self.fill("bob", range(3, 6))
        self.assertEqual(await self.ids("bob", limit=4), ["e5", "e4", "e3", "e2"])
        self.assertEqual(len(await self.ids("alice", limit=1000)), 1000)
        newest = (await self.journal.page("audit", "alice", None, 1))[0]
        page = await self.journal.page("audit", "alice", newest.sequence - 1500, 10)
        self.assertEqual([entry.sequence for entry in page], [newest.sequence - 1500 - n for n in range(1, 11)])

    async def test_refused(self) -> None:
        """A server on which the stream cannot be made is as good as away."""
        await self.api("STREAM.CREATE.OTHER", {"name": "OTHER", "subjects": ["fg.book.audit.>"]})
        await self.assertFailure(self.journal.append("audit", "alice", "1", b""), BusUnavailable)
        self.flushLoggedErrors()
