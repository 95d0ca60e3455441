"""The documents say what the code does: every route, every member, every bound, every code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, cast
from unittest.mock import Mock
from urllib.parse import quote

import orjson
from twisted.trial.unittest import SynchronousTestCase

from flowgate.auth.tokens import TokenService
from flowgate.dashboard.link_calls import LinkCalls
from flowgate.dashboard.links import Links
from flowgate.errors import Refused
from flowgate.http import site
from flowgate.http.admin.access import AdminAccess
from flowgate.http.answers import Route
from flowgate.http.credentials import Credentials
from flowgate.http.describing import asyncapi, openapi
from flowgate.http.describing.place import MqttDoor, Place
from flowgate.http.describing.problems import EXPLAINED, codes
from flowgate.http.describing.values import JSON
from flowgate.http.metrics import Metrics
from flowgate.http.signing import SigningCalls
from flowgate.http.status import Status
from flowgate.http.usage import UsageCalls
from flowgate.http.webhooks import WebhookCalls
from flowgate.limits import Limits
from flowgate.sqs.resource import SqsCalls
from flowgate.webhooks.addresses import AddressPolicy
from flowgate.webhooks.service import Webhooks
from flowgate.websocket import frames
from tests.http_client import ADMIN_TOKEN, HttpClient

NOBODYS_NAME = "qzqzqzqz"
"""A name that is like no other, so that no nearest one is offered."""

PARTS = {"name": "q", "topic": "a", "receipt": "r", "task": "t", "key_id": "k", "share_id": "s", "user": "alice"}


def document() -> dict[str, Any]:
    return openapi.document(Limits())


def calls(found: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in found["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def schema_of(found: dict[str, Any], operation: dict[str, Any]) -> dict[str, Any] | None:
    """The schema of the JSON body that an operation takes."""
    content = operation.get("requestBody", {}).get("content", {})
    if JSON not in content:
        return None
    return resolved(found, content[JSON]["schema"])


def resolved(found: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in schema:
        target: dict[str, Any] = found["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        return target
    return schema


def known_in(detail: str) -> set[str]:
    """The names that a refusal of an unknown one lists."""
    listed = re.search("known are:? (.*)", detail)
    return set() if listed is None else set(listed[1].split(", "))


class RouteTests(SynchronousTestCase):
    """Operations and routes."""

    def test_every_route_is_described(self) -> None:
        """There is exactly one operation for every route, and none without a route."""
        taken: list[Route] = []

        def root(routes: list[Route], *_: object) -> Mock:
            taken.extend(routes)
            return Mock()

        self.patch(site, "Root", root)
        arguments: list[Any] = [Mock() for _ in range(site.make_site.__code__.co_argcount)]
        arguments[-1] = [
            *SqsCalls(Mock(), Mock(), Mock()).routes(),
            *WebhookCalls(Mock(), Mock()).routes(),
            *SigningCalls(Mock(), Mock(), Mock()).routes(),
            *Metrics(Mock(), Mock()).routes(),
            *Status(Mock(), Mock()).routes(),
            *UsageCalls(Mock(), Mock(), Mock(), Mock()).routes(),
            *LinkCalls(Mock(), Mock(), Mock()).routes(),
        ]
        site.make_site(*arguments)
        described = [(one.method, one.path) for one in openapi.operations(Limits())]
        self.assertEqual(sorted(described), sorted({(route.method, route.path) for route in taken}))

    def test_names(self) -> None:
        """Every operation has an id of its own, and a group that is explained."""
        found = document()
        ids = [operation["operationId"] for _, _, operation in calls(found)]
        self.assertEqual(len(ids), len(set(ids)))
        used = {tag for _, _, operation in calls(found) for tag in operation["tags"]}
        self.assertEqual(used, {tag["name"] for tag in found["tags"]})

    def test_parts_of_paths(self) -> None:
        """What stands in a path is described as a parameter, and nothing else is."""
        for _, path, operation in calls(document()):
            described = [one["name"] for one in operation.get("parameters", ()) if one["in"] == "path"]
            self.assertEqual(sorted(described), sorted(re.findall(r"{(\w+)}", path)), path)

    def test_answers(self) -> None:
        """Every operation says what it answers when all is well, and what when it is not."""
        for method, path, operation in calls(document()):
            statuses = {int(status) // 100 for status in operation["responses"]}
            self.assertTrue({2, 5} <= statuses, (method, path))


class KnownTests(SynchronousTestCase):
    """What the handlers know is what the document describes.  The handlers are asked, by what they do not know."""

    def setUp(self) -> None:
        self.client = client = HttpClient()
        tokens = cast(TokenService, client.tokens)
        webhooks = Webhooks(
            client.queues, client.store, b"master secret", Mock(), AddressPolicy(()), client.clock, client.now
        )
        webhooks.start()
        client.site = site.make_site(
            client.gateway,
            tokens,
            client.accounts,
            client.queues,
            ADMIN_TOKEN,
            {},
            client.wheel,
            client.clock,
            client.now,
            lambda: False,
            [
                *WebhookCalls(webhooks, Credentials(tokens)).routes(),
                *SigningCalls(client.signing, client.accounts.audit, AdminAccess(ADMIN_TOKEN)).routes(),
                *UsageCalls(Mock(), client.accounts, Credentials(tokens), AdminAccess(ADMIN_TOKEN)).routes(),
                *LinkCalls(Links(client.store, client.now), client.accounts, AdminAccess(ADMIN_TOKEN)).routes(),
            ],
        )
        client.call("PUT", "/api/v1/queues/q")
        self.found = document()

    def refusal(self, method: str, path: str, query: str = "", body: object = None) -> str:
        path = re.sub(r"{(\w+)}", lambda part: PARTS[part[1]], path)
        token = ADMIN_TOKEN if "/admin/" in path else None if path.startswith("/token/") else "good"
        headers = None
        if method == "POST" and query:  # to publish what is no JSON
            body, headers = b"x", {"Content-Type": "text/plain"}
        answer = self.client.call(method, path + query, body, headers, token)
        self.assertEqual(answer.status, 400, (method, path, query, body, answer.body))
        shown = answer.json()
        return str(shown.get("detail") or shown["error_description"])

    def bodies(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """The calls that take JSON objects whose members are all known, with their schemas."""
        for method, path, operation in calls(self.found):
            schema = schema_of(self.found, operation)
            if schema is not None and "properties" in schema:
                yield method, path, schema

    def queries(self) -> Iterator[tuple[str, str, list[dict[str, Any]]]]:
        for method, path, operation in calls(self.found):
            parameters = [one for one in operation.get("parameters", ()) if one["in"] == "query"]
            if parameters:
                yield method, path, parameters

    def test_members(self) -> None:
        """The members of a body are those that the handler takes."""
        count = 0
        for method, path, schema in self.bodies():
            detail = self.refusal(method, path, body={**self.least(schema), NOBODYS_NAME: 1})
            if "configuration" in detail:
                continue  # of a queue: made from the configuration itself
            self.assertEqual(known_in(detail), set(schema["properties"]), (method, path))
            count += 1
        self.assertGreater(count, 8)

    def least(self, schema: dict[str, Any]) -> dict[str, Any]:
        """What a body has to have, so that the members themselves are looked at."""
        values = {
            "name": "q",
            "url": "https://hooks.example/",
            "topic": "a",
            "message": 1,
            "body": "x",
            "user": "alice",
            "app": "shop",
            "owner": "alice",
            "grantee": "bob",
            "units": 1,
            "id": "a",
        }
        required = schema.get("required") or schema.get("oneOf", [{}])[0].get("required", ())
        return {name: values[name] for name in required if name in values}

    def test_parameters(self) -> None:
        """The parameters of a query are those that the handler takes."""
        count = 0
        for method, path, parameters in self.queries():
            needed = "&topic=a" if any(one["name"] == "topic" for one in parameters) else ""
            detail = self.refusal(method, path, f"?{NOBODYS_NAME}=1{needed}")
            # A token in the query is a way to say who asks, and described as such.
            self.assertEqual(known_in(detail) - {"token"}, {one["name"] for one in parameters}, (method, path))
            count += 1
        self.assertGreater(count, 6)

    def test_ranges_in_queries(self) -> None:
        """The least and the most of a parameter are those that the handler says."""
        count = 0
        for method, path, parameters in self.queries():
            for one in parameters:
                schema = one["schema"]
                if schema.get("type") != "integer":
                    continue
                needed = "&topic=a" if any(other["name"] == "topic" for other in parameters) else ""
                detail = self.refusal(method, path, f"?{one['name']}={schema['maximum'] + 1}{needed}")
                self.assertIn(f"from {schema['minimum']} to {schema['maximum']}", detail)
                count += 1
        self.assertGreater(count, 6)

    def test_ranges_in_bodies(self) -> None:
        """The least and the most of a member are those that the handler says."""
        count = 0
        for method, path, schema in self.bodies():
            for name, one in schema["properties"].items():
                if "{receipt}" in path:
                    continue  # the receipt is looked at first, and this one was never issued
                kinds = one.get("type")
                if "integer" not in (kinds if isinstance(kinds, list) else [kinds]):
                    continue
                body = {**self.least(schema), name: one["maximum"] + 1}
                detail = self.refusal(method, path, body=body)
                self.assertIn(f"{one['minimum']} to {one['maximum']}", detail, (method, path, name))
                count += 1
        self.assertGreater(count, 15)

    def test_required(self) -> None:
        """A body without a required member is refused, and the member is named."""
        for method, path, schema in self.bodies():
            for name in schema.get("required", ()):
                body = self.least(schema)
                body.pop(name, None)
                if len(schema["required"]) > 1 or not body:
                    self.assertIn(name, self.refusal(method, path, body=body), (method, path))

    def test_batch_of_this_gateway(self) -> None:
        """The bounds are those that this gateway is configured with."""
        few = openapi.document(Limits(batch_messages=7))
        operation = few["paths"]["/api/v1/publish/batch"]["post"]
        self.assertEqual(schema_of(few, operation)["properties"]["messages"]["maxItems"], 7)  # type: ignore[index]


class RefusalTests(SynchronousTestCase):
    """Codes."""

    def test_explained(self) -> None:
        """Every code of the gateway is explained, and nothing else."""
        self.assertEqual(set(EXPLAINED), set(codes()))

    def test_named_by_its_own_kind(self) -> None:
        """Where several refusals have one code, the general one gives it its name."""
        self.assertEqual(codes()["invalid_parameter"].title, "A parameter is unknown or out of range")
        self.assertEqual(codes()["internal"].title, Refused.title)

    def test_one_answer_for_a_status(self) -> None:
        """A refusal in words of another protocol does not hide a problem with the same status."""
        for operation in openapi.operations(Limits()):
            statuses = [*operation.replies, *operation.others, *operation.by_status()]
            self.assertEqual(len(statuses), len(set(statuses)), operation.id)


class ExampleTests(SynchronousTestCase):
    """Examples; that they are true is shown by replaying them, in the integration tests."""

    def test_every_operation_has_one(self) -> None:
        """Every operation of our own has an example, or gives a document or figures."""
        without = [one.path for one in openapi.operations(Limits()) if not one.examples and one.tag != "Amazon SQS"]
        documents = ["/openapi.json", "/asyncapi.json", "/docs", "/docs/problems/<code>"]
        self.assertEqual(sorted(without), sorted(["/metrics", "/api/v1/admin/status", *documents]))

    def test_shown(self) -> None:
        """An example's request and answer are found by the same name; each of its values has a place."""
        for one in openapi.operations(Limits()):
            shown = one.shown()
            parameters = {parameter["name"]: parameter.get("examples", {}) for parameter in shown.get("parameters", ())}
            for name, example in one.examples.items():
                for parameter, value in example.parameters.items():
                    self.assertEqual(parameters[parameter][name]["value"], value)
                if example.body is not None:
                    content = shown["requestBody"]["content"][example.media_type]
                    self.assertEqual(content["examples"][name]["value"], example.body)
                answer = shown["responses"][str(example.status)]
                if example.answer is not None:
                    (content,) = answer["content"].values()
                    self.assertEqual(content["examples"][name]["value"], example.answer)

    def test_forms(self) -> None:
        """An example in a form is text, as it is sent."""
        for one in openapi.operations(Limits()):
            for example in one.examples.values():
                self.assertEqual(isinstance(example.body, str), example.media_type != JSON)


class AsyncTests(SynchronousTestCase):
    """``/asyncapi.json`` and the frames of WebSocket."""

    def setUp(self) -> None:
        self.found = asyncapi.document(Limits(), Place("gateway:8080", mqtt=MqttDoor(1883)))
        messages = self.found["channels"]["websocket"]["messages"]
        self.sent = {one["name"]: one for key, one in messages.items() if key.startswith("client")}

    def refusal(self, **frame: object) -> str:
        with self.assertRaises(Refused) as caught:
            frames.parse(orjson.dumps(frame))
        return str(caught.exception.detail)

    def test_actions(self) -> None:
        """The frames of the client are those that the gateway knows."""
        self.assertEqual(set(self.sent), known_in(self.refusal(action=NOBODYS_NAME)))

    def test_members(self) -> None:
        """The members of a frame are those that the gateway takes."""
        for action, message in self.sent.items():
            known = known_in(self.refusal(action=action, **{NOBODYS_NAME: 1}))
            self.assertEqual(known, set(message["payload"]["properties"]), action)

    def test_examples(self) -> None:
        """The examples of the client's frames are frames that the gateway takes."""
        for action, message in self.sent.items():
            for example in message["examples"]:
                self.assertTrue(frames.parse(orjson.dumps(example["payload"])), action)

    def test_servers(self) -> None:
        """Servers are where the reader came by; MQTT over TCP only where it is spoken."""
        self.assertEqual(self.found["servers"]["mqtt"]["host"], "gateway:1883")
        self.assertEqual(self.found["servers"]["websocket"]["protocol"], "ws")
        other = asyncapi.document(Limits(), Place("[::1]:8443", secure=True))
        self.assertEqual(other["servers"]["websocket"]["protocol"], "wss")
        self.assertEqual(other["servers"]["http"]["host"], "[::1]:8443")
        self.assertNotIn("mqtt", other["servers"])


class PlaceTests(SynchronousTestCase):
    """Where a reader has found the gateway."""

    def test_hosts(self) -> None:
        """A host is believed if it is one, with or without a port; anything else is not repeated."""
        for host, shown, name in (
            (b"gateway.example", "gateway.example", "gateway.example"),
            (b"127.0.0.1:8080", "127.0.0.1:8080", "127.0.0.1"),
            (b"[::1]:8080", "[::1]:8080", "::1"),
            (b"[2001:db8::1]", "[2001:db8::1]", "2001:db8::1"),
            (b"", "localhost", "localhost"),
            (b"a b", "localhost", "localhost"),
            (b"<script>", "localhost", "localhost"),
            (b"x:8080'\"", "localhost", "localhost"),
            (b"x$url", "localhost", "localhost"),
            (b"a/../b", "localhost", "localhost"),
            (b"a" * 254, "localhost", "localhost"),
            (b"h\n", "localhost", "localhost"),
        ):
            place = Place.of(host, False, None)
            self.assertEqual((place.host, place.hostname), (shown, name), host)

    def test_addresses(self) -> None:
        """URLs are those of the protocol that the reader came by."""
        plain, secure = Place("h:1", mqtt=MqttDoor(2)), Place("[::1]", secure=True, mqtt=MqttDoor(3, True))
        self.assertEqual((plain.url, plain.socket_scheme, plain.mqtt_host), ("http://h:1", "ws", "h:2"))
        self.assertEqual((secure.url, secure.socket_scheme, secure.mqtt_host), ("https://[::1]", "wss", "[::1]:3"))


class DocumentTests(SynchronousTestCase):
    """What is served."""

    def setUp(self) -> None:
        self.client = HttpClient()

    def page(self, **headers: str) -> str:
        answer = self.client.call("GET", "/docs", headers=headers, token=None)
        self.assertEqual((answer.status, answer.headers["Content-Type"]), (200, "text/html; charset=utf-8"))
        return answer.body.decode()

    def test_json(self) -> None:
        """The documents are given to everybody, and may be kept for five minutes."""
        for path, member, version in (("/openapi.json", "openapi", "3.1.0"), ("/asyncapi.json", "asyncapi", "3.0.0")):
            answer = self.client.call("GET", path, token=None)
            self.assertEqual((answer.status, answer.headers["Content-Type"]), (200, "application/json"))
            self.assertEqual(answer.headers["Cache-Control"], "public, max-age=300")
            self.assertEqual(answer.json()[member], version)

    def test_readers_host(self) -> None:
        """The page has the reader's own host in it, and caches are told so."""
        self.assertIn('curl -X POST "http://gw.example:81/api/v1/publish"', self.page(Host="gw.example:81"))
        self.assertIn("new WebSocket('ws://gw.example:81/ws?", self.page(Host="gw.example:81"))
        self.assertIn("mosquitto_pub -h gw.example -p 1883 \\", self.page(Host="gw.example:81"))
        answer = self.client.call("GET", "/docs", token=None)
        self.assertIn("Host", answer.headers["Vary"])
        served = self.client.call("GET", "/asyncapi.json", headers={"Host": "gw.example"}, token=None).json()
        self.assertEqual(served["servers"]["websocket"]["host"], "gw.example")

    def test_behind_a_proxy(self) -> None:
        """Where a proxy ends TLS the addresses are those of TLS."""
        page = self.page(**{"Host": "gw.example", "X-Forwarded-Proto": "https"})
        self.assertIn('"https://gw.example/api/v1/publish"', page)
        self.assertIn("'wss://gw.example/ws?", page)

    def test_host_that_is_none(self) -> None:
        """What is no host gets nowhere into the page."""
        page = self.page(Host="<script>alert(1)</script>")
        self.assertNotIn("alert(1)", page)
        self.assertIn('"http://localhost/api/v1/publish"', page)

    def test_every_call_and_code(self) -> None:
        """The page has every call and every code, and each link inside leads somewhere."""
        page = self.page()
        for method, path, _ in calls(document()):
            self.assertIn(f"<td><code>{method}</code></td><td><code>{path}</code></td>", page)
        for code in codes():
            self.assertIn(f'href="/docs/problems/{code}"', page)
        anchors = set(re.findall(r' id="([\w-]+)"', page))
        self.assertEqual(set(re.findall(r'href="#([\w-]+)"', page)) - anchors, set())

    def test_policy(self) -> None:
        """Nothing is loaded from anywhere, and only the page's own style and script are let in."""
        answer = self.client.call("GET", "/docs", token=None)
        policy, page = answer.headers["Content-Security-Policy"], answer.body.decode()
        self.assertIn("default-src 'none'", policy)
        self.assertNotIn("unsafe", policy)
        self.assertEqual(re.findall(r'(?:src|href)="(?!/|#|data:,)', page), [])
        self.assertEqual((page.count("<style>"), page.count("<script>"), " style=" in page), (1, 1, False))

    def test_nothing_left_over(self) -> None:
        """No placeholder of a template is left in any page."""
        pages = [self.page(), self.client.call("GET", "/docs/problems/rate_limited", token=None).body.decode()]
        for page in pages:
            self.assertEqual(re.findall(r"\$\w+", page), [])

    def test_problems(self) -> None:
        """Every code has a page, where the type of its problem points to."""
        for code, kind in codes().items():
            answer = self.client.call("GET", f"/docs/problems/{code}", token=None)
            self.assertEqual(answer.status, 200)
            self.assertIn(f"<h1><code>{code}</code></h1>", answer.body.decode())
            self.assertIn(f"status {kind.status}", answer.body.decode())

    def test_no_such_problem(self) -> None:
        """A code that there is not has none."""
        for code in ("nix", quote("<b>"), "../docs"):
            self.assertEqual(self.client.call("GET", f"/docs/problems/{code}", token=None).status, 404)

    def test_head(self) -> None:
        """HEAD has the same head and no body."""
        answer = self.client.call("HEAD", "/docs", token=None)
        self.assertEqual((answer.status, answer.body), (200, b""))
        self.assertGreater(int(answer.headers["Content-Length"]), 1000)
