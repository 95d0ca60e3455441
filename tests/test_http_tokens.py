"""The token endpoint and the administration of keys, over real keys and tokens."""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import urlencode

from twisted.internet.defer import fail
from twisted.trial.unittest import SynchronousTestCase

from flowgate.errors import BusUnavailable
from tests.http_client import ADMIN_TOKEN, Answer, HttpClient


class KeyTestCase(SynchronousTestCase):
    """A site with the API key of alice's shop."""

    def setUp(self) -> None:
        self.client = HttpClient(real_tokens=True)
        self.key = str(self.make_key(user="alice", app="shop").json()["key"])

    def make_key(self, **body: object) -> Answer:
        return self.client.call("POST", "/api/v1/admin/keys", body, token=ADMIN_TOKEN)

    def exchange(self, **body: object) -> Answer:
        return self.client.call("POST", "/token/", body, token=None)

    def form(self, headers: dict[str, str] | None = None, path: str = "/token/", **fields: str) -> Answer:
        headers = {"Content-Type": "application/x-www-form-urlencoded", **(headers or {})}
        return self.client.call("POST", path, urlencode(fields).encode(), headers, token=None)

    def token(self, **body: object) -> str:
        return str(self.exchange(api_key=self.key, **body).json()["token"])

    def publish(self, token: str, topic: str = "a") -> int:
        return self.client.call("POST", "/api/v1/publish", {"topic": topic, "message": 1}, token=token).status

    def basic(self, user: str, password: str) -> dict[str, str]:
        return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


class TokenTests(KeyTestCase):
    """``POST /token/``."""

    def test_json(self) -> None:
        """An API key in JSON gets a token that works."""
        answer = self.exchange(api_key=self.key)
        body = answer.json()
        self.assertEqual((answer.status, answer.headers["Cache-Control"]), (200, "no-store"))
        self.assertEqual(body["token"], body.pop("access_token"))
        self.assertEqual(self.publish(body.pop("token")), 200)
        self.assertEqual(
            body,
            {
                "token_type": "Bearer",
                "expires_in": 900,
                "scope": "publish:alice_shop_# subscribe:alice_shop_# queue:*",
                "user": "alice",
                "app": "shop",
                "prefix": "alice_shop_",
            },
        )

    def test_without_slash(self) -> None:
        """The path may end without a slash."""
        self.assertEqual(self.client.call("POST", "/token", {"api_key": self.key}, token=None).status, 200)

    def test_bearer(self) -> None:
        """The API key may be a bearer token, with wishes in JSON or without."""
        self.assertEqual(self.client.call("POST", "/token/", token=self.key).status, 200)
        self.assertEqual(self.client.call("POST", "/token/", {"ttl": 60}, token=self.key).json()["expires_in"], 60)

    def test_basic(self) -> None:
        """Key id and secret may be user and password."""
        headers = self.basic(*self.key.split("."))
        self.assertEqual(self.client.call("POST", "/token/", headers=headers, token=None).status, 200)

    def test_oauth(self) -> None:
        """An OAuth client gets its token with a form, its credentials in the header or in the form."""
        key_id, secret = self.key.split(".")
        self.assertEqual(self.form(self.basic(key_id, secret), grant_type="client_credentials").status, 200)
        answer = self.form(grant_type="client_credentials", client_id=key_id, client_secret=secret, audience="x")
        self.assertEqual(answer.status, 200)

    def test_oauth_scope(self) -> None:
        """A scope narrows the grants."""
        key_id, secret = self.key.split(".")
        answer = self.form(self.basic(key_id, secret), grant_type="client_credentials", scope="publish:a subscribe:b/#")
        self.assertEqual(answer.json()["scope"], "publish:alice_shop_a subscribe:alice_shop_b/#")

    def test_narrowed(self) -> None:
        """Lists narrow the key's grants; short names get the prefix."""
        body = self.exchange(api_key=self.key, publish=["a"], subscribe=[], queues=["q"], ttl=60, app="shop").json()
        self.assertEqual((body["scope"], body["expires_in"]), ("publish:alice_shop_a queue:q", 60))
        self.assertEqual((self.publish(body["token"]), self.publish(body["token"], "b")), (200, 403))

    def refused(self, answer: Answer, status: int, error: str) -> dict[str, Any]:
        """Check that an error has the shape of RFC 6749 section 5.2."""
        body: dict[str, Any] = answer.json()
        self.assertEqual((answer.status, body["error"]), (status, error), body)
        self.assertIn("error_description", body)
        self.assertEqual(answer.headers["Content-Type"], "application/json")
        self.assertEqual(answer.headers["Cache-Control"], "no-store")
        return body

    def test_wrong_key(self) -> None:
        """A wrong key is an invalid client; nothing tells whether its id exists."""
        wrong = self.refused(self.exchange(api_key=self.key[:-1] + "!"), 401, "invalid_client")
        unknown = self.refused(self.exchange(api_key="FGAK" + "A" * 16 + "." + "a" * 40), 401, "invalid_client")
        self.assertEqual(wrong["error_description"], unknown["error_description"])

    def test_challenge(self) -> None:
        """Who came with Basic is answered with Basic; nobody else is, for browsers would open a dialog."""
        answer = self.client.call("POST", "/token/", headers=self.basic("a", "b"), token=None)
        self.refused(answer, 401, "invalid_client")
        self.assertEqual(answer.headers["WWW-Authenticate"], 'Basic realm="flow-gate"')
        self.assertEqual(self.exchange(api_key="x").headers["WWW-Authenticate"], 'Bearer realm="flow-gate"')

    def test_no_key(self) -> None:
        """Without a key there is no token."""
        self.refused(self.exchange(), 401, "invalid_client")
        self.refused(self.form(grant_type="client_credentials"), 401, "invalid_client")

    def test_unreadable_credentials(self) -> None:
        """Credentials that cannot be read are refused, whatever they are."""
        for value, status in (("Basic !", 401), ("Basic /w==", 401), ("Digest x", 401), ("Bearer a b", 400)):
            answer = self.client.call("POST", "/token/", headers={"Authorization": value}, token=None)
            self.assertEqual(answer.status, status, value)

    def test_two_keys(self) -> None:
        """A key comes in one way."""
        answer = self.client.call("POST", "/token/", {"api_key": self.key}, token=self.key)
        self.refused(answer, 400, "invalid_request")

    def test_bad_requests(self) -> None:
        """Members that are unknown or out of range are named."""
        for body in ({"tll": 60}, {"ttl": 59}, {"ttl": 86401}, {"ttl": "60"}, {"publish": "a"}, {"queues": [1]}):
            answer = self.exchange(api_key=self.key, **body)
            found = self.refused(answer, 400, "invalid_request")
            self.assertIn(next(iter(body)), found["error_description"])

    def test_no_json(self) -> None:
        """A body that is no JSON is a bad request."""
        self.refused(self.client.call("POST", "/token/", b"{", token=None), 400, "invalid_request")

    def test_json_sent_as_a_form(self) -> None:
        """What curl does without a header is told apart and explained."""
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        answer = self.client.call("POST", "/token/", {"api_key": self.key}, headers, token=None)
        self.assertIn("application/json", self.refused(answer, 400, "invalid_request")["error_description"])

    def test_grant_type(self) -> None:
        """Only client credentials are exchanged."""
        self.refused(self.form(grant_type="password"), 400, "unsupported_grant_type")

    def test_scope_beyond_the_key(self) -> None:
        """More than the key grants is not to be had."""
        self.refused(self.exchange(api_key=self.key, publish=["a/#/b"]), 400, "invalid_scope")
        narrow = self.make_key(user="alice", app="shop", publish=["a"]).json()["key"]
        self.refused(self.exchange(api_key=narrow, publish=["b"]), 400, "invalid_scope")
        self.refused(self.exchange(api_key=self.key, app="other"), 400, "invalid_scope")
        self.refused(self.form(grant_type="client_credentials", scope="everything"), 400, "invalid_scope")

    def test_disabled_key(self) -> None:
        """A revoked key is told so."""
        self.client.call("DELETE", f"/api/v1/admin/keys/{self.key.split('.')[0]}", token=ADMIN_TOKEN)
        self.assertEqual(
            self.refused(self.exchange(api_key=self.key), 403, "unauthorized_client")["code"], "key_disabled"
        )

    def test_jwks(self) -> None:
        """The public keys may be stored for a while."""
        answer = self.client.call("GET", "/.well-known/jwks.json", token=None)
        self.assertEqual((answer.status, answer.headers["Cache-Control"]), (200, "public, max-age=300"))
        self.assertEqual(answer.json()["keys"][0]["alg"], "ES256")
        self.assertNotIn("d", answer.json()["keys"][0])


class GuessingTests(KeyTestCase):
    """Whoever tries keys is made to wait."""

    def test_wrong_keys(self) -> None:
        """After 60 wrong keys in a minute further ones get 429; a good key works all the same, and the minute ends."""
        wrong = self.key[:-1] + ("a" if self.key[-1] != "a" else "b")
        for _ in range(60):
            self.assertEqual(self.exchange(api_key=wrong).status, 401)
        self.client.clock.advance(20)
        refused = self.exchange(api_key="FGAKAAAAAAAAAAAAAAAA.x")
        self.assertEqual((refused.status, refused.headers["Retry-After"]), (429, "40"))
        self.assertEqual(refused.json()["code"], "rate_limited")
        self.assertEqual(self.exchange(api_key=self.key).status, 200)
        self.client.clock.advance(40)
        self.assertEqual(self.exchange(api_key=wrong).status, 401)


class RevokeTests(KeyTestCase):
    """``POST /token/revoke`` (RFC 7009)."""

    def test_revoked(self) -> None:
        """A revoked token is good for nothing; another one of the same key is."""
        token, other = self.token(), self.token()
        self.assertEqual(self.form(path="/token/revoke", token=token).status, 200)
        self.assertEqual((self.publish(token), self.publish(other)), (401, 200))

    def test_other_ways(self) -> None:
        """The token may come in JSON or as the bearer token too."""
        first, second = self.token(), self.token()
        self.client.call("POST", "/token/revoke", {"token": first}, token=None)
        self.client.call("POST", "/token/revoke", token=second)
        self.assertEqual((self.publish(first), self.publish(second)), (401, 401))

    def test_again(self) -> None:
        """An invalid token is no error (section 2.2)."""
        self.assertEqual(self.form(path="/token/revoke", token="nonsense").status, 200)

    def test_suspended(self) -> None:
        """A token that is revoked during a suspension does not come back with its user."""
        token = self.token()
        for suspended in (True, False):
            self.successResultOf(self.client.keyring.suspend("alice", suspended))
            if suspended:
                self.assertEqual(self.publish(token), 403)
                self.assertEqual(self.form(path="/token/revoke", token=token).status, 200)
        self.assertEqual(self.publish(token), 401)

    def test_nothing(self) -> None:
        """Without a token there is nothing to revoke."""
        self.assertEqual(self.client.call("POST", "/token/revoke", token=None).json()["error"], "invalid_request")

    def test_store_away(self) -> None:
        """A revocation that could not be stored is not confirmed."""
        token = self.token()
        self.patch(self.client.store, "put", lambda *_: fail(BusUnavailable()))
        answer = self.form(path="/token/revoke", token=token)
        self.assertEqual((answer.status, answer.json()["error"]), (503, "temporarily_unavailable"))
        self.assertIn("Retry-After", answer.headers)


class AdministrationTests(KeyTestCase):
    """``/api/v1/admin/…``."""

    def call(self, method: str, path: str, body: object = None, token: str | None = ADMIN_TOKEN) -> Answer:
        return self.client.call(method, f"/api/v1/admin/{path}", body, token=token)

    def test_admin_token(self) -> None:
        """Only the admin token opens the administration; an API key or a token does not."""
        for token, code in (
            (None, "missing_token"),
            ("x", "invalid_token"),
            (self.key, "invalid_token"),
            (self.token(), "invalid_token"),
        ):
            for method, path in (
                ("GET", "keys"),
                ("POST", "keys"),
                ("DELETE", "keys/x"),
                ("GET", "users"),
                ("POST", "users"),
                ("POST", "users/alice/suspend"),
            ):
                answer = self.call(method, path, token=token)
                self.assertEqual((answer.status, answer.json()["code"]), (401, code), path)

    def test_key(self) -> None:
        """A new key is shown once, with what it is for."""
        answer = self.call("POST", "keys", {"user": "bob", "app": "cafe", "name": "till", "expires_days": 2})
        body = answer.json()
        self.assertEqual(answer.status, 201)
        self.assertEqual(body["key"].split(".")[0], body["id"])
        self.assertEqual((body["user"], body["app"], body["name"]), ("bob", "cafe", "till"))
        self.assertEqual(body["expires_at"] - body["created_at"], 2 * 86400)

    def test_keys(self) -> None:
        """The list has everything but the secrets."""
        self.call("POST", "keys", {"user": "bob", "app": "cafe", "publish": ["a"], "queues": ["q"]})
        answer = self.call("GET", "keys")
        self.assertNotIn(self.key.split(".")[1].encode(), answer.body)
        keys = {key["user"]: key for key in answer.json()["keys"]}
        self.assertEqual(keys["alice"]["publish"], ["alice_shop_#"])
        bob = keys["bob"]
        self.assertEqual((bob["publish"], bob["subscribe"], bob["queues"]), (["bob_cafe_a"], [], ["q"]))
        self.assertEqual(
            set(bob),
            {
                *("id", "user", "app", "name", "publish", "subscribe", "queues", "created_at", "expires_at"),
                *("last_used_at", "disabled", "successor"),
            },
        )

    def test_revoke(self) -> None:
        """A revoked key stays in the list, disabled; its tokens are good for nothing."""
        token = self.token()
        answer = self.call("DELETE", f"keys/{self.key.split('.')[0]}")
        self.assertEqual((answer.status, answer.body), (204, b""))
        self.assertTrue(self.call("GET", "keys").json()["keys"][0]["disabled"])
        self.assertEqual(self.publish(token), 401)

    def test_revoke_unknown(self) -> None:
        """A key that there is not cannot be revoked."""
        self.assertEqual(self.call("DELETE", "keys/FGAKX").status, 404)

    def test_bad_keys(self) -> None:
        """Names and values are checked."""
        for body, code in (
            ({"user": "bob"}, "missing_field"),
            ({"user": "Bob", "app": "cafe"}, "invalid_parameter"),
            ({"user": "b_b", "app": "cafe"}, "invalid_parameter"),
            ({"user": "bob", "app": "cafe", "expires_days": 0}, "invalid_parameter"),
            ({"user": "bob", "app": "cafe", "publish": ["a/#/b"]}, "invalid_topic"),
            ({"user": "bob", "app": "cafe", "scope": "x"}, "invalid_parameter"),
        ):
            answer = self.call("POST", "keys", body)
            self.assertEqual((answer.status, answer.json()["code"]), (400, code), body)

    def test_users(self) -> None:
        """Users are made and listed."""
        answer = self.call("POST", "users", {"user": "carol"})
        self.assertEqual((answer.status, answer.json()["user"]), (201, "carol"))
        users = self.call("GET", "users").json()["users"]
        self.assertEqual([user["user"] for user in users], ["alice", "carol"])

    def test_suspend(self) -> None:
        """A suspended user's tokens are refused until the suspension ends."""
        token = self.token()
        answer = self.call("POST", "users/alice/suspend", {"suspended": True})
        self.assertEqual((answer.status, answer.json()["suspended"]), (200, True))
        self.assertEqual(self.publish(token), 403)
        self.call("POST", "users/alice/suspend", {"suspended": False})
        self.assertEqual(self.publish(token), 200)

    def test_suspend_needs_a_word(self) -> None:
        """Nobody is suspended, or freed, by an empty body."""
        self.assertEqual(self.call("POST", "users/alice/suspend", {}).json()["code"], "missing_field")
