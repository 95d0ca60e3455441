"""Coming in and going out, as browsers and their enemies do it."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from flowgate.dashboard import logins
from flowgate.dashboard.admission import Visitor
from flowgate.dashboard.attempts import PAIR
from flowgate.dashboard.sessions import SESSIONS, csrf_token
from flowgate.errors import InvalidToken
from flowgate.http.app import Root
from flowgate.mqtt import sessions
from tests.dashboard.case import ORIGIN, PASSWORD, Browser, DashboardCase
from tests.http_client import Answer

OTHER_SITE: dict[str, str | None] = {"Origin": "http://evil.example", "Sec-Fetch-Site": None}
"""What a browser that knows no Fetch Metadata says of a page of another site."""


class SignInTests(DashboardCase):
    """By password."""

    def test_nobody(self) -> None:
        """Who has not signed in is told so, and nothing else."""
        answer = self.browser.ask("GET", "session")
        self.assertEqual(answer.status, 200)
        self.assertEqual((answer.json()["user"], answer.json()["first_start"]), (None, False))
        self.assertEqual(answer.json().keys(), {"user", "first_start", "version"})
        self.assertNotIn("Set-Cookie", answer.headers)

    def test_signed_in(self) -> None:
        """The right password begins a session, and the page learns what it needs."""
        answer = self.browser.sign_in()
        shown = answer.json()
        self.assertEqual(answer.status, 200)
        self.assertEqual(
            (shown["user"], shown["admin"], shown["app"], shown["apps"]), ("alice", True, "shop", ["shop"])
        )
        self.assertEqual(shown["mqtt"], {"port": 1883, "tls": False})
        self.assertEqual(self.browser.user(), "alice")
        self.assertNotIn(self.browser.cookie, answer.body.decode())

    def test_cookie(self) -> None:
        """The cookie is not for scripts, not for other sites, and for no other path."""
        given = self.browser.sign_in().headers["Set-Cookie"]
        value, *flags = given.split("; ")
        self.assertRegex(value, r"^flowgate_session=[A-Za-z0-9_-]{43}$")
        self.assertEqual(sorted(flags), ["HttpOnly", "Path=/dashboard", "SameSite=Strict"])

    def test_cookie_over_tls(self) -> None:
        """Where TLS is spoken, to a proxy before us or always, the cookie is for TLS alone."""
        answer = self.browser.ask(
            "POST", "session", {"user": "alice", "password": PASSWORD}, {"X-Forwarded-Proto": "https"}
        )
        self.assertIn("; Secure", answer.headers["Set-Cookie"])
        self.client.site.resource = Root(self.node(secure=True).routes(), {}, lambda: False)
        self.assertIn("; Secure", Browser(self).sign_in().headers["Set-Cookie"])

    def test_not_cached(self) -> None:
        """Nothing of it is kept by caches."""
        self.assertEqual(self.browser.sign_in().headers["Cache-Control"], "no-store")

    def test_fixation(self) -> None:
        """Signing in gives a new id, whatever the browser had: an id of an attacker leads into nobody's session."""
        for planted in ("A" * 43, self.signed_in("bob").cookie):
            browser = Browser(self)
            browser.cookie = planted
            browser.sign_in()
            self.assertNotEqual(browser.cookie, planted)
            self.assertEqual(browser.user(), "alice")
            thief = Browser(self)
            thief.cookie = planted
            self.assertIsNone(thief.user())

    def test_two_cookies(self) -> None:
        """A cookie that another host of the domain has planted beside ours does not count: neither does."""
        browser = self.signed_in()
        for planted in "ABCDEFGHIJ":  # in whatever order a set has them
            both = f"flowgate_session={planted * 43}; flowgate_session={browser.cookie}"
            self.assertIsNone(browser.ask("GET", "session", headers={"Cookie": both}).json()["user"])

    def test_wrong(self) -> None:
        """A wrong password, a wrong name and one that could be none get the same answer, and no cookie."""
        seen = set()
        for user, password in (
            ("alice", "wrong"),
            ("nobody", PASSWORD),
            ("", ""),
            ("a" * 99, PASSWORD),
            ("alice", "x" * 999),
        ):
            answer = self.browser.sign_in(user, password)
            self.assertEqual(self.problem(answer), (401, "invalid_token"))
            self.assertNotIn("Set-Cookie", answer.headers)
            seen.add(answer.json()["detail"])
        self.assertEqual(len(seen), 1)

    def test_locked_out(self) -> None:
        """After some wrong passwords one has to wait, also with the right one, and is told how long."""
        for _ in range(PAIR):
            self.assertEqual(self.browser.sign_in("alice", "wrong").status, 401)
        answer = self.browser.sign_in()
        self.assertEqual(self.problem(answer), (429, "rate_limited"))
        self.assertEqual(answer.headers["Retry-After"], "2")
        self.client.clock.advance(2)
        self.assertEqual(self.browser.sign_in().status, 200)

    def test_not_locked_out_by_others(self) -> None:
        """Who has signed in from a browser before can again, however many wrong passwords others have given."""
        browser = self.signed_in()
        browser.ask("DELETE", "session")
        self.assertRegex(browser.device, "^[A-Za-z0-9_-]{43}$")
        for _ in range(PAIR):
            Browser(self).sign_in("alice", "wrong")
        stranger = Browser(self)
        for planted in ("", "A" * 43, self.signed_in("bob").device):
            stranger.device = planted
            self.assertEqual(stranger.sign_in().status, 429)
        known = browser.device
        self.assertEqual(browser.sign_in().status, 200)
        self.assertEqual(browser.device, known)
        for _ in range(PAIR):
            browser.sign_in("alice", "wrong")
        self.assertEqual(browser.sign_in().status, 429)

    def test_known_no_longer(self) -> None:
        """With a new password no browser is known any more but the one that has set it."""
        browser, other = self.signed_in(), self.signed_in()
        browser.ask("POST", "password", {"old": PASSWORD, "new": "another horse battery"})
        for _ in range(PAIR):
            Browser(self).sign_in("alice", "wrong")
        self.assertEqual(other.sign_in(password="another horse battery").status, 429)
        self.assertEqual(browser.sign_in(password="another horse battery").status, 200)

    def test_cookie_of_the_browser(self) -> None:
        """What a browser is known by is new, not for scripts or other sites, and stays after the session."""
        self.browser.device = "A" * 43  # planted by an attacker, who knows it
        _, given = self.browser.sign_in().headers.get_all("Set-Cookie", ["", ""])
        value, *flags = given.split("; ")
        self.assertRegex(value, r"^flowgate_device=[A-Za-z0-9_-]{43}$")
        self.assertNotEqual(self.browser.device, "A" * 43)
        self.assertEqual(sorted(flags), ["HttpOnly", "Max-Age=31536000", "Path=/dashboard", "SameSite=Strict"])
        login = self.dashboard.logins.find("alice")
        self.assertNotIn(self.browser.device, repr(login))

    def test_overload(self) -> None:
        """While too many sign in at once nobody is locked out by that."""
        self.patch(logins, "WAITING", 0)
        for _ in range(2 * PAIR):
            self.assertEqual(self.problem(self.browser.sign_in()), (429, "rate_limited"))
        self.patch(logins, "WAITING", 30)
        self.assertEqual(self.browser.sign_in().status, 200)

    def test_locked_out_at_the_change_of_a_password(self) -> None:
        """Whoever has a session cannot try out its password without end."""
        browser = self.signed_in()
        for _ in range(PAIR):
            browser.ask("POST", "password", {"old": "wrong", "new": "another horse battery"})
        answer = browser.ask("POST", "password", {"old": PASSWORD, "new": "another horse battery"})
        self.assertEqual(answer.status, 429)

    def test_suspended(self) -> None:
        """A suspended user may not sign in, and only who knows the password learns why."""
        self.successResultOf(self.client.keyring.suspend("bob", True))
        self.assertEqual(self.problem(self.browser.sign_in("bob")), (403, "account_suspended"))
        self.assertEqual(self.browser.sign_in("bob", "wrong").status, 401)

    def test_sign_out(self) -> None:
        """Signing out ends the session and takes the cookie away; the id is good for nothing any more."""
        browser = self.signed_in()
        before = browser.cookie
        answer = browser.ask("DELETE", "session")
        self.assertEqual(answer.status, 204)
        self.assertIn("Max-Age=0", answer.headers["Set-Cookie"])
        browser.cookie = before
        self.assertIsNone(browser.user())
        self.assertEqual(self.problem(browser.ask("GET", "keys")), (401, "missing_token"))

    def test_new_password(self) -> None:
        """A new password ends all other sessions, and gives this one a new id."""
        browser, elsewhere = self.signed_in(), self.signed_in()
        token = elsewhere.ask("POST", "token", {"app": "shop"}).json()["token"]
        before = browser.cookie
        answer = browser.ask("POST", "password", {"old": PASSWORD, "new": "another horse battery"})
        self.assertEqual(answer.status, 200)
        self.assertNotEqual(browser.cookie, before)
        self.assertEqual(browser.user(), "alice")
        with self.assertRaises(InvalidToken):  # before anybody asks for that session again
            self.client.token_service.verify(token)
        self.assertIsNone(elsewhere.user())
        self.assertEqual(self.browser.sign_in().status, 401)
        self.assertEqual(self.browser.sign_in(password="another horse battery").status, 200)

    def test_new_password_that_is_none(self) -> None:
        """The old one has to be right, and the new one long enough: otherwise nothing changes."""
        browser = self.signed_in()
        for old, new in (("wrong", "another horse battery"), (PASSWORD, "short")):
            answer = browser.ask("POST", "password", {"old": old, "new": new})
            self.assertEqual(self.problem(answer), (400, "invalid_parameter"))
        self.assertEqual(self.browser.sign_in().status, 200)


class ForgeryTests(DashboardCase):
    """Requests that other sites have a browser make (CSRF)."""

    def setUp(self) -> None:
        super().setUp()
        self.browser = self.signed_in()

    def attempt(self, **headers: str | None) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.browser.ask("POST", "keys", {"app": "shop"}, named)

    def assertNoKey(self) -> None:
        self.assertEqual([key for key in self.client.keyring.keys("alice") if key.name != "Dashboard"], [])

    def test_own_page(self) -> None:
        """Our own page may."""
        self.assertEqual(self.attempt().status, 201)

    def test_without_token(self) -> None:
        """Without the session's token nothing is changed, nor with an empty one, another session's, or two."""
        other = self.signed_in("bob")
        for token in (None, "x", other.csrf, csrf_token(other.cookie), self.browser.csrf + "x"):
            self.assertEqual(self.problem(self.attempt(X_CSRF_Token=token)), (403, "insufficient_scope"))
        self.assertNoKey()

    def test_other_origins(self) -> None:
        """A page of another origin may not, whatever token it has; neither may one without an origin."""
        for origin in (
            "http://evil.example",
            "http://gateway.evil.example",
            "http://gateway:81",
            "http://gateway@evil.example",
            "null",
            "gateway",
            "http://",
            "http://[",
        ):
            answer = self.attempt(Origin=origin, Sec_Fetch_Site=None)
            self.assertEqual(self.problem(answer), (403, "origin_not_allowed"), origin)
        self.assertNoKey()

    def test_behind_a_proxy(self) -> None:
        """Behind a proxy with another name the browser's word counts, or the name that the proxy was asked for."""
        self.assertEqual(self.attempt(Origin="https://gw.example").status, 201)
        named = {"Origin": "https://gw.example", "Sec_Fetch_Site": None}
        self.assertEqual(self.attempt(**named, X_Forwarded_Host="gw.example").status, 201)
        self.assertEqual(self.attempt(**named, X_Forwarded_Host="other.example").status, 403)

    def test_site(self) -> None:
        """What the browser says was asked for by another site is refused, with an origin or without."""
        for site in ("cross-site", "same-site", "none"):
            for origin in (ORIGIN, None):
                answer = self.attempt(Sec_Fetch_Site=site, Origin=origin)
                self.assertEqual(self.problem(answer), (403, "origin_not_allowed"))
        self.assertNoKey()

    def test_without_origin(self) -> None:
        """A program that is no browser names no origin; the token decides."""
        self.assertEqual(self.attempt(Origin=None, Sec_Fetch_Site=None).status, 201)

    def test_every_change(self) -> None:
        """Each call that changes something needs a session, the token and the origin."""
        changing = [route for route in self.dashboard.routes() if route.method != "GET"]
        # Before there is a session there is no token either: the origin is all.
        before = {("POST", f"/dashboard/api/{path}") for path in ("session", "link", "link/use")}
        self.assertGreater(len(changing), 10)
        for route in changing:
            path = route.path.replace("<", "").replace(">", "").removeprefix("/dashboard/api/")
            answer = self.browser.ask(route.method, path, {}, OTHER_SITE)
            self.assertEqual(self.problem(answer), (403, "origin_not_allowed"), route.path)
            if (route.method, route.path) not in before:
                answer = self.browser.ask(route.method, path, {}, {"X-CSRF-Token": None})
                self.assertEqual(self.problem(answer), (403, "insufficient_scope"), route.path)
                answer = Browser(self).ask(route.method, path, {})
                self.assertEqual(self.problem(answer), (401, "missing_token"), route.path)

    def test_every_look(self) -> None:
        """Each call that shows something of an account needs a session."""
        paths = [route.path for route in self.dashboard.routes() if route.method == "GET" and "/api/" in route.path]
        for path in paths:
            if path != "/dashboard/api/session":
                plain = path.replace("<", "").replace(">", "").removeprefix("/dashboard/api/")
                self.assertEqual(self.problem(Browser(self).ask("GET", plain)), (401, "missing_token"), path)

    def test_bearer(self) -> None:
        """A token of the public API opens nothing here, and a session opens nothing of the public API."""
        key, _ = self.successResultOf(self.client.keyring.create("alice", "shop"))
        token = self.client.token_service.issue(key).token
        answer = self.client.call("GET", "/dashboard/api/keys", token=token)
        self.assertEqual(answer.status, 401)

    def test_signing_in_as_somebody_else(self) -> None:
        """Another site cannot sign a browser in to the attacker's account."""
        body = {"user": "bob", "password": PASSWORD}
        answer = Browser(self).ask("POST", "session", body, OTHER_SITE)
        self.assertEqual(self.problem(answer), (403, "origin_not_allowed"))
        self.assertNotIn("Set-Cookie", answer.headers)

    def test_not_a_form(self) -> None:
        """What a form of another site can send is not JSON."""
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
            answer = self.browser.ask("POST", "keys", b'{"app": "shop"}', {"Content-Type": kind})
            self.assertEqual(answer.status, 415)

    def test_preflight(self) -> None:
        """A page of another origin is not permitted to send the header."""
        answer = self.client.call(
            "OPTIONS", "/dashboard/api/keys", headers={"Origin": "http://evil.example"}, token=None
        )
        self.assertNotIn("csrf", answer.headers["Access-Control-Allow-Headers"].lower())
        self.assertNotIn("Access-Control-Allow-Credentials", answer.headers)


class LinkTests(DashboardCase):
    """By a one-time link."""

    def make(self, user: str, admin: bool | None = None) -> str:
        secret, _ = self.result(self.dashboard.links.make(user, admin=admin))
        return str(secret)

    def test_of_a_user(self) -> None:
        """A user's link leads to a new password, and in; older sessions end; it is good once."""
        before = self.signed_in("bob")
        link = self.make("bob")
        self.assertEqual(self.browser.ask("POST", "link", {"link": link}).json()["user"], "bob")
        answer = self.browser.ask("POST", "link/use", {"link": link, "password": "another horse battery"})
        self.assertEqual((answer.status, answer.json()["user"], answer.json()["admin"]), (200, "bob", False))
        self.assertEqual(self.browser.user(), "bob")
        self.assertIsNone(before.user())
        for path, body in (("link", {}), ("link/use", {"password": PASSWORD})):
            answer = Browser(self).ask("POST", path, {"link": link, **body})
            self.assertEqual(self.problem(answer), (401, "invalid_token"))
        self.assertEqual(Browser(self).sign_in("bob", "another horse battery").status, 200)

    def test_new_user(self) -> None:
        """A user without a login chooses the first application; a link can make an administrator."""
        self.successResultOf(self.client.keyring.create_user("carol"))
        link = self.make("carol", admin=True)
        body = {"link": link, "app": "cafe", "password": PASSWORD}
        shown = self.browser.ask("POST", "link/use", body).json()
        self.assertEqual((shown["user"], shown["app"], shown["admin"]), ("carol", "cafe", True))

    def test_not_used_up(self) -> None:
        """What is refused for its values does not use up the link."""
        link = self.make("bob")
        for body in (
            {"password": "short"},
            {"password": PASSWORD, "app": "Not an app"},
            {"password": PASSWORD, "user": "alice"},
            {"password": PASSWORD, "extra": 1},
        ):
            answer = self.browser.ask("POST", "link/use", {"link": link, **body})
            self.assertEqual(answer.status, 400, body)
        self.assertEqual(self.browser.ask("POST", "link/use", {"link": link, "password": PASSWORD}).status, 200)

    def test_overload(self) -> None:
        """A link is not used up while too many set passwords at once, nor noted as used."""
        link = self.make("bob")
        self.patch(logins, "WAITING", 0)
        body = {"link": link, "password": PASSWORD}
        self.assertEqual(self.browser.ask("POST", "link/use", body).status, 429)
        self.patch(logins, "WAITING", 30)
        self.assertEqual(self.browser.ask("POST", "link/use", body).status, 200)
        noted = self.successResultOf(self.client.accounts.audit.page("bob"))
        self.assertEqual([entry.action for entry in noted].count("link.use"), 1)

    def test_suspended(self) -> None:
        """A link does not let in who is suspended."""
        link = self.make("bob")
        self.successResultOf(self.client.keyring.suspend("bob", True))
        answer = self.browser.ask("POST", "link/use", {"link": link, "password": PASSWORD})
        self.assertEqual(answer.status, 401)

    def test_no_first_start(self) -> None:
        """Once somebody can sign in there is no link for the first start, and an older one is worth nothing."""
        self.assertIsNone(self.result(self.dashboard.first_link()))
        link = self.make("", admin=True)
        self.assertEqual(self.browser.ask("POST", "link", {"link": link}).status, 401)
        body = {"link": link, "user": "mallory", "app": "x", "password": PASSWORD}
        self.assertEqual(self.browser.ask("POST", "link/use", body).status, 409)


class FirstStartTests(DashboardCase):
    """The first start of a gateway."""

    def login(self, user: str, admin: bool = False, app: str = "shop") -> None:
        """Nobody can sign in here."""

    def test_first_start(self) -> None:
        """The link of the first start makes the first administrator, with a name of their choice."""
        self.assertTrue(self.browser.ask("GET", "session").json()["first_start"])
        link = self.result(self.dashboard.first_link()).removeprefix("#link=")
        self.assertEqual(self.browser.ask("POST", "link", {"link": link}).json()["user"], "")
        body = {"link": link, "user": "ann", "app": "shop", "password": PASSWORD}
        shown = self.browser.ask("POST", "link/use", body).json()
        self.assertEqual((shown["user"], shown["admin"], shown["apps"]), ("ann", True, ["shop"]))
        self.assertEqual(Browser(self).sign_in("ann").status, 200)
        self.assertFalse(Browser(self).ask("GET", "session").json()["first_start"])

    def test_names(self) -> None:
        """Name and application follow the rules of names."""
        link = self.result(self.dashboard.first_link()).removeprefix("#link=")
        for user, app in (
            ("Ann", "shop"),
            ("ann", "a_b"),
            ("", "shop"),
            ("ann", ""),
            ("../x", "shop"),
            ("a" * 33, "shop"),
        ):
            body = {"link": link, "user": user, "app": app, "password": PASSWORD}
            self.assertEqual(self.browser.ask("POST", "link/use", body).status, 400, (user, app))
        self.assertEqual([user.name for user in self.client.keyring.users()], ["alice", "bob"])


class SecretTests(SynchronousTestCase):
    """What is not shown."""

    def test_not_in_representations(self) -> None:
        """Neither a visitor nor a hash shows its secrets where somebody logs it."""
        shown = repr(Visitor("the-session-id", None, None))  # type: ignore[arg-type]
        self.assertNotIn("the-session-id", shown)

    def test_bucket(self) -> None:
        """The sessions of the pages are not in the bucket of MQTT's."""
        self.assertNotIn(SESSIONS, vars(sessions).values())
