"""Gateways that do in seconds, and with few messages, what they do in minutes and with many."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase


def tuned(test: SynchronousTestCase, module: str, **constants: float) -> None:
    """Have the gateways that ``test`` starts from now on use other constants of a module.

    These are no settings, because nobody has a reason to change them; only a test has none to wait.
    """
    directory = tempfile.TemporaryDirectory(prefix="flowgate-test-")
    test.addCleanup(directory.cleanup)
    lines = [f"import {module}", *(f"{module}.{name}; {module}.{name} = {value}" for name, value in constants.items())]
    # Python runs this before anything else.
    (Path(directory.name) / "sitecustomize.py").write_text("\n".join(lines))
    path = os.pathsep.join(filter(None, (directory.name, os.environ.get("PYTHONPATH"))))
    test.patch(os, "environ", {**os.environ, "PYTHONPATH": path})
