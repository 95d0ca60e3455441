"""Tokens for the pages' own connections: short-lived, and worth nothing once their session has ended."""

from __future__ import annotations

from collections import OrderedDict, deque

from twisted.internet.defer import Deferred, DeferredLock
from twisted.logger import Logger

from flowgate.auth.accounts import Accounts
from flowgate.auth.audit import Actor
from flowgate.auth.permissions import Principal
from flowgate.auth.records import ApiKey
from flowgate.auth.tokens import IssuedToken, TokenService
from flowgate.dashboard.admission import Visitor
from flowgate.dashboard.logins import Logins
from flowgate.dashboard.sessions import Sessions
from flowgate.errors import BusUnavailable

_log = Logger()

KEY_NAME = "Dashboard"
LIFE_SECONDS = 300
_OF_SESSION = 16
"""Tokens of one session that are remembered, to be revoked with it: more than it can have in their time."""
_REMEMBERED = 10_000


class LiveTokens:
    """Makes tokens for sessions.

    A token belongs to an API key, and the pages have none of their user's: in each application they get one for
    themselves, of which nobody is shown the secret.
    """

    def __init__(self, accounts: Accounts, tokens: TokenService, logins: Logins, sessions: Sessions) -> None:
        self._accounts = accounts
        self._keyring = accounts.keyring
        self._tokens = tokens
        self._logins = logins
        self._issued: OrderedDict[str, deque[Principal]] = OrderedDict()
        self._making = DeferredLock()
        sessions.on_ended(self._session_ended)

    def owns(self, key: ApiKey) -> bool:
        """Whether a key is one of the pages' own."""
        login = self._logins.find(key.user)
        return login is not None and key.id in login.keys.values()

    async def issue(self, visitor: Visitor, app: str, actor: Actor) -> IssuedToken:
        """Make a token that may do everything in an application of the visitor."""
        issued = self._tokens.issue(await self._key(visitor, app, actor), ttl=LIFE_SECONDS)
        name = visitor.session.name
        self._issued.setdefault(name, deque(maxlen=_OF_SESSION)).append(self._tokens.verify(issued.token))
        self._issued.move_to_end(name)
        while len(self._issued) > _REMEMBERED:
            self._issued.popitem(last=False)
        return issued

    async def _key(self, visitor: Visitor, app: str, actor: Actor) -> ApiKey:
        key = self._known(visitor.user, app)
        if key is not None:
            return key
        # A page asks for two tokens at once when it opens: they are made with one key.
        await self._making.acquire()
        try:
            await self._logins.refresh(visitor.user)  # another node may have made it
            key = self._known(visitor.user, app)
            if key is None:
                key, _ = await self._accounts.create_key(actor, visitor.user, app, name=KEY_NAME)
                await self._logins.note_key(visitor.user, app, key.id)
            return key
        finally:
            self._making.release()

    def _known(self, user: str, app: str) -> ApiKey | None:
        login = self._logins.find(user)
        key = None if login is None else self._keyring.find(login.keys.get(app, ""))
        if key is None or key.disabled or (key.user, key.app) != (user, app):
            return None
        return key

    def _session_ended(self, name: str) -> None:
        for principal in self._issued.pop(name, ()):
            Deferred.fromCoroutine(self._revoke(principal))

    async def _revoke(self, principal: Principal) -> None:
        try:
            await self._tokens.revoke(principal)
        except BusUnavailable:
            _log.warn("a token of a session that ended could not be revoked: it lives for some minutes")
