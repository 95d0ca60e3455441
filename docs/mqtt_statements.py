"""The normative statements of MQTT 3.1.1, and the tests that name them: read when the documentation is built.

``mqtt_statements.tsv`` has all of appendix B, in order: the number, whom the statement binds, and what it asks, in our
words.  A test names a statement as ``[MQTT-3.1.0-2]``, in its docstring or in a table that it goes through.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

BINDS = ("server", "client", "both", "bridge")
"""Whom a statement binds.  ``bridge``: a server that is also a client of other servers, which the gateway is not."""

_NAME = re.compile(r"\[MQTT-(\d+\.\d+\.\d+-\d+)\]")
_NAMES = r"\[MQTT-[\d.-]+\](?:,? \[MQTT-[\d.-]+\])*"
_IN_FRONT = re.compile(rf"^{_NAMES}[:,]? ?")
_BEHIND = re.compile(rf" ?\({_NAMES}\)| {_NAMES}$")

_Function = ast.FunctionDef | ast.AsyncFunctionDef


class Statement(NamedTuple):
    number: str
    binds: str
    text: str

    @property
    def ours(self) -> bool:
        """Whether it binds the gateway."""
        return self.binds in ("server", "both")


class Case(NamedTuple):
    """A test that names a statement.

    :ivar name: module, class and method, as in ``mqtt.test_durable: WillTests.test_lost``.
    :ivar text: its docstring, or the cases of its table that name the statement.
    """

    name: str
    text: str


def statements() -> list[Statement]:
    """All normative statements, in the order of the specification."""
    lines = Path(__file__).with_suffix(".tsv").read_text(encoding="utf-8").splitlines()
    return [Statement(*line.split("\t")) for line in lines]


def cases(tests: Path) -> dict[str, list[Case]]:
    """For each statement that is named in the modules below ``tests`` the tests that name it."""
    found: dict[str, list[Case]] = {}
    for path in sorted(tests.rglob("*.py")):
        module = ".".join(path.relative_to(tests).with_suffix("").parts)
        text = path.read_text(encoding="utf-8")
        if _NAME.search(text):
            for number, case in _of_module(ast.parse(text), module):
                found.setdefault(number, []).append(case)
    return found


def _of_module(tree: ast.Module, module: str) -> Iterator[tuple[str, Case]]:
    tables = _tables(tree.body)
    for kind in tree.body:
        if not isinstance(kind, ast.ClassDef):
            continue
        tables |= _tables(kind.body)
        for function in kind.body:
            if isinstance(function, _Function) and function.name.startswith("test_"):
                yield from _of_test(function, f"{module}: {kind.name}.{function.name}", tables)


def _of_test(function: _Function, name: str, tables: dict[str, list[str]]) -> Iterator[tuple[str, Case]]:
    docstring = " ".join((ast.get_docstring(function) or "").split())
    for number in dict.fromkeys(_NAME.findall(docstring)):
        yield number, Case(name, _without_names(docstring))
    texts = _strings(function.body[1:] if docstring else function.body)
    for node in ast.walk(function):
        used = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
        texts += tables.pop(used, [])  # a table counts for the first test that goes through it
    of: dict[str, list[str]] = {}
    for text in texts:
        for number in dict.fromkeys(_NAME.findall(text)):
            of.setdefault(number, []).append(_without_names(text))
    for number, some in of.items():
        yield number, Case(name, "; ".join(some))


def _tables(body: list[ast.stmt]) -> dict[str, list[str]]:
    """The strings that name statements, by the variable that they are assigned to."""
    found = {}
    for node in body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        strings = _strings([node])
        if strings:
            found |= {target.id: strings for target in targets if isinstance(target, ast.Name)}
    return found


def _strings(body: Iterable[ast.stmt]) -> list[str]:
    return [
        node.value
        for part in body
        for node in ast.walk(part)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and _NAME.search(node.value)
    ]


def _without_names(text: str) -> str:
    return _BEHIND.sub("", _IN_FRONT.sub("", text)).rstrip(".")
