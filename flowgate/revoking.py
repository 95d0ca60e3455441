"""What ends when leave is taken away: connections of tokens, keys and users, and what reaches into other accounts."""

from __future__ import annotations

from flowgate.auth.keys import Keyring
from flowgate.auth.tokens import TAKEN_BACK, TokenService
from flowgate.connections import Connections
from flowgate.errors import AccountSuspended, InvalidToken


class Revoking:
    """Ends the open connections of this node whose leave has ended, on whichever node that was said."""

    def __init__(self, connections: Connections, keyring: Keyring, tokens: TokenService) -> None:
        """Listen from now on."""
        self._connections = connections
        self._keyring = keyring
        connections.check = tokens.check
        tokens.on_revoked(self._revoked)
        keyring.shares.on_changed(self._shares_changed)

    def _revoked(self, who: str) -> None:
        key = self._keyring.find(who)
        expired = key is not None and not key.disabled and self._keyring.has_expired(key)
        self._connections.end(
            InvalidToken("the API key has expired" if expired else "the token was revoked"),
            lambda principal: who in (principal.token_id, principal.key_id, principal.signing_key),
        )
        self._connections.end(AccountSuspended("the account is suspended"), lambda principal: principal.user == who)

    def _shares_changed(self) -> None:
        # Who comes back, with the same token or a new one, has what is left.
        reason = InvalidToken(TAKEN_BACK)
        limited = self._keyring.limited
        self._connections.end(reason, lambda principal: limited(principal) is not principal)
