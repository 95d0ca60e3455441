"""Sphinx's configuration, and the one directive of our own."""

from __future__ import annotations

import re
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx

HERE = Path(__file__).parent

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

_STATEMENT = re.compile(r"\[MQTT-(\d+\.\d+\.\d+-\d+)\]")
_CASE = re.compile(r"""[^"]*"+(?P<text>.*?)("|$)""")


def mqtt_statements(tests: Path) -> dict[str, list[str]]:
    """The normative statements that are named in ``tests``, in the order of the specification, with their cases."""
    found: dict[str, list[str]] = {}
    for path in sorted(tests.rglob("test_*.py")):
        lines = path.read_text(encoding="utf-8").splitlines()
        for line, following in zip(lines, [*lines[1:], ""], strict=True):
            case = _CASE.match(line)
            if case is None:
                continue
            text = case["text"] if case[2] else f"{case['text']} {following.strip()}"
            text = _STATEMENT.sub("", text).replace('"', "").strip(" ,:")
            for name in _STATEMENT.findall(line):
                cases = found.setdefault(name, [])
                if text and text not in cases:
                    cases.append(text)
    return dict(sorted(found.items(), key=lambda item: [int(part) for part in re.split(r"[.-]", item[0])]))


class MqttStatements(Directive):
    """``.. mqtt-statements::`` lists what the tests name, read when the documentation is built."""

    def run(self) -> list[nodes.Node]:
        table = nodes.table(classes=["colwidths-given"])
        group = nodes.tgroup(cols=2)
        table += group
        group += [nodes.colspec(colwidth=15), nodes.colspec(colwidth=85)]
        head, body = nodes.thead(), nodes.tbody()
        group += [head, body]

        def row(*cells: str) -> nodes.row:
            made = nodes.row()
            made += [nodes.entry("", nodes.paragraph(text=cell)) for cell in cells]
            return made

        head += row("Statement", "Cases in the tests")
        for name, cases in mqtt_statements(HERE.parent / "tests").items():
            body += row(f"MQTT-{name}", "; ".join(case.rstrip(".").replace("``", "") for case in cases))
        return [table]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("mqtt-statements", MqttStatements)
    return {"parallel_read_safe": True}
