"""The Python client, for asyncio and for Twisted, with a real gateway that comes and goes."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import sys
import tempfile
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from textwrap import dedent
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.ssl import Certificate, optionsForClientTLS, trustRootFromCertificates
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from flowgate import errors
from flowgate.client import Client, Unreachable, core, tx
from tests.certificates import Authority
from tests.integration.cutting import CuttingProxy
from tests.integration.gateway import PATIENCE, ROOT, RunningGateway, until
from tests.integration.programs import Program

PUBLISHERS = 4
KEPT = "[history]\nmessages = 100000\n"


class Framework:
    """What a program needs beside a client, the same for both."""

    name: str

    def client(self, url: str, key: str, authority: Authority | None = None) -> Any:
        """A client; one that trusts only ``authority``, if that is given."""
        raise NotImplementedError

    def spawn(self, program: Coroutine[Any, Any, Any]) -> Awaitable[Any]:
        """Begin something beside what runs."""
        raise NotImplementedError

    def elsewhere(self, call: Callable[[], Any]) -> Awaitable[Any]:
        """Have a call that blocks made in a thread."""
        raise NotImplementedError

    async def turn(self) -> None:
        """Let others go on."""
        raise NotImplementedError


class Asyncio(Framework):
    name = "asyncio"

    def client(self, url: str, key: str, authority: Authority | None = None) -> Any:
        context = None if authority is None else ssl.create_default_context(cadata=authority.signed.pem.decode())
        return Client(url, key, tls=context)

    def spawn(self, program: Coroutine[Any, Any, Any]) -> Awaitable[Any]:
        return asyncio.ensure_future(program)

    def elsewhere(self, call: Callable[[], Any]) -> Awaitable[Any]:
        return asyncio.to_thread(call)

    async def turn(self) -> None:
        await asyncio.sleep(0)


class Twisted(Framework):
    name = "twisted"

    def client(self, url: str, key: str, authority: Authority | None = None) -> Any:
        tls = None
        if authority is not None:
            root = trustRootFromCertificates([Certificate.loadPEM(authority.signed.pem)])
            tls = optionsForClientTLS("127.0.0.1", trustRoot=root)
        return tx.Client(url, key, tls=tls)

    def spawn(self, program: Coroutine[Any, Any, Any]) -> Awaitable[Any]:
        return Deferred.fromCoroutine(program)

    def elsewhere(self, call: Callable[[], Any]) -> Awaitable[Any]:
        return deferToThread(call)

    async def turn(self) -> None:
        from twisted.internet import reactor

        await deferLater(reactor, 0)


ScenarioOf = Callable[[Framework], Coroutine[Any, Any, None]]


class ClientCase(TestCase):
    """A gateway behind a proxy that stays where it is."""

    timeout = 120

    def begin(self, **options: Any) -> RunningGateway:
        self.gateway = RunningGateway(config=KEPT, **options)
        self.addCleanup(self.gateway.clean_up)
        self.gateway.start()
        self.proxy = CuttingProxy(lambda: self.gateway.http)
        self.addCleanup(self.proxy.close)
        self.url = f"http://127.0.0.1:{self.proxy.port}"
        return self.gateway

    async def both(self, scenario: ScenarioOf) -> None:
        """Run a scenario with both clients, one after the other."""
        # asyncio's in a thread, with a loop of its own.
        await deferToThread(lambda: asyncio.run(scenario(Asyncio())))
        await scenario(Twisted())

    def assert_counted(self, values: list[Any]) -> None:
        """They are 0, 1, 2 …"""
        wrong = [(place, value) for place, value in enumerate(values) if place != value]
        self.assertEqual(wrong[:3], [], f"{len(values)} in all")

    def stored(self, token: str, topic: str) -> list[Any]:
        """Everything that history has on a topic."""
        found: list[Any] = []
        page: Any = {"next": "earliest", "messages": [None]}
        while page["messages"]:
            path = f"/api/v1/topics/{topic}/messages?limit=1000&since={page['next']}"
            page = self.gateway.request("GET", path, token=token)[1]
            found += [message["data"][0] for message in page["messages"]]
        return found


class RestartTests(ClientCase):
    """A gateway that is killed, and comes back."""

    async def test_no_gap_no_repeat(self) -> None:
        """While gateway and bus are killed and connections cut, nothing is missed, repeated or stored twice."""
        gateway = self.begin()

        async def scenario(framework: Framework) -> None:
            user = framework.name
            key = gateway.key(user)
            over = False

            async def publish(client: Any, topic: str) -> int:
                count = 0
                while not over:
                    await client.publish(topic, [count])
                    count += 1
                return count

            async with framework.client(self.url, key) as client, client.subscribe("orders/#") as messages:
                publishers = [framework.spawn(publish(client, f"orders/{one}")) for one in range(PUBLISHERS)]
                got: dict[str, list[int]] = {f"orders/{one}": [] for one in range(PUBLISHERS)}

                async def read(count: int) -> None:
                    for _ in range(count):
                        message = await messages.__anext__()
                        got[message.topic].append(message.data[0])

                for disturb in (
                    self.proxy.cut,
                    lambda: gateway.kill_and_return("gateway"),
                    self.proxy.cut,
                    lambda: gateway.kill_and_return("gateway and bus"),
                ):
                    await read(100)
                    await framework.elsewhere(disturb)
                await read(100)
                over = True
                counts = [await publisher for publisher in publishers]
                await read(sum(counts) - 500)
            token = gateway.token(user)
            for count, (topic, values) in zip(counts, got.items(), strict=True):
                self.assertEqual(len(values), count)
                self.assert_counted(values)
                self.assert_counted(self.stored(token, topic)[:count])
                self.assertEqual(len(self.stored(token, topic)), count)

        await self.both(scenario)

    async def test_nothing_seen_yet(self) -> None:
        """A subscription on which nothing has come yet misses nothing either."""
        gateway = self.begin()

        async def scenario(framework: Framework) -> None:
            user = framework.name
            key = gateway.key(user)
            async with framework.client(self.url, key) as client, client.subscribe("news") as messages:

                def restart_and_publish() -> None:
                    shut, self.proxy._target = self.proxy._target, lambda: 0
                    self.proxy.cut()
                    gateway.kill_and_return("gateway")
                    token = gateway.token(user)
                    body = {"topic": "news", "message": "while it was away"}
                    self.assertEqual(gateway.request("POST", "/api/v1/publish", body, token)[0], 200)
                    self.proxy._target = shut

                await framework.elsewhere(restart_and_publish)
                self.assertEqual((await messages.__anext__()).data, "while it was away")

        await self.both(scenario)

    async def test_stopped(self) -> None:
        """A gateway that is stopped in order tells its clients, and they are there again."""
        gateway = self.begin()

        async def scenario(framework: Framework) -> None:
            key = gateway.key(framework.name)
            async with framework.client(self.url, key) as client, client.subscribe("t") as messages:
                first = await client.publish("t", 1)

                def restart() -> None:
                    self.assertEqual(gateway.stop(), 0)
                    gateway.http = 0
                    gateway.start()

                await framework.elsewhere(restart)
                second = await client.publish("t", 2)
                got = [await messages.__anext__() for _ in range(2)]
                self.assertEqual([message.id for message in got], [first.id, second.id])

        await self.both(scenario)

    def test_command(self) -> None:
        """``flowgate subscribe`` goes on where it was when the gateway is there again."""
        gateway = self.begin()
        key = gateway.key("ann")
        flowgate = str(Path(sys.executable).with_name("flowgate"))
        subscriber = Program(
            [flowgate, "--url", self.url, "--key", key, "subscribe", "news/#", "--json"],
            environment={"PYTHONUNBUFFERED": "1"},
        )
        self.addCleanup(subscriber.end)
        token = gateway.token("ann")

        def publish(topic: str, message: str) -> str:
            status, answer = gateway.request("POST", "/api/v1/publish", {"topic": topic, "message": message}, token)
            self.assertEqual(status, 200)
            place: str = answer["id"]
            return place

        ready = publish("news/ready", "0")
        until(lambda: subscriber.empty is False or publish("news/ready", "1") == ready, "it has started")
        gateway.kill_and_return("gateway")
        ids = [publish("news/a", str(number)) for number in range(3)]
        ids.append(gateway.command("--key", key, "publish", "news/a", "3"))
        shown = [json.loads(subscriber.until(b'"news/a"')) for _ in range(4)]
        self.assertEqual([(one["data"], one["id"]) for one in shown], [(str(n), id_) for n, id_ in enumerate(ids)])


class ExampleTests(ClientCase):
    """The examples of ``docs/client.rst``."""

    def test_both(self) -> None:
        """Each example publishes a message and reads it."""
        gateway = self.begin()
        page = (ROOT / "docs" / "client.rst").read_text(encoding="utf-8")
        examples = [dedent(block) for block in re.findall(r"\.\. code-block:: python\n\n((?:   .*\n|\n)+)", page)]
        self.assertEqual(len(examples), 2)
        environment = {"FLOWGATE_URL": self.url, "FLOWGATE_KEY": gateway.key("ann")}
        for example, shown in zip(examples, (b"sales/berlin {'item': 7} ", b"sales/rome {'item': 8} "), strict=True):
            program = Program([sys.executable, "-c", example], environment=environment, with_errors=True)
            self.addCleanup(program.end)
            self.assertEqual(program.line()[: len(shown)], shown)
            self.assertEqual(program.process.wait(PATIENCE), 0)


class TokenTests(ClientCase):
    """Tokens and keys that end."""

    async def test_refreshed(self) -> None:
        """The token is renewed on the open connection, which outlives the first one."""
        gateway = self.begin()
        self.patch(core, "REFRESH", 0.0005)

        async def scenario(framework: Framework) -> None:
            before = self.proxy.accepted
            async with framework.client(self.url, gateway.key(framework.name)) as client:
                first = client.session._token
                async with client.subscribe("t") as messages:
                    count = 0
                    while client.session._token == first or client.session._asked:
                        await client.publish("t", [count])
                        count += 1
                    connections = self.proxy.accepted - before
                    revoke = {"token": first}
                    answer = await framework.elsewhere(lambda: gateway.request("POST", "/token/revoke", revoke))
                    self.assertEqual(answer[0], 200)
                    await client.publish("t", [count])
                    self.assert_counted([(await messages.__anext__()).data[0] for _ in range(count + 1)])
                # One for the WebSocket; the others were for tokens.
                self.assertGreaterEqual(connections, 3)
                self.assertEqual(client.driver._socket._open, True)

        await self.both(scenario)

    async def test_revoked(self) -> None:
        """A key that is revoked ends the client with the gateway's own error."""
        gateway = self.begin()

        async def scenario(framework: Framework) -> None:
            key = gateway.key(framework.name)
            async with framework.client(self.url, key) as client, client.subscribe("t") as messages:
                await client.publish("t", "one")
                id_ = key.partition(".")[0]
                await framework.elsewhere(lambda: gateway.admin("DELETE", f"/keys/{id_}"))
                self.assertEqual((await messages.__anext__()).data, "one")
                for wait in (messages.__anext__, lambda: client.publish("t", 2)):
                    try:
                        await wait()
                    except errors.KeyDisabled as error:
                        self.assertEqual((error.status, error.code), (403, "key_disabled"))
                    else:
                        self.fail("a revoked key is good for something")

        await self.both(scenario)

    async def test_refusals(self) -> None:
        """What the gateway refuses is raised as its own error, and the client goes on."""
        gateway = self.begin()

        async def scenario(framework: Framework) -> None:
            key = gateway.key(framework.name, publish=["a"], subscribe=["a"])
            async with framework.client(self.url, key) as client:
                for call, kind in (
                    (lambda: client.publish("b", 1), errors.InsufficientScope),
                    (lambda: client.publish("a", "x" * 300_000), errors.MessageTooLarge),
                    (lambda: client.publish("a", "x" * 600_000), errors.MessageTooLarge),
                    (lambda: client.subscribe("b").held(), errors.InsufficientScope),
                ):
                    try:
                        await call()
                    except errors.Refused as refusal:
                        self.assertIs(type(refusal), kind)
                    else:
                        self.fail(f"no {kind}")
                await client.publish("a", 1, key="once")
                self.assertTrue((await client.publish("a", 1, key="once")).duplicate)

        await self.both(scenario)


class TlsTests(ClientCase):
    """A gateway behind TLS."""

    async def test_verified(self) -> None:
        """The gateway has to show a certificate that the client trusts."""
        temporary = tempfile.TemporaryDirectory(prefix="flowgate-test-")
        self.addCleanup(temporary.cleanup)
        authority = Authority()
        certificate, key_file = authority.sign("gateway", host="127.0.0.1").save(Path(temporary.name), "server")
        plain = "tcp:0:interface=127.0.0.1"
        secure = f"ssl:0:privateKey={key_file}:certKey={certificate}:interface=127.0.0.1"
        gateway = self.begin(options=("--http", plain, "--http", secure))
        port = int(json.loads((gateway.data / "gateway.json").read_text())["http"][1].rpartition(":")[2])
        url = f"https://127.0.0.1:{port}"

        async def scenario(framework: Framework) -> None:
            key = gateway.key(framework.name)
            async with framework.client(url, key, authority) as client, client.subscribe("t") as messages:
                await client.publish("t", "x" * 200_000)
                self.assertEqual(len((await messages.__anext__()).data), 200_000)
            try:
                async with framework.client(url, key):
                    self.fail("an unknown authority was trusted")
            except Unreachable as error:
                self.assertIn(url, str(error))

        await self.both(scenario)
