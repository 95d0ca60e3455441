"""What administrators see and do, and nobody else."""

from __future__ import annotations

from flowgate.auth.audit import Actor
from flowgate.dashboard import accounts
from tests.dashboard.case import PASSWORD, Browser, DashboardCase
from tests.http_client import ADMIN_TOKEN


class AccountTests(DashboardCase):
    """Accounts, nodes and the audit log."""

    def setUp(self) -> None:
        super().setUp()
        self.browser = self.signed_in()

    def test_others_learn_nothing(self) -> None:
        """Who is no administrator finds none of these calls."""
        browser = self.signed_in("bob")
        paths = [route for route in self.dashboard.routes() if "/admin/" in route.path]
        self.assertGreater(len(paths), 5)
        for route in paths:
            path = route.path.removeprefix("/dashboard/api/").replace("<user>", "alice")
            answer = browser.ask(route.method, path, None if route.method == "GET" else {"suspended": True})
            self.assertEqual(self.problem(answer), (404, "not_found"), path)

    def test_no_longer(self) -> None:
        """Who is an administrator no longer is none from the next call on."""
        self.result(self.dashboard.logins.set_password("carol", PASSWORD, app="shop", admin=True))
        self.successResultOf(self.client.keyring.create_user("carol"))
        browser = self.signed_in("carol")
        self.assertEqual(browser.ask("GET", "admin/accounts").status, 200)
        self.result(
            self.dashboard.logins._edit("carol", lambda one: type(one)(one.user, one.app, False, 1, one.password))
        )
        self.assertEqual(browser.ask("GET", "admin/accounts").status, 404)

    def test_list(self) -> None:
        """All accounts are listed."""
        self.successResultOf(self.client.keyring.create("bob", "cafe"))
        shown = {one["user"]: one for one in self.browser.ask("GET", "admin/accounts").json()["accounts"]}
        self.assertEqual((shown["alice"]["admin"], shown["alice"]["keys"], shown["bob"]["keys"]), (True, 0, 1))
        self.assertEqual((shown["bob"]["admin"], shown["bob"]["signs_in"]), (False, True))

    def test_pages(self) -> None:
        """All accounts can be come by: page by page, and by how their names begin."""
        self.patch(accounts, "PAGE", 2)
        for user in ("bea", "carol"):
            self.successResultOf(self.client.keyring.create_user(user))

        def ask(query: str = "") -> tuple[list[str], str | None, int]:
            shown = self.browser.ask("GET", f"admin/accounts{query}").json()
            return [one["user"] for one in shown["accounts"]], shown["next"], shown["count"]

        self.assertEqual(ask(), (["alice", "bea"], "bea", 4))
        self.assertEqual(ask("?cursor=bea"), (["bob", "carol"], None, 4))
        self.assertEqual(ask("?prefix=b"), (["bea", "bob"], None, 4))
        self.assertEqual(self.browser.ask("GET", "admin/accounts?name=b").status, 400)

    def test_create(self) -> None:
        """A new account comes with a link by which its owner gets in; a name is not given twice."""
        made = self.browser.ask("POST", "admin/accounts", {"user": "carol", "admin": False})
        self.assertEqual(made.status, 201)
        body = {"link": made.json()["link"], "app": "cafe", "password": PASSWORD}
        shown = Browser(self).ask("POST", "link/use", body).json()
        self.assertEqual((shown["user"], shown["admin"]), ("carol", False))
        for user in ("carol", "alice", "Not a name"):
            self.assertEqual(self.browser.ask("POST", "admin/accounts", {"user": user}).status, 400)

    def test_link(self) -> None:
        """A user who has forgotten the password gets a link; an administrator stays one by it."""
        link = self.browser.ask("POST", "admin/accounts/alice/link", {}).json()["link"]
        shown = Browser(self).ask("POST", "link/use", {"link": link, "password": "another horse battery"}).json()
        self.assertEqual((shown["user"], shown["admin"]), ("alice", True))
        self.browser.sign_in(password="another horse battery")
        self.assertEqual(self.browser.ask("POST", "admin/accounts/nobody/link", {}).status, 404)

    def test_suspend(self) -> None:
        """Suspending ends sessions and tokens at once; it can be taken back; nobody suspends themselves."""
        other = self.signed_in("bob")
        token = other.ask("POST", "token", {"app": "shop"}).json()["token"]
        shown = self.browser.ask("POST", "admin/accounts/bob/suspend", {"suspended": True}).json()
        self.assertTrue(shown["suspended"])
        self.assertIsNone(other.user())
        self.assertIn(self.client.call("GET", "/api/v1/topics", token=token).status, (401, 403))
        self.browser.ask("POST", "admin/accounts/bob/suspend", {"suspended": False})
        self.assertIsNone(other.user())
        self.assertEqual(Browser(self).sign_in("bob").status, 200)
        self.assertEqual(self.browser.ask("POST", "admin/accounts/alice/suspend", {"suspended": True}).status, 400)
        self.assertEqual(self.browser.ask("POST", "admin/accounts/nobody/suspend", {"suspended": True}).status, 404)

    def test_nodes(self) -> None:
        """Each node is shown with what it does."""
        (node,) = self.browser.ask("GET", "admin/nodes").json()["nodes"]
        self.assertLessEqual({"node", "connections", "messages", "bus", "errors"}, node.keys())

    def test_audit(self) -> None:
        """The audit log is shown, page by page."""
        for number in range(60):
            self.successResultOf(self.client.accounts.audit.note(Actor("gateway"), "test", str(number)))
        first = self.browser.ask("GET", "admin/audit").json()
        self.assertEqual((len(first["entries"]), first["entries"][0]["subject"]), (50, "59"))
        second = self.browser.ask("GET", f"admin/audit?before={first['next']}").json()
        self.assertEqual([entry["subject"] for entry in second["entries"]][-1], "alice")
        self.assertIsNone(second["next"])


class LinkCallTests(DashboardCase):
    """``POST /api/v1/admin/users/<user>/link``."""

    def test_link(self) -> None:
        """Who holds the admin token lets in whoever they want, new users too."""
        answer = self.client.call("POST", "/api/v1/admin/users/carol/link", {"admin": True}, token=ADMIN_TOKEN)
        self.assertEqual(answer.status, 201)
        url, _, link = answer.json()["link"].partition("#link=")
        self.assertEqual(url, "http://gateway/dashboard/")
        body = {"link": link, "app": "cafe", "password": PASSWORD}
        self.assertTrue(self.browser.ask("POST", "link/use", body).json()["admin"])

    def test_without_body(self) -> None:
        """Without a body an administrator stays what they are."""
        answer = self.client.call("POST", "/api/v1/admin/users/alice/link", token=ADMIN_TOKEN)
        link = answer.json()["link"].partition("#link=")[2]
        shown = self.browser.ask("POST", "link/use", {"link": link, "password": PASSWORD}).json()
        self.assertTrue(shown["admin"])

    def test_refused(self) -> None:
        """Nobody else may, and a name is a name."""
        path = "/api/v1/admin/users/alice/link"
        self.assertEqual(self.client.call("POST", path, token=None).status, 401)
        self.assertEqual(self.client.call("POST", path, token="good").status, 401)
        for other, body in (("/api/v1/admin/users/Carol/link", {}), (path, {"more": 1}), (path, {"admin": 1})):
            self.assertEqual(self.client.call("POST", other, body, token=ADMIN_TOKEN).status, 400)
