"""What the command reads and prints."""

from __future__ import annotations

import argparse
import json
import os
import sys

from flowgate.cli.api import Failed


def say(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (the interpreter flushes it once more at its end)
        raise Failed("nobody reads the output any more") from None


def one_line(value: object) -> str:
    """A value of a message on one line; what would break the line, or talk to the terminal, is escaped as in JSON."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if text.isprintable() else json.dumps(value)


def api_key(options: argparse.Namespace) -> str:
    key = options.key or os.environ.get("FLOWGATE_KEY")
    if not key:
        raise Failed("an API key is needed: give --key, or set FLOWGATE_KEY")
    return str(key)


def read_input(text: str | None) -> str:
    """The text of an argument, or of the standard input for ``-``."""
    if text is not None and text != "-":
        return text
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError:
        raise Failed("the message is not UTF-8") from None
