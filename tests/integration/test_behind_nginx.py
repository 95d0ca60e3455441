"""Behind nginx as it is configured by default: nothing is held back."""

# mypy: disallow-untyped-calls=False
# (trial has no annotations)
from __future__ import annotations

import os
import shutil
import socket
import tempfile
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.integration.gateway import EventStream, RunningGateway, WebSocketClient, until
from tests.integration.programs import Program

_CONFIG = """
daemon off;
master_process off;
user root;
pid {home}/nginx.pid;
error_log {home}/error.log;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    scgi_temp_path {home}/scgi;
    uwsgi_temp_path {home}/uwsgi;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://127.0.0.1:{gateway};
        }}
        location /ws {{
            proxy_pass http://127.0.0.1:{gateway};
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection "Upgrade";
        }}
    }}
}}
"""
"""Only the location of WebSocket needs more than ``proxy_pass``: what nginx's own documentation says."""


class NginxTests(SynchronousTestCase):
    """``proxy_pass`` with its defaults: HTTP/1.0 towards the gateway, and buffering."""

    def setUp(self) -> None:
        nginx = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
        if nginx is None:
            raise SkipTest("nginx is not installed")
        self.gateway = RunningGateway()
        self.addCleanup(self.gateway.clean_up)
        self.gateway.start()
        self.token = self.gateway.token("ann")
        home = Path(tempfile.mkdtemp(prefix="flowgate-test-"))
        self.addCleanup(shutil.rmtree, home, ignore_errors=True)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        config = home / "nginx.conf"
        config.write_text(_CONFIG.format(home=home, port=self.port, gateway=self.gateway.http))
        program = Program([nginx, "-p", str(home), "-e", str(home / "error.log"), "-c", str(config)], with_errors=True)
        self.addCleanup(program.end)

        def listens() -> bool:
            if program.process.poll() is not None:
                raise AssertionError(f"nginx has ended: {program.line()!r}")
            with socket.socket() as tried:
                return tried.connect_ex(("127.0.0.1", self.port)) == 0

        until(listens, "nginx listens")

    def publish(self, message: str) -> str:
        status, answer = self.gateway.request("POST", "/api/v1/publish", {"topic": "t", "message": message}, self.token)
        self.assertEqual(status, 200)
        return str(answer["id"])

    def test_events(self) -> None:
        """The head of a stream and each event come through at once, small as they are; a resume does too."""
        stream = EventStream(self.port, self.token, ("t",))
        self.addCleanup(stream.close)
        ids = []
        for number in range(5):
            ids.append(self.publish(f"message {number}"))
            [event] = stream.receive(1)
            self.assertEqual((event["id"], event["data"]["data"]), (ids[-1], f"message {number}"))
        again = EventStream(self.port, self.token, ("t",), ids[2])
        self.addCleanup(again.close)
        self.assertEqual([event["id"] for event in again.receive(2)], ids[3:])

    def test_websocket(self) -> None:
        """A WebSocket comes through."""
        client = WebSocketClient(self.port, self.token)
        self.addCleanup(client.close)
        client.subscribe("t", since="earliest")
        self.publish("x")
        self.assertEqual(client.frame()["data"], "x")
