"""Routes found without Klein are those that Klein finds."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from werkzeug.exceptions import HTTPException
from werkzeug.routing import RequestRedirect

from flowgate.http.answers import Route
from flowgate.http.app import make_klein
from flowgate.http.paths import Paths

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
ROUTES = {
    "/": "GET POST",
    "/token/": "POST",
    "/queues": "GET POST",
    "/queues/<name>": "PUT GET PATCH DELETE",
    "/queues/<name>/messages": "GET POST",
    "/queues/<name>/messages/receive": "GET POST",
    "/queues/<name>/messages/<receipt>": "GET PATCH DELETE",
    "/queues/<name>/tasks/<task>": "DELETE",
    "/queues/all/messages": "PUT POST",
    "/topics/<topic:topic>/messages": "GET POST",
    "/<account>/<name>": "GET POST",
}
"""Not every method at every path."""


class PathTests(SynchronousTestCase):
    """:class:`Paths`."""

    def setUp(self) -> None:
        self.routes = [
            Route(method, path, lambda route=(method, path): route)
            for path, methods in ROUTES.items()
            for method in methods.split()
        ]
        self.paths = Paths(self.routes)
        self.handlers: dict[Any, tuple[str, str]] = {route.handler: (route.method, route.path) for route in self.routes}
        self.klein = make_klein(self.routes).url_map.bind("localhost")

    def find(self, method: str, path: str) -> tuple[str, dict[str, str]] | None:
        found = self.paths.find(method.encode(), path.encode())
        if found is None:
            return None
        self.assertEqual(self.handlers[found[0].handler][0], method)
        return self.handlers[found[0].handler][1], found[1]

    def test_parts(self) -> None:
        """The parts of a path are found under their names, and a fixed segment goes before a part."""
        self.assertEqual(self.find("POST", "/queues"), ("/queues", {}))
        self.assertEqual(
            self.find("POST", "/queues/a/messages/receive"), ("/queues/<name>/messages/receive", {"name": "a"})
        )
        self.assertEqual(
            self.find("GET", "/queues/a/messages/b"),
            ("/queues/<name>/messages/<receipt>", {"name": "a", "receipt": "b"}),
        )

    def test_decoding(self) -> None:
        """A part is decoded after the path was divided; what is no text is not found."""
        for text in ("a b", "ö/x", "a?b#c", "..", "%41", "+"):
            name = {"name": text}
            self.assertEqual(self.find("PUT", f"/queues/{quote(text, safe='')}"), ("/queues/<name>", name), text)
        self.assertEqual(self.find("PUT", "/queues/a+b"), ("/queues/<name>", {"name": "a+b"}))
        self.assertEqual(self.find("PUT", "/queues/%zz"), ("/queues/<name>", {"name": "%zz"}))
        for path in (b"/queues/%ff", b"/queues/\xff"):
            self.assertIsNone(self.paths.find(b"PUT", path))

    def test_left_to_klein(self) -> None:
        """Klein is asked about all the rest."""
        for method, path in (
            ("HEAD", "/queues"),
            ("BREW", "/queues"),
            ("DELETE", "/queues"),
            ("POST", "/queues/"),
            ("POST", "//messages"),
            ("POST", "/queues//messages"),
            ("POST", "/queues/a/messages/b/c"),
            ("POST", "/topics/a/messages"),
            ("POST", ""),
            ("POST", "queues"),
        ):
            self.assertIsNone(self.find(method, path), (method, path))

    @given(
        st.sampled_from(METHODS),
        st.lists(
            st.sampled_from(["queues", "messages", "receive", "all", "tasks", "a", "token", "topics"]), max_size=5
        ),
    )
    def test_as_klein(self, method: str, segments: list[str]) -> None:
        """What is found is what Klein would find, with the same parts."""
        path = "/" + "/".join(segments)
        found = self.find(method, path)
        if found is None:
            return
        try:
            rule, parts = self.klein.match(path, method, return_rule=True)
        except (HTTPException, RequestRedirect):
            self.fail(f"Klein does not know {method} {path}")
        self.assertEqual((found[0], found[1]), (rule.rule, parts))
