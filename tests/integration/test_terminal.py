"""The gateway as somebody runs it in a terminal."""

from __future__ import annotations

import os
import signal
import subprocess
from functools import partial

from twisted.trial.unittest import SynchronousTestCase

from tests.integration.gateway import PATIENCE, RunningGateway


class TerminalTests(SynchronousTestCase):
    """Ctrl-C."""

    def test_interrupt(self) -> None:
        """Ctrl-C, which a terminal sends to the whole group of processes, is an ordered end: nats-server comes last."""
        self.patch(subprocess, "Popen", partial(subprocess.Popen, start_new_session=True))
        gateway = RunningGateway()
        self.addCleanup(gateway.clean_up)
        gateway.start()
        assert gateway.process is not None
        self.assertEqual([os.getpgid(child) for child in gateway.children()], gateway.children())  # each leads its own
        os.killpg(gateway.process.pid, signal.SIGINT)
        self.assertEqual(gateway.process.wait(PATIENCE), 0, gateway.log())
        gateway.process = None
        self.assertEqual(gateway.children(), [])
        self.assertNotIn("is away", gateway.log())
        self.assertIn("Flow-Gate has stopped", gateway.log())
