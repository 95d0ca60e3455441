"""The audit log of a running gateway knows of everything that an administrator changes."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.integration.gateway import RunningGateway

_ADMIN = "/api/v1/admin"


class AuditTests(SynchronousTestCase):
    """Every call that changes something."""

    def setUp(self) -> None:
        self.gateway = RunningGateway()
        self.addCleanup(self.gateway.clean_up)
        self.gateway.start()

    def newest(self) -> dict[str, Any]:
        """The newest entry."""
        return dict(self.gateway.admin("GET", "/audit?limit=1")["entries"][0])

    def test_every_call(self) -> None:
        """Each call of the administration interface that is no GET leaves an entry of its own, with who it was."""
        admin = self.gateway.admin
        admin("POST", "/users", {"user": "bob"})
        ids: dict[str, str] = {"user": "ann"}
        share = {"owner": "ann", "app": "shop", "grantee": "bob", "subscribe": ["#"]}
        calls: dict[tuple[str, str], tuple[Any, str]] = {
            ("post", "/users"): ({"user": "ann"}, "user.create"),
            ("post", "/keys"): ({"user": "ann", "app": "shop"}, "key.create"),
            ("post", "/keys/{key_id}/rotate"): ({"overlap_seconds": 60}, "key.rotate"),
            ("delete", "/keys/{key_id}"): (None, "key.revoke"),
            ("put", "/users/{user}/plan"): ({"plan": ""}, "user.plan"),
            ("post", "/users/{user}/balance"): ({"units": 5, "id": "one"}, "balance.change"),
            ("post", "/users/{user}/link"): ({}, "link.create"),
            ("post", "/users/{user}/suspend"): ({"suspended": True}, "user.suspend"),
            ("post", "/shares"): (share, "share.create"),
            ("delete", "/shares/{share_id}"): (None, "share.revoke"),
            ("post", "/signing-keys/rotate"): ({}, "signing-key.rotate"),
            ("delete", "/users/{user}"): (None, "user.delete"),
        }
        _, described = self.gateway.request("GET", "/openapi.json")
        changing = {
            (method, path.removeprefix(_ADMIN))
            for path, operations in described["paths"].items()
            if path.startswith(_ADMIN)
            for method in operations
            if method in ("post", "put", "patch", "delete")
        }
        self.assertEqual(changing, set(calls))
        seen = self.newest()["sequence"]
        for (method, path), (body, action) in calls.items():
            answer = admin(method.upper(), path.format(**ids), body)
            if "id" in (answer or ()):
                ids["key_id" if path.startswith("/keys") else "share_id"] = answer["id"]
            entry = self.newest()
            self.assertEqual((entry["action"], entry["actor"]), (action, "admin"))
            self.assertEqual((entry["address"], entry["refused"]), ("127.0.0.1", None))
            self.assertGreater(entry["sequence"], seen)
            seen = entry["sequence"]
