"""Chromium's own EventSource, fetch and WebSocket, in a page of another origin, cut off and come back."""

# mypy: disallow-untyped-calls=False
# (trial has no annotations)
from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from tests.integration.browser import BROWSER, Browser
from tests.integration.gateway import ROOT, until
from tests.integration.programs import find
from tests.integration.test_stream_clients import CUTS, MESSAGES, StreamCase

_SCRIPT = """
const base = %(base)s, token = %(token)s;
const seen = [], told = [];
let source, socket, last = null;

async function publish(messages) {
  const ids = [];
  for (const message of messages) {
    const answer = await fetch(`${base}/api/v1/publish`, {
      method: "POST",
      headers: {
        "Authorization": `Bearer ${token}`,
        "Content-Type": "application/json",
        "Idempotency-Key": crypto.randomUUID?.() ?? String(Math.random()),
      },
      body: JSON.stringify({ topic: "t", message }),
    });
    if (!answer.ok) throw new Error(await answer.text());
    ids.push([(await answer.json()).id, message]);
  }
  return ids;
}

function listen(query) {
  source = new EventSource(`${base}/api/v1/subscribe?topic=t&token=${token}${query}`);
  source.onopen = () => told.push(["open", performance.now()]);
  source.onerror = () => told.push(["error", performance.now(), source.readyState]);
  source.addEventListener("gap", () => told.push(["gap", seen.length]));
  source.onmessage = (event) => seen.push([event.lastEventId, JSON.parse(event.data).data]);
}

async function stream(id) {
  const answer = await fetch(`${base}/api/v1/subscribe?topic=t`, {
    headers: { "Authorization": `Bearer ${token}`, "Last-Event-ID": id },
  });
  told.push(answer.headers.get("Flow-Last-Event-ID"), answer.headers.get("X-Request-Id"));
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let text = "";;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const blocks = text.split("\\n\\n");
    text = blocks.pop();
    for (const block of blocks) seen.push(JSON.parse(/^data: (.*)$/m.exec(block)[1]).data);
  }
}

function connect(given = token) {
  socket = new WebSocket(`${base.replace("http", "ws")}/ws?token=${given}`);
  socket.onopen = () => socket.send(JSON.stringify(
    { action: "subscribe", topic: "t", meta: true, id: "s", ...(last === null ? {} : { since: last }) }));
  socket.onclose = (event) => {
    told.push(["closed", event.code]);
    if (event.code === 1006) setTimeout(connect, 50);
  };
  socket.onmessage = (event) => {
    const frame = JSON.parse(event.data);
    if (frame.action === "message") {
      seen.push([last = frame.id, frame.data]);
    } else {
      told.push([frame.action, frame.id]);
    }
  };
}
"""


class _Page(BaseHTTPRequestHandler):
    """An empty page."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><meta charset=utf-8><title>reader</title><link rel=icon href=data:,>")

    def log_message(self, format: str, *args: object) -> None:
        pass


class BrowserTests(StreamCase):
    """What a page sees."""

    def setUp(self) -> None:
        find(BROWSER)
        super().setUp()
        server = ThreadingHTTPServer(("127.0.0.1", 0), _Page)
        serving = Thread(target=server.serve_forever, args=(0.02,))
        serving.start()
        self.addCleanup(server.server_close)
        self.addCleanup(serving.join)
        self.addCleanup(server.shutdown)
        browser = Browser()
        self.addCleanup(browser.close)
        self.page = browser.page()
        self.page.open(f"http://localhost:{server.server_address[1]}/")
        names = {"base": f"http://127.0.0.1:{self.proxy.port}", "token": self.token}
        self.add_script(_SCRIPT % {name: json.dumps(value) for name, value in names.items()})

    def add_script(self, text: str) -> None:
        """Make a script a part of the page: what it declares is there for all that is run later."""
        quoted = json.dumps(text)
        self.page.run(
            f"document.head.append(Object.assign(document.createElement('script'), {{textContent: {quoted}}}))"
        )

    def told(self, what: str) -> list[Any]:
        """What was noted of one kind."""
        return [one for one in self.page.run("told") if one[0] == what]

    def publish_in_page(self, *messages: Any) -> None:
        self.published += [(id_, message) for id_, message in self.page.run(f"publish({json.dumps(messages)})")]

    def check_seen(self) -> None:
        self.page.until(f"seen.length >= {len(self.published)}")
        self.assertEqual([tuple(one) for one in self.page.run("seen")], self.published)

    def test_event_source(self) -> None:
        """EventSource comes back by itself after the time it was told, with its last id, and misses nothing."""
        self.page.run("listen('')")
        self.page.until("told.length")
        self.publish_in_page(*MESSAGES)
        self.check_seen()
        self.proxy.limits.extend([1234])
        self.publish(*MESSAGES[:2])
        self.proxy.cut()
        self.publish(*MESSAGES[2:])
        self.check_seen()
        self.assertEqual([kind for kind, *_ in self.page.run("told")], ["open", *["error", "open"] * 2])
        self.assertEqual({state for _, _, state in self.told("error")}, {0}, "EventSource.CONNECTING")
        pauses = [opened[1] - error[1] for error, opened in zip(self.told("error"), self.told("open")[1:], strict=True)]
        self.assertGreater(min(pauses), 1900)
        self.assertLess(min(pauses), 2900, "its own would be 3 s")

    def test_gap(self) -> None:
        """EventSource is told of a gap before the first message; a refused token ends it for good."""
        self.publish(*MESSAGES)
        self.page.run("listen('&last_event_id=gone-7')")
        self.check_seen()
        self.assertEqual(self.told("gap"), [["gap", 0]])
        self.page.run("source.close(); told.length = 0; listen('x')")  # of the token
        self.page.until("told.length")
        self.assertEqual(self.told("error")[0][2], 2, "EventSource.CLOSED")

    def test_new_token(self) -> None:
        """The function of the documentation goes on with a new token when the old one is refused: nothing is missed."""
        text = (ROOT / "docs" / "http.rst").read_text().partition("function listen(")[2].partition("\n\nA browser")[0]
        self.add_script("const listenFor = function (" + text)
        second = self.gateway.token("ann")
        tokens = json.dumps([second, self.token])
        self.page.run(f"const tokens = {tokens}, got = [];")
        self.page.run("listenFor(base, 't', async () => tokens.pop(), (message) => got.push(message.data))")
        until(lambda: self.gateway.metric("flowgate_connections") == 1, "it reads")
        self.publish(*MESSAGES)
        self.page.until(f"got.length >= {len(MESSAGES)}")
        self.gateway.request("POST", "/token/revoke", {"token": self.token})
        self.token = second
        self.publish(*MESSAGES)
        self.page.until(f"got.length >= {2 * len(MESSAGES)}")
        self.assertEqual(self.page.run("got"), [*MESSAGES, *MESSAGES])
        self.assertEqual(self.page.run("tokens"), [])

    def test_fetch(self) -> None:
        """fetch reads a stream as it comes, with the headers that EventSource cannot send or read."""
        self.publish(*MESSAGES)
        self.page.run(f"void stream({json.dumps(self.published[2][0])})")
        self.page.until(f"seen.length >= {len(MESSAGES) - 3}")
        self.publish_in_page("live")
        self.page.until(f"seen.length > {len(MESSAGES) - 3}")
        self.assertEqual(self.page.run("seen"), [message for _, message in self.published[3:]])
        announced, request_id = self.page.run("told")
        self.assertEqual(announced, self.published[2][0])
        self.assertTrue(request_id)

    def test_websocket(self) -> None:
        """A page's WebSocket resumes from its last id after every cut; what its script is told of a refusal is 4401."""
        self.page.run("connect()")
        self.page.until("told.length")
        self.publish_in_page(*MESSAGES)
        self.check_seen()
        self.proxy.limits.extend(CUTS)
        self.publish(*MESSAGES[:5])
        self.proxy.cut()
        self.publish(*MESSAGES[5:])
        self.check_seen()
        self.assertGreater(len(self.told("closed")), 4)
        self.assertEqual({code for _, code in self.told("closed")}, {1006})
        self.page.run("told.length = 0; connect('wrong')")
        self.page.until("told.length")
        self.assertEqual(self.told("closed"), [["closed", 4401]])
