"""The dashboard in headless Chromium: from the first start to the first message, and everything that can be clicked."""

from __future__ import annotations

import json
import os
import re
import sys
from functools import cache
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tests.integration.dashboard import APP, DESK, PASSWORD, PHONE, DashboardCase, browsing
from tests.integration.programs import find, run

if TYPE_CHECKING:
    from playwright.sync_api import Page

AXE = Path(__file__).with_name("document_programs") / "node_modules" / "axe-core" / "axe.min.js"

EVIL = '<img src=x onerror="window.hit=1"><script>window.hit=1</script>'
"""What a page that makes markup of text would run."""


class FirstStartTests(DashboardCase):
    """The first start of a gateway."""

    @browsing
    def test_first_start(self, page: Page) -> None:
        """From the link in the log one comes to the first message by clicks alone; the link is good once."""
        page.goto(self.first_link())
        page.get_by_label("User name").fill(self.user)
        page.get_by_label("Application").fill(APP)
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Set up and sign in").click()
        page.get_by_role("button", name="Send a first message").click()
        message = page.locator(".message")
        message.get_by_text("Hello World!").wait_for()
        self.assertEqual(message.count(), 1)
        self.assertEqual(page.get_by_role("link", name="Admin").count(), 1)
        other = self.page(self.context())
        other.goto(self.first_link())
        other.get_by_role("heading", name="This link does not work").wait_for()
        self.expect("401")


class PageTests(DashboardCase):
    """The pages."""

    # -- coming in and going out

    @browsing
    def test_sessions(self, page: Page) -> None:
        """One signs out and in; a new password ends other sessions, whose pages say so; no secret is in the log."""
        self.set_up(page)
        cookie = page.context.cookies()[0]
        self.assertEqual((cookie["httpOnly"], cookie["sameSite"], cookie["path"]), (True, "Strict", "/dashboard"))
        self.assertEqual(page.evaluate("document.cookie"), "")
        page.get_by_role("button", name=f"Account of {self.user}").click()
        page.get_by_role("button", name="Sign out").click()
        page.get_by_role("heading", name="Sign in").wait_for()
        self.assertEqual(page.context.cookies(), [])
        self.sign_in(page, password="wrong")
        page.get_by_role("alert").get_by_text("user name or password are wrong").wait_for()
        self.sign_in(page)
        page.get_by_role("heading", name="Live").wait_for()
        log = self.gateway.log()
        for secret in (PASSWORD, cookie["value"], page.context.cookies()[0]["value"]):
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
        self.go(other, "Keys")
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
        self.assertEqual(run(text("MQTT").partition("&")[2])[0], 0)
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

    # -- the live view

    @browsing
    def test_text_stays_text(self, page: Page) -> None:
        """Names of topics, payloads, keys and queues are shown as they are: nothing in them is ever run."""
        self.set_up(page)
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

    # -- administration

    @browsing
    def test_accounts(self, page: Page) -> None:
        """An account is made, let in, and suspended, which ends its session; what was done is in the audit log."""
        self.set_up(page, admin=True)
        self.go(page, "Admin")
        self.tile(page, "Node", "1")
        page.get_by_role("link", name="Accounts").click()
        page.get_by_role("button", name="New account").click()
        page.get_by_label("User name").fill(f"bob-{self.user}")
        page.get_by_role("button", name="Create account").click()
        link = page.get_by_role("dialog").locator(".secret code").inner_text()
        page.get_by_role("button", name="Done").click()
        other = self.page(self.context())
        other.goto(link)
        other.get_by_role("heading", name=f"Welcome, bob-{self.user}").wait_for()
        other.get_by_label("Application").fill("cafe")
        other.get_by_label("Password").fill(PASSWORD)
        other.get_by_role("button", name="Set password and sign in").click()
        other.get_by_text("Connected").wait_for()
        self.assertEqual(other.get_by_role("link", name="Admin").count(), 0)
        page.locator(f"[data-user=bob-{self.user}]").get_by_role("button", name="Suspend").click()
        page.get_by_role("dialog").get_by_role("button", name="Suspend").click()
        page.get_by_text(f"bob-{self.user} is suspended.").wait_for()
        other.get_by_text("Your session has ended. Sign in again.").wait_for()
        page.get_by_label(f"Plan of bob-{self.user}").select_option("big")
        page.get_by_text(f"bob-{self.user} has the plan big.").wait_for()
        page.get_by_role("link", name="Audit log").click()
        page.get_by_role("cell", name="user.suspend").first.wait_for()
        self.expect("401", "WebSocket")

    # -- usage

    @browsing
    def test_usage(self, page: Page) -> None:
        """What is published is counted, against the plan; at its end the page says so, and publishing is refused."""
        self.set_up(page)
        page.get_by_role("button", name="Send a first message").click()
        page.locator(".message").wait_for()
        self.go(page, "Usage")
        self.tile(page, "Used in", "1")
        self.tile(page, "Left", "999")
        page.get_by_text("10,000 a second").wait_for()
        page.get_by_role("button", name="24 hours").click()
        page.get_by_role("img", name="Units: 1 in this hour").wait_for()
        token = self.gateway.token(self.user)
        batch = {"messages": [{"topic": "a", "message": 1}] * 999}
        self.assertEqual(self.gateway.request("POST", "/api/v1/publish/batch", batch, token)[0], 200)
        self.tile(page, "Left", "0")
        page.get_by_text("used up").wait_for()
        self.go(page, "Live")
        page.get_by_text("Connected").wait_for()
        page.get_by_role("button", name="Publish", exact=True).click()
        page.get_by_role("alert").get_by_text(re.compile("limit|plan")).first.wait_for()

    # -- what it looks like, and who can use it

    def check(self, page: Page, name: str) -> None:
        """What is there fits on a phone and a desk, in either scheme, is seen, and axe-core finds nothing wrong."""
        schemes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
        for size, scheme in product((DESK, PHONE), schemes):
            page.set_viewport_size({"width": size[0], "height": size[1]})
            page.emulate_media(color_scheme=scheme)
            self.assertEqual((name, page.evaluate("document.documentElement.scrollWidth")), (name, size[0]))
            ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
            self.assertEqual(ground, {"light": "rgb(246, 248, 251)", "dark": "rgb(18, 22, 31)"}[scheme])
            picture = page.screenshot()
            self.assertGreater(len(picture), 2 * self.nothing(size), (name, size, scheme))
            folder = os.environ.get("DASHBOARD_PICTURES")
            if folder:
                shown = "desk" if size == DESK else "phone"
                (Path(folder) / f"dashboard-{name.replace('/', '-')}-{shown}-{scheme}.png").write_bytes(picture)
            if AXE.is_file() and (size == DESK) == (scheme == "light"):
                self.axe(page, (name, size, scheme))
        page.set_viewport_size({"width": DESK[0], "height": DESK[1]})
        page.emulate_media(color_scheme="light")

    @browsing
    def test_every_page(self, page: Page) -> None:
        """Each page, and the dialog of a new key, is as it should be, with something on it."""
        page.goto(self.first_link())
        page.get_by_label("User name").fill(self.user)
        self.check(page, "set-up")
        page.get_by_label("Application").fill(APP)
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Set up and sign in").click()
        page.get_by_text("Connected").wait_for()
        self.make_key(page, "Web shop")
        page.get_by_role("tab", name="MQTT").click()
        self.check(page, "key")
        page.get_by_role("button", name="I have copied it").click()
        self.gateway.key(self.user, APP, name="Thermometers", publish=["plant/#"], expires_days=90)
        self.make_queue(page, "orders-failed")
        self.make_queue(page, "orders", dead_letters="orders-failed")
        token = self.gateway.token(self.user, APP, name="Back office")
        for number in range(3):
            body = {"body": json.dumps({"order": 4711 + number, "items": number + 1})}
            self.gateway.request("POST", "/api/v1/queues/orders/messages", body, token)
        self.gateway.admin("POST", "/users", {"user": "bob"})
        self.go(page, "Live")
        page.get_by_text("Connected").wait_for()
        page.get_by_label("Topic or filter").fill("plant/+")
        page.get_by_role("button", name="Subscribe", exact=True).click()
        page.get_by_text("Listening …").wait_for()
        for topic, message in (
            ("plant/7", {"celsius": 21.5, "humidity": 0.4}),
            ("plant/8", "stopped"),
            ("plant/7", {"celsius": 21.7, "humidity": 0.41}),
        ):
            self.gateway.request("POST", "/api/v1/publish", {"topic": topic, "message": message}, token)
        page.locator(".message").nth(2).wait_for()
        self.check(page, "live")
        marks = {"keys": ".rows", "queues": "table", "queues/orders": ".tiles", "usage": ".tiles", "admin": ".uplot"}
        for name, mark in {**marks, "admin/accounts": ".rows", "admin/audit": "table"}.items():
            page.evaluate(f"location.hash = '#/{name}'")
            page.locator(mark).first.wait_for()
            self.check(page, name)

    @cache  # noqa: B019 - a test case lives as long as its test
    def nothing(self, size: tuple[int, int]) -> int:
        """The bytes of a picture on which nothing is seen."""
        page = self.page()
        page.set_viewport_size({"width": size[0], "height": size[1]})
        return len(page.screenshot())

    def axe(self, page: Page, place: object) -> None:
        """Look for what WCAG 2.2 AA and axe's own best practices forbid."""
        page.evaluate(AXE.read_text(encoding="utf-8") + "; 0")
        found = page.evaluate(
            "axe.run().then(found => found.violations.map("
            "one => [one.id, one.help, one.nodes.slice(0, 3).map(node => node.html.slice(0, 160))]))"
        )
        self.assertEqual(found, [], place)

    @browsing
    def test_keyboard(self, page: Page) -> None:
        """All is reached by the keyboard: over the navigation, into dialogs and back, and the colours, which stay."""
        self.set_up(page)
        page.reload()
        page.get_by_text("Connected").wait_for()
        page.keyboard.press("Tab")
        self.assertEqual(page.evaluate("document.activeElement.textContent"), "Skip to the page")
        page.keyboard.press("Enter")
        self.assertEqual(page.evaluate("document.activeElement.id"), "main")
        page.get_by_role("navigation", name="Pages").get_by_role("link", name="Keys").focus()
        page.keyboard.press("Enter")
        page.get_by_role("button", name="New key").focus()
        page.keyboard.press("Enter")
        page.get_by_role("dialog").wait_for()
        self.assertEqual(page.evaluate("document.activeElement.name"), "name")
        page.keyboard.press("Escape")
        page.get_by_role("dialog").wait_for(state="hidden")
        self.assertEqual(page.evaluate("document.activeElement.textContent.trim()"), "New key")
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        self.assertEqual(outline, "solid")
        for chosen in ("light", "dark"):
            page.get_by_role("button", name=re.compile("Change$")).focus()
            page.keyboard.press("Enter")
            page.reload()
            page.get_by_role("heading", name="API keys").wait_for()
            self.assertEqual(page.evaluate("document.documentElement.dataset.theme"), chosen)
