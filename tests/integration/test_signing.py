"""Signing keys of two gateways on one bus: rotation, and what somebody who verifies tokens sees of it."""

# mypy: disallow-untyped-calls=False
# (trial has no annotations)
from __future__ import annotations

from functools import partial
from typing import Any

import jwt
from twisted.trial.unittest import SynchronousTestCase

from flowgate.auth.tokens import AUDIENCE
from tests.integration.gateway import RunningGateway, until
from tests.integration.two_nodes import two_nodes

SECONDS = 2
"""How long a key is announced here."""


class RotationTests(SynchronousTestCase):
    """A key follows another while tokens are used."""

    def setUp(self) -> None:
        _, (self.one, self.other), _ = two_nodes(self, config=f'[signing]\nannounce = "{SECONDS}s"\n')
        self.key = self.one.key("ann")

    def token(self, node: RunningGateway) -> str:
        status, answer = node.request("POST", "/token/", {"api_key": self.key, "ttl": 86400})
        self.assertEqual(status, 200, answer)
        return str(answer["token"])

    def status(self, node: RunningGateway, token: str) -> int:
        return node.request("POST", "/api/v1/publish", {"topic": "t", "message": "x"}, token)[0]

    def published(self, node: RunningGateway) -> list[dict[str, Any]]:
        keys: list[dict[str, Any]] = node.request("GET", "/.well-known/jwks.json")[1]["keys"]
        return keys

    def verify(self, node: RunningGateway, token: str) -> None:
        """As a program does that knows nothing but the key set."""
        keys = {key["kid"]: jwt.PyJWK(key) for key in self.published(node)}
        key = keys[jwt.get_unverified_header(token)["kid"]]
        jwt.decode(token, key.key, algorithms=["ES256"], audience=AUDIENCE)

    def test_rotation(self) -> None:
        """Tokens are good everywhere before, during and after; a key that is given up is so everywhere, for good."""
        nodes = (self.one, self.other)
        until(lambda: self.other.request("POST", "/token/", {"api_key": self.key})[0] == 200, "both know the key")
        old = self.token(self.one)
        self.one.command("signing-key", "rotate")
        until(lambda: len(self.published(self.other)) == 2, "the other node publishes the new key")
        again = self.other.admin("POST", "/signing-keys/rotate", {"generation": 1})["keys"]
        second, first = (key["id"] for key in again)
        tokens = [old]

        def signed_by_second(node: RunningGateway) -> bool:
            tokens.append(self.token(node))
            for anywhere in nodes:
                self.verify(anywhere, tokens[-1])
                self.assertEqual(self.status(anywhere, tokens[-1]), 200)
            return bool(jwt.get_unverified_header(tokens[-1])["kid"] == second)

        for node in nodes:
            until(partial(signed_by_second, node), "the new key signs")
        self.assertEqual([self.status(node, token) for node in nodes for token in tokens], [200] * 2 * len(tokens))
        self.assertEqual([key["kid"] for key in self.published(self.other)], [second, first])
        lines = self.other.command("signing-key", "list").splitlines()
        self.assertEqual([line.split()[:3] for line in lines], [[second, "2", "signing"], [first, "1", "verifying"]])

        with self.one.events(old, "t") as of_old, self.one.events(tokens[-1], "t") as of_new:
            self.other.command("signing-key", "rotate", "--immediately")
            self.assertTrue(of_old.ended() and of_new.ended())
        for node in nodes:
            self.assertEqual([self.status(node, token) for token in (old, tokens[-1])], [401, 401])
            self.assertEqual(self.status(node, self.token(node)), 200)
        [third] = self.published(self.one)
        self.assertNotIn(third["kid"], (first, second))
        self.one.stop()
        self.one.start()
        self.assertEqual(self.published(self.one), [third])
        self.assertEqual([self.status(self.one, token) for token in (old, tokens[-1])], [401, 401])
