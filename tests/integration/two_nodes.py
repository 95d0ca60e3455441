"""Two gateways that share nothing but nats-server and the master secret."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.integration.gateway import RunningGateway, until
from tests.integration.nats import NatsServer


def two_nodes(test: SynchronousTestCase, config: str = "") -> tuple[NatsServer, list[RunningGateway], str]:
    """Start them for a test; they go with it.

    :param config: of both.
    :returns: the nats-server, the nodes, and a token of ``ann`` that both know.
    """
    directory = Path(tempfile.mkdtemp(prefix="flowgate-test-"))
    test.addCleanup(shutil.rmtree, directory, ignore_errors=True)
    (directory / "nats").mkdir()
    server = NatsServer(directory / "nats")
    test.addCleanup(server.kill)
    server.start()
    nodes: list[RunningGateway] = []
    for name in "ab":
        home = directory / name
        home.mkdir()
        node = RunningGateway(home / "data", config, ("--nats", server.url))
        node.environment["FLOWGATE_MASTER_SECRET"] = "one-secret-for-both-nodes-of-this-test"
        test.addCleanup(node.clean_up)
        nodes.append(node.start())
    # A key made on one node is good on the other.
    token = nodes[0].token("ann")
    until(
        lambda: nodes[1].status("/api/v1/topics/t/messages", token) == 200,
        "the key is known to the other node",
    )
    return server, nodes, token
