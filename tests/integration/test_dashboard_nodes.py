"""Sessions of the dashboard on two nodes of one gateway."""

from __future__ import annotations

import http.client
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.integration.gateway import PATIENCE, RunningGateway, until
from tests.integration.two_nodes import two_nodes

PASSWORD = "correct horse battery"


class Visitor:
    """What a browser keeps of a session."""

    def __init__(self) -> None:
        self.cookie = ""
        self.csrf = ""

    def ask(self, node: RunningGateway, method: str, path: str, body: object = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", node.http, timeout=PATIENCE)
        try:
            headers = {"Content-Type": "application/json", "Cookie": self.cookie, "X-CSRF-Token": self.csrf}
            data = None if body is None else json.dumps(body)
            connection.request(method, f"/dashboard/api/{path}", data, headers)
            answer = connection.getresponse()
            text = answer.read()
            given = answer.getheader("Set-Cookie")
        finally:
            connection.close()
        shown: Any = json.loads(text) if text else {}
        if given is not None and "Max-Age=0" not in given:
            self.cookie = given.partition(";")[0]
            self.csrf = shown["csrf"]
        return answer.status, shown

    def user(self, node: RunningGateway) -> str | None:
        found: str | None = self.ask(node, "GET", "session")[1]["user"]
        return found


class NodeTests(SynchronousTestCase):
    """What one node does is known to the other."""

    def test_sessions(self) -> None:
        """A session begun on one node is good on the other at once; ended on one, it is over on both; of those who use
        a link at the same time on both one gets in."""
        _, (one, other), _ = two_nodes(self)
        link = one.admin("POST", "/users/ann/link", {"admin": True})["link"].partition("#link=")[2]
        here, there = Visitor(), Visitor()
        body = {"link": link, "app": "shop", "password": PASSWORD}
        self.assertEqual(here.ask(other, "POST", "link/use", body)[0], 200)
        self.assertEqual(Visitor().ask(one, "POST", "link/use", body)[0], 401)
        self.assertEqual(here.user(one), "ann")
        status, made = here.ask(one, "POST", "keys", {"app": "shop", "name": "x"})
        self.assertEqual(status, 201)
        until(lambda: here.ask(other, "DELETE", f"keys/{made['id']}")[0] == 204, "the other node knows the key")
        status, _ = there.ask(one, "POST", "session", {"user": "ann", "password": PASSWORD})
        self.assertEqual((status, there.user(other)), (200, "ann"))
        self.assertEqual(here.ask(one, "POST", "password", {"old": PASSWORD, "new": PASSWORD + "!"})[0], 200)
        self.assertEqual(here.user(other), "ann")
        until(lambda: there.user(other) is None, "the session of the old password is over on the other node")
        self.assertEqual(here.ask(other, "DELETE", "session")[0], 204)
        until(lambda: here.user(one) is None, "the session is over on the first node")
        self.assertEqual(len(here.ask(one, "GET", "session")[1].keys() & {"csrf", "apps"}), 0)
        link = one.admin("POST", "/users/ann/link", {})["link"].partition("#link=")[2]
        body = {"link": link, "password": PASSWORD}
        with ThreadPoolExecutor(4) as at_once:
            answers = list(at_once.map(lambda node: Visitor().ask(node, "POST", "link/use", body)[0], (one, other) * 2))
        self.assertEqual(sorted(answers), [200, 401, 401, 401])
        for node in (one, other):
            self.assertNotIn(PASSWORD, node.log())
