"""``/dashboard/api/session``, ``…/link`` and ``…/password``: coming in and going out."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from flowgate import __version__
from flowgate.auth.accounts import Accounts
from flowgate.dashboard.admission import Admission, actor_of, device_id_of, session_id_of
from flowgate.dashboard.attempts import Attempts
from flowgate.dashboard.links import Links
from flowgate.dashboard.logins import Login, Logins
from flowgate.dashboard.passwords import LONGEST, SHORTEST, check_password
from flowgate.dashboard.sessions import Sessions, csrf_token, name_of
from flowgate.errors import Conflict, InvalidParameter, InvalidToken, MissingToken, RateLimited
from flowgate.http.answers import Answer, Route, json_answer
from flowgate.http.bodies import Members, read_object
from flowgate.http.describing.place import MqttDoor
from flowgate.http.request import Request
from flowgate.topics import Namespace

_API = "/dashboard/api"
_SHOWN_APPS = 1000


class SigningIn:
    """Begins and ends sessions."""

    def __init__(
        self,
        logins: Logins,
        sessions: Sessions,
        links: Links,
        attempts: Attempts,
        admission: Admission,
        accounts: Accounts,
        mqtt: Callable[[], MqttDoor | None],
        usage: bool,
    ) -> None:
        """Prepare.

        :param mqtt: where MQTT is spoken over TCP, once that is known.
        :param usage: whether there is a page of usage.
        """
        self._logins = logins
        self._sessions = sessions
        self._links = links
        self._attempts = attempts
        self._admission = admission
        self._accounts = accounts
        self._keyring = accounts.keyring
        self._mqtt = mqtt
        self._usage = usage

    def routes(self) -> list[Route]:
        return [
            Route("GET", f"{_API}/session", self.who),
            Route("POST", f"{_API}/session", self.sign_in),
            Route("DELETE", f"{_API}/session", self.sign_out),
            Route("POST", f"{_API}/link", self.look_at_link),
            Route("POST", f"{_API}/link/use", self.use_link),
            Route("POST", f"{_API}/password", self.change_password),
        ]

    # -- who is there

    async def who(self, request: Request) -> Answer:
        """Nobody being there is an answer as well: the page asks this first."""
        try:
            visitor = await self._admission.visitor(request)
        except MissingToken:
            shown = {"user": None, "first_start": not len(self._logins), "version": __version__}
            if not session_id_of(request):
                return json_answer(shown)
            return json_answer(shown, headers=(self._admission.cookie(request, ""),))
        return json_answer(self._shown(visitor.login, visitor.session_id))

    def _shown(self, login: Login, session_id: str) -> dict[str, object]:
        door = self._mqtt()
        apps = {key.app for key in self._keyring.keys(login.user) if not key.disabled}
        return {
            "user": login.user,
            "admin": login.admin,
            "app": login.app,
            "apps": sorted({login.app, *apps})[:_SHOWN_APPS],
            "csrf": csrf_token(session_id),
            "mqtt": None if door is None else {"port": door.port, "tls": door.secure},
            "usage": self._usage,
            "version": __version__,
        }

    async def _begin(self, request: Request, login: Login) -> Answer:
        """Begin a session with a new id; the one that the browser had before ends."""
        await self._accounts.audit.note(actor_of(request, login.user), "session.begin", login.user, user=login.user)
        device_id = ""
        if not self._device(request, login):
            # A new id too: one that somebody has planted must not become known.
            device_id = secrets.token_urlsafe(32)
            login = await self._logins.note_device(login.user, name_of(device_id))
        session_id = await self._sessions.begin(login)
        before = session_id_of(request)
        if before:
            await self._sessions.end(name_of(before))
        cookies = [self._admission.cookie(request, session_id)]
        if device_id:
            cookies.append(self._admission.device_cookie(request, device_id))
        return json_answer(self._shown(login, session_id), 200, tuple(cookies))

    @staticmethod
    def _device(request: Request, login: Login | None) -> str:
        """The browser, if it has signed in to this login before; empty if not."""
        device = name_of(device_id_of(request))
        return device if login is not None and device in login.devices else ""

    async def _check(self, request: Request, user: str, password: str) -> Login:
        """Check a password, and count the attempt.

        :raises InvalidToken: if there is no such login.
        :raises RateLimited: if there were too many attempts, or too many ask at once.
        """
        device = self._device(request, self._logins.find(user))
        attempt = self._attempts.begin(user, request.address, device)
        try:
            login = await self._logins.check(user, password)
        except RateLimited:
            attempt.not_made()
            raise
        attempt.succeeded()
        return login

    # -- coming and going

    async def sign_in(self, request: Request) -> Answer:
        self._admission.check_origin(request)
        body = Members(read_object(request))
        body.only("user", "password")
        user, password = body.text("user"), body.text("password")
        if len(user) > 32 or len(password) > LONGEST:
            raise InvalidToken("user name or password are wrong")
        return await self._begin(request, await self._check(request, user, password))

    async def sign_out(self, request: Request) -> Answer:
        visitor = await self._admission.visitor(request)
        actor, user = visitor.actor(request), visitor.user
        await self._accounts.audit.note(actor, "session.end", user, user=user)
        await self._sessions.end(visitor.session.name)
        return Answer(204, content_type=None, headers=(self._admission.cookie(request, ""),))

    async def change_password(self, request: Request) -> Answer:
        """All other sessions of the user end, and this one gets a new id."""
        visitor = await self._admission.visitor(request)
        body = Members(read_object(request))
        body.only("old", "new")
        old, new = body.text("old"), body.text("new")
        check_password(new, visitor.user)
        try:
            await self._check(request, visitor.user, old[: LONGEST + 1])
        except InvalidToken:
            raise InvalidParameter("the old password is wrong") from None
        fresh = await self._logins.hashed(visitor.user, new)
        await self._accounts.audit.note(visitor.actor(request), "password.change", visitor.user, user=visitor.user)
        login = await self._logins.set_hash(visitor.user, fresh)
        await self._sessions.end_all(visitor.user)
        return await self._begin(request, login)

    # -- one-time links

    async def look_at_link(self, request: Request) -> Answer:
        self._admission.check_origin(request)
        body = Members(read_object(request))
        body.only("link")
        link = await self._links.look(body.text("link"))
        login = self._logins.find(link.user)
        if not link.user and len(self._logins):
            raise InvalidToken("somebody has set up this gateway already: sign in with a password")
        return json_answer(
            {
                "user": link.user,
                "app": "" if login is None else login.app,
                "expires_at": link.expires_at,
                "shortest": SHORTEST,
                "longest": LONGEST,
            }
        )

    async def use_link(self, request: Request) -> Answer:
        """Set the password of a link's user and sign in; at the first start the user is made."""
        self._admission.check_origin(request)
        body = Members(read_object(request))
        body.only("link", "user", "app", "password")
        secret, password = body.text("link"), body.text("password")
        link = await self._links.look(secret)
        user = link.user or body.text("user")
        known = self._logins.find(user)
        app = body.optional_text("app") or ("" if known is None else known.app)
        if link.user and body.optional_text("user") not in (None, "", link.user):
            raise InvalidParameter("the link is for another user")
        # All that can be refused is done before the link is used up.
        Namespace.checked(user, app)
        check_password(password, user)
        if not link.user and len(self._logins):
            raise Conflict("somebody has set up this gateway already: sign in with a password")
        if link.user and self._sessions.is_suspended(user):
            raise InvalidToken("the account is suspended")
        fresh = await self._logins.hashed(user, password)
        actor = actor_of(request, user)
        await self._accounts.create_user(actor, user)
        admin = not link.user or bool(link.admin)
        await self._accounts.audit.around(
            actor, "link.use", user, lambda: self._links.use(secret), user=user, admin=admin
        )
        login = await self._logins.set_hash(user, fresh, app=app, admin=True if not link.user else link.admin)
        await self._sessions.end_all(user)
        return await self._begin(request, login)
