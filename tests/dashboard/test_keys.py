"""API keys and tokens, of the visitor's own account alone."""

from __future__ import annotations

from typing import Any

from flowgate.dashboard import keys as module
from flowgate.errors import InvalidToken
from tests.dashboard.case import DashboardCase


class KeyTests(DashboardCase):
    """Keys."""

    def setUp(self) -> None:
        super().setUp()
        self.browser = self.signed_in()

    def create(self, **body: object) -> Any:
        answer = self.browser.ask("POST", "keys", {"app": "shop", **body})
        self.assertEqual(answer.status, 201)
        return answer.json()

    def listed(self) -> list[Any]:
        found: list[Any] = self.browser.ask("GET", "keys").json()["keys"]
        return found

    def test_create(self) -> None:
        """A key is shown once with a token to try it, and works; the list has no secret."""
        made = self.create(name="Web shop", subscribe=["a/#"], expires_days=30)
        key = self.client.keyring.authenticate(made["key"])
        self.assertEqual((key.user, key.app, key.name), ("alice", "shop", "Web shop"))
        self.assertEqual(self.client.token_service.verify(made["token"]["token"]).key_id, key.id)
        (listed,) = self.listed()
        self.assertEqual((listed["id"], listed["subscribe"], listed["publish"]), (key.id, ["alice_shop_a/#"], []))
        self.assertNotIn(made["key"].partition(".")[2], str(listed))

    def test_other_accounts(self) -> None:
        """A key belongs to who is signed in, whatever is asked for; those of others are not there."""
        answer = self.browser.ask("POST", "keys", {"app": "shop", "user": "bob"})
        self.assertEqual(answer.status, 400)
        key, _ = self.successResultOf(self.client.keyring.create("bob", "shop"))
        for method, path, body in (
            ("DELETE", f"keys/{key.id}", None),
            ("POST", f"keys/{key.id}/token", {}),
            ("POST", f"keys/{key.id}/rotate", {}),
        ):
            there, missing = (self.browser.ask(method, path.replace(key.id, one), body) for one in (key.id, "FGAKX"))
            self.assertEqual(self.problem(there), (404, "not_found"))
            self.assertEqual(there.json()["detail"], missing.json()["detail"])
        self.assertEqual(self.listed(), [])
        self.client.keyring.check(key)

    def test_topics_of_others(self) -> None:
        """A key cannot be given what its owner does not have."""
        answer = self.browser.ask("POST", "keys", {"app": "shop", "subscribe": ["bob_shop_#"]})
        made = [grant for key in self.client.keyring.keys("alice") for grant in key.grants.subscribe]
        self.assertTrue(answer.status == 403 or all(grant.namespace.user == "alice" for grant in made))

    def test_revoke(self) -> None:
        """A revoked key is accepted no longer, and is listed as such."""
        made = self.create()
        self.assertEqual(self.browser.ask("DELETE", f"keys/{made['id']}").status, 204)
        self.assertTrue(self.listed()[0]["disabled"])
        with self.assertRaises(InvalidToken):
            self.client.token_service.verify(made["token"]["token"])
        self.assertEqual(self.browser.ask("POST", f"keys/{made['id']}/token", {}).status, 403)

    def test_rotate(self) -> None:
        """A key is replaced; the old one goes on for the time that was chosen."""
        made = self.create(name="Web shop")
        fresh = self.browser.ask("POST", f"keys/{made['id']}/rotate", {"overlap_seconds": 3600}).json()
        self.assertEqual((fresh["name"], fresh["id"] != made["id"]), ("Web shop", True))
        self.client.keyring.authenticate(fresh["key"])
        self.client.keyring.authenticate(made["key"])
        old = next(one for one in self.listed() if one["id"] == made["id"])
        self.assertEqual((old["successor"], old["expires_at"]), (fresh["id"], int(self.client.now()) + 3600))
        self.client.clock.advance(3600)
        with self.assertRaises(InvalidToken):
            self.client.keyring.authenticate(made["key"])

    def test_token(self) -> None:
        """A fresh token of a key is to be had as long as the key is good."""
        made = self.create(publish=["a"])
        shown = self.browser.ask("POST", f"keys/{made['id']}/token", {}).json()
        principal = self.client.token_service.verify(shown["token"])
        self.assertEqual([str(grant) for grant in principal.grants.publish], ["alice_shop_a"])

    def test_bounded(self) -> None:
        """An account makes no more keys than so many here."""
        self.patch(module, "MOST_KEYS", 2)
        self.create()
        self.create()
        self.assertEqual(self.problem(self.browser.ask("POST", "keys", {"app": "shop"})), (429, "rate_limited"))

    def test_audit(self) -> None:
        """What is done is in the audit log, with who did it."""
        made = self.create()
        self.browser.ask("DELETE", f"keys/{made['id']}")
        entries = self.successResultOf(self.client.accounts.audit.page("alice"))
        seen = [(entry.action, entry.actor.kind, entry.actor.name) for entry in entries]
        self.assertEqual(seen, [(action, "user", "alice") for action in ("key.revoke", "key.create", "session.begin")])
        self.assertNotIn(made["key"].partition(".")[2], str(entries))


class LiveTokenTests(DashboardCase):
    """Tokens of the pages' own connections."""

    def setUp(self) -> None:
        super().setUp()
        self.browser = self.signed_in()

    def token(self, app: str = "shop") -> str:
        answer = self.browser.ask("POST", "token", {"app": app})
        self.assertEqual(answer.status, 200)
        shown: str = answer.json()["token"]
        return shown

    def test_short(self) -> None:
        """It may do everything in the application, for five minutes, and nothing outside."""
        principal = self.client.token_service.verify(self.token())
        self.assertEqual((principal.user, principal.app), ("alice", "shop"))
        self.assertEqual(principal.expires_at - self.client.now(), 300)
        self.assertEqual({str(grant) for grant in principal.grants.publish}, {"alice_shop_#"})

    def test_one_key(self) -> None:
        """All tokens of an application are made with one key, which is marked as the pages' own."""
        ids = {self.client.token_service.verify(self.token()).key_id for _ in range(3)}
        self.assertEqual(len(ids), 1)
        (listed,) = self.browser.ask("GET", "keys").json()["keys"]
        self.assertEqual((listed["id"], listed["own"]), (ids.pop(), True))

    def test_revoked_key(self) -> None:
        """If that key is revoked, another one is made."""
        before = self.client.token_service.verify(self.token()).key_id
        self.browser.ask("DELETE", f"keys/{before}")
        self.assertNotEqual(self.client.token_service.verify(self.token()).key_id, before)

    def test_other_applications(self) -> None:
        """There are tokens for the visitor's own applications only."""
        for app in ("cafe", "bob_shop", "", "shop_"):
            self.assertEqual(self.browser.ask("POST", "token", {"app": app}).status, 404)
        self.browser.ask("POST", "keys", {"app": "cafe"})
        self.assertEqual(self.client.token_service.verify(self.token("cafe")).app, "cafe")

    def test_ends_with_the_session(self) -> None:
        """With the session its tokens end, and no others."""
        other = self.signed_in("bob")
        others = other.ask("POST", "token", {"app": "shop"}).json()["token"]
        tokens = [self.token(), self.token()]
        self.browser.ask("DELETE", "session")
        for token in tokens:
            with self.assertRaises(InvalidToken):
                self.client.token_service.verify(token)
        self.client.token_service.verify(others)
