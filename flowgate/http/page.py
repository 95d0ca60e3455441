"""The documentation for people, as HTML: ``/docs``, and a page for each code of an error."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256
from html import escape
from importlib.resources import files
from itertools import groupby
from string import Template

from flowgate import __version__
from flowgate.errors import Refused
from flowgate.http.describing.openapi import operations
from flowgate.http.describing.place import Place
from flowgate.http.describing.problems import EXPLAINED, codes
from flowgate.http.describing.values import Operation
from flowgate.limits import Limits
from flowgate.websocket.frames import close_code

_CODE = re.compile("`([^`]+)`")

_MAKE_KEY = "flowgate key create USER APP"

_GET_TOKEN = """\
curl -X POST "$url/token/" \\
  -H "Authorization: Bearer YOUR_API_KEY"
"""

_HTTP_PUBLISH = """\
# Publish a message via HTTP
curl -X POST "$url/api/v1/publish" \\
  -H "Authorization: Bearer YOUR_JWT_TOKEN" \\
  -H "Content-Type: application/json" \\
  -d '{
    "topic": "notifications",
    "message": "Hello World!"
  }'
"""

_SSE_SUBSCRIBE = """\
# Subscribe to a topic: the stream stays open
curl -N "$url/api/v1/subscribe?topic=notifications" \\
  -H "Authorization: Bearer YOUR_JWT_TOKEN"
"""

# The line that looks empty is not: the page that this one is modelled on has two spaces there.
_WEBSOCKET = """\
// Connect to Flow-Gate WebSocket
const ws = new WebSocket('$socket_url/ws?token=YOUR_JWT_TOKEN');

// Handle connection
ws.onopen = () => {
  console.log('Connected to Flow-Gate');
  \

  // Subscribe to a topic (Short Name)
  ws.send(JSON.stringify({
    action: "subscribe",
    topic: "notifications"
  }));
};

// Handle incoming messages
ws.onmessage = (event) => {
  const data = JSON.parse(event.data);
  // data: { action: "message", topic: "notifications", data: "..." }
  console.log('Received:', data);
};

// Publish a message
function publishMessage(topic, message) {
  ws.send(JSON.stringify({
    action: "publish",
    topic: topic,
    message: message // Can be string or JSON
  }));
} // Note: Server returns no ack for WS publish by default
"""

_MQTT = """\
# Connect via MQTT using mosquitto
mosquitto_pub -h $hostname -p $mqtt_port$mqtt_tls \\
  -u "Bearer" \\
  -P "YOUR_JWT_TOKEN" \\
  -t "notifications" \\
  -m "Hello from MQTT!"

# Subscribe to a topic
mosquitto_sub -h $hostname -p $mqtt_port$mqtt_tls \\
  -u "Bearer" \\
  -P "YOUR_JWT_TOKEN" \\
  -t "notifications"
"""

_QUEUE_SEND = """\
# Send a message to a queue
curl -X POST "$url/api/v1/queues/myqueue/messages" \\
  -H "Authorization: Bearer YOUR_JWT_TOKEN" \\
  -H "Content-Type: application/json" \\
  -d '{
    "body": "Your message content"
  }'
"""

_QUEUE_RECEIVE = """\
# Receive a message from a queue
curl "$url/api/v1/queues/myqueue/messages/receive?wait=20" \\
  -H "Authorization: Bearer YOUR_JWT_TOKEN"
"""

_SNIPPETS = {
    "make_key": ("Make an API key", _MAKE_KEY),
    "get_token": ("Exchange an API key for a token", _GET_TOKEN),
    "http_publish": ("HTTP Publish", _HTTP_PUBLISH),
    "sse_subscribe": ("HTTP Subscribe", _SSE_SUBSCRIBE),
    "websocket": ("WS Connection", _WEBSOCKET),
    "mqtt": ("MQTT Pub/Sub", _MQTT),
    "queue_send": ("Queue Send", _QUEUE_SEND),
    "queue_receive": ("Queue Receive", _QUEUE_RECEIVE),
}

_STATUSES = {
    400: ("Bad Request", "Invalid parameters or malformed request body"),
    401: ("Unauthorized", "Missing or invalid JWT token"),
    402: ("Payment Required", "Limit reached or insufficient balance (Billing Guard)"),
    403: ("Forbidden", "Insufficient permissions for the requested topic/queue"),
    404: ("Not Found", "There is no such thing"),
    405: ("Method Not Allowed", "The path has other methods"),
    409: ("Conflict", "It exists already, and differs; or something like it is under way"),
    413: ("Content Too Large", "The message or the body is too large"),
    414: ("URI Too Long", "The path and the query are too long"),
    415: ("Unsupported Media Type", "The body is of a type that is not taken"),
    422: ("Unprocessable Content", "It contradicts what was sent before"),
    429: ("Too Many Requests", "Rate limit exceeded"),
    431: ("Request Header Fields Too Large", "The head of the request is too large"),
    500: ("Internal Server Error", "Server error occurred"),
    501: ("Not Implemented", "The transfer coding is not supported"),
    503: ("Service Unavailable", "The message bus is away; try again"),
    505: ("HTTP Version Not Supported", "HTTP/1.1 is spoken here"),
}


def _file(name: str) -> str:
    return (files("flowgate.http") / "pages" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def _marked(text: str) -> str:
    """Text as HTML; what stands between backticks is code."""
    return _CODE.sub(r"<code>\1</code>", escape(text, quote=False))


def _table(tag: str, calls: list[Operation]) -> str:
    rows = "\n".join(
        f"<tr><td><code>{call.method}</code></td><td><code>{escape(call.template)}</code></td>"
        f"<td>{_marked(call.summary)}</td></tr>"
        for call in calls
    )
    return (
        f'<table class="calls"><caption>{escape(tag)}</caption>\n<thead><tr><th scope="col">Method</th>'
        f'<th scope="col">Path</th><th scope="col">What</th></tr></thead>\n<tbody>\n{rows}\n</tbody></table>'
    )


def _calls(limits: Limits) -> str:
    return "\n".join(_table(tag, list(some)) for tag, some in groupby(operations(limits), key=lambda call: call.tag))


def _codes(known: dict[str, type[Refused]]) -> str:
    rows: list[str] = []
    for status, some in groupby(known.items(), key=lambda item: item[1].status):
        name, text = _STATUSES[status]
        links = ", ".join(f'<a href="/docs/problems/{code}"><code>{code}</code></a>' for code, _ in some)
        rows.append(f'<tr><th scope="row">{status} {name}</th><td>{text}</td><td>{links}</td></tr>')
    return "\n".join(rows)


_WEBSOCKET_ROW = Template(
    '<tr><th scope="row">WebSocket</th><td>an <code>error</code> frame with the same code and status; where it ends '
    "the connection, close code $close</td></tr>\n"
)


class Pages:
    """Writes the pages.

    :ivar policy: the content security policy that lets their own style and script in, and nothing else.
    """

    def __init__(self, limits: Limits) -> None:
        style, script = _file("style.css"), _file("copy.js")
        self.policy = (
            f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; img-src data:; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        self._kinds = codes()
        common = {"style": style, "script": script, "version": __version__}
        self._docs = Template(
            Template(_file("docs.html")).safe_substitute(common, calls=_calls(limits), codes=_codes(self._kinds))
        )
        self._problem = Template(Template(_file("problem.html")).safe_substitute(common))

    def documentation(self, place: Place) -> bytes:
        """The page of documentation for a reader who came by ``place``."""
        door = place.mqtt
        values = {
            "url": place.url,
            "socket_url": f"{place.socket_scheme}://{place.host}",
            "hostname": place.hostname,
            "mqtt_port": 1883 if door is None else door.port,
            "mqtt_tls": " --tls-use-os-certs" if door is not None and door.secure else "",
        }
        snippets = {
            name: f'<div class="snippet"><pre tabindex="0" role="region" aria-label="{label}"><code>'
            f"{escape(Template(text).substitute(values), quote=False)}</code></pre></div>"
            for name, (label, text) in _SNIPPETS.items()
        }
        return self._docs.substitute(snippets, url=place.url).encode()

    def problem(self, code: str) -> bytes | None:
        """The page of a code; ``None`` if there is no such code."""
        kind = self._kinds.get(code)
        if kind is None:
            return None
        explained = EXPLAINED[code]
        # What only HTTP's own reader and the queues refuse is told nowhere else.
        everywhere = kind.__module__ == Refused.__module__
        return self._problem.substitute(
            code=code,
            title=escape(kind.title),
            status=kind.status,
            means=_marked(explained.means),
            remedy=_marked(explained.remedy),
            websocket=_WEBSOCKET_ROW.substitute(close=close_code(kind())) if everywhere else "",
        ).encode()
