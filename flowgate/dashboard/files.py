"""The files of the pages: read once, served as they are."""

from __future__ import annotations

from hashlib import sha256
from importlib.resources import files
from typing import Any

import attrs

from flowgate.dashboard.admission import is_secure
from flowgate.errors import NotFound
from flowgate.http.answers import Answer, Headers, Route
from flowgate.http.describing.place import Place
from flowgate.http.request import Request

_TYPES = {
    "html": b"text/html; charset=utf-8",
    "css": b"text/css; charset=utf-8",
    "js": b"text/javascript; charset=utf-8",
    "mjs": b"text/javascript; charset=utf-8",
    "svg": b"image/svg+xml",
}
_OTHER = b"text/plain; charset=utf-8"

_EVERYWHERE: Headers = (
    # Asked for again each time, and answered with 304: a page never runs with a script of another version.
    (b"Cache-Control", b"no-cache"),
    (b"X-Content-Type-Options", b"nosniff"),
    (b"Referrer-Policy", b"no-referrer"),
    (b"Cross-Origin-Resource-Policy", b"same-origin"),
)


@attrs.frozen(slots=True)
class _File:
    body: bytes = attrs.field(repr=False)
    content_type: bytes
    tag: bytes


def policy(place: Place) -> str:
    """The content security policy: scripts and styles are our files, connections lead to this gateway, text is never
    made into markup."""
    # Not every browser takes 'self' for WebSockets.
    sockets = f"{place.socket_scheme}://{place.host}"
    return (
        f"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self' {sockets}; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )


class Files:
    """Serves the files by name: what is no file of ours has no name here, so no path leads elsewhere."""

    def __init__(self) -> None:
        root = files("flowgate.dashboard") / "static"
        self._files = dict(_read(root, "")) | dict(_read(root / "vendor", "vendor/"))

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/dashboard", self.redirect),
            Route("GET", "/dashboard/", self.page),
            Route("GET", "/dashboard/static/<name>", self.file),
            Route("GET", "/dashboard/static/vendor/<name>", self.vendored),
        ]

    async def redirect(self, request: Request) -> Answer:
        if request.path.endswith(b"/"):
            return await self.page(request)  # Klein takes the slash for a detail
        return Answer(308, content_type=None, headers=((b"Location", b"/dashboard/"),))

    async def page(self, request: Request) -> Answer:
        host = (*request.values(b"host"), b"")[0]
        place = Place.of(host, is_secure(request), None)
        further = (
            (b"Content-Security-Policy", policy(place).encode()),
            (b"X-Frame-Options", b"DENY"),
            (b"Cross-Origin-Opener-Policy", b"same-origin"),
            (b"Vary", b"Host, X-Forwarded-Proto"),
        )
        return self._answer(request, "index.html", further)

    async def file(self, request: Request, name: str) -> Answer:
        return self._answer(request, name if "/" not in name else "")

    async def vendored(self, request: Request, name: str) -> Answer:
        return self._answer(request, f"vendor/{name}")

    def _answer(self, request: Request, name: str, further: Headers = ()) -> Answer:
        file = self._files.get(name)
        if file is None:
            raise NotFound()
        headers = (*_EVERYWHERE, *further, (b"ETag", file.tag))
        known = [tag.strip() for line in request.values(b"if-none-match") for tag in line.split(b",")]
        if file.tag in known:
            return Answer(304, content_type=None, headers=headers)
        return Answer(200, file.body, file.content_type, headers)


def _read(folder: Any, prefix: str) -> list[tuple[str, _File]]:
    found = []
    for one in folder.iterdir():
        if one.is_file():
            body = one.read_bytes()
            kind = _TYPES.get(one.name.rpartition(".")[2], _OTHER)
            tag = b'"%b"' % sha256(body).hexdigest()[:24].encode()
            found.append((prefix + one.name, _File(body, kind, tag)))
    return found
