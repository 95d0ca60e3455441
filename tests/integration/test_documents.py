"""``/openapi.json`` and ``/asyncapi.json``: held against their official validators, and against a running gateway."""

# mypy: disable-error-code="import-untyped, no-any-unimported"
# (jsonschema has no annotations)
from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote, urlencode

from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from flowgate.http.describing.accounts import KEY, TOKEN
from flowgate.http.describing.values import JSON
from tests.integration.gateway import PATIENCE, RunningGateway, WebSocketClient, until
from tests.integration.programs import find
from tests.integration.replaying import Replay

PROGRAMS = Path(__file__).with_name("document_programs")

STORY = """
createKey till
listAudit till
listKeys keys
describeKey key
describeUser alice
issueToken json
issueToken narrowed
issueToken form
issueToken no_key
revokeToken json
keysOfTokens keys
usage usage
changeBalance paid
userUsage alice
ledger page
createUser bob
listUsers users
setPlan bob
createShare sales
listShares alice
describeShare sales
revokeShare sales
suspendUser bob
deleteUser bob
createSignInLink alice
publish hello
publish order
publish order_again
publish reused
publish misspelt
publish state
publishBatch two
publish text
listTopics sales
history sales
retained states
subscribe all
makeQueue dead
configureQueue orders
configureQueue differing
listQueues orders
describeQueue orders
changeQueue tags
sendMessage order
peekMessages orders
receiveMessages wait
changeVisibility longer
changeVisibilities longer
deleteMessage order
deleteMessage never_issued
sendMessages two
receiveMessagesByQuery one
deleteMessages receipts
receiveMessagesShort none
deadLetterSources dead
startRedrive orders
listRedrives tasks
cancelRedrive none
subscribeQueue sales
subscriptionsOfQueue sales
unsubscribeQueue sales
configureWebhook crm
listWebhooks all
describeWebhook crm
renewSecret crm
removeWebhook crm
purgeQueue orders
removeQueue orders
sqsByQuery welcome
alive alive
ready ready
listSigningKeys first
rotateSigningKeys announced
rotateKey till
revokeKey key
"""
"""All examples, by operation and name, in an order in which each of them is true."""


FRAMES = (
    ("subscribe", "resume"),
    ("subscribe", "silent"),
    ("publish", "silent"),
    ("publish", "publish"),
    ("publish", "refused"),
    ("ping", "ping"),
    ("auth", "auth"),
    ("subscribe", "gap"),
    ("unsubscribe", "unsubscribe"),
    ("subscribe", "present"),
    ("who", "who"),
)
"""All examples of frames that a client sends, in an order in which each of them is true."""


class Call:
    """One example of an operation, put together from the places where OpenAPI has its parts."""

    def __init__(self, method: str, path: str, operation: dict[str, Any], name: str) -> None:
        self.method = method.upper()
        self.path = path
        self.security = [next(iter(one), "") for one in operation["security"]]
        self.parameters = [
            (one["in"], one["name"], one["examples"][name]["value"])
            for one in operation.get("parameters", ())
            if name in one.get("examples", ())
        ]
        self.body: Any = None
        self.media_type = ""
        for kind, content in operation.get("requestBody", {}).get("content", {}).items():
            if name in content.get("examples", ()):
                self.media_type, self.body = kind, content["examples"][name]["value"]
        self.answer: Any = None
        self.statuses: list[int] = []
        self.schema: dict[str, Any] | None = None
        for status, answer in operation["responses"].items():
            contents = answer.get("content", {})
            for content in contents.values():
                if name in content.get("examples", ()):
                    self.statuses.append(int(status))
                    self.answer = content["examples"][name]["value"]
                    self.schema = content["schema"]
            if not contents and not self.statuses:
                self.statuses.append(int(status))  # what has no body can only be shown by its request

    def target(self, replay: Replay) -> str:
        path, query = self.path, []
        for place, name, value in self.parameters:
            shown = replay.real(value)
            if place == "path":
                path = path.replace("{" + name + "}", quote(str(shown), safe=""))
            elif place == "query":
                query += [(name, one) for one in (shown if isinstance(shown, list) else [shown])]
        return path + ("?" + urlencode(query) if query else "")

    def headers(self, replay: Replay) -> dict[str, str]:
        return {name: replay.real(value) for place, name, value in self.parameters if place == "header"}


def names(operation: dict[str, Any]) -> list[str]:
    """The names of an operation's examples, wherever they stand."""
    found: dict[str, None] = {}
    places = [*operation.get("parameters", ()), *operation.get("requestBody", {}).get("content", {}).values()]
    for answer in operation["responses"].values():
        places += answer.get("content", {}).values()
    for place in places:
        found |= dict.fromkeys(place.get("examples", ()))
    return list(found)


class DocumentCase(SynchronousTestCase):
    """A gateway and its documents."""

    def setUp(self) -> None:
        self.gateway = RunningGateway()
        self.addCleanup(self.gateway.clean_up)
        self.gateway.start()

    def document(self, name: str) -> dict[str, Any]:
        status, found = self.gateway.request("GET", f"/{name}.json")
        self.assertEqual(status, 200)
        document: dict[str, Any] = found
        return document


class OpenApiTests(DocumentCase):
    """``/openapi.json``."""

    def examples(self) -> Iterator[tuple[str, Call]]:
        for path, methods in self.document("openapi")["paths"].items():
            for method, operation in methods.items():
                for name in names(operation):
                    yield f"{operation['operationId']} {name}", Call(method, path, operation, name)

    def test_valid(self) -> None:
        """The document is one of OpenAPI 3.1, and every schema in it is one of JSON Schema."""
        document = self.document("openapi")
        self.assertEqual([error.message for error in OpenAPIV31SpecValidator(document).iter_errors()], [])
        for schema in document["components"]["schemas"].values():
            OAS31Validator.check_schema(schema)

    def test_examples(self) -> None:
        """Every example in the document comes true: what is sent is taken, and what comes is what is shown."""
        components = self.document("openapi")["components"]
        calls = dict(self.examples())
        story = STORY.split("\n")[1:-1]
        self.assertEqual(sorted(story), sorted(calls))
        replay = Replay()
        for step in story:
            call = calls[step]
            if step == "listRedrives tasks":
                until(partial(self.completed, call, replay), "the messages are moved")
            status, answer = self.send(call, replay)
            if step.startswith("createKey"):
                replay.learn(*(key.partition(".")[2] for key in (KEY, answer["key"])))
            with self.subTest(step):
                self.assertIn(status, call.statuses, answer)
                if call.answer is not None:
                    replay.check(call.answer, answer)
                if call.schema is not None:
                    schema = {**call.schema, "components": components}
                    errors = [error.message for error in OAS31Validator(schema).iter_errors(answer)]
                    self.assertEqual(errors, [])

    def completed(self, call: Call, replay: Replay) -> bool:
        return "completed" in str(self.send(call, replay))

    def send(self, call: Call, replay: Replay) -> tuple[int, Any]:
        token = None
        if "admin" in call.security:
            token = (self.gateway.data / "admin.token").read_text().strip()
        elif "token" in call.security and "" not in call.security:
            token = replay.real(TOKEN)
        target, headers, body = call.target(replay), call.headers(replay), replay.real(call.body)
        if call.path == "/api/v1/subscribe":
            return self.stream(target, str(token), call.answer)
        if call.media_type not in ("", JSON):
            body, headers["Content-Type"] = body.encode(), call.media_type
        status, answer = self.gateway.request(call.method, target, body, token, headers)
        return status, answer if answer != b"" else None

    def stream(self, target: str, token: str, expected: str) -> tuple[int, str]:
        """What a stream begins with, with the ids of the example in place of the real ones."""
        head = f"GET {target} HTTP/1.0\r\nHost: gateway\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
        with self.gateway.raw(self.gateway.http, head) as connection, connection.makefile("rb") as stream:
            status = int(stream.readline().split()[1])
            while stream.readline().strip():
                pass
            shown = b"".join(stream.readline() for _ in range(expected.count("\n"))).decode()
        return status, shown


class AsyncApiTests(DocumentCase):
    """``/asyncapi.json``."""

    def examples(self, channel: str, kind: str) -> dict[tuple[str, str], dict[str, Any]]:
        """The examples of a channel's messages whose keys begin with ``kind``, by message and name."""
        messages = self.document("asyncapi")["channels"][channel]["messages"]
        return {
            (message["name"], example["name"]): example
            for key, message in messages.items()
            if key.startswith(kind)
            for example in message.get("examples", ())
        }

    def test_valid(self) -> None:
        """The official parser finds nothing wrong; it advises another version."""
        find("node")
        if not (PROGRAMS / "node_modules" / "@asyncapi" / "parser").is_dir():
            raise SkipTest("the parser of AsyncAPI is not installed: npm install in document_programs")
        judged = subprocess.run(
            ["node", str(PROGRAMS / "with_asyncapi.cjs")],
            input=json.dumps(self.document("asyncapi")),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=True,
        )
        found = json.loads(judged.stdout)
        self.assertEqual(found["version"], "3.0.0")
        self.assertEqual([one["code"] for one in found["diagnostics"]], ["asyncapi-latest-version"])

    def test_websocket(self) -> None:
        """Every example of a frame comes true: each of the client is taken, and answered as is shown."""
        sent, answers = self.examples("websocket", "client"), self.examples("websocket", "gateway")
        self.assertEqual(sorted(FRAMES), sorted(sent))
        names = {name for _, name in FRAMES} | {"joined", "going_away"}
        self.assertEqual({name for _, name in answers} - names, set())
        replay = Replay()
        replay.learn("YOUR_JWT_TOKEN", self.gateway.token("ann"))
        with self.gateway.websocket(replay.real("YOUR_JWT_TOKEN")) as client:
            for index, (action, name) in enumerate(FRAMES):
                client.send(**replay.real(sent[action, name]["payload"]))
                if name not in {later for _, later in FRAMES[index + 1 :]}:
                    self.check(answers, name, client, replay)
            with self.gateway.websocket(replay.real("YOUR_JWT_TOKEN")) as other:
                other.send(**sent["subscribe", "present"]["payload"])
                self.check(answers, "joined", client, replay)
            assert self.gateway.process is not None
            self.gateway.process.terminate()
            self.check(answers, "going_away", client, replay)

    def check(self, answers: dict[tuple[str, str], Any], name: str, client: WebSocketClient, replay: Replay) -> None:
        """Take as many frames as the document shows under a name, in any order."""
        expected = {action: example["payload"] for (action, other), example in answers.items() if other == name}
        frames = {frame["action"]: frame for frame in client.receive(len(expected))}
        self.assertEqual(frames.keys(), expected.keys(), name)
        for action in sorted(expected):
            replay.check(expected[action], frames[action])

    def test_events(self) -> None:
        """Every example of an event comes true."""
        examples = {example["name"]: example for example in self.examples("events", "").values()}
        token, replay = self.gateway.token("ann"), Replay()
        stored = examples.pop("stored")
        body = {"topic": stored["payload"]["topic"], "message": stored["payload"]["data"]}
        self.assertEqual(self.gateway.request("POST", "/api/v1/publish", body, token)[0], 200)
        with self.gateway.events(token, "#", last="0-7") as stream:
            events = {event["event"]: event for event in stream.receive(2)}
        replay.check(stored["payload"], events["message"]["data"])
        self.assertEqual(events["message"].keys() - {"data", "retry"}, stored["headers"].keys())
        gap = examples.pop("gap")
        replay.check(gap["payload"], events["gap"]["data"])
        self.assertEqual(events["gap"].keys() - {"data", "retry"}, gap["headers"].keys())
        self.assertEqual(examples, {})

    def test_mqtt(self) -> None:
        """The example of a packet is delivered as it is."""
        [example] = self.examples("mqtt", "packet").values()
        payload = example["payload"].encode()
        with self.gateway.mqtt_client(self.gateway.token("ann")) as client:
            client.subscribe("notifications")
            client.publish("notifications", payload, qos=1)
            self.assertEqual(client.receive(1), [("notifications", payload, 1)])

    def test_servers(self) -> None:
        """The servers are those that are there."""
        servers = self.document("asyncapi")["servers"]
        self.assertEqual(servers["websocket"]["host"], f"127.0.0.1:{self.gateway.http}")
        self.assertEqual(servers["mqtt"]["host"], f"127.0.0.1:{self.gateway.mqtt}")


CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)


class SchemathesisTests(DocumentCase):
    """schemathesis makes requests of the document, good and bad ones, and looks at the answers.

    No answer is a 500, and every status, content type, header field and body is one that the document has.
    """

    def judge(self, token: str | None, *options: str) -> None:
        """Let it make requests.

        :param token: for the ``Authorization`` header.
        """
        program = Path(sys.executable).with_name("schemathesis")
        if not program.exists():
            raise SkipTest("schemathesis is not installed")
        with TemporaryDirectory(prefix="flowgate-test-") as directory:
            document = Path(directory) / "openapi.json"
            document.write_text(json.dumps(harmless(self.document("openapi"))))
            headers = () if token is None else ("--header", f"Authorization: Bearer {token}")
            judged = subprocess.run(
                [
                    *(str(program), "run", str(document), "--url", f"http://127.0.0.1:{self.gateway.http}"),
                    *("--checks", ",".join(CHECKS), "--phases", "examples,coverage,fuzzing", "--seed", "5"),
                    *("--max-examples", "15", "--generation-database", "none", "--suppress-health-check", "all"),
                    *("--request-timeout", str(PATIENCE), "--no-color", "--warnings", "off"),
                    *headers,
                    *options,
                ],
                capture_output=True,
                text=True,
                timeout=300,
                cwd=directory,
                check=False,
            )
        self.assertEqual(judged.returncode, 0, judged.stdout[-6000:] + judged.stderr[-2000:])
        self.assertNotIn(" 0 generated", judged.stdout)
        self.assertEqual(self.gateway.request("GET", "/readyz")[0], 200)
        self.assertNotIn("Traceback", self.gateway.log())

    def test_calls(self) -> None:
        """The calls of topics and queues; not the stream, which does not end."""
        others = "^/(token|api/v1/admin|api/v1/subscribe)"
        token = self.gateway.token("ann")
        self.judge(token, "--exclude-path-regex", others, "--exclude-tag", "Amazon SQS")

    def test_administration(self) -> None:
        """The calls of whoever holds the admin token."""
        token = (self.gateway.data / "admin.token").read_text().strip()
        self.judge(token, "--include-path-regex", "^/api/v1/admin")

    def test_tokens(self) -> None:
        """The calls for tokens, by somebody without a key: no token that is needed can be revoked."""
        self.judge(None, "--include-path-regex", "^/token")

    def test_sqs(self) -> None:
        """Where the protocol of Amazon SQS is, by somebody who does not speak it."""
        self.judge(None, "--include-tag", "Amazon SQS")

    def test_nobody(self) -> None:
        """All calls by somebody without a token, the stream too."""
        self.judge(None, "--exclude-path-regex", "^/token", "--exclude-tag", "Amazon SQS")


def harmless(document: dict[str, Any]) -> dict[str, Any]:
    """The document of a gateway that may be asked anything without harm.

    Nobody waits for messages: they would be waited for long, in vain.  Webhooks lead nowhere.
    """

    def narrow(part: Any) -> None:
        if isinstance(part, dict):
            for name, one in part.items():
                if isinstance(one, dict) and "maximum" in one and "wait" in (name, part.get("name")):
                    one["maximum"] = 0
                elif isinstance(one, dict) and name == "url" and "pattern" in one:
                    one["enum"] = ["https://hooks.invalid/"]
                narrow(one)
        elif isinstance(part, list):
            for one in part:
                narrow(one)

    narrow(document)
    return document
