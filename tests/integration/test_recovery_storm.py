"""Four hundred readers are cut off at random, the gateway is stopped and killed, and nobody misses anything."""

# mypy: disallow-untyped-calls=False
# (trial has no annotations)
from __future__ import annotations

import os
from array import array
from random import Random
from threading import Event, Thread
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.integration.gateway import RunningGateway, until
from tests.integration.storm import EventReader, Publisher, Reader, Storm, WebSocketReader

READERS = 200
"""Of each kind."""

MESSAGES = 20_000
KICK_SECONDS = 0.05
WINDOW, PAUSE = 50, 0.02


class StormTests(SynchronousTestCase):
    """A recovery storm."""

    def setUp(self) -> None:
        self.gateway = RunningGateway(config="[history]\nmessages = 50000\n")
        self.addCleanup(self.gateway.clean_up)
        self.gateway.start()
        self.token = self.gateway.token("ann")
        seed = int(os.environ.get("SCENARIO_SEED") or Random().randrange(1 << 31))
        self.rng = Random(seed)
        self.over = Event()
        self.what = f"SCENARIO_SEED={seed}"

    def port(self) -> int:
        return self.gateway.http

    def stored(self) -> tuple[array[int], list[str]]:
        """What history holds: the numbers and the cursors."""
        numbers, cursors = array("I"), []
        page: Any = {"next": "earliest", "messages": [{}]}
        while page["messages"]:
            path = f"/api/v1/topics/storm/messages?limit=1000&since={page['next']}"
            page = self.gateway.request("GET", path, token=self.token)[1]
            numbers.extend(int(message["data"]) for message in page["messages"])
            cursors += [message["id"] for message in page["messages"]]
        return numbers, cursors

    def restart(self, publisher: Publisher, failures: list[BaseException]) -> None:
        """Stop the gateway in order after a third of the messages, kill it after two, and start it each time."""
        try:
            for part, end in ((1, self.gateway.stop), (2, self.gateway.kill)):
                enough = MESSAGES * part // 3
                while publisher.acknowledged < enough and not self.over.wait(0.01):
                    pass
                if self.over.is_set():
                    return
                status = end()
                if status:
                    raise AssertionError(f"the gateway ended with {status}")
                self.gateway.start()
        except BaseException as failure:
            failures.append(failure)

    def test_nobody_misses_anything(self) -> None:
        """No gap, no repetition, and the order of the stream, for 200 readers of events and 200 of WebSockets.

        Every 50 ms one of them is cut off, while 20,000 messages are published, each under a key of its own; after a
        third of these the gateway is stopped, after two thirds it is killed together with nats-server.
        """
        gateway = self.gateway
        origin = gateway.request("POST", "/api/v1/publish", {"topic": "other", "message": ""}, self.token)[1]["id"]
        kinds: tuple[type[Reader], ...] = (EventReader, WebSocketReader)
        readers = [kind("storm", self.token, origin) for kind in kinds for _ in range(READERS)]
        storm = Storm(self.port, readers, self.rng, KICK_SECONDS)
        self.addCleanup(storm.close)
        storm.calm = True
        storm.run(lambda: all(reader.marks for reader in readers), 30)
        storm.calm = False
        publisher = Publisher(self.port, self.token, "storm", MESSAGES, WINDOW, PAUSE)
        self.addCleanup(publisher.close)
        failures: list[BaseException] = []
        restarting = Thread(target=self.restart, args=(publisher, failures))
        restarting.start()
        self.addCleanup(restarting.join)
        self.addCleanup(self.over.set)
        storm.run(lambda: publisher.done and not restarting.is_alive(), 180)
        self.assertEqual((publisher.faults, failures, publisher.acknowledged), ([], [], MESSAGES), self.what)
        storm.calm = True
        storm.run(lambda: all(len(reader.seen) >= MESSAGES for reader in readers), 60)

        numbers, cursors = self.stored()
        self.assertEqual(sorted(numbers), list(range(MESSAGES)), f"each is stored once; {self.what}")
        places = {origin: 0, **{cursor: place for place, cursor in enumerate(cursors, 1)}}
        for index, reader in enumerate(readers):
            what = f"{type(reader).__name__} {index}, {self.what}"
            self.assertEqual(reader.gaps, 0, what)
            if reader.seen != numbers:
                pairs = enumerate(zip(reader.seen, numbers, strict=False))
                place = next((place for place, (one, other) in pairs if one != other), len(numbers))
                self.fail(f"{what}: at {place} of {len(reader.seen)} it saw {reader.seen[place : place + 3].tolist()}")
            self.assertEqual([places[last] for _, last in reader.marks], [count for count, _ in reader.marks], what)
        self.assertGreater(storm.kicked, 100, "it was a storm")
        self.assertGreater(publisher.again, 0, "something was under way when the gateway was killed")
        self.assertGreaterEqual(min(len(reader.marks) for reader in readers), 3)

        storm.close()
        until(lambda: gateway.metric("flowgate_connections") == 0, "all connections are gone")
        self.assertNotIn("Traceback", gateway.log())
