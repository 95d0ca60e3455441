"""What administrators do in the dashboard, and what accounts use, in headless Chromium."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from tests.integration.dashboard import APP, PASSWORD, DashboardCase, browsing

if TYPE_CHECKING:
    from playwright.sync_api import Page


class AccountTests(DashboardCase):
    """Accounts and their usage."""

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

    @browsing
    def test_balance(self, page: Page) -> None:
        """An administrator adds units to a balance, and takes some away; who had none can publish then."""
        bob = f"bob-{self.user}"
        token = self.gateway.token(bob)
        self.set_up(page, admin=True)
        page.evaluate("location.hash = '#/admin/accounts'")
        page.get_by_label(f"Plan of {bob}").select_option("prepaid")
        page.get_by_text(f"{bob} has the plan prepaid.").wait_for()
        message = {"topic": "a", "message": 1}
        self.until(
            lambda: self.gateway.request("POST", "/api/v1/publish", message, token)[0] == 402, "there is nothing left"
        )
        for units, verb, shown in (("1000", "Add", "1,000"), ("-250", "Take away", "750")):
            page.locator(f"[data-user={bob}]").get_by_role("button", name="Balance").click()
            page.get_by_label("Units to add").fill(units)
            page.get_by_label("What for").fill("invoice 7")
            page.get_by_role("button", name=f"{verb} units").click()
            page.get_by_text(f"{bob} has {shown} units.").wait_for()
        self.until(lambda: self.gateway.request("POST", "/api/v1/publish", message, token)[0] == 200, "units are there")
        page.get_by_role("link", name="Audit log").click()
        page.get_by_role("row", name=re.compile(rf"{self.user} balance.change {bob}.*units -250")).wait_for()
        _, ledger = self.gateway.request("GET", "/api/v1/usage/ledger", token=token)
        added = [(one["balance"], one["note"]) for one in ledger["entries"] if one["kind"] != "usage"]
        self.assertEqual(added, [(-250, "invoice 7"), (1000, "invoice 7")])

    @browsing
    def test_finding(self, page: Page) -> None:
        """In long lists of keys, queues and accounts one finds what one looks for."""
        self.set_up(page, admin=True)
        token = self.gateway.token(self.user, APP, name="Needle")
        for number in range(12):
            self.gateway.key(self.user, APP, name=f"Hay {number}")
            self.gateway.admin("POST", "/users", {"user": f"hay-{number}"})
        for number in range(51):
            self.gateway.request("POST", f"/api/v1/queues/hay-{number:02}/messages", {"body": "x"}, token)
        self.gateway.request("POST", "/api/v1/queues/needle/messages", {"body": "x"}, token)
        self.go(page, "Keys")
        page.get_by_label("Find a key").fill("need")
        self.until(lambda: page.locator(".row").count() == 1, "one key")
        page.get_by_role("heading", name="Needle").wait_for()
        page.get_by_label("Find a key").fill("nothing")
        page.get_by_text("No key has that in its name").wait_for()
        self.go(page, "Queues")
        page.get_by_role("button", name="Next page").click()
        page.get_by_role("link", name="needle").wait_for()
        page.get_by_role("button", name="First page").click()
        page.get_by_label("Find by how the name begins").fill("need")
        self.until(lambda: page.locator("tbody a").all_inner_texts() == ["needle"], "one queue")
        page.evaluate("location.hash = '#/admin/accounts'")
        page.get_by_label("Find by how the name begins").fill("hay-1")
        self.until(lambda: page.locator(".row h3").all_inner_texts() == ["hay-1", "hay-10", "hay-11"], "three accounts")

    @browsing
    def test_times(self, page: Page) -> None:
        """Days of charts are those of UTC, wherever one is; times are those of the place, and name another year."""
        page = self.page(self.context("Europe/Berlin"))
        self.set_up(page)
        moment = "seconds => import('/dashboard/static/format.js').then(one => one.moment(seconds))"
        self.assertEqual(page.evaluate(moment, 1735689600 - 3600), "Jan 1, 2025, 00:00")
        now = time.localtime()
        today = int(time.mktime((now.tm_year, 7, 1, 12, 0, 0, 0, 0, -1)))
        self.assertNotIn(str(now.tm_year), page.evaluate(moment, today))
        page.get_by_role("button", name="Send a first message").click()
        page.locator(".message").wait_for()
        # The object that draws is nobody's but the chart's.
        page.evaluate("uPlot = new Proxy(uPlot, {construct: (kind, values) => (window.plot = new kind(...values))}), 0")
        self.go(page, "Usage")
        page.get_by_role("img", name="Units: 1 today").wait_for()
        splits = page.evaluate("plot.axes[0]._splits")
        self.assertGreater(len(splits), 3)
        self.assertEqual({at % 86400 for at in splits}, {0})

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
        page.reload()
        self.tile(page, "Left", "0")
        page.get_by_text("used up").wait_for()
        self.go(page, "Live")
        page.get_by_text("Connected").wait_for()
        page.get_by_role("button", name="Publish", exact=True).click()
        page.get_by_role("alert").get_by_text("The page Usage shows what the plan has.").wait_for()
