"""The topic bus over a real nats-server."""

from __future__ import annotations

import datetime
import json
import shutil
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.protocol import Protocol, ServerFactory
from twisted.internet.ssl import Certificate, optionsForClientTLS, trustRootFromCertificates
from twisted.trial.unittest import TestCase

from flowgate.bus.feed import State
from flowgate.bus.jetstream import JetStreamBus
from flowgate.errors import BusUnavailable, StartError
from flowgate.message import Cursor, Run
from flowgate.topics import Topic
from tests.contracts.topics import SHOP, Listener, Reader, TopicsContract, numbered
from tests.integration.nats import NatsServer, nats_server

TOPIC = Topic(SHOP, "a")


def lose_next(bus: JetStreamBus, tail: Any) -> list[Any]:
    """Lose what a tail's consumer delivers next; returns a list that will hold it."""
    handlers, key = bus._link._handlers, tail._subscription
    forward = handlers[key]
    lost: list[Any] = []

    def lose(messages: list[Any]) -> None:
        handlers[key] = forward
        lost.extend(messages)

    handlers[key] = lose
    return lost


class JetStreamBusContractTests(TopicsContract, TestCase):
    """The contract, over a nats-server of its own."""

    timeout = 30
    shared = True
    server: NatsServer

    async def make_bus(self, listener: Listener) -> Any:
        self.server = nats_server(self)
        bus = JetStreamBus(reactor, [self.server.url], listener, shared=self.shared, history_messages=self.per_topic)
        self.addCleanup(bus.stop)
        await bus.start()
        return bus

    async def go_away(self) -> None:
        self.server.kill()
        await self.until(self.listener, lambda: not self.bus.available)

    async def come_back(self) -> None:
        self.server.start()
        await self.until(self.listener, lambda: self.listener.states[-1])


class PrivateJetStreamBusContractTests(JetStreamBusContractTests):
    """The contract, for a node that has its nats-server to itself."""

    shared = False
    places = False


class JetStreamBusTests(TestCase):
    """What only real servers can show."""

    timeout = 60

    async def make_bus(self, server: NatsServer, url: str = "", **options: Any) -> tuple[JetStreamBus, Listener]:
        listener = Listener()
        bus = JetStreamBus(reactor, [url or server.url], listener, **options)
        self.addCleanup(bus.stop)
        await bus.start()
        return bus, listener

    async def refused(self, url: str, **options: Any) -> str:
        """Why a start is refused."""
        bus = JetStreamBus(reactor, [url], Listener(), **options)
        self.addCleanup(bus.stop)
        try:
            await bus.start()
        except StartError as error:
            return str(error)
        raise AssertionError("the bus started")

    async def api(self, bus: JetStreamBus, verb: str, body: object = None) -> dict[str, Any]:
        message = await bus._link.request(f"$JS.API.{verb}", json.dumps(body).encode() if body else b"")
        answer: dict[str, Any] = json.loads(message[4])
        return answer

    # -- starting

    async def test_too_old(self) -> None:
        """A server that is too old is refused in a sentence that names its version."""

        class Old(Protocol):
            transport: Any

            def connectionMade(self) -> None:
                self.transport.write(b'INFO {"version":"2.11.4","max_payload":1048576}\r\n')

            def dataReceived(self, data: bytes) -> None:
                if b"PING" in data:
                    self.transport.write(b"PONG\r\n")

        factory: Any = ServerFactory.forProtocol(Old)
        port: Any = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        why = await self.refused(f"nats://127.0.0.1:{port.getHost().port}")
        self.assertEqual(why, "nats-server 2.14 or later is needed, and the one found is 2.11.4")

    async def test_nobody_there(self) -> None:
        """Without a server the start ends with a reason."""
        port: Any = reactor.listenTCP(0, ServerFactory(), interface="127.0.0.1")
        number = port.getHost().port
        await port.stopListening()
        why = await self.refused(f"nats://127.0.0.1:{number}", start_seconds=0.3)
        self.assertIn("refused", why)

    async def test_without_jetstream(self) -> None:
        """A server without JetStream is refused as such."""
        server = nats_server(self, jetstream=False)
        why = await self.refused(server.url, start_seconds=0.3)
        self.assertIn("JetStream is not available", why)

    async def test_credentials(self) -> None:
        """A token in the URL signs in; a wrong one is the reason of the refusal, and is not shown."""
        server = nats_server(self, 'authorization { token: "s3cret" }')
        await self.make_bus(server, f"nats://s3cret@127.0.0.1:{server.port}")
        why = await self.refused(f"nats://wr0ng@127.0.0.1:{server.port}", start_seconds=0.3)
        self.assertIn("Authorization Violation", why)
        self.assertNotIn("wr0ng", why)
        self.flushLoggedErrors()

    async def test_tls(self) -> None:
        """A bus works over TLS, with runs larger than a transport's buffer."""
        directory = Path(self.mktemp())
        directory.mkdir()
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
        now = datetime.datetime.now(datetime.timezone.utc)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), False)
            .add_extension(x509.BasicConstraints(True, None), True)
            .sign(key, hashes.SHA256())
        )
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        (directory / "cert.pem").write_bytes(pem)
        (directory / "key.pem").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        directory = directory.resolve()
        server = nats_server(self, f'tls {{ cert_file: "{directory}/cert.pem", key_file: "{directory}/key.pem" }}')
        trust = optionsForClientTLS("127.0.0.1", trustRootFromCertificates([Certificate.loadPEM(pem)]))
        bus, listener = await self.make_bus(server, f"tls://127.0.0.1:{server.port}", tls=trust)
        await bus.attach(SHOP)
        await bus.publish(Run(TOPIC, [bytes(100_000)] * 30, qos=1))
        await listener.until(lambda: len(listener.payloads) == 30)

    async def test_other_settings(self) -> None:
        """A start with other settings changes the stream and keeps what it holds."""
        server = nats_server(self)
        bus, _ = await self.make_bus(server, history_messages=50)
        await bus.publish(Run(TOPIC, numbered(0, 40), qos=1))
        await bus.stop()
        again, _ = await self.make_bus(server, history_messages=10, history_age=3600)
        self.assertEqual(again.epoch, bus.epoch)
        runs = await again.history(SHOP, "a", Cursor(again.epoch, 0), 100)
        self.assertEqual([one for run in runs for one in run.payloads], numbered(30, 40))

    # -- nodes

    async def test_nodes_see_each_other(self) -> None:
        """What one node sends unacknowledged arrives at the other, recorded or not, and not at itself."""
        server = nats_server(self)
        here, here_listener = await self.make_bus(server)
        there, there_listener = await self.make_bus(server)
        for bus in (here, there):
            await bus.attach(SHOP)
        here.send(Run(TOPIC, [b"1"]), True)
        here.send(Run(TOPIC, [b"2"]), False)
        await here.publish(Run(TOPIC, [b"3"], qos=1))
        for listener in (here_listener, there_listener):
            await listener.until(lambda listener=listener: b"3" in listener.payloads)  # type: ignore[misc]
        self.assertEqual(here_listener.payloads, [b"3"])
        self.assertEqual(
            sorted((run.payloads[0], run.qos, run.recorded) for run in there_listener.runs),
            [(b"1", 0, True), (b"2", 0, False), (b"3", 1, True)],
        )

    async def test_alone(self) -> None:
        """A node that is alone on its server sends nothing that need not be recorded."""
        server = nats_server(self)
        bus, _ = await self.make_bus(server, shared=False)
        witness, listener = await self.make_bus(server)
        await witness.attach(SHOP)
        bus.send(Run(TOPIC, [b"1"]), False)
        await bus.publish(Run(TOPIC, [b"2"], qos=1))
        await listener.until(lambda: b"2" in listener.payloads)
        self.assertEqual(listener.payloads, [b"2"])

    # -- losses

    async def test_acknowledged_survives_kill(self) -> None:
        """Whatever was acknowledged before the server was killed is there afterwards, in order, the rest has failed."""
        server = nats_server(self)
        bus, listener = await self.make_bus(server, history_messages=10**6)
        acknowledged: list[bytes] = []
        failed: list[bytes] = []
        under_way: list[Deferred[None]] = []

        def stored(_: None, payloads: list[bytes]) -> None:
            acknowledged.extend(payloads)
            if len(acknowledged) >= 5000 and server.running:
                server.kill()

        def lost(failure: Any, payloads: list[bytes]) -> None:
            failure.trap(BusUnavailable)
            failed.extend(payloads)

        for start in range(0, 60_000, 20):
            payloads = numbered(start, start + 20)
            published = bus.publish(Run(TOPIC, payloads, qos=1))
            under_way.append(published.addCallbacks(stored, lost, (payloads,), {}, (payloads,), {}))
        await gatherResults(under_way)
        self.assertTrue(failed)
        self.assertEqual(len(acknowledged) + len(failed), 60_000)
        server.start()
        await listener.until(lambda: listener.states == [True, False, True])
        runs = await bus.history(SHOP, "a", Cursor(bus.epoch, 0), 10**6)
        kept = [one for run in runs for one in run.payloads]
        self.assertTrue(set(acknowledged) <= set(kept))
        self.assertEqual(kept, sorted(kept, key=int))
        self.assertEqual(len(kept), len(set(kept)))

    async def test_frozen_server(self) -> None:
        """What is under way when a frozen server is given up fails."""
        server = nats_server(self)
        bus, _ = await self.make_bus(server)
        server.freeze()
        results: list[Deferred[Any]] = [
            bus.publish(Run(TOPIC, [b"1"], qos=1)),
            bus.publish_one(TOPIC, b"2"),
            bus.history(SHOP, "a", Cursor(bus.epoch, 0), 9),
            bus.follow(SHOP, "a", Reader()),
        ]
        for result in results:
            self.assertNoResult(result)
        server.kill()
        for result in results:
            await self.assertFailure(result, BusUnavailable)

    async def test_faulty_listener(self) -> None:
        """A listener that raises is logged, and the bus works and comes back all the same."""
        server = nats_server(self)
        bus, listener = await self.make_bus(server)

        def fault(*args: object) -> None:
            raise RuntimeError("a fault")

        for name in ("settled", "arrived"):
            self.patch(listener, name, fault)
        await bus.attach(SHOP)
        await bus.publish(Run(TOPIC, [b"1"], qos=1))
        server.kill()
        await listener.until(lambda: not bus.available)
        server.start()
        await listener.until(lambda: bus.available)
        await bus.publish(Run(TOPIC, [b"2"], qos=1))
        self.assertTrue(self.flushLoggedErrors(RuntimeError))

    async def test_new_stream(self) -> None:
        """If the server comes back without its store, the epoch is another, and readers are told."""
        server = nats_server(self)
        bus, listener = await self.make_bus(server)
        await bus.publish(Run(TOPIC, [b"1", b"2"], qos=1))
        live, epoch = Reader(), bus.epoch
        feed = await bus.follow(SHOP, "#", live)
        server.kill()
        shutil.rmtree(server.store)
        server.start()
        await listener.until(lambda: listener.states == [True, False, True])
        self.assertNotEqual(bus.epoch, epoch)
        await bus.publish(Run(TOPIC, [b"3"], qos=1))
        await live.until(lambda: b"3" in live.seen)
        self.assertEqual(live.seen, [Cursor(bus.epoch, 0), b"3"])
        self.assertEqual(feed.cursor, Cursor(bus.epoch, 1))

    async def test_message_lost_on_the_way(self) -> None:
        """A live reader whose consumer skips something gets it all the same, in order."""
        server = nats_server(self)
        bus, _ = await self.make_bus(server)
        reader = Reader()
        await bus.follow(SHOP, "#", reader)
        (tail,) = bus._feeds._tails.values()
        dropped = lose_next(bus, tail)
        for number in range(10):
            await bus.publish(Run(TOPIC, [b"%d" % number], qos=1))
        await reader.until(lambda: len(reader.seen) == 10)
        self.assertTrue(dropped)
        self.assertEqual(reader.seen, numbered(0, 10))

    async def test_consumers_go_with_their_readers(self) -> None:
        """One consumer serves all readers of a filter, and goes with the last of them."""
        server = nats_server(self)
        bus, _ = await self.make_bus(server)
        feeds = [await bus.follow(SHOP, "#", Reader()) for _ in range(3)]
        self.assertEqual((await self.api(bus, "CONSUMER.NAMES.FG_TOPICS"))["total"], 1)
        for feed in feeds:
            feed.stop()
        while (await self.api(bus, "CONSUMER.NAMES.FG_TOPICS"))["total"]:
            pass

    # -- several filters

    async def subjects(self, bus: JetStreamBus) -> list[str]:
        """What the only consumer of the stream follows, without what all subjects of the namespace begin with."""
        (name,) = (await self.api(bus, "CONSUMER.NAMES.FG_TOPICS"))["consumers"]
        config = (await self.api(bus, f"CONSUMER.INFO.FG_TOPICS.{name}"))["config"]
        followed = config.get("filter_subjects") or [config["filter_subject"]]
        return sorted(subject.removeprefix("fg.log.alice.shop.") for subject in followed)

    async def test_one_consumer_for_all_filters(self) -> None:
        """One consumer serves the readers of all filters, follows their first levels alone, and goes with the last."""
        server = nats_server(self)
        bus, _ = await self.make_bus(server)
        first = await bus.follow_filters(SHOP, ["cmd/1/x", "cmd/2"], Reader())
        self.assertEqual(await self.subjects(bus), ["-.cmd.>"])
        second = await bus.follow_filters(SHOP, ["$s/+", "/x"], Reader(), Cursor(bus.epoch, 0))
        self.assertEqual(await self.subjects(bus), ["$.$s.>", "-.%0.>", "-.cmd.>"])
        await second.add("cmd/3")
        for number in range(13):
            await second.add(f"n{number}/x")
        self.assertEqual(len(await self.subjects(bus)), 16)
        await second.add("n13/x")
        self.assertEqual(len(await self.subjects(bus)), 17)
        await second.add("one too many/x")
        self.assertEqual(await self.subjects(bus), ["$.$s.>", "-.>"])
        first.stop()
        await second.add("+/y")
        self.assertEqual(await self.subjects(bus), ["$.$s.>", "-.>"])
        second.stop()
        while (await self.api(bus, "CONSUMER.NAMES.FG_TOPICS"))["total"]:
            pass

    async def test_coming_back_costs_little(self) -> None:
        """Where others already read and nothing waits, a reader begins by two questions, one after the other."""
        server = nats_server(self)
        bus, _ = await self.make_bus(server)
        witness = Reader()
        await bus.follow_filters(SHOP, ["#"], witness)
        await bus.publish(Run(TOPIC, [b"seen"], qos=1))
        place = await bus.publish_one(Topic(SHOP, "b"), b"not for it")
        await witness.until(lambda: len(witness.seen) == 2)
        asked: list[str] = []
        write = bus._link._standing.write  # type: ignore[union-attr]

        def spy(data: bytes) -> None:
            asked.extend(line.split()[1].decode() for line in data.split(b"\r\n") if line.startswith(b"PUB "))
            write(data)

        self.patch(bus._link._standing, "write", spy)
        for after, verbs in (
            (1, ["DIRECT.GET", "STREAM.INFO"]),
            (place.sequence, ["STREAM.INFO"]),  # it has come as far as the others
        ):
            asked.clear()
            feed = await bus.follow_filters(SHOP, ["a"], Reader(), Cursor(bus.epoch, after))
            while feed._state is not State.LIVE:  # type: ignore[attr-defined]
                await bus._link.fence()
            self.assertEqual([".".join(one.split(".")[2:4]) for one in asked], verbs)

    async def test_filtered_message_lost_on_the_way(self) -> None:
        """Readers of filters whose consumer skips something get it all the same, in order."""
        server = nats_server(self)
        bus, _ = await self.make_bus(server)
        reader = Reader()
        await bus.follow_filters(SHOP, ["a", "b"], reader)
        (tail,) = bus._feeds._shared.values()
        dropped = lose_next(bus, tail)
        for number in range(10):
            await bus.publish(Run(TOPIC, [b"%d" % number], qos=1))
        await reader.until(lambda: len(reader.seen) == 10)
        self.assertTrue(dropped)
        self.assertEqual(reader.seen, numbered(0, 10))

    async def test_filters_on_a_new_stream(self) -> None:
        """If the server comes back without its store, readers of filters are told, and read the new one whole."""
        server = nats_server(self)
        bus, listener = await self.make_bus(server)
        await bus.publish(Run(TOPIC, [b"1", b"2"], qos=1))
        live = Reader()
        feed = await bus.follow_filters(SHOP, ["a"], live)
        await feed.add("b")
        server.kill()
        shutil.rmtree(server.store)
        server.start()
        await listener.until(lambda: listener.states == [True, False, True])
        await bus.publish(Run(Topic(SHOP, "b"), [b"3"], qos=1))
        await live.until(lambda: b"3" in live.seen)
        self.assertEqual(live.seen, [Cursor(bus.epoch, 0), b"3"])
        self.assertEqual(feed.cursor, Cursor(bus.epoch, 1))

    async def test_filters_through_kills(self) -> None:
        """Readers of overlapping filters see every acknowledged message once, in order, though the server is killed."""
        server = nats_server(self)
        bus, listener = await self.make_bus(server, history_messages=10**6)
        readers = [Reader(), Reader(), Reader()]
        filters = (["t/#", "t/1", "+/2"], ["t/1", "t/3"], ["t/+"])
        for reader, wanted in zip(readers, filters, strict=True):
            await bus.follow_filters(SHOP, wanted, reader)
        acknowledged: list[set[bytes]] = [set() for _ in range(4)]
        for round_ in range(3):
            results: list[Deferred[Any]] = []
            for number in range(2000):
                name, payload = number % 4, b"%d.%d" % (round_, number)
                stored = bus.publish(Run(Topic(SHOP, f"t/{name}"), [payload], qos=1))
                stored.addCallbacks(
                    lambda _, name, payload: acknowledged[name].add(payload),
                    lambda failure: failure.trap(BusUnavailable) and None,
                    (name, payload),
                )
                results.append(stored)
                if number == 1000:
                    await results[500]
                    server.kill()
            await gatherResults(results)
            server.start()
            await listener.until(lambda: bus.available)
        for name in range(4):
            await bus.publish(Run(Topic(SHOP, f"t/{name}"), [b"end"], qos=1))
        for reader, names in zip(readers, ((0, 1, 2, 3), (1, 3), (0, 1, 2, 3)), strict=True):
            await reader.until(
                lambda reader=reader, names=names: reader.seen.count(b"end") == len(names)  # type: ignore[misc]
            )
            self.assertEqual(reader.sequences, sorted(set(reader.sequences)))
            self.assertTrue(set().union(*(acknowledged[name] for name in names)) <= set(reader.payloads))
            self.assertEqual(reader.gaps, [])

    async def test_flood_of_filters(self) -> None:
        """Readers of more than history can hold see everything or are told; quiet topics lose nothing by it."""
        server = nats_server(self)
        bus, _ = await self.make_bus(server, history_messages=100)
        busy, quiet = Reader(), Reader()
        await bus.follow_filters(SHOP, ["t/busy", "t/other"], busy)
        await bus.follow_filters(SHOP, ["t/quiet"], quiet)
        results: list[Deferred[Any]] = []
        for number in range(0, 30_000, 100):
            results.append(bus.publish(Run(Topic(SHOP, "t/busy"), numbered(number, number + 100), qos=1)))
            if number % 1000 == 0:
                results.append(bus.publish(Run(Topic(SHOP, "t/quiet"), [b"%d" % number], qos=1)))
        await gatherResults(results)
        await busy.until(lambda: busy.seen[-1] == b"29999")
        await quiet.until(lambda: quiet.seen[-1] == b"29000")
        self.assertEqual(busy.payloads, sorted(set(busy.payloads), key=int))
        self.assertEqual(quiet.seen, [b"%d" % number for number in range(0, 30_000, 1000)])
        self.assert_losses_told(busy)

    async def test_backlog_leaves_nothing_behind(self) -> None:
        """Weighing what waits leaves no consumer, whether sizes had to be read or not."""
        server = nats_server(self)
        bus, _ = await self.make_bus(server, history_messages=5000)
        await bus.publish(Run(TOPIC, [bytes(10)] * 2500, qos=1))
        for messages, size, dropped in ((10**6, 10**12, 0), (10**6, 24_990, 1), (1, 10**12, 2499)):
            waiting = await bus.backlog(SHOP, ["a", "+", "b/#"], Cursor(bus.epoch, 0), messages, size)
            self.assertEqual(waiting.dropped, dropped)
        while (await self.api(bus, "CONSUMER.NAMES.FG_TOPICS"))["total"]:
            pass
        self.assertEqual((bus._link._inboxes, len(bus._link._handlers)), ({}, 1))

    async def test_time_to_live(self) -> None:
        """History forgets a message after its time."""
        server = nats_server(self)
        bus, _ = await self.make_bus(server)
        await bus.publish_one(TOPIC, b"brief", ttl=1)
        await bus.publish_one(TOPIC, b"lasting", ttl=100)
        while True:
            runs = await bus.history(SHOP, "a", Cursor(bus.epoch, 0), 9)
            payloads = [one for run in runs for one in run.payloads]
            if payloads != [b"brief", b"lasting"]:
                break
        self.assertEqual(payloads, [b"lasting"])

    async def test_back_pressure(self) -> None:
        """Publishing without end congests the bus, and it tells when it is relieved; nothing is lost."""
        server = nats_server(self)
        bus, listener = await self.make_bus(server, history_messages=10**6)
        sent = 0
        while not bus.congested:
            self.assertTrue(bus.send(Run(TOPIC, [bytes(1000)] * 100), True))
            sent += 100
        await listener.until(lambda: listener.drains == 1)
        self.assertFalse(bus.congested)
        await bus.publish(Run(TOPIC, [b"end"], qos=1))
        self.assertEqual((await self.api(bus, "STREAM.INFO.FG_TOPICS"))["state"]["messages"], sent + 1)

    async def test_following_a_flood(self) -> None:
        """A live reader of more than history can hold sees everything or is told, and always ends up at the end."""
        server = nats_server(self)
        bus, _ = await self.make_bus(server, history_messages=100)
        reader = Reader()
        await bus.follow(SHOP, "#", reader)
        await gatherResults([bus.publish(Run(TOPIC, numbered(n, n + 100), qos=1)) for n in range(0, 30_000, 100)])
        await reader.until(lambda: reader.seen[-1] == b"29999")
        self.assertEqual(reader.payloads, sorted(set(reader.payloads), key=int))
        self.assert_losses_told(reader)

    def assert_losses_told(self, reader: Reader, late: int = 10) -> None:
        """Every missing number lies before a gap that was told by then, or after a few messages more."""
        places = dict(zip(reader.payloads, reader.sequences, strict=True))
        expected = 0
        for index, one in enumerate(reader.seen):
            if isinstance(one, bytes):
                if int(one) != expected:
                    told = [seen.sequence for seen in reader.seen[: index + late] if isinstance(seen, Cursor)]
                    self.assertGreaterEqual(max(told, default=0) + 1, places[one], "a loss that nobody told")
                expected = int(one) + 1
