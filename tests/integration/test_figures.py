"""An account's own figures, as a program of another maker shows them."""

from __future__ import annotations

import json

from twisted.trial.unittest import SynchronousTestCase

from tests.integration.gateway import MqttClient, RunningGateway
from tests.integration.programs import Program, find


class FiguresTests(SynchronousTestCase):
    """A running gateway."""

    def setUp(self) -> None:
        find("mosquitto_sub")
        self.gateway = RunningGateway()
        self.addCleanup(self.gateway.clean_up)
        self.gateway.start()
        self.token = self.gateway.token("ann")

    def watch(self, *options: str) -> Program:
        program = Program(
            [
                *("mosquitto_sub", "-h", "127.0.0.1", "-p", str(self.gateway.mqtt), "-V", "mqttv311"),
                *("-u", "Bearer", "-P", self.token, "-t", "$SYS/#", *options),
            ]
        )
        self.addCleanup(program.end)
        return program

    def test_mosquitto_sub(self) -> None:
        """It shows all figures at once, retained, then live ones; those of every protocol, and of this account only."""
        with (
            self.gateway.websocket(self.token) as websocket,
            self.gateway.mqtt_client(self.gateway.token("bob")) as bob,
        ):
            bob.publish("t", b"bob's", 1)
            websocket.ask(action="publish", topic="t", message="1")
            status, _ = self.gateway.request("POST", "/api/v1/publish", {"topic": "t", "message": "2"}, self.token)
            self.assertEqual(status, 200)
            program = self.watch("-F", "%r %t %p")
            lines = [program.line().decode().split(" ", 2) for _ in range(10)]
        self.assertEqual([retained for retained, _, _ in lines], ["1"] * 5 + ["0"] * 5)
        first, then = ({topic: payload for _, topic, payload in some} for some in (lines[:5], lines[5:]))
        self.assertEqual(json.loads(first["$SYS/quota"])["message_bytes"], 256 * 1024)
        for found, sent in ((first, "0"), (then, "5")):
            del found["$SYS/quota"]
            self.assertEqual(
                found,
                {
                    "$SYS/clients/connected": "2",
                    "$SYS/messages/received": "2",
                    "$SYS/messages/sent": sent,
                    "$SYS/messages/dropped": "0",
                },
            )

    def test_nobody_publishes_there(self) -> None:
        """A publish to a reserved topic is refused on every protocol: 403, an error frame, a closed connection."""
        for topic in ("$SYS", "$SYS/clients/connected"):
            body = {"topic": topic, "message": "forged", "retain": True}
            status, answer = self.gateway.request("POST", "/api/v1/publish", body, self.token)
            self.assertEqual((status, answer["code"]), (403, "insufficient_scope"))
            self.assertIn("$SYS", answer["detail"])
            with self.gateway.websocket(self.token) as websocket:
                self.assertEqual(websocket.ask(action="publish", topic=topic, message="forged")["status"], 403)
            for qos in (0, 1):
                client = MqttClient(self.gateway.mqtt, self.token)
                self.addCleanup(client.close)
                with self.assertRaises((EOFError, ConnectionError)):
                    client.publish(topic, b"forged", qos)
                    client.flush()
