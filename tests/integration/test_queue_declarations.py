"""Queues that the configuration file declares, and the ``flowgate queue`` commands, on a real gateway."""

from __future__ import annotations

import json

from tests.integration.gateway import RunningGateway
from tests.integration.test_start import Attempt, TestsWithDirectory

CONFIG = """
[[queues]]
user = "ann"
app = "shop"
name = "jobs"
visibility = {visibility}
dead_letter = {{ queue = "dead", max_receives = 1 }}
subscriptions = ["work/#"]

[[queues]]
user = "ann"
app = "shop"
name = "dead"
"""


class DeclarationTests(TestsWithDirectory):
    """``[[queues]]``."""

    def test_declared_and_changed(self) -> None:
        """A declared queue is there before the first client; a later start changes it, and it keeps its messages."""
        gateway = self.start(config=CONFIG.format(visibility=60))
        token = gateway.token("ann")
        status, found = gateway.request("GET", "/api/v1/queues", token=token)
        self.assertEqual(status, 200)
        self.assertEqual([one["name"] for one in found["queues"]], ["dead", "jobs"])
        self.assertEqual(found["queues"][1]["config"]["visibility"], 60)
        status, _ = gateway.request("POST", "/api/v1/publish", {"topic": "work/1", "message": "do it"}, token=token)
        self.assertEqual(status, 200)
        self.assertEqual(gateway.stop(), 0)

        gateway = self.start(config=CONFIG.format(visibility=0))
        self.assertIn("the queue jobs of ann/shop was changed to what is declared: ['visibility']", gateway.log())
        jobs = "/api/v1/queues/jobs"
        _, found = gateway.request("POST", f"{jobs}/messages/receive", {"wait": 10}, token=token)
        [message] = found["messages"]
        self.assertEqual((message["body"], message["attributes"]["topic"]), ("do it", "work/1"))
        self.commands(gateway)

    def commands(self, gateway: RunningGateway) -> None:
        """The message goes to the dead-letter queue and back, by the command line."""
        key = gateway.key("ann")

        def queue(*arguments: str) -> str:
            return gateway.command("queue", *arguments, "--key", key)

        self.assertEqual(queue("list"), "dead  standard\njobs  standard  dead letters to dead")
        self.assertEqual(queue("receive", "jobs"), "")
        self.assertEqual([one["body"] for one in json.loads(queue("peek", "dead", "--json"))], ["do it"])
        task = queue("redrive", "dead", "--to", "jobs")
        self.assertEqual(queue("receive", "jobs", "--wait", "10", "--visibility", "60", "--delete"), "do it")
        self.assertEqual(json.loads(queue("redrive", "dead", "--list", "--json"))[0]["task"], task)
        queue("create", "more.fifo", "--content-dedup", "--tag", "team=a")
        first = queue("send", "more.fifo", "--group", "g", "one")
        self.assertEqual(queue("send", "more.fifo", "--group", "g", "one"), first)
        queue("unsubscribe", "jobs", "work/#")
        self.assertEqual(queue("subscribe", "jobs"), "")
        queue("purge", "more.fifo")
        self.assertEqual(json.loads(queue("stats", "more.fifo", "--json"))["visible"], 0)
        queue("delete", "more.fifo")
        self.assertEqual(queue("list", "--prefix", "more"), "")

    def test_impossible(self) -> None:
        """A declaration that cannot be carried out stops the start with one sentence."""
        config = self.directory / "flowgate.toml"
        config.write_text(CONFIG.format(visibility=60).replace('name = "dead"', 'name = "other"'))
        status, errors, log = Attempt(self.directory, "--config", str(config)).end()
        self.assertEqual(status, 1, log)
        self.assertRegex(errors, r"\Aflowgate: the declared queue jobs of ann/shop cannot be had: [^\n]*dead[^\n]*\n\Z")
        self.assertNotIn("Traceback", errors + log)
