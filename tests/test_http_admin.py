"""``/api/v1/admin/…``: users, keys, shares and the audit log."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.http_client import ADMIN_TOKEN, NOW, Answer, HttpClient

CALLS = (
    ("GET", "users/alice"),
    ("DELETE", "users/alice"),
    ("PUT", "users/alice/plan"),
    ("GET", "keys/x"),
    ("POST", "keys/x/rotate"),
    ("GET", "shares"),
    ("POST", "shares"),
    ("GET", "shares/x"),
    ("DELETE", "shares/x"),
    ("GET", "audit"),
)


class AdminTestCase(SynchronousTestCase):
    """A site with two accounts."""

    def setUp(self) -> None:
        self.client = HttpClient(real_tokens=True)
        self.key = self.make_key("alice", "shop", name="till")
        self.key_id = self.key.partition(".")[0]
        self.call("POST", "users", {"user": "bob", "plan": "free"})

    def call(self, method: str, path: str, body: object = None, token: str | None = ADMIN_TOKEN, **more: Any) -> Answer:
        return self.client.call(method, f"/api/v1/admin/{path}", body, token=token, **more)

    def refused(self, status: int, code: str, method: str, path: str, body: object = None) -> None:
        answer = self.call(method, path, body)
        self.assertEqual((answer.status, answer.json()["code"]), (status, code), (method, path, body))

    def make_key(self, user: str, app: str, **more: Any) -> str:
        return str(self.call("POST", "keys", {"user": user, "app": app, **more}).json()["key"])

    def token(self, key: str) -> str:
        return str(self.client.call("POST", "/token/", {"api_key": key}, token=None).json()["token"])

    def publish(self, token: str, topic: str) -> int:
        return self.client.call("POST", "/api/v1/publish", {"topic": topic, "message": 1}, token=token).status


class AccessTests(AdminTestCase):
    """Who may."""

    def test_admin_token(self) -> None:
        """Without the admin token nothing is told or done."""
        before = len(self.client.keyring.users())
        for method, path in CALLS:
            for token, code in (
                (None, "missing_token"),
                (self.key, "invalid_token"),
                (self.token(self.key), "invalid_token"),
            ):
                answer = self.call(method, path, token=token)
                self.assertEqual((answer.status, answer.json()["code"]), (401, code), path)
        self.assertEqual(len(self.client.keyring.users()), before)

    def test_parameters(self) -> None:
        """A parameter that is not known is refused, also where there are none."""
        for method, path in (*CALLS, ("DELETE", f"keys/{self.key_id}")):
            self.refused(400, "invalid_parameter", method, f"{path}?dry_run=true")
        self.assertFalse(self.client.keyring.keys()[0].disabled)


class KeyTests(AdminTestCase):
    """``keys``."""

    def test_describe(self) -> None:
        """A key is shown without its secret, with its last use."""
        answer = self.call("GET", f"keys/{self.key_id}")
        self.assertIsNone(answer.json()["last_used_at"])
        self.token(self.key)
        answer = self.call("GET", f"keys/{self.key_id}")
        self.assertEqual((answer.status, answer.json()["last_used_at"]), (200, NOW))
        self.assertNotIn(self.key.partition(".")[2].encode(), answer.body)
        self.assertEqual(answer.json(), self.call("GET", "keys").json()["keys"][0])
        self.refused(404, "not_found", "GET", "keys/FGAKX")

    def test_pages(self) -> None:
        """The list is given by pages, of a user's or an application's keys if that is asked for."""
        for number in range(5):
            self.make_key("bob", f"app{number % 2}")
        seen: list[str] = []
        cursor = ""
        while True:
            answer = self.call("GET", f"keys?limit=2{cursor}").json()
            seen += [key["id"] for key in answer["keys"]]
            if answer["next"] is None:
                break
            cursor = f"&cursor={answer['next']}"
        self.assertEqual(seen, [key.id for key in list(self.client.keyring.keys())])
        self.assertEqual(len(self.call("GET", "keys?user=bob").json()["keys"]), 5)
        self.assertEqual(len(self.call("GET", "keys?user=bob&app=app1").json()["keys"]), 2)
        self.assertEqual(self.call("GET", "keys?user=nobody").json(), {"keys": [], "next": None})
        for wrong in ("limit=0", "limit=1001", "limit=x", "cursor=x", "cursor=1-2", "since=1"):
            self.refused(400, "invalid_parameter", "GET", f"keys?{wrong}")

    def test_rotate(self) -> None:
        """A rotated key and its successor both work, until the overlap is over."""
        answer = self.call("POST", f"keys/{self.key_id}/rotate", {"overlap_seconds": 60})
        self.assertEqual(answer.status, 201)
        new = answer.json()
        self.assertEqual((new["user"], new["app"], new["name"]), ("alice", "shop", "till"))
        old_token, new_token = self.token(self.key), self.token(new["key"])
        self.assertEqual(self.call("GET", f"keys/{self.key_id}").json()["successor"], new["id"])
        self.client.clock.advance(61)
        self.assertEqual((self.publish(old_token, "a"), self.publish(new_token, "a")), (401, 200))
        self.refused(409, "conflict", "POST", f"keys/{self.key_id}/rotate", {})

    def test_rotate_for_a_day(self) -> None:
        """If nobody says how long, the old key is accepted for a day more."""
        self.call("POST", f"keys/{self.key_id}/rotate", {})
        self.assertEqual(self.call("GET", f"keys/{self.key_id}").json()["expires_at"], NOW + 86400)

    def test_rotate_refused(self) -> None:
        """What cannot be rotated is not."""
        for body in (
            {"overlap_seconds": -1},
            {"overlap_seconds": 30 * 86400 + 1},
            {"overlap_seconds": "1"},
            {"now": 1},
        ):
            self.refused(400, "invalid_parameter", "POST", f"keys/{self.key_id}/rotate", body)
        self.refused(404, "not_found", "POST", "keys/FGAKX/rotate", {})
        self.call("DELETE", f"keys/{self.key_id}")
        self.refused(403, "key_disabled", "POST", f"keys/{self.key_id}/rotate", {})


class UserTests(AdminTestCase):
    """``users``."""

    def test_describe(self) -> None:
        """A user is shown with plan, applications and how many keys are good."""
        second = self.make_key("alice", "cafe")
        self.call("DELETE", f"keys/{second.partition('.')[0]}")
        self.assertEqual(
            self.call("GET", "users/alice").json(),
            {
                "user": "alice",
                "created_at": NOW,
                "suspended": False,
                "plan": "",
                "apps": ["cafe", "shop"],
                "keys": 1,
            },
        )
        self.refused(404, "not_found", "GET", "users/nobody")

    def test_pages(self) -> None:
        """The list is given by pages, of names with a beginning if that is asked for."""
        for name in ("carol", "b-1", "b-2"):
            self.call("POST", "users", {"user": name})
        first = self.call("GET", "users?limit=2").json()
        self.assertEqual(([user["user"] for user in first["users"]], first["next"]), (["alice", "b-1"], "b-1"))
        second = self.call("GET", "users?limit=2&cursor=b-1").json()
        self.assertEqual([user["user"] for user in second["users"]], ["b-2", "bob"])
        last = self.call("GET", "users?limit=2&cursor=bob").json()
        self.assertEqual(([user["user"] for user in last["users"]], last["next"]), (["carol"], None))
        found = self.call("GET", "users?prefix=b-").json()["users"]
        self.assertEqual([user["user"] for user in found], ["b-1", "b-2"])

    def test_plan(self) -> None:
        """A user's plan is set and taken back."""
        self.assertEqual(self.call("GET", "users/bob").json()["plan"], "free")
        self.assertEqual(self.call("PUT", "users/bob/plan", {"plan": "gold"}).json()["plan"], "gold")
        self.assertEqual(self.call("PUT", "users/bob/plan", {"plan": None}).json()["plan"], "")
        self.refused(400, "missing_field", "PUT", "users/bob/plan", {})
        self.refused(400, "invalid_parameter", "PUT", "users/bob/plan", {"plan": "a b"})
        self.refused(404, "not_found", "PUT", "users/nobody/plan", {"plan": "gold"})

    def test_delete(self) -> None:
        """A removed user's tokens are good for nothing, and nobody gets the name."""
        token = self.token(self.key)
        answer = self.call("DELETE", "users/alice")
        self.assertEqual((answer.status, answer.body), (204, b""))
        self.assertEqual(self.publish(token, "a"), 401)
        self.refused(404, "not_found", "GET", "users/alice")
        self.refused(404, "not_found", "DELETE", "users/alice")
        self.refused(409, "conflict", "POST", "users", {"user": "alice"})
        self.refused(409, "conflict", "POST", "keys", {"user": "alice", "app": "shop"})


class ShareTests(AdminTestCase):
    """``shares``."""

    WISH = {"owner": "alice", "app": "shop", "grantee": "bob", "publish": ["in/#"], "subscribe": ["out/#"]}

    def test_share(self) -> None:
        """Under a share a key reaches what it takes in, by full names; after its end nothing, by old or new tokens."""
        answer = self.call("POST", "shares", {**self.WISH, "name": "for bob"})
        share = answer.json()
        self.assertEqual((answer.status, share["publish"], share["name"]), (201, ["alice_shop_in/#"], "for bob"))
        self.assertIsNone(share["grantee_app"])
        self.refused(
            403, "insufficient_scope", "POST", "keys", {"user": "bob", "app": "cafe", "publish": ["alice_shop_#"]}
        )
        key = self.make_key("bob", "cafe", publish=["#", "alice_shop_in/#"])
        token = self.token(key)
        self.assertEqual(self.publish(token, "alice_shop_in/a"), 200)
        self.assertEqual(self.publish(token, "alice_shop_out/a"), 403)
        self.assertEqual(self.call("GET", f"shares/{share['id']}").json(), share)
        self.assertEqual(self.call("DELETE", f"shares/{share['id']}").status, 204)
        for one in (token, self.token(key)):
            self.assertEqual(self.publish(one, "alice_shop_in/a"), 403)
            self.assertEqual(self.publish(one, "mine"), 200)
        self.refused(404, "not_found", "GET", f"shares/{share['id']}")
        self.refused(404, "not_found", "DELETE", f"shares/{share['id']}")

    def test_pages(self) -> None:
        """The list is given by pages, of an owner or a grantee if that is asked for."""
        ids = sorted(self.call("POST", "shares", self.WISH).json()["id"] for _ in range(3))
        back = {"owner": "bob", "app": "cafe", "grantee": "alice", "grantee_app": "shop", "subscribe": ["a"]}
        self.assertEqual(self.call("POST", "shares", back).json()["grantee_app"], "shop")
        first = self.call("GET", "shares?owner=alice&limit=2").json()
        self.assertEqual(([one["id"] for one in first["shares"]], first["next"]), (ids[:2], ids[1]))
        last = self.call("GET", f"shares?owner=alice&limit=2&cursor={ids[1]}").json()
        self.assertEqual(([one["id"] for one in last["shares"]], last["next"]), (ids[2:], None))
        self.assertEqual(len(self.call("GET", "shares?grantee=alice").json()["shares"]), 1)
        self.assertEqual(len(self.call("GET", "shares").json()["shares"]), 4)

    def test_refused(self) -> None:
        """What is no share is not made."""
        for status, code, changed in (
            (404, "not_found", {"grantee": "carol"}),
            (404, "not_found", {"owner": "carol"}),
            (400, "invalid_parameter", {"grantee": "alice"}),
            (400, "invalid_parameter", {"publish": [], "subscribe": []}),
            (400, "invalid_parameter", {"app": "Shop"}),
            (400, "invalid_parameter", {"queues": ["*"]}),
            (400, "invalid_topic", {"publish": ["a/#/b"]}),
        ):
            self.refused(status, code, "POST", "shares", {**self.WISH, **changed})
        self.refused(400, "missing_field", "POST", "shares", {"owner": "alice", "app": "shop"})
        self.assertEqual(self.call("GET", "shares").json(), {"shares": [], "next": None})


class AuditTests(AdminTestCase):
    """``audit``."""

    def test_entries(self) -> None:
        """What was done is told with who, when, from where and by which request."""
        answer = self.call("DELETE", f"keys/{self.key_id}", headers={"X-Request-Id": "my-request"})
        self.assertEqual(answer.status, 204)
        newest, oldest = self.call("GET", "audit?user=alice").json()["entries"]
        self.assertEqual((newest["action"], newest["subject"], newest["user"]), ("key.revoke", self.key_id, "alice"))
        self.assertEqual((newest["actor"], newest["actor_name"], newest["refused"]), ("admin", None, None))
        self.assertEqual((newest["address"], newest["request_id"]), ("192.168.1.1", answer.headers["X-Request-Id"]))
        self.assertEqual(newest["at"], "2027-01-15T08:00:00.000Z")
        self.assertEqual(oldest["detail"]["name"], "till")

    def test_pages(self) -> None:
        """The log is given by pages, the newest first."""
        for number in range(5):
            self.call("POST", "users", {"user": f"u{number}"})
        seen: list[str] = []
        before = ""
        while True:
            answer = self.call("GET", f"audit?limit=3{before}").json()
            seen += [entry["subject"] for entry in answer["entries"]]
            if answer["next"] is None:
                break
            before = f"&before={answer['next']}"
        self.assertEqual(seen, ["u4", "u3", "u2", "u1", "u0", "bob", self.key_id])
        for wrong in ("limit=0", "before=0", "before=x", "user=*", "actor=x"):
            self.refused(400, "invalid_parameter", "GET", f"audit?{wrong}")

    def test_bus_away(self) -> None:
        """What cannot be noted is not done, and can be tried again."""
        self.client.journal.go_away()
        for method, path, body in (
            ("DELETE", f"keys/{self.key_id}", None),
            ("POST", "users", {"user": "carol"}),
            ("POST", "users/bob/suspend", {"suspended": True}),
        ):
            answer = self.call(method, path, body)
            self.assertEqual((answer.status, answer.json()["code"]), (503, "bus_unavailable"))
            self.assertIn("Retry-After", answer.headers)
        self.client.journal.come_back()
        self.assertFalse(self.client.keyring.keys()[0].disabled)
        self.assertIsNone(self.client.keyring.user("carol"))
        self.assertEqual(self.call("DELETE", f"keys/{self.key_id}").status, 204)
