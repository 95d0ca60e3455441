"""Two accounts on one gateway: nothing crosses from one to the other, and only good tokens get anything."""

# mypy: disallow-untyped-calls=False
# (trial has no annotations)
from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from urllib.parse import quote

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.trial.unittest import SynchronousTestCase
from websockets.exceptions import ConnectionClosed, InvalidStatus

from flowgate.auth.secrets import master_secret
from flowgate.auth.signing import derived_key
from flowgate.mqtt import packets
from tests.integration.gateway import (
    PATIENCE,
    EventStream,
    MqttClient,
    MqttRefused,
    RunningGateway,
    WebSocketClient,
    read_to_end,
)

NAMES = (
    "bob_shop_secret",
    "bob_shop_a/b",
    "bob_shop_",
    "bob_shop",
    "bob_shop_*",
    "bob_shop_>",
    "bob_*_secret",
    "*_shop_secret",
    "bob/shop/secret",
    "bob.shop.secret",
    "BOB_SHOP_secret",
    "Bob_shop_secret",
    "b\u03bfb_shop_secret",  # a Greek omicron
    "bob\uff3fshop\uff3fsecret",  # full-width low lines
    "bob\u200b_shop_secret",
    "\ufeffbob_shop_secret",
    "bob_shop_secret\u0301",
    "%62ob_shop_secret",
    "bob%5Fshop%5Fsecret",
    "bob_shop%5Fsecret",
    "%2e%2e/bob_shop_secret",
    "../bob_shop_secret",
    "..",
    "../../bob/shop/secret",
    "ann_shop_bob_shop_secret",
    "ann_shop_../bob_shop_secret",
    "ann__bob_shop_secret",
    "_bob_shop_secret",
    "__secret",
    "bob__secret",
    "*",
    ">",
    "*.*.*",
    "fg.log.bob.shop.>",
    "fg.log.bob.shop.secret",
    "fg.out.bob.shop.secret",
    "fg/log/bob/shop/secret",
    "$JS.API.>",
    "$SYS.>",
    "$SYS",
    "$JS/API/STREAM/NAMES",
    "$KV/FG_KEYS",
    "_INBOX.>",
    " ",
    " bob_shop_secret",
    "bob_shop_secret ",
    "bob_shop_ secret",
    "bob shop secret",
    "\tbob_shop_secret",
    "secret",
    "a/b",
    "/",
    "//",
    ".",
    "...",
    "~",
    "=",
    "\\",
)
"""Names that one or another layer might take for something of bob's."""

FILTERS = (
    *NAMES,
    "#",
    "/#",
    "+",
    "+/#",
    "+/+",
    "/+",
    "+/+/#",
    "bob_shop_#",
    "bob_shop_+",
    "bob_shop_+/#",
    "bob_shop_a/#",
    "bob_shop_/#",
    "bob_+_secret",
    "+_shop_secret",
    "bob_shop_secret/#",
    "+bob_shop_secret",
    "bob/#",
    "bob/shop/#",
    "../#",
    "../../#",
    "../+/#",
    "$SYS/#",
    "$SYS/+/+",
    "$SYSTEM/#",
    "$JS/#",
    "$KV/#",
    "$/#",
    "$share/g/#",
    "$share/g/bob_shop_#",
    "$queue/#",
    "ann_shop_#",
    "ann_shop_+/#",
    "ann_shop_bob_shop_#",
    "ann_+_#",
)

TOPICS = ("secret", "a/b", "$SYSTEM/x", "/", "shop_secret", "ann_shop_secret", "x.y", "*", ">", " ", "é", "a//b")
"""What bob publishes to."""


class AccountTests(SynchronousTestCase):
    """What one may see and do, and what not."""

    def setUp(self) -> None:
        self.gateway = RunningGateway()
        self.addCleanup(self.gateway.clean_up)
        self.gateway.start()
        self.stack = ExitStack()
        self.addCleanup(self.stack.close)

    def publish(self, token: str, topic: str, message: object) -> tuple[int, Any]:
        return self.gateway.request("POST", "/api/v1/publish", {"topic": topic, "message": message}, token)

    def end_token(self, token: str) -> None:
        self.assertEqual(self.gateway.request("POST", "/token/revoke", {"token": token})[0], 200)

    # -- seeing

    def try_websocket(self, token: str, names: tuple[str, ...], **options: object) -> WebSocketClient:
        client = self.stack.enter_context(self.gateway.websocket(token))
        for name in names:
            answer = client.ask(action="subscribe", topic=name, **options)
            self.assertIn(answer.get("status", 200), (200, 400, 403), (name, answer))
        return client

    def try_mqtt(self, token: str, name: str) -> MqttClient | None:
        client = self.stack.enter_context(self.gateway.mqtt_client(token))
        try:
            client.subscribe(name)
        except (EOFError, ConnectionError):
            return None
        return client

    def try_events(self, token: str, name: str) -> EventStream | None:
        try:
            return self.stack.enter_context(self.gateway.events(token, name, last="earliest"))
        except AssertionError as refused:
            self.assertIn(refused.args[0][0], (400, 403), name)
            return None

    def test_nothing_is_seen(self) -> None:
        """No filter on any protocol, nor history, shows one account anything of the other, live or stored."""
        gateway = self.gateway
        bob, ann = gateway.token("bob"), gateway.token("ann")
        for topic in TOPICS:
            self.assertEqual(self.publish(bob, topic, f"bob's old {topic}")[0], 200)
        streams = [(name, stream) for name in FILTERS if (stream := self.try_events(ann, name))]
        clients = [(name, client) for name in FILTERS if (client := self.try_mqtt(ann, name))]
        # The many that are good filters, of her own.
        self.assertGreater(len(streams), 60)
        self.assertGreater(len(clients), 60)
        sockets = [
            self.try_websocket(ann, FILTERS),
            self.try_websocket(ann, FILTERS, meta=True),
            self.try_websocket(ann, FILTERS, since="earliest"),
        ]
        for name in FILTERS:
            for path in (quote(name, safe=""), quote(name, safe="/+*>$.~")):
                status, page = gateway.request("GET", f"/api/v1/topics/{path}/messages?limit=1000", token=ann)
                self.assertNotIn("bob's", json.dumps(page) if isinstance(page, dict) else str(page), name)
                self.assertIn(status, (200, 400, 403, 404), name)
        with gateway.mqtt_client(bob) as mqtt, gateway.websocket(bob) as websocket:
            mqtt.subscribe("#", "$SYSTEM/#")
            for topic in TOPICS:
                mqtt.publish(topic, b"bob's live")
                mqtt.publish(topic, b"bob's stored", 1)
                websocket.send(action="publish", topic=topic, message="bob's live")
                websocket.send(action="publish", topic="bob_shop_" + topic, message="bob's full")
                self.assertEqual(self.publish(bob, topic, "bob's stored")[0], 200)
            self.assertEqual(len(mqtt.receive(5 * len(TOPICS))), 5 * len(TOPICS))
        self.assertEqual(self.publish(ann, "the/end", "ann's end")[0], 200)
        # Her connections end with her token; until then everything was sent that would be.
        self.end_token(ann)
        for name, stream in streams:
            text = stream.answer.read().decode()
            self.assertNotIn("bob's", text, f"SSE {name!r}")
            if name in ("#", "+/#", "+/+", "ann_shop_#"):
                self.assertIn("ann's end", text, name)
        for name, client in clients:
            self.assertTrue(client.closed())
            seen = b"|".join(payload for _, payload, _ in client.messages)
            self.assertNotIn(b"bob's", seen, f"MQTT {name!r}")
            if name in ("#", "+/#", "+/+", "ann_shop_#"):
                self.assertIn(b"ann's end", seen, name)
        for socket in sockets:
            frames = [*socket.messages]
            with self.assertRaises(ConnectionClosed) as closed:
                while True:
                    frames.append(socket.frame())
            self.assertEqual(closed.exception.rcvd.code if closed.exception.rcvd else None, 4401)
            self.assertNotIn("bob's", json.dumps(frames))
            self.assertIn("ann's end", json.dumps(frames))

    # -- publishing

    def test_nothing_is_published(self) -> None:
        """No name leads one account's publishers to the other's topics, on any protocol."""
        gateway = self.gateway
        bob, ann = gateway.token("bob"), gateway.token("ann")
        with (
            gateway.events(bob, "#", "$JS/#", "$KV/#", last="earliest") as stream,
            gateway.mqtt_client(bob, "same id") as mqtt,
            gateway.websocket(bob) as websocket,
            gateway.websocket(ann) as attacker,
        ):
            mqtt.subscribe("#", "$JS/#")
            websocket.subscribe("#")
            batch = [{"topic": name, "message": "ann's"} for name in NAMES if name != "$SYS"]
            self.assertEqual(gateway.request("POST", "/api/v1/publish/batch", {"messages": batch}, ann)[0], 200)
            accepted = 0
            for name in NAMES:
                status, answer = self.publish(ann, name, "ann's")
                self.assertIn(status, (200, 400, 403), answer)
                accepted += status == 200
                attacker.send(action="publish", topic=name, message="ann's")
                attacker.ask(action="publish", topic=name, message="ann's")
                with gateway.mqtt_client(ann, "same id") as publisher:
                    try:
                        publisher.publish(name, b"ann's")
                        publisher.publish(name, b"ann's", 1)
                    except (EOFError, ConnectionError):
                        self.assertNotEqual(status, 200, name)
            self.assertGreater(accepted, 40)
            self.assertEqual(self.publish(bob, "end", "bob's end")[0], 200)
            self.assertEqual(stream.receive(1)[0]["data"], {"topic": "end", "data": "bob's end"})
            self.assertEqual(mqtt.receive(1), [("end", b"bob's end", 1)])
            self.assertEqual(websocket.frame(), {"action": "message", "topic": "end", "data": "bob's end"})

    def test_queues(self) -> None:
        """Queues of the same name are two queues; no path and no receipt reaches the other's; nothing tells of it."""
        gateway = self.gateway
        bob, ann = gateway.token("bob"), gateway.token("ann")

        def call(token: str, method: str, path: str, body: object = None) -> tuple[int, Any]:
            return gateway.request(method, f"/api/v1/queues/{path}", body, token)

        self.assertEqual(call(bob, "POST", "work/messages", {"body": "bob's"})[0], 201)
        self.assertEqual(call(bob, "POST", "work/messages", {"body": "bob's"})[0], 201)
        receipt = call(bob, "POST", "work/messages/receive", {"visibility": 600})[1]["messages"][0]["receipt"]
        # One that exists at bob's and one that does not look the same to ann.
        answers = []
        for name in ("work", "nothing"):
            status, answer = call(ann, "GET", name)
            answers.append((status, {**answer, "request_id": ""}))
        self.assertEqual(answers[0], answers[1])
        self.assertEqual(answers[0][0], 404)
        for name in ("bob_shop_work", "bob.shop.work", "../bob/work", "%2e%2e/work", "*", ">", "bo%62"):
            for path in (name, quote(name, safe="")):
                for method, rest, body in (
                    ("GET", "", None),
                    ("POST", "/messages/receive", {"max": 10}),
                    ("DELETE", "", None),
                    ("DELETE", f"/messages/{receipt}", None),
                ):
                    status, answer = call(ann, method, path + rest, body)
                    self.assertIn(status, (400, 404, 405), (method, path, answer))
        self.assertEqual(call(ann, "POST", "work/messages", {"body": "ann's"})[0], 201)
        status, answer = call(ann, "DELETE", f"work/messages/{receipt}")
        self.assertEqual((status, answer["code"]), (400, "receipt_invalid"))
        status, answer = call(ann, "PATCH", f"work/messages/{receipt}", {"visibility": 0})
        self.assertEqual((status, answer["code"]), (400, "receipt_invalid"))
        found = call(ann, "POST", "work/messages/receive", {"max": 10})[1]["messages"]
        self.assertEqual([message["body"] for message in found], ["ann's"])
        self.assertEqual(call(ann, "DELETE", "work")[0], 204)
        found = call(bob, "POST", "work/messages/receive", {"max": 10})[1]["messages"]
        self.assertEqual([message["body"] for message in found], ["bob's"])

    def test_similar_accounts(self) -> None:
        """Accounts whose names run together in one text, and applications of one user, are apart."""
        gateway = self.gateway
        pairs = (("a-b", "c"), ("a", "b-c"), ("a", "c"), ("a-", "b-c"), ("a", "-b-c"), ("a--b", "c"))
        tokens = {pair: gateway.token(*pair) for pair in pairs}
        streams = {}
        for pair, token in tokens.items():
            streams[pair] = self.stack.enter_context(gateway.events(token, "#", last="earliest"))
        for pair, token in tokens.items():
            name = "-".join(pair)
            for topic in ("t", "_t", f"{'_'.join(pair)}_t"):
                self.assertEqual(self.publish(token, topic, name)[0], 200)
            body = {"body": name}
            self.assertEqual(gateway.request("POST", "/api/v1/queues/c-q/messages", body, token)[0], 201)
        for pair, token in tokens.items():
            name = "-".join(pair)
            seen = [(event["data"]["topic"], event["data"]["data"]) for event in streams[pair].receive(3)]
            self.assertEqual(seen, [("t", name), ("_t", name), ("t", name)])
            path = "/api/v1/queues/c-q/messages/receive"
            found = gateway.request("POST", path, {"max": 10}, token)[1]["messages"]
            self.assertEqual([message["body"] for message in found], [name])

    # -- narrowed tokens

    def test_narrowed(self) -> None:
        """A token that is narrowed to filters goes beyond them on no protocol, and cannot be widened."""
        gateway = self.gateway
        key = gateway.key("ann", publish=["a/+", "out"], subscribe=["a/#"], queues=["jobs-*"])

        def exchange(**wish: object) -> tuple[int, Any]:
            return gateway.request("POST", "/token/", {"api_key": key, **wish})

        token = exchange()[1]["token"]
        wide = gateway.token("ann")
        may_read = {"a", "a/b", "a/+", "a/#", "a/b/c", "a/../b", "ann_shop_a/b", "ann_shop_a/#"}
        for name in (*may_read, "#", "+", "+/b", "+/#", "b", "A/b", "a ", "ab", "out", "/a/b", "ann_shop_#", "$a/b"):
            expected = 200 if name in may_read else 403
            try:
                with gateway.events(token, name) as stream:
                    status = stream.answer.status
            except AssertionError as refused:
                status = refused.args[0][0]
            self.assertEqual(status, expected, f"SSE {name}")
            status, _ = gateway.request("GET", f"/api/v1/topics/{quote(name, safe='')}/messages", token=token)
            self.assertEqual(status, expected, f"history {name}")
            with gateway.websocket(token) as websocket:
                answer = websocket.ask(action="subscribe", topic=name)
                self.assertEqual(answer.get("status", 200), expected, f"WebSocket {name}")
            with gateway.mqtt_client(token) as mqtt:
                self.assertEqual(mqtt.subscribe(name), (1 if expected == 200 else 0x80,), f"MQTT {name}")
        # One filter beyond the grants refuses the whole stream.
        with self.assertRaises(AssertionError):
            EventStream(gateway.http, token, ("a/b", "b"))

        may_write = {"a/b", "a/", "out", "ann_shop_a/b", "ann_shop_out"}
        with gateway.mqtt_client(wide) as watcher:
            watcher.subscribe("#")
            for name in (*may_write, "a", "a/b/c", "b", "A/b", "out/", "/out", "ann_shop_b", "$SYS/x"):
                expected = 200 if name in may_write else 403
                self.assertEqual(self.publish(token, name, "1")[0], expected, f"HTTP {name}")
                batch = {"messages": [{"topic": "out", "message": "0"}, {"topic": name, "message": "2"}]}
                status, _ = gateway.request("POST", "/api/v1/publish/batch", batch, token)
                self.assertEqual(status, expected, f"batch {name}")
                with gateway.websocket(token) as websocket:
                    answer = websocket.ask(action="publish", topic=name, message="3")
                    self.assertEqual(answer.get("status", 200), expected, f"WebSocket {name}")
                    websocket.send(action="publish", topic=name, message="4")
                    answer = websocket.frame() if expected == 403 else {"status": 200}
                    self.assertEqual(answer["status"], expected, f"WebSocket live {name}")
                for qos in (0, 1):
                    with gateway.mqtt_client(token) as mqtt:
                        try:
                            mqtt.publish(name, b"5", qos)
                            mqtt.flush()
                            closed = False
                        except (EOFError, ConnectionError):
                            closed = True
                        self.assertEqual(closed, expected == 403, f"MQTT {qos} {name}")
            self.assertEqual(self.publish(wide, "end", "end")[0], 200)
            seen = set()
            while (message := watcher.receive(1)[0])[0] != "end":
                seen.add(message[0])
            self.assertEqual(seen, {"a/b", "a/", "out"})
        # A will is a publish, too.
        will = packets.Will("b", b"x", 0, False)
        with self.assertRaises(MqttRefused) as caught:
            MqttClient(gateway.mqtt, token, will=will)
        self.assertEqual(caught.exception.args, (5,))

        for queue, expected in (("jobs-1", 201), ("jobs-", 201), ("jobs", 403), ("other", 403), ("Jobs-1", 403)):
            status, _ = gateway.request("POST", f"/api/v1/queues/{queue}/messages", {"body": "x"}, token)
            self.assertEqual(status, expected, queue)
        for method, path in (("GET", ""), ("DELETE", ""), ("PUT", ""), ("POST", "/messages/receive")):
            self.assertEqual(gateway.request(method, f"/api/v1/queues/jobs{path}", token=token)[0], 403, (method, path))

        for wish in (
            {"subscribe": ["#"]},
            {"subscribe": ["+/b"]},
            {"subscribe": ["bob_shop_a/b"]},
            {"publish": ["a/#"]},
            {"publish": ["a/b", "b"]},
            {"queues": ["*"]},
            {"queues": ["job*"]},
            {"app": "other"},
        ):
            status, answer = exchange(**wish)
            self.assertEqual((status, answer.get("error")), (400, "invalid_scope"), wish)
        narrower = exchange(publish=[], subscribe=["a/b"], queues=["jobs-1"])[1]["token"]
        self.assertEqual(self.publish(narrower, "a/b", "x")[0], 403)
        with gateway.websocket(token) as websocket:
            websocket.subscribe("a/c")
            websocket.subscribe("a/b")
            # Another account's token does not change whose connection it is; a narrower one ends what it excludes.
            answer = websocket.ask(action="auth", token=gateway.token("bob"))
            self.assertEqual(answer["status"], 403)
            self.assertEqual(websocket.ask(action="auth", token=narrower)["action"], "ack")
            (lost,) = websocket.messages
            self.assertEqual((lost["code"], lost["topic"]), ("insufficient_scope", "a/c"))

    # -- tokens

    def refusals(self, token: str) -> dict[str, object]:
        """How every protocol answers a token."""
        gateway = self.gateway
        found: dict[str, object] = {"publish": self.publish(token, "t", "x")[0]}
        found["SSE"] = gateway.status("/api/v1/subscribe?topic=t", token)
        found["SSE query"] = gateway.status(f"/api/v1/subscribe?topic=t&token={quote(token, safe='')}")
        found["history"] = gateway.status("/api/v1/topics/t/messages", token)
        found["queue"] = gateway.request("POST", "/api/v1/queues/q/messages/receive", token=token)[0]
        for name, url_token, headers in (
            ("WebSocket", quote(token, safe=""), None),
            ("WebSocket header", "", {"Authorization": f"Bearer {token}"}),
        ):
            url = url_token if headers is None else "&x="
            try:
                WebSocketClient(gateway.http, url, additional_headers=headers).close()
                found[name] = 101
            except InvalidStatus as refused:
                found[name] = refused.response.status_code
        try:
            MqttClient(gateway.mqtt, token).close()
            found["MQTT"] = 0
        except MqttRefused as mqtt_refused:
            found["MQTT"] = mqtt_refused.args[0]
        return found

    def test_tokens(self) -> None:
        """Wrong, expired, tampered, unsigned and foreign tokens are refused on every protocol."""
        gateway = self.gateway
        key = gateway.key("ann")
        token: str = gateway.request("POST", "/token/", {"api_key": key})[1]["token"]
        header, claims = jwt.get_unverified_header(token), jwt.decode(token, options={"verify_signature": False})
        ours = derived_key(master_secret(gateway.data))
        theirs = ec.generate_private_key(ec.SECP256R1())
        now = int(time.time())

        def signed(with_key: Any = ours, algorithm: str = "ES256", head: Any = None, **changed: Any) -> str:
            body = {name: value for name, value in {**claims, **changed}.items() if value is not None}
            return jwt.encode(body, with_key, algorithm, {**header, "alg": algorithm, **(head or {})})

        def encoded(value: object) -> str:
            return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

        first, body, signature = token.split(".")
        other = "B" if signature[10] == "A" else "A"
        public = ours.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        none_head = {**header, "alg": "none"}
        # By hand: PyJWT does not sign with a public key as a secret.
        hs_text = f"{encoded({**header, 'alg': 'HS256'})}.{body}"
        hs_mac = hmac.digest(public, hs_text.encode(), hashlib.sha256)
        confused = f"{hs_text}.{base64.urlsafe_b64encode(hs_mac).rstrip(b'=').decode()}"
        jwk = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(theirs.public_key()))
        bad = {
            "empty": "",
            "a word": "token",
            "dots": "..",
            "the API key": key,
            "the admin token": (gateway.data / "admin.token").read_text().strip(),
            "truncated": token[:-1],
            "without signature": f"{first}.{body}.",
            "without dot": f"{first}.{body}",
            "other signature": f"{first}.{body}.{signature[:10]}{other}{signature[11:]}",
            "claims exchanged": f"{first}.{encoded({**claims, 'sub': 'bob'})}.{signature}",
            "padded": token + "=",
            "twice": f"{token}.{token}",
            "null byte": token + "\0",
            "not ASCII": token[:-1] + "é",
            "none": f"{encoded(none_head)}.{body}.",
            "None": f"{encoded({**header, 'alg': 'None'})}.{body}.",
            "none, old signature": f"{encoded(none_head)}.{body}.{signature}",
            "no algorithm": f"{encoded({'typ': 'at+jwt', 'kid': header['kid']})}.{body}.{signature}",
            "public key as a secret": confused,
            "HMAC": signed("s" * 40, "HS256"),
            "foreign key": signed(theirs),
            "foreign key in the header": signed(theirs, head={"jwk": jwk, "jku": "http://127.0.0.1:1/jwks"}),
            "other key id": signed(head={"kid": "other"}),
            "other type": signed(head={"typ": "JWT"}),
            "foreign issuer": signed(iss="https://issuer.example.org"),
            "no issuer": signed(iss=None),
            "foreign audience": signed(aud="other"),
            "foreign audiences": signed(aud=["other", "another"]),
            "no audience": signed(aud=None),
            "expired": signed(exp=now - 1),
            "no expiry": signed(exp=None),
            "longer claims": f"{first}.{body}x.{signature}",
            "not yet": signed(nbf=now + 3600),
            "issued in the future": signed(iat=now + 3600),
            "no id": signed(jti=None),
            "no grants": signed(fg=None),
            "other user": signed(sub="bob"),
            "other app": signed(fg={**claims["fg"], "app": "other"}),
            "no such key": signed(client_id="FGAKAAAAAAAAAAAAAAAA"),
            "grants not a list": signed(fg={**claims["fg"], "sub": "#"}),
            "very long": signed(padding="x" * 10_000),
        }
        good = {"publish": 200, "history": 200, "queue": 404, "MQTT": 0, "WebSocket": 101}
        accepted = self.refusals_of_good(signed())
        self.assertEqual(accepted, good)
        for name, bad_token in bad.items():
            ask = self.refusals_of_raw if name in ("null byte", "not ASCII") else self.refusals
            for protocol, status in ask(bad_token).items():
                expected: tuple[object, ...] = (4,) if protocol == "MQTT" else (401,)
                if name in ("empty", "null byte", "not ASCII") and protocol != "MQTT":
                    expected = (400, 401)  # a header that is no header
                self.assertIn(status, expected, f"{name} by {protocol}")
        self.assertNotIn("Traceback", gateway.log())
        for text in (token, key, *(bad_token for bad_token in bad.values() if len(bad_token) > 10)):
            self.assertNotIn(text, gateway.log())

    def refusals_of_good(self, token: str) -> dict[str, object]:
        gateway = self.gateway
        found: dict[str, object] = {"publish": self.publish(token, "t", "x")[0]}
        found["history"] = gateway.request("GET", "/api/v1/topics/t/messages", token=token)[0]
        found["queue"] = gateway.request("POST", "/api/v1/queues/q/messages/receive", token=token)[0]
        with gateway.mqtt_client(token), gateway.websocket(token):
            found.update({"MQTT": 0, "WebSocket": 101})
        return found

    def refusals_of_raw(self, token: str) -> dict[str, object]:
        """As :meth:`refusals`, for tokens that a client library would not send."""
        found: dict[str, object] = {}
        for name, path in (("SSE", "/api/v1/subscribe?topic=t"), ("history", "/api/v1/topics/t/messages")):
            head = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\r\n"
            with self.gateway.raw(self.gateway.http, head.encode()) as connection:
                found[name] = int(read_to_end(connection).split()[1])
        try:
            MqttClient(self.gateway.mqtt, token).close()
            found["MQTT"] = 0
        except MqttRefused as refused:
            found["MQTT"] = refused.args[0]
        return found

    def open_all(self, token: str, patience: float = 2) -> dict[str, Callable[[], object]]:
        """A connection of every protocol; each with a call that waits ``patience`` seconds at most for its end."""
        gateway = self.gateway
        mqtt = self.stack.enter_context(gateway.mqtt_client(token))
        websocket = self.stack.enter_context(gateway.websocket(token))
        stream = self.stack.enter_context(gateway.events(token, "t"))
        websocket.subscribe("t")
        mqtt.subscribe("t")

        def websocket_ended() -> object:
            deadline = time.monotonic() + patience
            try:
                while True:
                    websocket.connection.recv(max(0.0, deadline - time.monotonic()))
            except ConnectionClosed as closed:
                return closed.rcvd.code if closed.rcvd else None
            except TimeoutError:
                return False

        def mqtt_ended() -> object:
            mqtt.socket.settimeout(patience)
            return mqtt.closed()

        return {"SSE": lambda: stream.ended(patience), "MQTT": mqtt_ended, "WebSocket": websocket_ended}

    def assert_all_end(self, connections: dict[str, Callable[[], object]], code: int) -> None:
        ended = {name: wait() for name, wait in connections.items()}
        self.assertEqual(ended, {"SSE": True, "MQTT": True, "WebSocket": code})

    def test_revoked(self) -> None:
        """A revoked token or key, a suspended user and an expired token end what is open, and nobody else's."""
        gateway = self.gateway
        neighbour = self.stack.enter_context(gateway.mqtt_client(gateway.token("bob")))
        neighbour.subscribe("t")

        key = gateway.key("ann")
        token, second = (gateway.request("POST", "/token/", {"api_key": key})[1]["token"] for _ in range(2))
        connections, others = self.open_all(token), self.open_all(second)
        self.end_token(token)
        self.assert_all_end(connections, 4401)
        self.assertEqual(self.publish(token, "t", "x")[0], 401)
        self.assertEqual(self.publish(second, "t", "x")[0], 200)
        gateway.admin("DELETE", f"/keys/{key.partition('.')[0]}")
        self.assert_all_end(others, 4401)
        self.assertEqual(self.publish(second, "t", "x")[0], 401)
        status, answer = gateway.request("POST", "/token/", {"api_key": key})
        self.assertIn((status, answer["error"]), ((401, "invalid_client"), (403, "unauthorized_client")))

        key = gateway.key("ann")
        token = gateway.request("POST", "/token/", {"api_key": key})[1]["token"]
        connections = self.open_all(token)
        gateway.admin("POST", "/users/ann/suspend", {"suspended": True})
        ended = {name: wait() for name, wait in connections.items()}
        self.assertEqual(set(map(bool, ended.values())), {True}, ended)
        status, answer = self.publish(token, "t", "x")
        self.assertEqual((status, answer["code"]), (403, "account_suspended"))
        with self.assertRaises(MqttRefused) as refused:
            MqttClient(gateway.mqtt, token)
        self.assertEqual(refused.exception.args, (5,))
        gateway.admin("POST", "/users/ann/suspend", {"suspended": False})
        self.assertEqual(self.publish(token, "t", "x")[0], 200)

        claims = jwt.decode(token, options={"verify_signature": False})
        ours = derived_key(master_secret(gateway.data))
        short = jwt.encode({**claims, "exp": int(time.time()) + 2}, ours, "ES256", jwt.get_unverified_header(token))
        connections = self.open_all(short, PATIENCE)
        self.assert_all_end(connections, 4401)

        self.assertEqual(self.publish(gateway.token("bob"), "t", "still here")[0], 200)
        self.assertEqual(neighbour.receive(1), [("t", b"still here", 1)])
