"""The files of the pages, and what holds them together."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from tests.dashboard.case import DashboardCase
from tests.http_client import Answer

STATIC = Path(str(files("flowgate.dashboard"))) / "static"
OURS = [path for path in STATIC.iterdir() if path.is_file()]


class FileTests(DashboardCase):
    """What is served."""

    def get(self, path: str, method: str = "GET", **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.call(method, path, headers=named, token=None)

    def test_page(self) -> None:
        """The page is served at ``/dashboard/``, and the path without the slash leads there."""
        answer = self.get("/dashboard/")
        self.assertEqual((answer.status, answer.headers["Content-Type"]), (200, "text/html; charset=utf-8"))
        answer = self.get("/dashboard")
        self.assertEqual((answer.status, answer.headers["Location"]), (308, "/dashboard/"))
        self.assertEqual(self.get("/dashboard/", "HEAD").status, 200)

    def test_policy(self) -> None:
        """The page runs no script and takes no style but our files, is in no frame, and text never becomes markup."""
        headers = self.get("/dashboard/").headers
        policy = dict(one.partition(" ")[::2] for one in headers["Content-Security-Policy"].split("; "))
        self.assertEqual(
            policy,
            {
                "default-src": "'none'",
                "script-src": "'self'",
                "style-src": "'self'",
                "img-src": "'self' data:",
                "connect-src": "'self' ws://gateway",
                "base-uri": "'none'",
                "form-action": "'none'",
                "frame-ancestors": "'none'",
                "require-trusted-types-for": "'script'",
                "trusted-types": "'none'",
            },
        )
        self.assertEqual(headers["X-Frame-Options"], "DENY")
        self.assertEqual(headers["X-Content-Type-Options"], "nosniff")
        self.assertEqual(headers["Referrer-Policy"], "no-referrer")

    def test_host_that_is_none(self) -> None:
        """What is no host gets into no header: neither a further directive nor a further field."""
        for host in ("x; script-src *", "x' 'unsafe-inline'", "a b", "x,y"):
            answer = self.get("/dashboard/", Host=host)
            if answer.status == 200:
                self.assertIn("connect-src 'self' ws://localhost;", answer.headers["Content-Security-Policy"])

    def test_path_that_would_be_a_header(self) -> None:
        """Line ends in a path add no field to the answer."""
        for path in (
            "/dashboard/static/x%0d%0aSet-Cookie:%20a=b",
            "/dashboard%0d%0aLocation:%20x",
            "/dashboard/%0d%0a",
        ):
            answer = self.get(path)
            self.assertEqual(answer.status, 404)
            self.assertNotIn("Set-Cookie", answer.headers)

    def test_tags(self) -> None:
        """A file that a browser has is not sent again, and is asked for each time."""
        answer = self.get("/dashboard/static/app.js")
        self.assertEqual(answer.headers["Cache-Control"], "no-cache")
        again = self.get("/dashboard/static/app.js", If_None_Match=f'"x", {answer.headers["ETag"]}')
        self.assertEqual((again.status, again.body), (304, b""))
        self.assertEqual(self.get("/dashboard/static/app.js", If_None_Match='"x"').status, 200)

    def test_every_file(self) -> None:
        """Each file is served with its type."""
        kinds = {".js": "text/javascript", ".mjs": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
        for path in STATIC.rglob("*"):
            if path.is_file():
                answer = self.get(f"/dashboard/static/{path.relative_to(STATIC)}")
                self.assertEqual((answer.status, answer.body), (200, path.read_bytes()))
                if path.suffix in kinds:
                    self.assertEqual(answer.headers["Content-Type"].partition(";")[0], kinds[path.suffix])

    def test_no_way_out(self) -> None:
        """No spelling of a path leads to another file."""
        for path in (
            "/dashboard/static/../site.py",
            "/dashboard/static/..%2fsite.py",
            "/dashboard/static/%2e%2e/site.py",
            "/dashboard/static/..%5csite.py",
            "/dashboard/static/vendor/../../site.py",
            "/dashboard/static/vendor/..%2f..%2fsite.py",
            "/dashboard/static//etc/passwd",
            "/dashboard/static/%2fetc%2fpasswd",
            "/dashboard/static/vendor%2fhtm.mjs",
            "/dashboard/static/vendor",
            "/dashboard/static/",
            "/dashboard/static/app.js%00",
        ):
            answer = self.get(path)
            self.assertIn(answer.status, (400, 404), path)
            self.assertNotIn(b"import", answer.body)


class SourceTests(DashboardCase):
    """What the files may contain."""

    def test_links(self) -> None:
        """Whatever a file names is there: nothing is loaded from elsewhere."""
        page = (STATIC / "index.html").read_text()
        named = re.findall(r'(?:src|href)="([^"]+)"', page)
        self.assertGreater(len(named), 5)
        for name in named:
            self.assertTrue(name.startswith("/dashboard/static/") or name == "/docs", name)
        for path in OURS:
            text = path.read_text()
            for name in re.findall(r'from "(\./[^"]+)"', text):
                self.assertTrue((STATIC / name).is_file(), (path.name, name))
            self.assertEqual(re.findall(r"https?://(?!www\.w3\.org/2000/svg)\S+", text), [], path.name)

    def test_nothing_inline(self) -> None:
        """The page has no script, style or handler of its own in it: the policy would not let them in."""
        page = (STATIC / "index.html").read_text()
        self.assertEqual(re.findall(r"<script(?! src=)|<style| style=| on\w+=", page), [])

    def test_no_markup_of_text(self) -> None:
        """No script of ours makes markup or code of text."""
        for path in OURS:
            self.assertEqual(
                re.findall(
                    r"innerHTML|outerHTML|insertAdjacent|dangerously|document\.write|eval\(|Function\(",
                    path.read_text(),
                ),
                [],
                path.name,
            )

    def test_libraries(self) -> None:
        """Each library of others has its version noted and its licence beside it."""
        vendor = STATIC / "vendor"
        versions = (vendor / "VERSIONS").read_text()
        for path in vendor.iterdir():
            if path.name != "VERSIONS":
                self.assertIn(path.name, versions)
        self.assertEqual(len(list(vendor.glob("*.LICENSE"))), 3)
