"""Secrets of webhooks, and signatures."""

from __future__ import annotations

import base64
import hmac
from typing import Final

from flowgate.webhooks.model import Webhook

OVERLAP_SECONDS: Final = 24 * 3600
"""How long what is sent is signed with the secret before the newest too."""


class Secrets:
    """Makes the secrets of webhooks out of the master secret: nothing of them is stored."""

    def __init__(self, master: bytes) -> None:
        # A key of its own: nothing that is made elsewhere of the same secret is ever one of these.
        self._key = hmac.digest(master, b"flowgate webhook secrets", "sha256")

    def secret(self, webhook: Webhook, number: int | None = None) -> str:
        """A secret of a webhook: the newest one unless ``number`` says which."""
        # NUL occurs in none of the parts.
        text = f"{webhook.home.prefix}\0{webhook.name}\0{webhook.id}\0{number or webhook.secret}"
        raw = hmac.digest(self._key, text.encode(), "sha256")
        return "fgwh_" + base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

    def signatures(self, webhook: Webhook, now: float, body: bytes) -> str:
        """The value of ``Flow-Signature`` for a body that is sent now: the newest secret's first."""
        signatures = [sign(self.secret(webhook), int(now), body)]
        if webhook.secret > 1 and now < webhook.secret_since + OVERLAP_SECONDS:
            signatures.append(sign(self.secret(webhook, webhook.secret - 1), int(now), body))
        return ",".join(signatures)


def sign(secret: str, timestamp: int, body: bytes) -> str:
    """One signature: HMAC-SHA256 over the time, a dot and the body."""
    return "v1=" + hmac.digest(secret.encode(), b"%d." % timestamp + body, "sha256").hex()
