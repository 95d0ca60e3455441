"""Who may do what, by every protocol: what is asked for × the state of who asks."""

# mypy: disallow-untyped-calls=False
# (trial has no annotations)
from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any
from urllib.parse import quote

import attrs
import jwt
from twisted.trial.unittest import SynchronousTestCase
from websockets.exceptions import ConnectionClosed, InvalidStatus

from flowgate.auth.permissions import VERBS
from flowgate.auth.secrets import master_secret
from flowgate.auth.signing import derived_key
from flowgate.mqtt import packets
from flowgate.mqtt.packets import Will
from flowgate.sqs.wire import OPERATIONS
from tests.integration.gateway import PATIENCE, MqttClient, MqttRefused, RunningGateway, WebSocketClient, until
from tests.sqs.client import signed
from tests.sqs.test_grants import TABLE as SQS_OPERATIONS
from tests.test_http_queue_grants import TABLE as QUEUE_CALLS

ALLOWED = "allowed"

Outcome = object
"""``ALLOWED``, or how a protocol refuses: status and code, return code, what became of the connection."""


@attrs.frozen
class Asker:
    """Who asks.

    :ivar token: their token.
    :ivar key: the API key that it was made with, which is what SQS is asked with.
    :ivar queue: the queue that is theirs.
    """

    token: str
    key: str
    queue: str = "q"


class PermissionTestCase(SynchronousTestCase):
    """A gateway with a queue ``q`` of ann's, and who asks it."""

    def setUp(self) -> None:
        self.gateway = RunningGateway()
        self.addCleanup(self.gateway.clean_up)
        self.gateway.start()
        self.stack = ExitStack()
        self.addCleanup(self.stack.close)
        self.all = self.asker("ann")
        self.assertEqual(self.gateway.request("PUT", "/api/v1/queues/q", {}, self.all.token)[0], 201)

    def asker(self, user: str, **grants: Any) -> Asker:
        key = self.gateway.key(user, **grants)
        return Asker(self.token(key), key)

    def token(self, key: str) -> str:
        status, answer = self.gateway.request("POST", "/token/", {"api_key": key})
        self.assertEqual(status, 200, answer)
        return str(answer["token"])

    def suspend(self, user: str) -> None:
        self.gateway.admin("POST", f"/users/{user}/suspend", {"suspended": True})

    # -- what can be asked for

    def http(self, method: str, path: str, body: object, token: str) -> Outcome:
        """A call; an answer without an end is not read."""
        connection = http.client.HTTPConnection("127.0.0.1", self.gateway.http, timeout=PATIENCE)
        try:
            kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
            data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
            headers = {"Authorization": f"Bearer {token}", "Content-Type": kind}
            connection.request(method, path, data, headers)
            with connection.getresponse() as answer:
                self.assertLess(answer.status, 500, path)
                if answer.status not in (401, 403):
                    return ALLOWED
                return answer.status, json.load(answer)["code"]
        finally:
            connection.close()

    def websocket(self, token: str, *actions: dict[str, Any], origin: str | None = None) -> list[Outcome]:
        """Frames, and what each is answered; or how the connection is refused."""
        client = None
        try:
            client = WebSocketClient(self.gateway.http, token, origin=origin)
            answers = [client.ask(**action) for action in actions]
            if not actions:
                client.connection.recv(0.2)
        except InvalidStatus as refused:
            body = refused.response.body
            return [(refused.response.status_code, json.loads(body)["code"])]
        except ConnectionClosed as closed:
            return [closed.rcvd and closed.rcvd.code]
        except TimeoutError:
            return [ALLOWED]  # nothing was to be said
        finally:
            if client is not None:
                client.close()
        return [ALLOWED if answer["action"] == "ack" else (answer["status"], answer["code"]) for answer in answers]

    def mqtt(self, token: str, act: Callable[[MqttClient], Outcome], **options: Any) -> Outcome:
        """A connection, and what it makes of ``act``."""
        try:
            client = MqttClient(self.gateway.mqtt, token, **options)
        except MqttRefused as refused:
            return f"CONNACK {refused.args[0]}"
        try:
            return act(client)
        except (EOFError, ConnectionError):
            return "closed"
        finally:
            client.close()

    def mqtt_publish(self, token: str, topic: str, qos: int = 1, retain: bool = False) -> Outcome:
        def act(client: MqttClient) -> Outcome:
            client.send(packets.publishes(topic, [b"x"], qos, [1] if qos else [], retain=retain))
            client.flush()
            return ALLOWED

        return self.mqtt(token, act)

    def mqtt_will(self, token: str, topic: str) -> Outcome:
        return self.mqtt(token, lambda _: ALLOWED, will=Will(topic, b"x", 1, True))

    def mqtt_subscribe(self, token: str, *filters: str) -> list[Outcome]:
        def act(client: MqttClient) -> list[Outcome]:
            return [ALLOWED if code <= 2 else code for code in client.subscribe(*filters)]

        outcome = self.mqtt(token, act)
        return outcome if isinstance(outcome, list) else [outcome] * len(filters)

    def sqs(self, key: str, operation: str, arguments: dict[str, Any]) -> tuple[Outcome, Any]:
        """An operation of SQS's JSON protocol; the outcome and the answer."""
        key_id, _, secret = key.partition(".")
        headers = {"X-Amz-Target": f"AmazonSQS.{operation}", "Content-Type": "application/x-amz-json-1.0"}
        body = json.dumps(arguments).encode()
        url = f"http://127.0.0.1:{self.gateway.http}/"
        sent = signed((key_id, secret), "POST", url, body, headers)
        status, answer = self.gateway.request("POST", "/", body, headers=sent)
        self.assertLess(status, 500, answer)
        if status < 400:
            return ALLOWED, answer
        code = str(answer["__type"]).rpartition("#")[2]
        return (status, code) if code in ("AccessDenied", "InvalidClientTokenId") else ALLOWED, answer


def publishing(topic: str) -> list[tuple[str, str, object]]:
    """The calls of HTTP that publish on a topic."""
    message = {"topic": topic, "message": "x"}
    return [
        ("POST", "/api/v1/publish", message),
        ("POST", "/api/v1/publish", {**message, "retain": True}),
        ("POST", f"/api/v1/publish?topic={quote(topic, safe='')}", b"x"),
        ("POST", "/api/v1/publish/batch", {"messages": [message]}),
    ]


def subscribing(filter_: str, name: str) -> list[tuple[str, str, object]]:
    """The calls of HTTP that need a subscription of a filter; ``name`` is free for a webhook."""
    asked = quote(filter_, safe="")
    hook = {"topic": filter_, "url": "https://hooks.example.org/"}
    return [
        ("GET", f"/api/v1/subscribe?topic={asked}", None),
        ("GET", f"/api/v1/retained?topic={asked}", None),
        ("PUT", "/api/v1/queues/q/subscriptions", {"topic": filter_}),
        ("PUT", f"/api/v1/webhooks/{name}", hook),
    ]


def history(topic: str) -> tuple[str, str, object]:
    return "GET", f"/api/v1/topics/{quote(topic, safe='')}/messages", None


class StateTests(PermissionTestCase):
    """Every action in every state."""

    def test_states(self) -> None:
        """What is granted is permitted; what is not, or by whom the gateway wants nothing any more, has its code."""
        askers, expected = self.askers()
        wrong = []
        for state, asker in askers.items():
            for what, outcome in self.outcomes(asker):
                kind = next(kind for kind in expected[state] if what.startswith(kind))
                if outcome != expected[state][kind]:
                    wrong.append((state, what, outcome, expected[state][kind]))
        self.assertEqual(wrong, [])
        self.assertNotIn("Traceback", self.gateway.log())

    def askers(self) -> tuple[dict[str, Asker], dict[str, dict[str, Outcome]]]:
        """Who asks, by their states; and how each state is answered, by protocols."""
        gateway = self.gateway
        granted = {"publish": ["orders/#"], "subscribe": ["orders/#"], "queues": ["q"]}
        others = {"publish": ["other/#", "orders"], "subscribe": ["other/#", "orders"], "queues": ["other*"]}
        askers = {
            "granted": self.asker("ann", **granted),
            "not granted": self.asker("ann", **others),
            "nothing granted": self.asker("ann", publish=[], subscribe=[], queues=[]),
            **{state: self.asker("ann", **granted) for state in ("revoked key", "revoked token", "expired token")},
            "suspended account": self.asker("bob"),
        }
        gateway.admin("DELETE", f"/keys/{askers['revoked key'].key.partition('.')[0]}")
        gateway.request("POST", "/token/revoke", {"token": askers["revoked token"].token})
        token = askers["expired token"].token
        claims = {**jwt.decode(token, options={"verify_signature": False}), "exp": int(time.time()) - 1}
        ours = derived_key(master_secret(gateway.data))
        old = jwt.encode(claims, ours, "ES256", jwt.get_unverified_header(token))
        askers["expired token"] = attrs.evolve(askers["expired token"], token=old)
        self.suspend("bob")
        # SQS is asked with keys, which stay good when a token of theirs is not.
        good: dict[str, Outcome] = dict.fromkeys(("HTTP", "WebSocket", "browser", "MQTT", "SQS"), ALLOWED)
        refused: dict[str, Outcome] = {
            "HTTP": (403, "insufficient_scope"),
            "WebSocket": (403, "insufficient_scope"),
            "browser": ALLOWED,
            "MQTT publish": "closed",
            "MQTT will": "CONNACK 5",
            "MQTT subscribe": 0x80,
            "SQS": (403, "AccessDenied"),
        }
        unknown: dict[str, Outcome] = {
            "HTTP": (401, "invalid_token"),
            "WebSocket": (401, "invalid_token"),
            "browser": 4401,
            "MQTT": "CONNACK 4",
            "SQS": ALLOWED,
        }
        suspended: dict[str, Outcome] = {
            "HTTP": (403, "account_suspended"),
            "WebSocket": (403, "account_suspended"),
            "browser": 4403,
            "MQTT": "CONNACK 5",
            "SQS": (403, "AccessDenied"),
        }
        return askers, {
            "granted": good,
            "not granted": refused,
            "nothing granted": refused,
            "revoked key": {**unknown, "SQS": (403, "InvalidClientTokenId")},
            "revoked token": unknown,
            "expired token": unknown,
            "suspended account": suspended,
        }

    def outcomes(self, asker: Asker) -> Iterator[tuple[str, Outcome]]:
        """Everything that can be asked for, by the protocol, and what becomes of it."""
        token = asker.token
        for method, path, body in (
            *publishing("orders/1"),
            *subscribing("orders/+", f"hook-{asker.key.partition('.')[0]}"),
            history("orders/1"),
        ):
            yield f"HTTP {method} {path}", self.http(method, path, body, token)
        for method, path, body, _ in QUEUE_CALLS:
            self.have_queue()
            # The list shows everybody what is granted; a subscription needs a filter too, and was asked for above.
            if (method, path) not in (("GET", ""), ("PUT", "<name>/subscriptions")):
                path = "/api/v1/queues/" + path.replace("<name>", "q").replace("<receipt>", "x").replace("<task>", "x")
                yield f"HTTP {method} {path}", self.http(method, path.rstrip("/"), body, token)
        self.have_queue()
        for action in (
            {"action": "publish", "topic": "orders/1", "message": "x"},
            {"action": "subscribe", "topic": "orders/+"},
            {"action": "subscribe", "topic": "orders/+", "since": "earliest"},
            {"action": "subscribe", "topic": "orders/+", "retained": True},
        ):
            yield f"WebSocket {action}", self.websocket(token, action)[0]
        yield "browser", self.websocket(token, origin="https://page.example.org")[0]
        for qos in (0, 1, 2):
            yield f"MQTT publish {qos}", self.mqtt_publish(token, "orders/1", qos)
        yield "MQTT publish retained", self.mqtt_publish(token, "orders/1", retain=True)
        yield "MQTT will", self.mqtt_will(token, "orders/1")
        for filter_ in ("orders/+", "$share/group/orders/+"):
            yield f"MQTT subscribe {filter_}", self.mqtt_subscribe(token, filter_)[0]
        yield from self.sqs_outcomes(asker.key)

    def have_queue(self) -> None:
        self.gateway.request("PUT", "/api/v1/queues/q", {}, self.all.token)

    def sqs_outcomes(self, key: str) -> Iterator[tuple[str, Outcome]]:
        self.assertEqual(SQS_OPERATIONS.keys(), OPERATIONS.keys())
        for operation, (arguments, _) in SQS_OPERATIONS.items():
            self.have_queue()
            named = arguments.keys() & {"QueueName", "QueueNamePrefix", "SourceArn", "TaskHandle"}
            outcome, answer = self.sqs(key, operation, arguments if named else {**arguments, "QueueUrl": "q"})
            if operation != "ListQueues" or outcome != ALLOWED or answer.get("QueueUrls"):
                yield f"SQS {operation}", outcome

    def test_verbs(self) -> None:
        """Queues are used with the verbs that are granted, over REST and over SQS."""
        wrong: list[object] = []
        for verb in VERBS:
            asker = self.asker("ann", queues=[f"{verb}:q"])
            for method, path, body, needed in QUEUE_CALLS:
                if (method, path) == ("GET", "") or "subscriptions" in path:  # that needs a filter too
                    continue
                self.have_queue()
                url = "/api/v1/queues/" + path.replace("<name>", "q").replace("<receipt>", "x").replace("<task>", "x")
                outcome = self.http(method, url.rstrip("/"), body, asker.token)
                if (outcome == ALLOWED) != (verb in needed):
                    wrong.append((verb, method, path, outcome))
            for operation, outcome in self.sqs_outcomes(asker.key):
                if (outcome == ALLOWED) != (verb in SQS_OPERATIONS[operation.removeprefix("SQS ")][1]):
                    wrong.append((verb, operation, outcome))
        self.assertEqual(wrong, [])


FILTERS = {
    "orders/1/eu": True,
    "orders/+/eu": True,
    "stock": True,  # which "stock/#" takes in
    "stock/#": True,
    "stock/+": True,
    "stock/+/x/#": True,
    "ann_shop_stock/1": True,
    "orders/+/+": False,
    "orders/1/+": False,
    "orders/#": False,
    "+/1/eu": False,
    "+/+/eu": False,
    "orders/1/eu/#": False,
    "orders/1/us": False,
    "orders": False,
    "#": False,
    "+": False,
    "+/#": False,
    "/stock": False,
    "stocks": False,
    "Stock": False,
    "bob_shop_stock/1": False,
}
"""What may be subscribed to with ``orders/+/eu`` and ``stock/#``."""

TOPICS = ("orders/1/eu", "orders/1/us", "stock", "stock/1", "stock/1/x", "stocks", "other")


class OverlapTests(PermissionTestCase):
    """Filters and topics that a grant takes in as a whole, in part or not."""

    def test_filters(self) -> None:
        """A filter is permitted if the grants take in all of it, by every protocol alike; a part is not enough."""
        grants = ["orders/+/eu", "stock/#"]
        token = self.asker("ann", publish=grants, subscribe=grants, queues=["q"]).token
        refused = (403, "insufficient_scope")
        wrong = []

        def check(what: str, name: str, outcome: Outcome, expected: Outcome) -> None:
            if outcome != (ALLOWED if FILTERS[name] else expected):
                wrong.append((what, name, outcome))

        of_mqtt = [self.mqtt_subscribe(token, *FILTERS)]
        of_mqtt.append(self.mqtt_subscribe(token, *(f"$share/g/{name}" for name in FILTERS)))
        subscriptions = [{"action": "subscribe", "topic": name} for name in FILTERS]
        of_websocket = self.websocket(token, *subscriptions)
        topics = [name for name in FILTERS if "+" not in name and "#" not in name]
        publishes = [{"action": "publish", "topic": name, "message": "x"} for name in topics]
        for name, outcome in zip(topics, self.websocket(token, *publishes), strict=True):
            check("WebSocket publish", name, outcome, refused)
        for index, name in enumerate(FILTERS):
            check("WebSocket", name, of_websocket[index], refused)
            for outcomes in of_mqtt:
                check("MQTT", name, outcomes[index], 0x80)
            for method, path, body in subscribing(name, f"hook-{index}"):
                check(path, name, self.http(method, path, body, token), refused)
            if name in topics:
                for method, path, body in (*publishing(name), history(name)):
                    check(path, name, self.http(method, path, body, token), refused)
                check("MQTT publish", name, self.mqtt_publish(token, name), "closed")
                check("MQTT will", name, self.mqtt_will(token, name), "CONNACK 5")
        self.assertEqual(wrong, [])

    def test_what_is_seen(self) -> None:
        """Subscribers see what their filters take in, and nothing else that was published or is retained."""
        token = self.asker("ann", publish=[], subscribe=["orders/+/eu", "stock/#"]).token
        granted = [name for name, permitted in FILTERS.items() if permitted and not name.startswith("ann_")]
        for topic in TOPICS:
            body = {"topic": topic, "message": f"kept {topic}", "retain": True}
            self.assertEqual(self.gateway.request("POST", "/api/v1/publish", body, self.all.token)[0], 200)
        mqtt = self.stack.enter_context(self.gateway.mqtt_client(token))
        websocket = self.stack.enter_context(self.gateway.websocket(token))
        events = self.stack.enter_context(self.gateway.events(token, *granted, retained=True))
        mqtt.subscribe(*FILTERS)
        for name in FILTERS:
            websocket.ask(action="subscribe", topic=name, retained=True)
        for topic in (*TOPICS, "stock/end"):
            body = {"topic": topic, "message": f"live {topic}"}
            self.assertEqual(self.gateway.request("POST", "/api/v1/publish", body, self.all.token)[0], 200)
        seen: dict[str, set[str]] = {"MQTT": set(), "WebSocket": set(), "SSE": set()}
        while not any("live stock/end" in text for text in seen["MQTT"]):
            seen["MQTT"].add(mqtt.receive(1)[0][1].decode())
        while not any("live stock/end" in text for text in seen["WebSocket"]):
            frame = websocket.frame()
            if frame["action"] == "message":
                seen["WebSocket"].add(frame["data"])
        while not any("live stock/end" in text for text in seen["SSE"]):
            (event,) = events.receive(1)
            seen["SSE"].add(event["data"]["data"])
        expected = {"orders/1/eu", "stock", "stock/1", "stock/1/x"}
        for protocol, texts in seen.items():
            self.assertEqual({text.partition(" ")[2] for text in texts} - {"stock/end"}, expected, protocol)
            self.assertEqual({f"kept {topic}" for topic in expected} - texts, set(), protocol)


class Open:
    """Something open of every protocol.

    :ivar ends: waits for the end of each, and tells how it ended.
    """

    def __init__(self, case: OpenTests, asker: Asker) -> None:
        enter, gateway = case.stack.enter_context, case.gateway
        self._websocket = enter(gateway.websocket(asker.token))
        browser = enter(gateway.websocket(asker.token, origin="https://page.example.org"))
        mqtt = enter(gateway.mqtt_client(asker.token))
        mqtt.subscribe("t")
        events = enter(gateway.events(asker.token, "t"))
        path = f"/api/v1/queues/{asker.queue}/messages?wait=20"
        poll = case.pool.submit(case.http, "GET", path, None, asker.token)
        arguments = {"QueueUrl": asker.queue, "WaitTimeSeconds": 20}
        sqs = case.pool.submit(case.sqs, asker.key, "ReceiveMessage", arguments)
        self.ends: dict[str, Callable[[], Outcome]] = {
            "MQTT": lambda: "closed" if mqtt.closed() else "open",
            "WebSocket": lambda: self._closed(self._websocket),
            "browser": lambda: self._closed(browser),
            "SSE": lambda: "ended" if events.ended() else "open",
            "queue": poll.result,
            "SQS": lambda: sqs.result()[0],
        }

    def alive(self) -> bool:
        """Whether its WebSocket is answered."""
        return bool(self._websocket.ask(action="ping")["action"] == "ack")

    @staticmethod
    def _closed(client: WebSocketClient) -> Outcome:
        try:
            while True:
                client.connection.recv(PATIENCE)
        except ConnectionClosed as ended:
            return ended.rcvd and ended.rcvd.code


class OpenTests(PermissionTestCase):
    """What is open while permission is taken away."""

    def setUp(self) -> None:
        super().setUp()
        self.pool = self.stack.enter_context(ThreadPoolExecutor(16))

    def waiting(self) -> int:
        """How many receives wait."""
        count: int = self.gateway.admin("GET", "/status")["nodes"][0]["connections"].get("queue", 0)
        return count

    def test_ends(self) -> None:
        """Open connections and receives that wait end with the right code, those of others do not."""
        gateway, bob = self.gateway, self.asker("bob")
        askers = {
            "token revoked": self.asker("ann"),
            "key revoked": self.asker("ann"),
            "account suspended": bob,
            "signing key given up": self.asker("cat"),
        }
        changes: dict[str, Callable[[Asker], Any]] = {
            "token revoked": lambda asker: gateway.request("POST", "/token/revoke", {"token": asker.token}),
            "key revoked": lambda asker: gateway.admin("DELETE", f"/keys/{asker.key.partition('.')[0]}"),
            "account suspended": lambda _: self.suspend("bob"),
            "signing key given up": lambda _: gateway.admin("POST", "/signing-keys/rotate", {"immediately": True}),
        }
        for index, (change, asker) in enumerate(askers.items()):
            askers[change] = attrs.evolve(asker, queue=f"queue-{index}")
            self.http("PUT", f"/api/v1/queues/queue-{index}", {}, asker.token)
        opened = {change: Open(self, asker) for change, asker in askers.items()}
        until(lambda: self.waiting() == 2 * len(opened), "all receives wait")
        unknown = dict.fromkeys(("WebSocket", "browser"), 4401) | {"queue": (401, "invalid_token")}
        expected: dict[str, dict[str, Outcome]] = {
            "token revoked": {**unknown, "SQS": ALLOWED},
            "key revoked": {**unknown, "SQS": (403, "InvalidClientTokenId")},
            "account suspended": {
                **dict.fromkeys(("WebSocket", "browser"), 4403),
                "queue": (403, "account_suspended"),
                "SQS": (403, "AccessDenied"),
            },
            "signing key given up": {**unknown, "SQS": ALLOWED},
        }
        left = list(opened)
        for change, asker in askers.items():
            changes[change](asker)
            left.remove(change)
            if expected[change]["SQS"] == ALLOWED:  # signed with the key's secret, it goes on to wait
                sent, _ = self.sqs(asker.key, "SendMessage", {"QueueUrl": asker.queue, "MessageBody": "x"})
                self.assertEqual(sent, ALLOWED)
            ended = {protocol: end() for protocol, end in opened[change].ends.items()}
            self.assertEqual(ended, {"MQTT": "closed", "SSE": "ended", **expected[change]}, change)
            self.assertEqual([one for one in left if not opened[one].alive()], [], change)
        cat = askers["signing key given up"]
        self.assertEqual(self.http(*publishing("t")[0], self.token(cat.key)), ALLOWED)
        self.assertEqual(self.http(*publishing("t")[0], cat.token), (401, "invalid_token"))
        self.assertNotIn("Traceback", gateway.log())
