"""What a gateway holds: its file descriptors, and how many objects of each kind are alive in it."""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections import Counter
from pathlib import Path

from tests.integration.gateway import RunningGateway, until

_SCRIPT = """
import gc, json, os, signal
from collections import Counter

def tell(*_):
    gc.collect()
    found = Counter()
    for one in gc.get_objects():
        kind = type(one)
        if str(kind.__module__).startswith("flowgate."):
            found[kind.__module__ + "." + kind.__qualname__] += 1
    path = os.environ["CENSUS_FILE"]
    with open(path + ".new", "w") as file:
        json.dump(found, file)
    os.rename(path + ".new", path)

signal.signal(signal.SIGUSR2, tell)
"""


class Census:
    """Counts in a gateway, which has to be started behind this."""

    def __init__(self, gateway: RunningGateway) -> None:
        self._gateway = gateway
        self._directory = tempfile.TemporaryDirectory(prefix="flowgate-test-")
        home = Path(self._directory.name)
        (home / "sitecustomize.py").write_text(_SCRIPT)
        self._file = home / "census"
        gateway.environment["CENSUS_FILE"] = str(self._file)
        gateway.environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(home), os.environ.get("PYTHONPATH"))))

    def close(self) -> None:
        self._directory.cleanup()

    def objects(self) -> Counter[str]:
        """Objects of our own classes, by class."""
        process = self._gateway.process
        assert process is not None
        self._file.unlink(missing_ok=True)
        os.kill(process.pid, signal.SIGUSR2)
        until(self._file.exists, "the gateway has counted")
        return Counter(json.loads(self._file.read_text()))

    def descriptors(self) -> int:
        """Open files and connections."""
        process = self._gateway.process
        assert process is not None
        return len(os.listdir(f"/proc/{process.pid}/fd"))
