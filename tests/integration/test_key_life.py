"""The life of users and keys, by the ``flowgate`` command, on a running gateway; and its traces in the audit log."""

# mypy: disallow-untyped-calls=False
# (trial has no annotations)
from __future__ import annotations

import json
from contextlib import ExitStack
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.integration.gateway import RunningGateway, until


class KeyLifeTests(SynchronousTestCase):
    """From the first key to the removal of its user."""

    def setUp(self) -> None:
        self.gateway = RunningGateway(config="[plans.gold]\npublish_rate = 1000\n")
        self.addCleanup(self.gateway.clean_up)
        self.gateway.start()
        self.stack = ExitStack()
        self.addCleanup(self.stack.close)

    def run_json(self, *arguments: str) -> Any:
        return json.loads(self.gateway.command(*arguments, "--json"))

    def token(self, key: str) -> str:
        return self.gateway.command("token", key).strip()

    def test_life(self) -> None:
        """A key is made, used, rotated and expires, which ends what is open; its user gets a plan, and goes."""
        command = self.gateway.command
        old = command("key", "create", "ann", "shop", "--name", "till").strip()
        old_id = old.partition(".")[0]
        (listed,) = self.run_json("key", "list", "--user", "ann")
        self.assertEqual((listed["id"], listed["last_used_at"]), (old_id, None))
        mqtt = self.stack.enter_context(self.gateway.mqtt_client(self.token(old)))
        stream = self.stack.enter_context(self.gateway.events(self.token(old), "t"))
        until(lambda: self.run_json("key", "list", "--user", "ann")[0]["last_used_at"], "the use of the key is known")

        new = command("key", "rotate", old_id, "--overlap", "1").strip()
        stays = self.stack.enter_context(self.gateway.mqtt_client(self.token(new)))
        self.assertTrue(mqtt.closed())
        self.assertTrue(stream.ended())
        status, answer = self.gateway.request("POST", "/token/", {"api_key": old})
        self.assertEqual((status, answer["error"]), (401, "invalid_client"))
        stays.flush()

        command("user", "plan", "ann", "gold")
        self.assertIn("plan: gold", command("user", "show", "ann"))
        command("user", "suspend", "ann")
        self.assertTrue(stays.closed())
        command("user", "resume", "ann")
        token = self.token(new)
        command("user", "delete", "ann")
        self.assertEqual(self.gateway.status("/api/v1/topics/t/messages", token), 401)
        self.assertEqual(self.run_json("user", "list"), [])

        lines = command("audit", "--user", "ann").splitlines()
        actions = [line.split("  ")[2].split()[0] for line in lines]
        self.assertEqual(
            actions,
            ["user.delete", "user.resume", "user.suspend", "user.plan", "key.rotate", "key.create"],
        )
        for line in lines:
            self.assertIn("admin from 127.0.0.1", line)
            for secret in (old, new):
                self.assertNotIn(secret.partition(".")[2], line)
