"""The second stage: who may do what."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from flowgate.auth.accounts import Accounts
from flowgate.auth.audit import Audit
from flowgate.auth.keys import Keyring
from flowgate.auth.signing import SigningKeys
from flowgate.auth.tokens import TokenService
from flowgate.bus.journal import JetStreamJournal
from flowgate.interfaces import IJournal
from flowgate.revoking import Revoking
from flowgate.settings import Settings
from flowgate.wiring.messages import Messages
from flowgate.wiring.undoing import Undo


@attrs.frozen
class Identities:
    """What the second stage makes."""

    keyring: Keyring
    accounts: Accounts
    journal: IJournal
    signing: SigningKeys
    tokens: TokenService


async def open_accounts(
    reactor: Any, settings: Settings, messages: Messages, master: bytes, now: Callable[[], float], undo: Undo
) -> Identities:
    """Learn accounts, keys and revocations, and follow them.

    :param now: seconds since 1970 UTC.
    """
    store = messages.store
    keyring = Keyring(store, master, now, reactor)
    undo("keys", keyring.stop)
    await keyring.start()
    journal = JetStreamJournal(reactor, messages.bus.link, replicas=settings.replicas)
    accounts = Accounts(keyring, Audit(journal, now), {plan.name for plan in settings.plans})
    signing = SigningKeys(master, store, now, settings.signing_announce)
    undo("signing keys", signing.stop)
    await signing.start()
    tokens = TokenService(keyring, signing, store, settings.issuer, now)
    undo("tokens", tokens.stop)
    await tokens.start()
    Revoking(messages.connections, keyring, tokens)
    return Identities(keyring, accounts, journal, signing, tokens)
