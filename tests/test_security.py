"""What attackers try first: time, header injection, paths that lead elsewhere."""

from __future__ import annotations

import contextlib
import hmac
import json
import re
from collections.abc import Sequence
from importlib.resources import files
from types import ModuleType
from typing import Any, cast
from unittest import mock
from urllib.parse import quote

from twisted.trial.unittest import SynchronousTestCase

from flowgate.auth import key_text, keys
from flowgate.auth.tokens import TokenService
from flowgate.dashboard.files import Files
from flowgate.errors import Refused
from flowgate.http import operators
from flowgate.http.admin.access import AdminAccess
from flowgate.http.describing import openapi
from flowgate.http.signing import SigningCalls
from flowgate.http.site import make_site
from flowgate.limits import Limits
from flowgate.queues import receipts
from flowgate.queues.receipts import Receipt, Receipts
from flowgate.sqs import signature
from flowgate.sqs.resource import SqsCalls
from tests.http_client import ADMIN_TOKEN, HOME, HttpClient
from tests.sqs.client import SqsSite, signed


class TimeTests(SynchronousTestCase):
    """Checks of secrets do the same work whatever is wrong.

    No time is measured: what is compared, and how often something is calculated, is counted.
    """

    def work(self, modules: Sequence[ModuleType], call: Any, *arguments: Any) -> tuple[int, int]:
        """How often a call that is refused, or not, compares in constant time, and calculates a MAC."""
        counted = mock.Mock(wraps=hmac)
        with contextlib.ExitStack() as stack:
            for module in modules:
                stack.enter_context(mock.patch.object(module, "hmac", counted))
            stack.enter_context(contextlib.suppress(Refused))
            call(*arguments)
        return counted.compare_digest.call_count, counted.digest.call_count

    def test_api_keys(self) -> None:
        """An API key that nobody has is compared like one with a wrong secret, and like one that is right."""
        keyring = HttpClient().keyring
        key, text = self.successResultOf(keyring.create("alice", "shop"))
        revoked, revoked_text = self.successResultOf(keyring.create("alice", "shop"))
        self.successResultOf(keyring.revoke(revoked.id))
        secret = text.partition(".")[2]
        unknown = f"FGAK{'A' * 16}"
        for tried in (
            text,
            f"{key.id}.{'x' * 40}",
            f"{key.id}.{secret[:-1]}x",
            f"{unknown}.{secret}",
            f"{unknown}.{keyring.secret_of(unknown)}",
            revoked_text,
            "",
            "FGAK",
            "x" * 61,
        ):
            self.assertEqual(self.work((keys, key_text), keyring.authenticate, tried), (1, 1), tried)

    def test_admin_token(self) -> None:
        """Any text in place of the admin token is compared as a whole."""
        for tried in (ADMIN_TOKEN, "x", ADMIN_TOKEN + "x", ADMIN_TOKEN[:-1] + "x", "x" * 1000):
            request = mock.Mock(values=lambda _name, tried=tried: [b"Bearer " + tried.encode()])
            self.assertEqual(self.work((operators,), operators.AdminToken(ADMIN_TOKEN).admit, request)[0], 1, tried)

    def test_signatures(self) -> None:
        """A request signed as a key that nobody has is calculated and compared like one with a wrong secret."""
        site = SqsSite()
        key_id, secret = site.key()
        url, headers = "http://gateway/", {"X-Amz-Target": "AmazonSQS.ListQueues"}
        unknown = f"FGAK{'A' * 16}"
        # Four steps to the signing key, which is remembered by the key id, and the signature.
        for tried, steps in (
            ((key_id, secret), 5),
            ((key_id, "x" * 40), 1),
            ((unknown, secret), 5),
            ((unknown, "x"), 1),
        ):
            sent = signed(tried, "POST", url, b"{}", headers)
            counted = mock.Mock(wraps=hmac)
            with mock.patch.object(signature, "hmac", counted):
                site.exchange("POST", url, sent, b"{}")
            self.assertEqual(counted.compare_digest.call_count, 1, tried)
            self.assertEqual(counted.digest.call_count, steps, tried)

    def test_receipts(self) -> None:
        """A receipt that was not issued is compared as a whole too."""
        issuer = Receipts(b"master secret")
        good = issuer.issue(HOME, "q", Receipt("1", 2, 3))
        other = good[:-1] + ("A" if good[-1] != "A" else "B")
        for tried, queue in ((good, "q"), (good, "other"), (other, "q")):
            self.assertEqual(self.work((receipts,), issuer.open, HOME, queue, tried)[0], 1, tried)


EVIL = (
    "x\r\nInjected: yes",
    "x\nInjected: yes",
    "x\rInjected: yes",
    "x\r\n\r\nInjected: yes",
    "x\r\n Injected: yes",
    "x\u560d\u560aInjected: yes",  # whose low bytes are CR and LF
    "x\x85Injected: yes",
    "x\u2028Injected: yes",
    "x\0Injected: yes",
)
"""What would be a header of its own if somebody wrote it into one."""


class _SiteTests(SynchronousTestCase):
    """A site with everything that has routes."""

    def setUp(self) -> None:
        self.client = client = HttpClient()
        client.tokens.jwks = client.signing.jwks  # type: ignore[attr-defined]
        access = AdminAccess(ADMIN_TOKEN)
        client.site = make_site(
            client.gateway,
            cast(TokenService, client.tokens),
            client.accounts,
            client.queues,
            ADMIN_TOKEN,
            {},
            client.wheel,
            client.clock,
            client.now,
            lambda: False,
            [
                *SqsCalls(client.queues, client.keyring, client.now).routes(),
                *SigningCalls(client.signing, client.accounts.audit, access).routes(),
                *Files().routes(),
            ],
        )

    def ask(self, method: str, target: str, body: object = None, headers: dict[str, str] | None = None) -> bytes:
        """The first bytes of an answer: its head, and its body if that has an end."""
        data = b"" if body is None else json.dumps(body).encode()
        sent = {
            "Host": "gateway",
            "Content-Type": "application/json",
            "Content-Length": str(len(data)),
            **(headers or {}),
        }
        sent.setdefault("Authorization", f"Bearer {ADMIN_TOKEN if '/admin/' in target else 'good'}")
        connection = self.client.connect()
        head = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
        connection.send(f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode() + data)
        self.client.settle()
        received = bytes(connection.received)
        connection.lose()
        return received


class HeaderTests(_SiteTests):
    """What a client writes does not become a header of an answer."""

    FIELD = re.compile(rb"[A-Za-z0-9-]+: [\x20-\x7e]*\Z")

    def check(self, received: bytes, what: object) -> None:
        self.assertRegex(received, rb"\AHTTP/1\.1 [1-5][0-9][0-9] [A-Za-z ]+\r\n", what)
        head, _, rest = received.partition(b"\r\n\r\n")
        for line in head.split(b"\r\n")[1:]:
            self.assertRegex(line, self.FIELD, what)
            self.assertFalse(line.lower().startswith(b"injected"), what)
        self.assertNotIn(b"\nInjected", rest, what)
        self.assertNotIn(b"\rInjected", rest, what)

    def test_paths_and_queries(self) -> None:
        """Neither in a part of a path nor in a parameter, of any call."""
        for operation in openapi.document(Limits())["paths"].items():
            path, methods = operation
            for method, described in methods.items():
                names = [one["name"] for one in described.get("parameters", ()) if one["in"] == "query"]
                for evil in EVIL:
                    text = quote(evil, safe="")
                    target = re.sub(r"{\w+}", text, path)
                    query = "&".join(f"{name}={text}" for name in [*names, "unknown"])
                    for tried in (target, f"{target}?{query}", f"{re.sub(r'{.*?}', 'a', path)}?{query}"):
                        self.check(self.ask(method.upper(), tried), (method, tried))

    def test_bodies(self) -> None:
        """Nor in a body."""
        members = (
            "name",
            "topic",
            "message",
            "body",
            "user",
            "app",
            "url",
            "dedup_id",
            "group",
            "api_key",
            "destination",
        )
        for path, methods in openapi.document(Limits())["paths"].items():
            path = re.sub(r"{\w+}", "a", path)
            for method in methods:
                if method in ("get", "delete"):
                    continue
                for evil in EVIL:
                    for name in members:
                        self.check(self.ask(method.upper(), path, {name: evil}), (method, path, name))
                    self.check(self.ask(method.upper(), path, dict.fromkeys(members, evil)), (method, path))
                    self.check(self.ask(method.upper(), path, {evil: 1}), (method, path))

    def test_made_queue(self) -> None:
        """The place of a queue that was made is a header: its name is checked before it stands there."""
        answer = self.ask("POST", "/api/v1/queues", {"name": "good"})
        self.assertIn(b"Location: /api/v1/queues/good\r\n", answer)
        for evil in EVIL:
            answer = self.ask("POST", "/api/v1/queues", {"name": evil})
            self.assertIn(b" 400 ", answer[:20])
            self.assertNotIn(b"Location", answer)

    def test_fields(self) -> None:
        """Nor in another header: what is repeated of one is repeated whole or not at all."""
        evils = ("x\tInjected: yes", "x Injected: yes", "x;Injected: yes", "x,Injected: yes", "é", "x" * 500)
        for path in ("/docs", "/asyncapi.json", "/dashboard/", "/sqs", "/api/v1/queues", "/api/v1/subscribe?topic=a"):
            for name in ("X-Request-Id", "Host", "Origin", "X-Forwarded-Proto", "X-Forwarded-For", "Idempotency-Key"):
                for evil in evils:
                    answer = self.ask("GET", path, headers={name: evil})
                    self.check(answer, (path, name, evil))
                    self.assertNotIn(evil.encode(), answer.partition(b"\r\n\r\n")[0], (path, name, evil))


class PathTests(_SiteTests):
    """Paths that try to lead out of what is served."""

    CLIMBS = (
        "../{}",
        "../../{}",
        "./../{}",
        "%2e%2e/{}",
        "..%2f{}",
        "%2e%2e%2f{}",
        "..%252f{}",
        "%252e%252e/{}",
        "..%5c{}",
        "..\\{}",
        "....//{}",
        "..;/{}",
        "%c0%ae%c0%ae/{}",
        "..%00/{}",
        "{}%00.html",
        "vendor/../../{}",
        "vendor/..%2f..%2f{}",
        "/{}",
        "%2f{}",
        "/etc/passwd",
        "%2fetc%2fpasswd",
        "file:///etc/passwd",
        "",
        ".",
        "..",
    )

    def test_served(self) -> None:
        """What is there is served, so that the rest of this shows something."""
        for name in ("static/" + self.some("static"), "static/vendor/" + self.some("static/vendor"), ""):
            self.assertIn(b" 200 ", self.ask("GET", f"/dashboard/{name}")[:20], name)
        self.assertIn(b" 200 ", self.ask("GET", "/docs/problems/not_found")[:20])

    def some(self, folder: str) -> str:
        """The name of a file that is served."""
        return sorted(one.name for one in (files("flowgate.dashboard") / folder).iterdir() if one.is_file())[0]

    def test_climbing(self) -> None:
        """No spelling of a path leads to a file that is not served."""
        for root in (
            "/docs/",
            "/docs/problems/",
            "/dashboard/static/",
            "/dashboard/static/vendor/",
            "/dashboard/",
            "/",
        ):
            for climb in self.CLIMBS:
                for name in ("files.py", "__init__.py", "site.py", "pages/docs.css", "pyproject.toml", "master.secret"):
                    target = root + climb.format(name)
                    answer = self.ask("GET", target)
                    status = int(answer[9:12])
                    if status == 200:  # one of the pages by another spelling of its path
                        self.assertIn(target, ("/docs/", "/dashboard/", "/", "/dashboard/.."), target)
                    else:
                        self.assertIn(status, (307, 308, 400, 401, 403, 404, 405), target)
                    self.assertNotIn(b"import annotations", answer, target)
                    self.assertNotIn(b"root:", answer, target)

    def test_redirected_home(self) -> None:
        """A redirection leads nowhere else: two slashes at its beginning would name another host."""
        for target in (
            "//evil.example/dashboard",
            "//evil.example/..;/dashboard",
            "/\\evil.example/dashboard",
            "/dashboard",
        ):
            answer = self.ask("GET", target)
            found = re.search(rb"\r\nLocation: (.*?)\r\n", answer)
            if found is not None:
                self.assertRegex(found[1], rb"\A/[^/\\]|\Ahttp://(gateway|localhost)/", target)
