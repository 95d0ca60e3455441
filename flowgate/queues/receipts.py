"""Receipts: what a receiver shows to delete a message; nobody else can make one."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Final

from flowgate.errors import ReceiptInvalid
from flowgate.topics import Namespace

_MAC_BYTES: Final = 16
_MAX_CHARACTERS: Final = 1024


class Receipts:
    """Makes and opens receipts.

    A receipt carries the bus's handle and proves that this gateway issued it for this queue: no storage, and every
    node that knows the secret can open it.
    """

    def __init__(self, secret: bytes) -> None:
        # A key of its own: nothing that is signed elsewhere with the same secret is ever a receipt.
        self._key = hmac.digest(secret, b"flowgate queue receipts", "sha256")

    def _mac(self, namespace: Namespace, name: str, handle: bytes) -> bytes:
        # NUL occurs in none of the parts before the handle.
        text = b"\0".join((namespace.user.encode(), namespace.app.encode(), name.encode(), handle))
        return hmac.new(self._key, text, hashlib.sha256).digest()[:_MAC_BYTES]

    def issue(self, namespace: Namespace, name: str, handle: str) -> str:
        """The receipt for a handle; of URL-safe characters."""
        raw = handle.encode()
        return base64.urlsafe_b64encode(self._mac(namespace, name, raw) + raw).rstrip(b"=").decode()

    def open(self, namespace: Namespace, name: str, receipt: str) -> str:
        """The handle in a receipt.

        :raises ReceiptInvalid: if it was not issued for this queue.
        """
        if len(receipt) > _MAX_CHARACTERS or not receipt.isascii():
            raise ReceiptInvalid()
        try:
            raw = base64.b64decode(receipt + "=" * (-len(receipt) % 4), altchars=b"-_", validate=True)
        except ValueError:
            raise ReceiptInvalid() from None
        mac, handle = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(namespace, name, handle)):
            raise ReceiptInvalid()
        return handle.decode()
