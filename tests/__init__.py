"""Tests.  ``FUZZ_SECONDS`` in the environment has each of those that try inputs at random go on for so long."""

from __future__ import annotations

import os

FUZZ_SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))
