"""What a request has to bring: the cookie of a session, and with each change the proof that our own page asks."""

# mypy: disallow-untyped-calls=False
# (much of twisted.web has no annotations)
from __future__ import annotations

import hmac
from urllib.parse import urlsplit

import attrs

from flowgate.auth.audit import Actor
from flowgate.dashboard.logins import Login
from flowgate.dashboard.sessions import Session, Sessions, csrf_token
from flowgate.errors import InsufficientScope, MissingToken, NotFound, OriginNotAllowed
from flowgate.http.request import Request

COOKIE = "flowgate_session"
DEVICE_COOKIE = "flowgate_device"
CSRF = "X-CSRF-Token"
PATH = "/dashboard"

_DEVICE_SECONDS = 365 * 24 * 3600


@attrs.frozen(slots=True)
class Visitor:
    """Who asks.

    :ivar session_id: as the browser has it.
    """

    session_id: str = attrs.field(repr=False)
    session: Session
    login: Login

    @property
    def user(self) -> str:
        return self.login.user

    def actor(self, request: Request) -> Actor:
        """Who acts, for the audit log."""
        return actor_of(request, self.user)


def actor_of(request: Request, user: str) -> Actor:
    """Who acts, for the audit log, where there is no session yet or any more."""
    return Actor("user", user, request.address, request.request_id)


def is_secure(request: Request) -> bool:
    """Whether the browser came by TLS, to us or to a proxy before us."""
    return bool(request.isSecure()) or tuple(request.values(b"x-forwarded-proto")) == (b"https",)


def session_id_of(request: Request) -> str:
    """What the browser says its session is; empty if it says nothing, or two things."""
    return _cookie(request, COOKIE)


def device_id_of(request: Request) -> str:
    """What the browser says it was called when somebody signed in; empty if it says nothing, or two things."""
    return _cookie(request, DEVICE_COOKIE)


def _cookie(request: Request, wanted: str) -> str:
    found = {
        value.strip()
        for line in request.values(b"cookie")
        for name, _, value in (pair.partition(b"=") for pair in line.split(b";"))
        if name.strip() == wanted.encode()
    }
    return found.pop().decode("latin-1") if len(found) == 1 else ""


class Admission:
    """Finds who asks.

    :param secure: whether the cookie is for TLS alone; else only where TLS is spoken.
    """

    def __init__(self, sessions: Sessions, secure: bool) -> None:
        self._sessions = sessions
        self._secure = secure

    def cookie(self, request: Request, session_id: str) -> tuple[bytes, bytes]:
        """The header field that gives a browser its session, or with an empty id takes it away.

        It is not for scripts, not for other sites, and for no other path.  Without ``Max-Age`` it ends with the
        browser, or before with the session.
        """
        value = f"{COOKIE}={session_id}; Path={PATH}; HttpOnly; SameSite=Strict"
        return self._given(request, value if session_id else f"{value}; Max-Age=0")

    def device_cookie(self, request: Request, device_id: str) -> tuple[bytes, bytes]:
        """The header field by which a browser is known again after its session; it lets nobody in."""
        value = f"{DEVICE_COOKIE}={device_id}; Path={PATH}; HttpOnly; SameSite=Strict; Max-Age={_DEVICE_SECONDS}"
        return self._given(request, value)

    def _given(self, request: Request, value: str) -> tuple[bytes, bytes]:
        secure = "; Secure" if self._secure or is_secure(request) else ""
        return b"Set-Cookie", f"{value}{secure}".encode()

    def check_origin(self, request: Request) -> None:
        """Check that a change is asked for by a page of ours, as far as the browser tells.

        A browser that says what kind of site asks (``Sec-Fetch-Site``, Fetch Metadata section 2.3) knows best: behind a
        proxy our own name may be another one.  Others name the origin with every change (RFC 6454 section 7).  What is
        no browser says neither, and no other site commands it.

        :raises OriginNotAllowed: if a page of another origin asks.
        """
        site = request.values(b"sec-fetch-site")
        if site:
            if tuple(site) != (b"same-origin",):
                raise OriginNotAllowed("only the dashboard's own pages may ask for this")
            return
        origins = request.values(b"origin")
        if not origins:
            return
        try:
            named = urlsplit(origins[0].decode("ascii")).netloc.lower().encode()
        except ValueError:
            named = b""
        hosts = {host.lower() for host in (*request.values(b"host"), *request.values(b"x-forwarded-host"))}
        if len(origins) != 1 or not named or named not in hosts:
            raise OriginNotAllowed("only the dashboard's own pages may ask for this")

    async def visitor(self, request: Request) -> Visitor:
        """Find who asks, and with a change check that the page of that session asks.

        :raises MissingToken: if nobody is signed in.
        :raises OriginNotAllowed: if a page of another origin asks for a change.
        :raises InsufficientScope: if a change comes without the session's CSRF token, or with another one.
        """
        changes = request.method not in (b"GET", b"HEAD")
        if changes:
            self.check_origin(request)
        session_id = session_id_of(request)
        if not session_id:
            raise MissingToken("sign in first")
        session, login = await self._sessions.find(session_id)
        if changes:
            given = request.values(CSRF.lower().encode())
            if len(given) != 1 or not hmac.compare_digest(given[0], csrf_token(session_id).encode()):
                raise InsufficientScope(f"the header {CSRF} is missing, or not that of this session")
        return Visitor(session_id, session, login)

    async def administrator(self, request: Request) -> Visitor:
        """The same, of an administrator.

        :raises NotFound: if it is somebody else, who learns nothing of what is there.
        """
        visitor = await self.visitor(request)
        if not visitor.login.admin:
            raise NotFound()
        return visitor
