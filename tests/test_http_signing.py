"""The calls of signing keys, and the key set."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from flowgate.auth.signing import ANNOUNCE, LONGEST_LIFE, MAX_AGE, MOST_KEYS
from flowgate.http.admin.access import AdminAccess
from flowgate.http.app import Root
from flowgate.http.signing import SigningCalls
from flowgate.http.tokens import TokenEndpoint
from tests.http_client import ADMIN_TOKEN, NOW, Answer, HttpClient

PATH = "/api/v1/admin/signing-keys"


class SigningTests(SynchronousTestCase):
    """``/api/v1/admin/signing-keys…``, and ``/.well-known/jwks.json`` with more than one key."""

    def setUp(self) -> None:
        self.client = HttpClient(real_tokens=True)
        access = AdminAccess(ADMIN_TOKEN)
        calls = SigningCalls(self.client.signing, self.client.accounts.audit, access)
        tokens = TokenEndpoint(self.client.token_service, self.client.keyring, self.client.clock.seconds)
        self.client.site.resource = Root([*calls.routes(), *tokens.routes()], {}, lambda: False)

    def rotate(self, body: object = None, token: str | None = ADMIN_TOKEN) -> Answer:
        return self.client.call("POST", f"{PATH}/rotate", body, token=token)

    def keys(self) -> list[dict[str, Any]]:
        answer = self.client.call("GET", PATH, token=ADMIN_TOKEN)
        self.assertEqual(answer.status, 200, answer.body)
        keys: list[dict[str, Any]] = answer.json()["keys"]
        return keys

    def published(self) -> list[str]:
        answer = self.client.call("GET", "/.well-known/jwks.json", token=None)
        self.assertEqual(answer.headers["Cache-Control"], f"public, max-age={MAX_AGE}")
        return [key["kid"] for key in answer.json()["keys"]]

    def test_admin_token(self) -> None:
        """Nobody else may see or rotate the keys."""
        for method, path in (("GET", PATH), ("POST", f"{PATH}/rotate")):
            self.assertEqual(self.client.call(method, path, token=None).status, 401)
            self.assertEqual(self.client.call(method, path, token="other").status, 401)
        self.assertEqual(len(self.published()), 1)

    def test_rotation(self) -> None:
        """A new key is listed and published, then signs, then stands alone."""
        [first] = self.keys()
        self.assertEqual(
            first,
            {
                "id": self.published()[0],
                "generation": 1,
                "use": "signing",
                "published_at": 0,
                "signs_from": 0,
                "retired_at": None,
            },
        )
        answer = self.rotate()
        self.assertEqual((answer.status, answer.json()["keys"]), (201, self.keys()))
        second, kept = self.keys()
        now, signs = int(NOW), int(NOW) + ANNOUNCE
        self.assertEqual((second["use"], second["published_at"], second["signs_from"]), ("announced", now, signs))
        self.assertEqual(kept, {**first, "retired_at": signs + LONGEST_LIFE + MAX_AGE})
        self.assertEqual(self.published(), [first["id"], second["id"]])
        self.client.clock.advance(ANNOUNCE)
        self.assertEqual([key["use"] for key in self.keys()], ["signing", "verifying"])
        self.assertEqual(self.published(), [second["id"], first["id"]])
        self.client.clock.advance(LONGEST_LIFE + MAX_AGE)
        self.assertEqual(self.published(), [second["id"]])

    def test_again(self) -> None:
        """While a key is announced, nothing is done; neither for who knows an older one as the newest."""
        self.assertEqual(self.rotate({"generation": 1}).status, 201)
        self.assertEqual(self.rotate().status, 200)
        self.client.clock.advance(ANNOUNCE)
        self.assertEqual(self.rotate({"generation": 1, "immediately": True}).status, 200)
        self.assertEqual(len(self.keys()), 2)

    def test_immediately(self) -> None:
        """A key that is given up is in no list any more."""
        [old] = self.keys()
        self.assertEqual(self.rotate({"immediately": True}).status, 201)
        [new] = self.keys()
        self.assertEqual((new["generation"], new["use"]), (2, "signing"))
        [entry] = self.successResultOf(self.client.accounts.audit.page())
        self.assertEqual((entry.action, entry.subject, entry.user), ("signing-key.rotate", old["id"], ""))
        self.assertEqual((entry.actor.kind, entry.detail), ("admin", {"immediately": True}))
        self.assertNotEqual(new["id"], old["id"])
        self.assertEqual(self.published(), [new["id"]])

    def test_bad_values(self) -> None:
        """What is misspelt or of another kind is refused."""
        for body in ({"immediate": True}, {"immediately": "yes"}, {"generation": 0}, {"generation": "1"}):
            answer = self.rotate(body)
            self.assertEqual((answer.status, answer.json()["code"]), (400, "invalid_parameter"), body)
        self.assertEqual(len(self.keys()), 1)

    def test_too_many(self) -> None:
        """So many keys verify at a time, no more."""
        for _ in range(MOST_KEYS - 1):
            self.assertEqual(self.rotate().status, 201)
            self.client.clock.advance(ANNOUNCE)
        answer = self.rotate()
        self.assertEqual((answer.status, answer.json()["code"]), (409, "conflict"))
