"""Queues on two gateways that share one nats-server: either knows at once what the other did."""

# mypy: disallow-untyped-calls=False
# (trial has no annotations)
from __future__ import annotations

import random
import time
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.integration.gateway import until
from tests.integration.queue_clients import Ledger, QueueClient, Sending, Waiting, Working
from tests.integration.test_mqtt_kill import Progress
from tests.integration.tuned import tuned
from tests.integration.two_nodes import two_nodes

AT_ONCE = 1.0
"""Seconds that something may take which happens at once: it takes milliseconds, but the machine may be busy."""
LONG = 600


class NodesTests(SynchronousTestCase):
    """What is done on one node is seen on the other."""

    def setUp(self) -> None:
        # As they are, in proportion, but a quarter.
        tuned(self, "flowgate.queues.redrive", _BEAT_SECONDS=0.75, _LOST_SECONDS=3.0, _HIDDEN_MS=1_750)
        _, self.nodes, self.token = two_nodes(self)

    def clients(self, queue: str, **config: Any) -> list[QueueClient]:
        """Make a queue and a client of it on each node, where it is open then."""
        clients = []
        for node in self.nodes:
            client = QueueClient(lambda node=node: node.http, self.token, queue)  # type: ignore[misc]
            self.addCleanup(client.close)
            clients.append(client)
        clients[0].call("PUT", body=config)
        for client in clients:
            client.counts()
        return clients

    def wait(self, client: QueueClient, **members: int) -> Waiting:
        """Begin a receive, and return when it is sure to wait on the client's node."""
        waiting = Waiting(client.port, self.token, client.queue, **members)
        self.addCleanup(waiting.close)
        self.settle(client)
        return waiting

    def settle(self, client: QueueClient) -> None:
        """Have a node do everything that has reached it: it reads what came earlier first, or in the same turn."""
        for _ in range(2):
            client.counts()

    def comes(self, waiting: Waiting, began: float, after: float = 0.0) -> Any:
        """Take the one message for which somebody waits; it comes ``after`` so many seconds, and not much later."""
        status, messages = waiting.answer()
        passed = time.monotonic() - began
        self.assertEqual((status, len(messages)), (200, 1))
        self.assertGreaterEqual(passed, after)
        self.assertLess(passed, after + AT_ONCE)
        return messages[0]

    def both_see(self, clients: list[QueueClient], counts: tuple[int, int, int]) -> None:
        for client in clients:
            until(lambda client=client: client.counts() == counts, f"counts are {counts}", AT_ONCE)  # type: ignore[misc]

    def test_order(self) -> None:
        """FIFO order of every group under four receivers on two gateways; each of them has its share."""
        count, groups = 2_000, 40
        chance = random.Random(1)
        progress, ledger = Progress(), Ledger(visibility=2)
        progress.allowed = count
        clients = self.clients("q.fifo", visibility=2)
        messages = [(f"g{at % groups}:{at // groups}", f"g{at % groups}") for at in range(count)]

        def client(at: int) -> QueueClient:
            return QueueClient(lambda: self.nodes[at % 2].http, self.token, "q.fifo")

        sending = Sending(client(0), ledger, progress, chance, messages)
        working = [Working(client(at), ledger, progress, random.Random(at)) for at in range(4)]
        threads = [sending, *working]

        def end() -> None:
            progress.fail(AssertionError("the test is over"))
            for thread in threads:
                thread.join()

        self.addCleanup(end)
        for thread in threads:
            thread.start()
        until(lambda: progress.failure is not None or not sending.is_alive(), "all is sent", progress.left)
        until(
            lambda: progress.failure is not None or clients[1].counts() == (0, 0, 0), "all is processed", progress.left
        )
        if progress.failure is not None:
            raise progress.failure
        wrong = [*ledger.lost(), *ledger.too_early(), *ledger.repeated(), *ledger.out_of_order()]
        self.assertEqual(wrong[:5], [])
        self.assertEqual(len(ledger.processed), count)
        for worker in working:
            self.assertGreater(worker.received, count // 20)

    def test_send_wakes(self) -> None:
        """Who waits on one node has at once what is sent on the other."""
        one, other = self.clients("q", visibility=LONG)
        for sender, receiver in ((one, other), (other, one)):
            waiting = self.wait(receiver)
            began = time.monotonic()
            sender.call("POST", "/messages", {"body": "hello"})
            self.assertEqual(self.comes(waiting, began)["body"], "hello")

    def test_one_of_many(self) -> None:
        """Of those who wait on both nodes, each gets a message of its own."""
        clients = self.clients("q", visibility=LONG)
        waiting = [self.wait(client, max=10) for client in clients * 4]
        for number in range(len(waiting)):
            clients[number % 2].call("POST", "/messages", {"body": str(number)})
            # While the others wait: no message is for several, or lies between two nodes that both look away.
            self.both_see(clients, (0, number + 1, 0))
        bodies = [one["body"] for each in waiting for one in each.answer()[1]]
        self.assertEqual(sorted(bodies), [str(number) for number in range(len(waiting))])

    def test_visible_again_wakes(self) -> None:
        """Who waits on one node has what was received on the other, once its visibility ends, and not before."""
        for end in ("time", "given back", "delay"):
            one, other = self.clients(end.replace(" ", "-"), visibility=LONG)
            began = time.monotonic()
            if end == "delay":
                one.call("POST", "/messages", {"body": "x", "delay": 1})
                self.comes(self.wait(other), began, 1.0)
                continue
            one.call("POST", "/messages", {"body": "x"})
            (held,) = one.call("POST", "/messages/receive", {"visibility": 1 if end == "time" else LONG})["messages"]
            waiting = self.wait(other)
            if end == "time":
                message = self.comes(waiting, began, 1.0)
            else:
                began = time.monotonic()
                one.call("PATCH", f"/messages/{held['receipt']}", {"visibility": 0})
                message = self.comes(waiting, began)
            self.assertEqual((message["id"], message["receive_count"]), (held["id"], 2))

    def test_receipts_elsewhere(self) -> None:
        """What was received on one node is deleted, and hidden for another time, on the other."""
        clients = one, other = self.clients("q", visibility=LONG)
        for receiver, deleter in ((one, other), (other, one)):
            receiver.call("POST", "/messages", {"body": "x"})
            (held,) = receiver.call("POST", "/messages/receive", {"wait": 5})["messages"]
            deleter.call("PATCH", f"/messages/{held['receipt']}", {"visibility": 0})
            (again,) = receiver.call("POST", "/messages/receive", {"wait": 5})["messages"]
            self.assertEqual((again["id"], again["receive_count"]), (held["id"], 2))
            deleter.call("DELETE", f"/messages/{again['receipt']}")
            self.both_see(clients, (0, 0, 0))
            receiver.call("DELETE", f"/messages/{again['receipt']}")  # again is no error

    def test_purge(self) -> None:
        """A queue that is purged on one node is empty on the other, and used further."""
        clients = one, other = self.clients("q", visibility=LONG)
        for number in range(3):
            one.call("POST", "/messages", {"body": str(number), "delay": LONG if number == 2 else 0})
        (held,) = other.call("POST", "/messages/receive", {"wait": 5})["messages"]
        self.both_see(clients, (1, 1, 1))
        one.call("POST", "/purge")
        self.both_see(clients, (0, 0, 0))
        other.call("DELETE", f"/messages/{held['receipt']}")
        other.call("POST", "/messages", {"body": "new"})
        (new,) = one.call("POST", "/messages/receive", {"wait": 5})["messages"]
        self.assertEqual(new["body"], "new")

    def test_remove(self) -> None:
        """A queue that is removed on one node is gone on the other, also for who waits; made anew, it is empty."""
        one, other = self.clients("q", visibility=LONG)
        one.call("POST", "/messages", {"body": "old"})
        (held,) = other.call("POST", "/messages/receive", {"wait": 5})["messages"]
        waiting = self.wait(other)
        began = time.monotonic()
        one.call("DELETE")
        self.assertEqual(waiting.answer(), (404, None))
        self.assertLess(time.monotonic() - began, AT_ONCE)
        path = "/api/v1/queues/q"
        for node in self.nodes:
            until(lambda node=node: node.request("GET", path, token=self.token)[0] == 404, "it is gone", AT_ONCE)  # type: ignore[misc]
            self.assertEqual(node.request("POST", f"{path}/messages/receive", {}, self.token)[0], 404)
        one.call("PUT")
        self.both_see([one, other], (0, 0, 0))
        waiting = self.wait(one)
        other.call("DELETE", f"/messages/{held['receipt']}")  # concerns no message of now
        began = time.monotonic()
        other.call("POST", "/messages", {"body": "new"})
        self.assertEqual(self.comes(waiting, began)["body"], "new")

    def test_gone_receiver(self) -> None:
        """Who goes away while it waits takes nothing: what is sent then is received by somebody else, as new."""
        clients = self.clients("q", visibility=LONG)
        for at, client in enumerate(clients * 2):
            self.wait(client).close()
            self.settle(client)
            clients[at // 2].call("POST", "/messages", {"body": str(at)})
            (message,) = clients[1 - at // 2].call("POST", "/messages/receive", {"wait": 5})["messages"]
            self.assertEqual((message["body"], message["receive_count"]), (str(at), 1))

    def test_configuration(self) -> None:
        """What is changed on one node holds on the other within a second."""
        clients = one, other = self.clients("q", visibility=LONG)
        other.call("POST", "/messages", {"body": "x"})
        for changer, user in ((one, other), (other, one)):
            for config in ({"visibility": 0, "delay": 0}, {"visibility": LONG, "delay": LONG}):
                changer.call("PATCH", body=config)

                def known(user: QueueClient = user, config: dict[str, int] = config) -> bool:
                    shown = user.call("GET")["config"]
                    return all(shown[name] == value for name, value in config.items())

                until(known, f"{config} is known", AT_ONCE)
                if not config["visibility"]:
                    for _ in range(2):  # so it is visible at once again
                        self.assertEqual(len(user.call("POST", "/messages/receive", {"wait": 5})["messages"]), 1)
                    continue
                (held,) = user.call("POST", "/messages/receive", {"wait": 5})["messages"]
                user.call("POST", "/messages", {"body": "late"})
                self.assertEqual(user.counts()[:2], (0, 1))
                user.call("PATCH", f"/messages/{held['receipt']}", {"visibility": 0})
        self.both_see(clients, (1, 0, 2))

    def test_dead_letters(self) -> None:
        """A message that was received too often on one node is moved by the exceeding receive on the other."""
        dead_one, dead_other = self.clients("dead", visibility=LONG)
        one, other = self.clients("q", dead_letter={"queue": "dead", "max_receives": 1})
        waiting = self.wait(dead_one)
        one.call("POST", "/messages", {"body": "x"})
        (held,) = one.call("POST", "/messages/receive", {"visibility": 0})["messages"]
        began = time.monotonic()
        until(lambda: other.counts() == (1, 0, 0), "it is visible again", AT_ONCE)
        self.assertEqual(other.call("POST", "/messages/receive", {})["messages"], [])
        message = self.comes(waiting, began)
        self.assertEqual((message["id"], message["dead_letter_source"]), (held["id"], "q"))
        self.both_see([one, other], (0, 0, 0))
        self.both_see([dead_one, dead_other], (0, 1, 0))

    def test_repetitions(self) -> None:
        """FIFO: a send and a receive that are repeated on the other node are recognised there."""
        one, other = self.clients("q.fifo", visibility=LONG)
        for group in "ab":
            sent = {"body": "x", "group": group, "dedup_id": group}
            first = one.call("POST", "/messages", sent)
            second = other.call("POST", "/messages", sent)
            self.assertEqual((second["id"], second["sequence"]), (first["id"], first["sequence"]))
        attempt = {"max": 10, "wait": 5, "attempt_id": "once"}
        messages = other.call("POST", "/messages/receive", attempt)["messages"]
        self.assertEqual([one["group"] for one in messages], ["a", "b"])
        self.assertEqual(one.call("POST", "/messages/receive", attempt)["messages"], messages)

    def test_move_task(self) -> None:
        """A move task whose node is killed is brought to its end by the other one; each message is moved once."""
        count = 300
        dead, dead_other = self.clients("dead", visibility=LONG)
        _, source = self.clients("q", visibility=LONG, dead_letter={"queue": "dead", "max_receives": 1})
        for start in range(0, count, 10):
            entries = [{"id": str(at), "body": str(at)} for at in range(start, start + 10)]
            self.assertEqual(source.call("POST", "/messages/batch", {"messages": entries})["failed"], [])
        while sum(source.counts()):
            source.call("POST", "/messages/receive", {"max": 10, "visibility": 0})
        self.both_see([dead, dead_other], (count, 0, 0))
        dead.call("POST", "/redrive", {"max_per_second": 100})
        until(lambda: source.counts()[0] >= count // 4, "a part is moved")
        self.nodes[0].kill_gateway()
        self.assertLess(source.counts()[0], count)
        # The other node goes on when it has not heard of the task for a while.
        until(lambda: dead_other.call("GET", "/redrive")["tasks"][0]["status"] == "completed", "the task ends")
        self.assertEqual(dead_other.counts(), (0, 0, 0))
        bodies: list[str] = []
        while messages := source.call("POST", "/messages/receive", {"max": 10})["messages"]:
            self.assertEqual({one["receive_count"] for one in messages}, {1})
            bodies += [one["body"] for one in messages]
        self.assertEqual(sorted(map(int, bodies)), list(range(count)))
