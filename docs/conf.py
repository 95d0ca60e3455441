"""Sphinx's configuration, and the one directive of our own."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from mqtt_statements import cases, statements  # noqa: E402 - the directory of this file is no package

project = "Flow-Gate"
release = version = re.findall(r'__version__ = "(.+)"', (HERE.parent / "flowgate" / "__init__.py").read_text())[0]
html_theme = "alabaster"
html_theme_options = {
    "description": "A multi-protocol messaging gateway",
    "font_family": "Helvetica, Arial, sans-serif",
    "body_max_width": "100%",
    "page_width": "1160px",
}
html_static_path = ["_static"]
html_show_copyright = False
html_show_sourcelink = False
exclude_patterns = ["_build"]
highlight_language = "none"
nitpicky = True

_OTHERS = {"client": "binds the client", "bridge": "does not apply: the gateway connects to no other MQTT server"}
"""What stands in place of tests of statements that do not bind the gateway."""


def _inline(text: str) -> list[nodes.Node]:
    """Text with literals between double backticks."""
    text = re.sub(r":\w+:`([^`]+)`", r"``\1``", text)
    return [nodes.literal(text=part) if odd % 2 else nodes.Text(part) for odd, part in enumerate(text.split("``"))]


class MqttStatements(SphinxDirective):
    """``.. mqtt-statements::`` is a table of the normative statements with the tests that name them."""

    def run(self) -> list[nodes.Node]:
        tests = HERE.parent / "tests"
        for path in (HERE / "mqtt_statements.tsv", *tests.rglob("*.py")):
            self.env.note_dependency(str(path))
        table = nodes.table(classes=["colwidths-given"])
        group = nodes.tgroup(cols=3)
        table += group
        group += [nodes.colspec(colwidth=width) for width in (12, 38, 50)]
        head, body = nodes.thead(), nodes.tbody()
        group += [head, body]

        def row(*cells: list[nodes.Node]) -> nodes.row:
            made = nodes.row()
            made += [nodes.entry("", *cell) for cell in cells]
            return made

        def paragraph(*parts: nodes.Node) -> nodes.paragraph:
            return nodes.paragraph("", "", *parts)

        head += row(*([paragraph(nodes.Text(title))] for title in ("Statement", "What it asks", "Tests")))
        found = cases(tests)
        for statement in statements():
            named = [
                paragraph(nodes.literal(text=case.name), nodes.Text(" – "), *_inline(case.text))
                for case in found.get(statement.number, [])
            ]
            if not statement.ours:
                named = [paragraph(nodes.Text(_OTHERS[statement.binds]))]
            number = nodes.Text(f"MQTT-{statement.number}")
            body += row([paragraph(number)], [paragraph(*_inline(statement.text))], named)
        return [table]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("mqtt-statements", MqttStatements)
    return {"parallel_read_safe": True}
