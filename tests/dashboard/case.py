"""A dashboard over a store, keys and queues in memory, and browsers that talk to it."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred

from flowgate.bus.memory_peers import MemoryPeers, MemoryPeersHub
from flowgate.dashboard.link_calls import LinkCalls
from flowgate.dashboard.passwords import Cost
from flowgate.dashboard.site import Dashboard
from flowgate.dashboard.usage import IBilling
from flowgate.http.admin.access import AdminAccess
from flowgate.http.answers import Route
from flowgate.http.describing.place import MqttDoor
from flowgate.logs import Troubles
from flowgate.nodes import Nodes
from tests.contracts.at_once import AtOnceTestCase
from tests.http_client import ADMIN_TOKEN, Answer, HttpClient

CHEAP = Cost(2, 1, 1)
"""A hash that costs nothing, so that tests need not wait for it."""

PASSWORD = "correct horse battery"
ORIGIN = "http://gateway"
"""Where :class:`~tests.http_client.HttpClient` says that it has found the gateway."""


def at_once(work: Any, *values: Any) -> Any:
    """Threads that do everything in the thread that asks."""
    return maybeDeferred(work, *values)


class Browser:
    """What a browser keeps: the cookie of a session, and what our page has learned."""

    def __init__(self, case: DashboardCase) -> None:
        self._case = case
        self.cookie = ""
        self.device = ""
        self.csrf = ""

    def ask(self, method: str, path: str, body: object = None, headers: dict[str, str | None] | None = None) -> Answer:
        """Send a request as our own page does; a header that is ``None`` is left out."""
        sent: dict[str, str | None] = {"Origin": ORIGIN, "Sec-Fetch-Site": "same-origin", "X-CSRF-Token": self.csrf}
        kept = {"flowgate_session": self.cookie, "flowgate_device": self.device}
        sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in kept.items() if value)
        sent.update(headers or {})
        fields = {name: value for name, value in sent.items() if value}
        answer = self._case.client.call(method, f"/dashboard/api/{path}", body, fields, token=None)
        for given in answer.headers.get_all("Set-Cookie", ()):
            name, _, value = given.partition(";")[0].partition("=")
            if name == "flowgate_session":
                self.cookie = value
            else:
                self.device = value
        if answer.status == 200 and "application/json" in answer.headers.get("Content-Type", ""):
            self.csrf = answer.json().get("csrf", self.csrf)
        return answer

    def sign_in(self, user: str = "alice", password: str = PASSWORD) -> Answer:
        return self.ask("POST", "session", {"user": user, "password": password})

    def user(self) -> str | None:
        """Who is signed in."""
        found: str | None = self.ask("GET", "session").json()["user"]
        return found


class DashboardCase(AtOnceTestCase):
    """A dashboard where alice is an administrator, and bob is none."""

    billing: IBilling | None = None

    def setUp(self) -> None:
        self.client = HttpClient(real_tokens=True, further=self._routes)
        for user, admin in (("alice", True), ("bob", False)):
            self.successResultOf(self.client.keyring.create_user(user))
            self.login(user, admin)
        self.browser = Browser(self)

    def _routes(self, client: HttpClient) -> list[Route]:
        self.client = client
        peers = MemoryPeers(MemoryPeersHub(client.clock))
        self.nodes = Nodes(
            client.gateway, client.queues, peers, Troubles(client.gateway.meter, client.now), client.clock
        )
        self.dashboard = self.node()
        links = LinkCalls(self.dashboard.links, client.accounts, AdminAccess(ADMIN_TOKEN))
        return [*self.dashboard.routes(), *links.routes()]

    def node(self, secure: bool = False) -> Dashboard:
        """The dashboard of one more node."""
        client = self.client
        dashboard = Dashboard(
            client.store,
            client.accounts,
            client.token_service,
            client.queues,
            self.nodes,
            at_once,
            client.clock,
            client.now,
            secure=secure,
            mqtt=lambda: MqttDoor(1883),
            billing=self.billing,
            cost=CHEAP,
        )
        self.successResultOf(dashboard.start())
        return dashboard

    def login(self, user: str, admin: bool = False, app: str = "shop") -> None:
        self.result(self.dashboard.logins.set_password(user, PASSWORD, app=app, admin=admin))

    def result(self, coroutine: Any) -> Any:
        """What a coroutine gives at once."""
        return self.successResultOf(Deferred.fromCoroutine(coroutine))

    def signed_in(self, user: str = "alice") -> Browser:
        browser = Browser(self)
        self.assertEqual(browser.sign_in(user).status, 200)
        return browser

    def problem(self, answer: Answer) -> tuple[int, str]:
        return answer.status, answer.json()["code"]
