"""The first start, and how every page of the dashboard looks, in headless Chromium."""

from __future__ import annotations

import json
import os
import re
from functools import cache
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tests.integration.dashboard import APP, DESK, PASSWORD, PHONE, DashboardCase, browsing

if TYPE_CHECKING:
    from playwright.sync_api import Page

AXE = Path(__file__).with_name("document_programs") / "node_modules" / "axe-core" / "axe.min.js"


class LookCase(DashboardCase):
    """Looks at pages."""

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


class FirstStartTests(LookCase):
    """The first start of a gateway."""

    fresh = True

    @browsing
    def test_first_start(self, page: Page) -> None:
        """From the link in the log one comes to the first message by clicks alone; the link is good once."""
        self.user = "ann"  # as pictures show it
        page.goto(self.first_link())
        page.get_by_label("User name").fill(self.user)
        self.check(page, "set-up")
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

    @browsing
    def test_stopped(self, page: Page) -> None:
        """While the gateway is away the pages say so, and nothing breaks."""
        self.set_up(page)
        self.gateway.stop()
        page.get_by_text("Connection lost, trying again …").wait_for()
        for name in ("Keys", "Queues", "Usage"):
            self.go(page, name)
            page.get_by_role("alert").get_by_text("The gateway does not answer. Is it running").wait_for()
        page.get_by_role("button", name=f"Account of {self.user}").click()
        page.get_by_role("button", name="Sign out").click()
        page.locator(".toast").get_by_text("The gateway does not answer.").wait_for()
        self.expect("ERR_CONNECTION_REFUSED")


class LookTests(LookCase):
    """How the pages look, and who can use them."""

    @browsing
    def test_every_page(self, page: Page) -> None:
        """Each page, and the dialog of a new key, is as it should be, with something on it."""
        self.user = "ann"  # as pictures show it
        self.set_up(page, admin=True)
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
