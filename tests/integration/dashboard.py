"""The dashboard of a real gateway in headless Chromium, driven by Playwright."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.integration.browser import BROWSER
from tests.integration.gateway import PATIENCE, RunningGateway, until
from tests.integration.programs import find

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

APP, PASSWORD = "shop", "correct horse battery"

PHONE, DESK = (360, 740), (1280, 800)

_Case = TypeVar("_Case", bound="DashboardCase")
_Result = TypeVar("_Result")


def browsing(test: Callable[[_Case, Page], None]) -> Callable[[_Case], None]:
    """A test that is given a page of a browser that knows nothing yet."""

    @wraps(test)
    def run(case: _Case) -> None:
        case.in_browser(lambda: test(case, case.page()))

    return run


class BrowserThread:
    """A browser, and the thread that all is done in that Playwright does: it has an event loop for itself."""

    def __init__(self) -> None:
        from playwright.sync_api import sync_playwright

        self._worker = ThreadPoolExecutor(1)

        def start() -> tuple[Any, Browser]:
            playwright = sync_playwright().start()
            try:
                browser = playwright.chromium.launch(
                    executable_path=shutil.which(BROWSER), args=["--no-sandbox"] if os.geteuid() == 0 else []
                )
            except BaseException:
                playwright.stop()
                raise
            return playwright, browser

        self._playwright, self.browser = self.run(start)

    def run(self, work: Callable[[], _Result]) -> _Result:
        """Do something there."""
        return self._worker.submit(work).result()

    def close(self) -> None:
        self.run(self.browser.close)
        self.run(self._playwright.stop)
        self._worker.shutdown()


_Kept = TypeVar("_Kept", RunningGateway, BrowserThread)
_kept: dict[type, Any] = {}


def _keep(kind: type[_Kept], make: Callable[[], _Kept], end: Callable[[_Kept], None]) -> _Kept:
    """What is started once for all tests of a run, since that takes longer than most of them; it ends with the run."""
    found: _Kept | None = _kept.get(kind)
    if found is None:
        from twisted.internet import reactor

        found = _kept[kind] = make()
        reactor.addSystemEventTrigger("before", "shutdown", end, found)
    return found


class DashboardCase(SynchronousTestCase):
    """A gateway and a browser.

    :cvar fresh: whether the gateway was just started for the first time; else it is one that many tests share, each
        with users of its own.
    :ivar user: a user whom no other test has.
    :ivar troubles: what the browser complained of: errors of scripts, and what the policy keeps out.
    """

    fresh = False
    config = """
default_plan = "free"

[plans.free]
units = 1000
publish_rate = 10000

[plans.big]

[plans.prepaid]
prepaid = true
"""

    def setUp(self) -> None:
        find(BROWSER)
        if find_spec("playwright") is None:
            raise SkipTest("Playwright is not installed")
        self.troubles: list[str] = []
        self.user = self.id().rpartition(".test_")[2].replace("_", "-")[:25]
        if self.fresh:
            self.gateway = self._gateway()
            self.addCleanup(self.gateway.clean_up)
        else:
            self.gateway = _keep(RunningGateway, self._gateway, RunningGateway.clean_up)
        self._thread = _keep(BrowserThread, BrowserThread, BrowserThread.close)

    def _gateway(self) -> RunningGateway:
        return RunningGateway(config=self.config).start()

    # -- the browser

    def in_browser(self, steps: Callable[[], None]) -> None:
        """Do something in the browser, which may have nothing to complain of."""
        self._thread.run(steps)
        self.assertEqual(self.troubles, [])

    def expect(self, *texts: str) -> None:
        """Complaints with these texts are right."""
        self.troubles = [one for one in self.troubles if not any(text in one for text in texts)]

    def context(self, timezone: str | None = None) -> BrowserContext:
        """A browser that knows nothing of the others."""
        context = self._thread.browser.new_context(
            timezone_id=timezone,
            viewport={"width": DESK[0], "height": DESK[1]},
            reduced_motion="reduce",
            permissions=["clipboard-read", "clipboard-write"],
        )
        context.set_default_timeout(PATIENCE * 1000)
        self.addCleanup(self._thread.run, context.close)
        return context

    def page(self, context: BrowserContext | None = None) -> Page:
        page = (context or self.context()).new_page()
        page.on("pageerror", lambda error: self.troubles.append(str(error)))
        page.on("console", lambda message: self.troubles.append(message.text) if message.type == "error" else None)
        page.on("dialog", lambda dialog: self.troubles.append(f"a dialog: {dialog.message}"))
        return page

    # -- the gateway

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.gateway.http}/dashboard/"

    def first_link(self) -> str:
        """The link that the log of the first start shows."""
        found: re.Match[str] = until(
            lambda: re.search(r"http://\S+/dashboard/#link=\S+", self.gateway.log()), "the link of the first start"
        )
        return found[0]

    # -- what one does with pages

    def set_up(self, page: Page, admin: bool = False) -> None:
        """Come in by a one-time link, without the clicks, which other tests make."""
        link = self.gateway.admin("POST", f"/users/{self.user}/link", {"admin": admin})["link"].partition("#link=")[2]
        body = {"link": link, "app": APP, "password": PASSWORD}
        assert page.context.request.post(f"{self.url}api/link/use", data=body).ok
        page.goto(self.url)
        page.get_by_text("Connected").wait_for()

    def sign_in(self, page: Page, password: str = PASSWORD) -> None:
        page.get_by_label("User name").fill(self.user)
        page.get_by_label("Password").fill(password)
        page.get_by_role("button", name="Sign in").click()

    def go(self, page: Page, name: str) -> None:
        """Go to a page by its link in the navigation."""
        page.get_by_role("navigation", name="Pages").get_by_role("link", name=name).click()

    def make_key(self, page: Page, name: str) -> str:
        """Make an API key by clicks; the dialog that shows it is open."""
        self.go(page, "Keys")
        page.get_by_role("button", name=re.compile("New key|Make the first key")).first.click()
        page.get_by_label("Name", exact=True).fill(name)
        page.get_by_role("button", name="Create key").click()
        return page.get_by_test_id("key").inner_text()

    def make_queue(self, page: Page, name: str, dead_letters: str = "") -> None:
        """Make a queue by clicks; its page is shown."""
        self.go(page, "Queues")
        page.get_by_role("button", name=re.compile("New queue|Make the first queue")).first.click()
        page.get_by_label("Name", exact=True).fill(name)
        if dead_letters:
            page.get_by_label("Dead letters go to").fill(dead_letters)
            page.get_by_label("After so many receives").fill("1")
        page.get_by_role("button", name=f"Create {name}").click()
        page.get_by_role("heading", name=name, exact=True).wait_for()

    def tile(self, page: Page, label: str, value: str) -> None:
        """Wait until a figure has a value."""
        page.locator(".tile", has_text=label).get_by_text(value, exact=True).wait_for()

    def until(self, look: Callable[[], Any], what: str) -> Any:
        return until(look, what)
