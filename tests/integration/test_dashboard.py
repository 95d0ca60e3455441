"""The dashboard in headless Chromium: from the first start to the first message, and everything that can be clicked."""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING

from tests.integration.dashboard import APP, PASSWORD, DashboardCase, browsing
from tests.integration.programs import find, run

if TYPE_CHECKING:
    from playwright.sync_api import Page, WebSocketRoute


EVIL = '<img src=x onerror="window.hit=1"><script>window.hit=1</script>'
"""What a page that makes markup of text would run."""


class PageTests(DashboardCase):
    """The pages."""

    # -- coming in and going out

    @browsing
    def test_sessions(self, page: Page) -> None:
        """One signs out and in; a new password ends other sessions, whose pages say so; no secret is in the log."""
        self.set_up(page)
        cookies = {one["name"]: one for one in page.context.cookies()}
        for one in cookies.values():
            self.assertEqual((one["httpOnly"], one["sameSite"], one["path"]), (True, "Strict", "/dashboard"))
        self.assertEqual(page.evaluate("document.cookie"), "")
        page.get_by_role("button", name=f"Account of {self.user}").click()
        page.get_by_role("button", name="Sign out").click()
        page.get_by_role("heading", name="Sign in").wait_for()
        self.assertEqual([one["name"] for one in page.context.cookies()], ["flowgate_device"])
        self.sign_in(page, password="wrong")
        page.get_by_role("alert").get_by_text("user name or password are wrong").wait_for()
        self.sign_in(page)
        page.get_by_role("heading", name="Live").wait_for()
        log = self.gateway.log()
        for secret in (PASSWORD, *(one["value"] for one in (*cookies.values(), *page.context.cookies()))):
            self.assertNotIn(secret, log)
        other = self.page(self.context())
        other.goto(self.url)
        self.sign_in(other)
        other.get_by_role("heading", name="Live").wait_for()
        page.get_by_role("button", name=f"Account of {self.user}").click()
        page.get_by_text("Change the password").click()
        page.get_by_label("Old password").fill(PASSWORD)
        page.get_by_label("New password").fill("another horse battery")
        page.get_by_role("button", name="Change password").click()
        page.get_by_text("The password is changed.").wait_for()
        other.get_by_text("Your session has ended. Sign in again.").wait_for()
        self.go(page, "Keys")
        page.get_by_role("heading", name="API keys").wait_for()
        self.expect("401")

    # -- keys

    @browsing
    def test_life_of_a_key(self, page: Page) -> None:
        """A key is made, copied, rotated and revoked by clicks; with that its MQTT connection ends."""
        self.set_up(page)
        key = self.make_key(page, "Thermometer")
        page.get_by_role("button", name="Copy: API key").click()
        page.get_by_role("button", name="Copied").wait_for()
        self.assertEqual(page.evaluate("navigator.clipboard.readText()"), key)
        page.get_by_role("button", name="I have copied it").click()
        self.assertNotIn(key.partition(".")[2], page.content())
        status, answer = self.gateway.request("POST", "/token/", {"api_key": key})
        self.assertEqual(status, 200)
        with self.gateway.mqtt_client(answer["token"]) as client:
            client.subscribe("a")
            page.get_by_role("button", name="Rotate").click()
            page.get_by_label("The old one goes on working").select_option("3600")
            page.get_by_role("dialog").get_by_role("button", name="Rotate").click()
            fresh = page.get_by_test_id("key").inner_text()
            self.assertNotEqual(fresh, key)
            page.get_by_role("button", name="I have copied it").click()
            client.flush()
            old = page.locator(f"[data-key={key.partition('.')[0]}]")
            old.get_by_role("button", name="Revoke").click()
            page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
            self.assertTrue(client.closed())
        self.assertEqual(self.gateway.request("POST", "/token/", {"api_key": key})[0], 403)
        self.assertEqual(self.gateway.request("POST", "/token/", {"api_key": fresh})[0], 200)
        self.assertNotIn(key.partition(".")[2], self.gateway.log())

    @browsing
    def test_snippets(self, page: Page) -> None:
        """The snippets that a new key is shown with work as they stand there."""
        find("curl", "mosquitto_pub")
        self.set_up(page)
        self.make_key(page, "It's a key")
        dialog = page.get_by_role("dialog")

        def text(name: str) -> str:
            dialog.get_by_role("tab", name=name, exact=True).click()
            found: str = dialog.get_by_role("region", name=f"Snippet: {name}", exact=True).inner_text()
            return found

        status, output, _ = run(text("Token"))
        self.assertEqual((status, json.loads(output)["app"]), (0, APP))
        status, output, _ = run(text("Publish"))
        self.assertEqual((status, json.loads(output)["topic"]), (0, "notifications"))
        status, output, _ = run(text("Queue"))
        self.assertIn("Your message content", output)
        # As it stands there but for the end, which the reader's patience is otherwise.
        status, output, errors = run(text("MQTT").replace("mosquitto_sub", "mosquitto_sub -C 1", 1) + "\nwait")
        self.assertIn("Hello from MQTT!", output, errors)
        status, output, errors = run([sys.executable, "-c", text("boto3")])
        self.assertIn("Your message content", output, errors)
        seen = page.evaluate(f"new Promise((done) => {{ console.log = done; {text('WebSocket')} }})")
        self.assertEqual(seen, {"action": "message", "topic": "notifications", "data": "Hello World!"})
        events = text("Events, JS").replace("console.log", "seen")
        seen = page.evaluate(
            f"new Promise((seen) => {{ {events}; events.onopen = () => setTimeout(publish, 0); "
            f"const publish = () => {{ {text('WebSocket').replace('console.log', 'String')} }} }})"
        )
        self.assertEqual(seen, "Hello World!")

    @browsing
    def test_snippets_of_grants(self, page: Page) -> None:
        """What a key may do is what its snippets do."""
        find("curl")
        self.set_up(page)
        self.gateway.key(
            self.user, APP, name="Sensor", publish=["plant/+/heat/#"], subscribe=[], queues=["receive:jobs-*"]
        )
        self.gateway.key(self.user, APP, name="Screen", publish=[], subscribe=["alarms"], queues=["send:log"])
        self.go(page, "Keys")
        dialog = page.get_by_role("dialog")
        seen = {}
        for name in ("Sensor", "Screen"):
            page.locator(".row", has_text=name).get_by_role("button", name="Snippets").click()
            dialog.get_by_role("tab").first.wait_for()
            for tab in dialog.get_by_role("tab").all():
                tab.click()
                seen[name, tab.inner_text()] = dialog.locator("pre").inner_text()
            page.keyboard.press("Escape")
        self.assertEqual(
            list(seen),
            [
                ("Sensor", "Publish"),
                ("Sensor", "WebSocket"),
                ("Sensor", "MQTT"),
                ("Sensor", "Queue"),
                ("Screen", "Events"),
                ("Screen", "Events, JS"),
                ("Screen", "WebSocket"),
                ("Screen", "MQTT"),
                ("Screen", "Queue"),
            ],
        )
        _, output, _ = run(seen["Sensor", "Publish"])
        self.assertEqual(json.loads(output)["topic"], "plant/1/heat/notifications")
        self.assertEqual(run(seen["Sensor", "MQTT"])[:2], (0, ""))
        self.assertEqual(json.loads(run(seen["Sensor", "Queue"].replace("wait=5", "wait=0"))[1])["code"], "not_found")
        self.gateway.request("PUT", "/api/v1/queues/log", {}, self.gateway.token(self.user))
        self.assertIn("id", json.loads(run(seen["Screen", "Queue"])[1]))

    # -- the live view

    @browsing
    def test_large_message(self, page: Page) -> None:
        """Of a large message the beginning is shown."""
        self.set_up(page)
        page.get_by_label("Topic or filter").fill("#")
        page.get_by_role("button", name="Subscribe", exact=True).click()
        page.get_by_text("Listening …").wait_for()
        token = self.gateway.token(self.user)
        self.gateway.request("POST", "/api/v1/publish", {"topic": "a", "message": "x" * 200_000}, token)
        page.get_by_text("Only the beginning is shown.").wait_for()
        self.assertEqual(page.locator(".message pre").inner_text(), "x" * 16_384)
        page.locator(".message").get_by_text("195 KiB").wait_for()

    @browsing
    def test_connection_lost(self, page: Page) -> None:
        """What was subscribed to stays so over connections, also one that is lost before it was asked for again."""
        connections: list[WebSocketRoute] = []

        def take(socket: WebSocketRoute) -> None:
            connections.append(socket)
            if len(connections) == 2:
                socket.on_message(lambda _: socket.close())
            else:
                socket.connect_to_server()

        page.route_web_socket(re.compile("/ws"), take)
        self.set_up(page)
        page.get_by_label("Topic or filter").fill("news")
        page.get_by_role("button", name="Subscribe", exact=True).click()
        page.get_by_text("Listening …").wait_for()
        connections[0].close()

        def third() -> bool:
            page.wait_for_timeout(20)  # in which Playwright takes what the browser says
            return len(connections) == 3

        self.until(third, "a third connection")
        page.get_by_text("Connected").wait_for()
        token = self.gateway.token(self.user)

        def heard() -> int:
            self.gateway.request("POST", "/api/v1/publish", {"topic": "news", "message": "again"}, token)
            return page.locator(".message").count()

        self.until(heard, "the subscription is there again")

    @browsing
    def test_text_stays_text(self, page: Page) -> None:
        """Names of topics, payloads, keys and queues are shown as they are: nothing in them is ever run."""
        self.set_up(page, admin=True)
        page.get_by_label("Topic or filter").fill("#")
        page.get_by_role("button", name="Subscribe", exact=True).click()
        page.get_by_text("Listening …").wait_for()
        token = self.gateway.token(self.user, APP, name=EVIL)
        for payload in (
            EVIL,
            json.dumps({EVIL: [EVIL]}),
            "javascript:window.hit=1",
            '"></pre><svg onload=window.hit=1>',
        ):
            status, _ = self.gateway.request("POST", "/api/v1/publish", {"topic": EVIL, "message": payload}, token)
            self.assertEqual(status, 200)
        page.locator(".message").nth(3).wait_for()
        self.assertEqual(page.locator(".message .topic").first.inner_text(), EVIL)
        self.assertIn(EVIL, page.locator(".messages").inner_text())
        self.gateway.request("POST", "/api/v1/queues/evil/messages", {"body": EVIL}, token)
        self.go(page, "Keys")
        page.get_by_role("heading", name=EVIL).wait_for()
        self.go(page, "Queues")
        page.get_by_role("link", name="evil").click()
        page.get_by_role("button", name="Peek").click()
        page.locator(".message").get_by_text(EVIL).wait_for()
        page.evaluate("location.hash = '#/admin/audit'")
        page.get_by_role("cell", name=f"name {EVIL}").first.wait_for()
        page.goto(f"{self.url}#/queues/{'%3Cimg%20src%3Dx%20onerror%3Dwindow.hit%3D1%3E'}")
        page.get_by_role("alert").wait_for()
        self.assertEqual(
            page.evaluate("[window.hit, document.querySelectorAll('main img, main script, main svg[onload]').length]"),
            [None, 0],
        )
        self.expect("400", "404")

    @browsing
    def test_many_messages(self, page: Page) -> None:
        """The newest 500 are kept; while it is paused nothing moves; the list can be cleared."""
        self.set_up(page)
        page.get_by_role("button", name="Send a first message").click()
        page.locator(".message").wait_for()
        token = self.gateway.token(self.user)
        batch = {"messages": [{"topic": "notifications", "message": f"number {number}"} for number in range(600)]}
        self.gateway.request("POST", "/api/v1/publish/batch", batch, token)
        page.get_by_text("number 599", exact=True).wait_for()
        self.assertEqual(page.locator(".message").count(), 500)
        page.get_by_role("button", name="Pause").click()
        self.gateway.request("POST", "/api/v1/publish", {"topic": "notifications", "message": "late"}, token)
        page.get_by_role("button", name="Go on (1 new)").click()
        page.locator(".message").get_by_text("late", exact=True).wait_for()
        page.get_by_role("button", name="Clear").click()
        self.until(lambda: page.locator(".message").count() == 0, "the list is empty")
        page.get_by_role("button", name="Unsubscribe from notifications").click()
        page.get_by_role("heading", name="Nothing here yet").wait_for()

    # -- queues

    @browsing
    def test_queues(self, page: Page) -> None:
        """Queues are made, filled, looked into, emptied and removed, and dead letters moved back, by clicks."""
        self.set_up(page)
        self.make_queue(page, "dead")
        self.make_queue(page, "orders", dead_letters="dead")
        for number in range(2):
            page.get_by_role("button", name="Send", exact=True).click()
            page.get_by_label("Message", exact=True).fill(f"order {number}")
            page.get_by_role("dialog").get_by_role("button", name="Send").click()
            page.get_by_role("dialog").wait_for(state="hidden")
        self.tile(page, "Visible", "2")
        page.get_by_role("button", name="Peek").click()
        page.locator(".message").get_by_text("order 1").wait_for()
        # Received once, and not deleted: at the next receive it is a dead letter.
        token = self.gateway.token(self.user)
        receive = "/api/v1/queues/orders/messages/receive"
        for expected in (2, 0):
            _, answer = self.gateway.request("POST", receive, {"max": 10, "visibility": 0, "wait": 0}, token)
            self.assertEqual(len(answer["messages"]), expected)
        self.go(page, "Queues")
        page.get_by_role("row", name=re.compile("^dead")).get_by_role("cell", name="2", exact=True).first.wait_for()
        page.get_by_role("link", name="dead", exact=True).click()
        page.get_by_text("Dead letters of orders come here.").wait_for()
        page.get_by_role("button", name="Redrive").click()
        page.get_by_label("At most so many a second").fill("1")
        page.get_by_role("dialog").get_by_role("button", name="Redrive").click()
        page.get_by_text("The messages are being moved.").wait_for()
        page.get_by_role("button", name="Cancel", exact=True).click()
        page.get_by_text(re.compile("cancelled|completed")).first.wait_for()
        page.get_by_role("button", name="Purge").click()
        page.get_by_role("button", name="Remove all messages").click()
        self.tile(page, "Visible", "0")
        page.get_by_role("button", name="Delete").click()
        page.get_by_role("button", name="Delete the queue").click()
        page.get_by_text("Deleted dead.").wait_for()
        self.until(lambda: self.gateway.request("GET", "/api/v1/queues/dead", token=token)[0] == 404, "it is gone")


# -- usage
