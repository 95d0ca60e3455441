"""The documentation names what the code has: options, errors, routes, links."""

from __future__ import annotations

import re
from functools import cache
from itertools import groupby
from pathlib import Path
from runpy import run_path
from types import ModuleType
from typing import Any
from unittest.mock import Mock

import attrs
from twisted.trial.unittest import SynchronousTestCase

from flowgate import cli, errors
from flowgate.dashboard.link_calls import LinkCalls
from flowgate.errors import Refused
from flowgate.http import queue_messages, queues, site, wire
from flowgate.http.answers import Route
from flowgate.http.metrics import Metrics
from flowgate.http.signing import SigningCalls
from flowgate.http.status import Status
from flowgate.http.usage import UsageCalls
from flowgate.http.webhooks import WebhookCalls
from flowgate.limits import Limits
from flowgate.queues import model, redrive, service
from flowgate.settings import ENVIRONMENT, OPTIONS, Options, Settings
from flowgate.sqs.resource import SqsCalls

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("*.rst"))}


def table_rows(page: str) -> list[list[str]]:
    """The cells of every row of the page's list-tables."""
    found = []
    for row in re.findall(r"^   \* - .*\n(?:     .*\n)*", PAGES[page], re.MULTILINE):
        found.append([" ".join(cell.split()) for cell in re.split(r"^   [* ] - ?", row, flags=re.MULTILINE)[1:]])
    return found


@cache
def statements() -> tuple[tuple[str, ...], list[Any], dict[str, list[Any]]]:
    """Whom statements of MQTT can bind, all of them, and the cases of the tests that name each."""
    module = run_path(str(DOCS / "mqtt_statements.py"))
    return module["BINDS"], module["statements"](), module["cases"](ROOT / "tests")


def refusals(room: ModuleType = errors) -> list[type[Refused]]:
    """Every refusal of a module that has a code of its own."""
    return [kind for kind in vars(room).values() if isinstance(kind, type) and issubclass(kind, Refused)]


class OptionTests(SynchronousTestCase):
    """The table of options in ``operations.rst``."""

    def setUp(self) -> None:
        self.rows = {row[1].strip("`"): row for row in table_rows("operations") if f"``{ENVIRONMENT}" in row[1]}

    def test_every_option_with_its_variable(self) -> None:
        """Each option has a row that names it, its environment variable and its place on the command line."""
        for option in OPTIONS:
            name = f"``{option.name}``" + (f", ``--{option.name}``" if hasattr(Options, f"opt_{option.name}") else "")
            self.assertEqual(self.rows[option.variable][0], name)

    def test_nothing_else(self) -> None:
        """There is no row for an option that does not exist."""
        self.assertEqual(set(self.rows), {option.variable for option in OPTIONS})

    def test_defaults(self) -> None:
        """The numbers and words given as defaults are those of the code."""
        defaults = {
            "replicas": Settings().replicas,
            "issuer": Settings().issuer,
            "signing.announce": f"{Settings().signing_announce // 60}m",
            "durability": Settings().durability,
            "history.messages": Settings().history_messages,
            "http": Settings().http[0],
            "metrics": Settings().metrics,
            "log_format": Settings().log_format,
            "sqs_account_id": Settings().sqs_account_id,
            "sqs_regions": Settings().sqs_regions,
            "mqtt": Settings().mqtt[0],
            **{f"limits.{field.name}": field.default for field in attrs.fields(Limits)},
        }
        variables = {option.name: option.variable for option in OPTIONS}
        for name, value in defaults.items():
            shown = f"[{value}]" if isinstance(value, int) else f"[``{value}``]"
            self.assertIn(shown, self.rows[variables[name]][2], name)

    def test_the_commands_variables(self) -> None:
        """The variables that only the command, or only the search for the file, reads are named too."""
        for name in ("CONFIG", "KEY", "URL"):
            self.assertIn(f"``{ENVIRONMENT}{name}``", PAGES["operations"])


class ErrorTests(SynchronousTestCase):
    """The tables in ``errors.rst``."""

    def test_every_code_with_its_status(self) -> None:
        """The table of codes has just the codes of the code, each with its status."""
        shown = {(row[0], row[1].strip("`")) for row in table_rows("errors") if row[0].isdigit()}
        rooms = (errors, model, redrive, service, queue_messages, queues, wire)
        self.assertEqual(shown, {(str(kind.status), kind.code) for room in rooms for kind in refusals(room)})

    def test_every_close_code(self) -> None:
        """Each code that a WebSocket is closed with is explained on its page."""
        from flowgate.websocket import frames

        codes = {frames.NO_PONG, frames.SLOW, frames.GOING_AWAY, frames.TEXT_ONLY}
        codes |= {frames.close_code(kind()) for kind in refusals()}
        for code in codes:
            self.assertRegex(PAGES["websocket"], rf"(?m)^{code} ")


class RouteTests(SynchronousTestCase):
    """The table of routes in ``http.rst``."""

    def setUp(self) -> None:
        taken: list[Route] = []

        def root(routes: list[Route], *_: object) -> Mock:
            taken.extend(routes)
            return Mock()

        self.patch(site, "Root", root)
        arguments: list[Any] = [Mock() for _ in range(site.make_site.__code__.co_argcount)]
        arguments[-1] = [
            *SqsCalls(Mock(), Mock(), Mock()).routes(),
            *WebhookCalls(Mock(), Mock()).routes(),
            *SigningCalls(Mock(), Mock(), Mock()).routes(),
            *Metrics(Mock(), Mock()).routes(),
            *Status(Mock(), Mock()).routes(),
            *UsageCalls(Mock(), Mock(), Mock(), Mock()).routes(),
            *LinkCalls(Mock(), Mock(), Mock()).routes(),
        ]
        site.make_site(*arguments)
        self.routes = {(route.method, re.sub(r"<\w+:(\w+)>", r"<\1>", route.path)) for route in taken}

    def test_the_table_is_the_code(self) -> None:
        """Each route is in the table, and the table has no other, except for the WebSockets."""
        shown = {
            (method, path)
            for methods, paths, *_ in table_rows("http")
            if re.fullmatch("[A-Z ]+", methods)
            for method in methods.split()
            for path in re.findall("``(.*?)``", paths)
        }
        self.assertEqual(shown, self.routes | {("GET", "/ws"), ("GET", "/mqtt")})


class LinkTests(SynchronousTestCase):
    """What one page says of another."""

    def test_pages(self) -> None:
        """Each page that is linked exists, and each page is in the table of contents."""
        linked = {name for text in PAGES.values() for name in re.findall(r":doc:`(?:[^`<]*<)?([\w-]+)>?`", text)}
        contents = set(re.findall(r"(?m)^   ([a-z]+)$", PAGES["index"]))
        self.assertEqual(linked - set(PAGES), set())
        self.assertEqual(contents, set(PAGES) - {"index"})

    def test_labels(self) -> None:
        """Each label that is referred to is set once."""
        text = "\n".join(PAGES.values())
        labels = re.findall(r"(?m)^\.\. _([\w-]+):$", text)
        self.assertEqual(len(labels), len(set(labels)))
        self.assertEqual(set(re.findall(r":ref:`(?:[^`<]*<)?([\w-]+)>?`", text)) - set(labels), set())

    def test_pictures(self) -> None:
        """Each picture is there."""
        for text in PAGES.values():
            for name in re.findall(r"(?m)^\.\. (?:image|figure):: (\S+)$", text):
                self.assertTrue((DOCS / name).is_file(), name)

    def test_readme(self) -> None:
        """Each file of ``docs/`` that the README names exists, and each relative link in it leads somewhere."""
        readme = (ROOT / "README.md").read_text(encoding="utf-8")
        links = re.findall(r"\]\((?!\w+:|#)([^)#]+)", readme) + re.findall(r"`(docs/[\w.-]+)`", readme)
        for name in links:
            self.assertTrue((ROOT / name).exists(), name)


class StatementTests(SynchronousTestCase):
    """The table of normative statements in ``mqtt.rst``."""

    def setUp(self) -> None:
        self.binds, self.statements, self.cases = statements()

    def test_complete(self) -> None:
        """All 141 statements of the specification's appendix B are there, in order, each with its text."""
        self.assertEqual(len(self.statements), 141)
        places = [tuple(map(int, re.split("[.-]", one.number))) for one in self.statements]
        self.assertEqual(places, sorted(places))
        for section, some in groupby(places, lambda place: place[:3]):
            numbers = [place[3] for place in some]
            self.assertEqual(numbers, list(range(1, len(numbers) + 1)), section)
        for one in self.statements:
            self.assertIn(one.binds, self.binds)
            self.assertRegex(one.text, r"^\S.*\.$")

    def test_every_statement_has_a_test(self) -> None:
        """Each statement that binds the gateway is named by a test."""
        without = [one.number for one in self.statements if one.ours and one.number not in self.cases]
        self.assertEqual(without, [])

    def test_no_other(self) -> None:
        """No test names a statement that there is not."""
        self.assertEqual(set(self.cases) - {one.number for one in self.statements}, set())

    def test_shown(self) -> None:
        """A test is shown by module, class and method with its docstring; a case of a table by its own text."""
        shown = {(number, case.name): case.text for number, cases in self.cases.items() for case in cases}
        self.assertTrue(all(shown.values()))
        self.assertEqual(
            shown["3.1.4-4", "mqtt.test_protocol: ProtocolTests.test_connected"],
            "a CONNECT with a good token is accepted, without a session",
        )
        self.assertEqual(
            shown["3.14.1-1", "mqtt.test_statements: ProbeTests.test_wrong"],
            "flags of DISCONNECT",
        )


class CommandTests(SynchronousTestCase):
    """The list of the ``flowgate`` command in ``operations.rst``."""

    def test_every_line_is_understood(self) -> None:
        """Each line of the list is taken by the command's own parser, with all its options."""
        text = PAGES["operations"].split(".. code-block:: text\n\n", 1)[1].split("\n\n", 1)[0]
        lines = re.sub("#.*", "", text).strip().split("\n   flowgate ")
        self.assertEqual(len(lines), 36)
        for line in lines:
            words = re.sub(r"[\[\]]|\.\.\.|\|[a-z-]+", "", line.removeprefix("flowgate ")).split()
            words = ["1" if word in ("BYTES", "DAYS", "SECONDS", "N", "UNITS") else word for word in words]
            cli.parse(words)
