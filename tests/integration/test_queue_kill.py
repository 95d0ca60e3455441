"""Queues while processes are killed: nothing is lost, nothing is with two workers, FIFO groups stay in order."""

# mypy: disallow-untyped-calls=False
# (trial has no annotations)
from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.integration.gateway import RunningGateway, until
from tests.integration.queue_clients import Ledger, QueueClient, Running, Sending, Unavailable, Working
from tests.integration.test_mqtt_kill import Progress, seeded
from tests.integration.tuned import tuned
from tests.integration.two_nodes import two_nodes

WORKERS = 4
GROUPS = 200
VISIBILITY = 3
CHECKPOINT_ENTRIES = 1_000
AHEAD = 1_000
"""Messages of each queue that may be sent before the next thing happens, besides those that it waits for."""
QUEUES = ("standard", "ordered.fifo")

_SHOWN = 5
"""Faults of one kind that a failure names."""


class QueueKillCase(SynchronousTestCase):
    """One sender and four workers at a standard queue, and the same at a FIFO queue."""

    def setUp(self) -> None:
        # So that nodes begin with the state that was kept, and not with the first message.
        tuned(self, "flowgate.queues.replica", _CHECKPOINT_ENTRIES=CHECKPOINT_ENTRIES, _RECORDS_PER_ENTRY=1000)

    def clients(self, token: str, ports: Callable[[], int], count: int, chance: random.Random) -> None:
        """Make both queues and their clients.

        :param count: messages of each queue.
        """
        self.progress = Progress()
        self.ledgers = {queue: Ledger(VISIBILITY) for queue in QUEUES}
        self.admin = {queue: QueueClient(ports, token, queue) for queue in QUEUES}
        self.sending: list[Sending] = []
        self.working: list[Working] = []
        for queue, ledger in self.ledgers.items():
            self.addCleanup(self.admin[queue].close)
            self.admin[queue].call("PUT", body={"visibility": VISIBILITY})

            def client(queue: str = queue) -> QueueClient:
                return QueueClient(ports, token, queue)

            def dice() -> random.Random:
                return random.Random(chance.random())

            messages = _in_groups(count, dice()) if queue.endswith(".fifo") else [(str(at), "") for at in range(count)]
            self.sending.append(Sending(client(), ledger, self.progress, dice(), messages))
            self.working += [Working(client(), ledger, self.progress, dice()) for _ in range(WORKERS)]
        for thread in (*self.sending, *self.working):
            self.addCleanup(self.end, thread)
            thread.start()

    def end(self, thread: Running) -> None:
        """End a thread that may not have ended by itself, because the test has failed."""
        if thread.is_alive():
            self.progress.fail(AssertionError("the test is over"))
            thread.join()

    def happen(self, count: int, kinds: list[str], chance: random.Random, act: Callable[[str], None]) -> None:
        """Have things happen in random order, each at a random place of ``count`` messages, while they are sent.

        :param count: messages of both queues.
        """
        chance.shuffle(kinds)
        for place, kind in zip(sorted(chance.sample(range(count), len(kinds))), kinds, strict=True):
            self.progress.allowed = place // 2 + AHEAD  # so that not all have come while the first thing happens
            self.wait(lambda place=place: self.processed() >= place, f"{place} messages are processed")  # type: ignore[misc]
            self.progress.pause(chance.uniform(0, 0.02))
            act(kind)
        self.progress.allowed = count

    def processed(self) -> int:
        return sum(len(ledger.processed) for ledger in self.ledgers.values())

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until ``condition`` holds, unless a thread fails."""
        until(lambda: self.progress.failure is not None or condition(), what, self.progress.left)
        if self.progress.failure is not None:
            raise self.progress.failure

    def finish(self) -> None:
        """Wait until all is sent and the queues are empty."""
        for sending in self.sending:
            self.wait(lambda sending=sending: not sending.is_alive(), "all is sent")  # type: ignore[misc]
        for queue in QUEUES:
            self.wait(lambda queue=queue: self.empty(queue), f"the queue {queue} is empty")  # type: ignore[misc]
        for working in self.working:
            working.finished = True
        for working in self.working:
            working.join(self.progress.left)
            if self.progress.failure is not None:
                raise self.progress.failure

    def empty(self, queue: str) -> bool:
        try:
            return self.admin[queue].counts() == (0, 0, 0)
        except Unavailable:
            return False

    def check(self, count: int, *gateways: RunningGateway) -> None:
        """Nothing is lost, nothing was with two workers, and the FIFO queue kept its order."""
        for queue, ledger in self.ledgers.items():
            self.none(queue, ledger.lost())
            self.none(queue, ledger.too_early())
            self.none(queue, ledger.strange_times())
            self.assertEqual(len(set(ledger.sent.values())), count)
            self.assertEqual(len(ledger.processed), count)
        fifo = self.ledgers[QUEUES[1]]
        self.assertEqual(len(fifo.sent), count)
        self.none(QUEUES[1], fifo.repeated())
        self.none(QUEUES[1], fifo.out_of_order())
        for gateway in gateways:
            self.assertNotIn("Traceback", gateway.log())
        # Else this shows nothing.
        for ledger in self.ledgers.values():
            self.assertGreater(len(ledger.deliveries), count)
        self.assertGreater(sum(ledger.repeats for ledger in self.ledgers.values()), 0)

    def none(self, queue: str, wrong: Sequence[str]) -> None:
        if wrong:
            self.fail(f"{queue}: {len(wrong)} faults:\n" + "\n".join(wrong[:_SHOWN]))


def _in_groups(count: int, chance: random.Random) -> list[tuple[str, str]]:
    """So many messages in groups, each group's numbered in their order."""
    numbers = dict.fromkeys((f"g{group}" for group in range(GROUPS)), 0)
    messages: list[tuple[str, str]] = []
    while len(messages) < count:
        group = chance.choice(list(numbers))
        # Some of one group together: a receive takes several.
        for _ in range(min(chance.randint(1, 4), count - len(messages))):
            messages.append((f"{group}:{numbers[group]}", group))
            numbers[group] += 1
    return messages


class KillTests(QueueKillCase):
    """One gateway with a nats-server of its own."""

    def setUp(self) -> None:
        super().setUp()
        directory = tempfile.TemporaryDirectory(prefix="flowgate-test-")
        self.addCleanup(directory.cleanup)
        self.gateway = RunningGateway(Path(directory.name) / "data")
        self.addCleanup(self.gateway.clean_up)
        self.gateway.start()
        self.token = self.gateway.token("ann")

    def test_kill_at_random(self) -> None:
        """20,000 messages through each queue while gateway and nats-server are killed ten times."""
        count = 20_000
        chance = seeded()
        self.clients(self.token, lambda: self.gateway.http, count, chance)
        kinds = ["gateway and bus"] * 4 + ["gateway"] * 3 + ["bus"] * 3
        self.happen(2 * count, kinds, chance, self.gateway.kill_and_return)
        self.finish()
        self.check(count, self.gateway)


class NodesTests(QueueKillCase):
    """Two gateways on one nats-server."""

    def setUp(self) -> None:
        super().setUp()
        self.server, self.nodes, self.token = two_nodes(self)

    def test_move_at_random(self) -> None:
        """Clients that move between two nodes, of which one is killed now and then, and whose nats-server is too."""
        count = 10_000
        chance = seeded()
        self.clients(self.token, lambda: chance.choice(self.nodes).http, count, chance)

        def act(kind: str) -> None:
            if kind == "bus":
                self.server.kill()
                self.server.start()
                return
            node = chance.choice(self.nodes)
            node.http = 0
            node.kill_gateway()
            node.start()

        self.happen(2 * count, ["node"] * 4 + ["bus"] * 3, chance, act)
        self.finish()
        self.check(count, *self.nodes)
