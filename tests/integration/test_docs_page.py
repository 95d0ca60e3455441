"""The page of documentation in headless Chromium: readable on a phone and a desk, by everybody, and true."""

from __future__ import annotations

import json
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.integration.browser import BROWSER, Browser, Page, Picture
from tests.integration.gateway import RunningGateway
from tests.integration.programs import Program, find, run
from tests.integration.test_seed import HTTP_PUBLISH, MQTT_PUBLISH, MQTT_SUBSCRIBE, QUEUE_SEND, WEBSOCKET

AXE = Path(__file__).with_name("document_programs") / "node_modules" / "axe-core" / "axe.min.js"

PHONE, DESK = (390, 844), (1280, 800)
BACKGROUNDS = {"light": b"\xff\xff\xff", "dark": b"\x12\x16\x1f"}


class PageCase(SynchronousTestCase):
    """A gateway and a browser."""

    def setUp(self) -> None:
        find(BROWSER)
        self.gateway = RunningGateway()
        self.addCleanup(self.gateway.clean_up)
        self.gateway.start()
        browser = Browser()
        self.addCleanup(browser.close)
        self.page: Page = browser.page()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.gateway.http}"

    def open(self, path: str = "/docs", size: tuple[int, int] = DESK, scheme: str = "light") -> None:
        self.page.size(*size, phone=size == PHONE)
        self.page.colours(scheme)
        self.page.open(f"http://{self.host}{path}")

    def code(self, name: str) -> str:
        """The text of a snippet, by its name."""
        found = self.page.run(
            f"document.querySelector({json.dumps(f'pre[aria-label={json.dumps(name)}] code')}).textContent"
        )
        assert isinstance(found, str)
        return found


class AppearanceTests(PageCase):
    """What it looks like."""

    def test_fits(self) -> None:
        """Nothing sticks out to the side, on a phone, a small phone and a desk; only snippets scroll, in themselves."""
        for path in ("/docs", "/docs/problems/insufficient_scope"):
            for size in (PHONE, (320, 568), DESK):
                self.open(path, size)
                width = self.page.run("document.documentElement.scrollWidth")
                self.assertEqual((path, width), (path, size[0]))

    def test_screenshot(self) -> None:
        """There is something to be seen, in either scheme: text on the ground that the scheme has."""
        for scheme, ground in BACKGROUNDS.items():
            for size in (PHONE, DESK):
                self.open(size=size, scheme=scheme)
                picture = Picture(self.page.screenshot())
                self.assertEqual((picture.width, picture.height), size)
                self.assertEqual(picture.rows[2][2], ground, scheme)
                written = 1 - picture.share(ground)
                self.assertTrue(0.04 < written < 0.6, (scheme, size, written))
                # No large part of it is empty.
                tenths = [picture.rows[part * size[1] // 5 : (part + 1) * size[1] // 5] for part in range(5)]
                for rows in tenths:
                    self.assertTrue(any(pixel != ground for row in rows for pixel in row), (scheme, size))

    def test_text_is_large_enough(self) -> None:
        """On a phone text has 16 pixels and is not shrunk to fit; snippets have 14."""
        self.open(size=PHONE)
        self.assertEqual(self.page.run("getComputedStyle(document.body).fontSize"), "16px")
        smallest = self.page.run(
            "Math.min(...[...document.querySelectorAll('p, li, td, th, pre, code')]"
            ".map(one => parseFloat(getComputedStyle(one).fontSize)))"
        )
        self.assertGreaterEqual(smallest, 12.5)

    def test_quiet(self) -> None:
        """The browser has nothing to complain of: no error of a script, nothing that the policy keeps out."""
        for path in ("/docs", "/docs/problems/internal"):
            self.open(path)
            self.page.run("new Promise(done => setTimeout(done, 100))")
            self.assertEqual(self.page.errors, [])


class AccessTests(PageCase):
    """Who can read it."""

    def test_axe(self) -> None:
        """axe-core finds nothing against WCAG 2.2 AA and its own best practices, on any size, in either scheme."""
        if not AXE.is_file():
            raise SkipTest("axe-core is not installed: npm install in document_programs")
        script = AXE.read_text(encoding="utf-8")
        for path in ("/docs", "/docs/problems/insufficient_scope"):
            for size, scheme in ((PHONE, "light"), (DESK, "dark")):
                self.open(path, size, scheme)
                self.page.run(script + "; 0")
                found = self.page.run(
                    "axe.run().then(found => found.violations.map("
                    "one => [one.id, one.help, one.nodes.slice(0, 3).map(node => node.html.slice(0, 120))]))"
                )
                self.assertEqual(found, [], (path, size, scheme))

    def test_keyboard(self) -> None:
        """The first key press leads to a link over the navigation; snippets can be reached and scrolled."""
        self.open()
        for kind in ("rawKeyDown", "keyUp"):
            self.page.call("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
        self.assertEqual(self.page.run("document.activeElement.getAttribute('href')"), "#main")
        self.assertGreaterEqual(self.page.run("document.activeElement.getBoundingClientRect().left"), 0)
        self.assertEqual(self.page.run("[...document.querySelectorAll('pre')].every(one => one.tabIndex === 0)"), True)

    def test_without_scripts(self) -> None:
        """Without scripts it is the same page, but for the buttons that copy."""
        self.page.call("Emulation.setScriptExecutionDisabled", value=True)
        self.open()
        self.page.call("Emulation.setScriptExecutionDisabled", value=False)
        self.assertEqual(self.page.run("document.querySelectorAll('.copy').length"), 0)
        self.assertIn("Quick Start", self.page.run("document.body.innerText"))

    def test_copy(self) -> None:
        """Each snippet has a button that takes its text."""
        self.open()
        snippets = self.page.run("document.querySelectorAll('.snippet').length")
        self.assertEqual(self.page.run("document.querySelectorAll('button.copy').length"), snippets)
        self.page.run("document.querySelector('button.copy').click()")
        told = self.page.until("document.getElementById('status').textContent")
        self.assertIn(told, ("Copied", "Selected"))
        if told == "Selected":
            self.assertEqual(self.page.run("getSelection().toString().trim()"), self.code("Make an API key").strip())


class SnippetTests(PageCase):
    """The snippets are those of the page that the project was ordered from, with the reader's own host, and work."""

    def setUp(self) -> None:
        super().setUp()
        self.open()

    def own(self, snippet: str) -> str:
        """A snippet of the model with this gateway's addresses; nothing else is changed."""
        snippet = snippet.replace("https://dev.gateway.flow-gate.kingofshiba.xyz/", f"http://{self.host}/")
        snippet = snippet.replace("wss://api.flow-gate.com/", f"ws://{self.host}/")
        return snippet.replace("-h api.flow-gate.com -p 1883", f"-h 127.0.0.1 -p {self.gateway.mqtt}")

    def test_word_for_word(self) -> None:
        """They are the same to the last character."""
        self.assertEqual(self.code("HTTP Publish"), self.own(HTTP_PUBLISH))
        self.assertEqual(self.code("WS Connection"), self.own(WEBSOCKET))
        self.assertEqual(self.code("MQTT Pub/Sub"), self.own(MQTT_PUBLISH + "\n" + MQTT_SUBSCRIBE))
        self.assertEqual(self.code("Queue Send"), self.own(QUEUE_SEND))

    def test_they_work(self) -> None:
        """From the API key to a message in a queue, with nothing but what stands on the page."""
        find("curl")
        words = self.code("Make an API key").replace("USER APP", "ann shop").split()
        key = self.gateway.command(*words[1:])
        status, output, _ = run(self.code("Exchange an API key for a token").replace("YOUR_API_KEY", key))
        self.assertEqual(status, 0)
        token = json.loads(output)["token"]

        def filled(name: str) -> str:
            return self.code(name).replace("YOUR_JWT_TOKEN", token)

        stream = Program(filled("HTTP Subscribe"))
        self.addCleanup(stream.end)
        stream.line()
        self.assertEqual(json.loads(run(filled("HTTP Publish"))[1])["topic"], "notifications")
        self.assertEqual(stream.until(b"data: "), b'data: {"topic":"notifications","data":"Hello World!"}')
        self.assertIn("sequence", json.loads(run(filled("Queue Send"))[1]))
        [message] = json.loads(run(filled("Queue Receive"))[1])["messages"]
        self.assertEqual(message["body"], "Your message content")

    def test_websocket_in_the_browser(self) -> None:
        """The snippet of WebSocket, run by the browser on a page of the gateway, receives what it publishes."""
        token = self.gateway.token("ann")
        # The policy of the documentation lets no connection out, and from a page of nowhere Chromium lets none in.
        self.open("/healthz")
        self.page.run("window.seen = []; console.log = (...words) => seen.push(words); 0")
        snippet = self.own(WEBSOCKET).replace("YOUR_JWT_TOKEN", token)
        self.page.run(snippet.replace("const ws", "window.ws") + "; window.publishMessage = publishMessage; 0")
        self.page.until("seen.length > 0")
        self.page.run("publishMessage('notifications', {n: 1})")
        self.page.until("seen.length > 1")
        self.assertEqual(
            self.page.run("seen"),
            [
                ["Connected to Flow-Gate"],
                ["Received:", {"action": "message", "topic": "notifications", "data": {"n": 1}}],
            ],
        )
