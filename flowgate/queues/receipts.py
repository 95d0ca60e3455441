"""Receipts: what a receiver shows to delete a message; nobody else can make one."""

from __future__ import annotations

import base64
import hmac
from typing import Final

import attrs

from flowgate.errors import ReceiptInvalid
from flowgate.topics import Namespace

_MAC_BYTES: Final = 16
_MAX_CHARACTERS: Final = 1024


@attrs.frozen(slots=True)
class Receipt:
    """What a receipt says.

    :ivar incarnation: which making of the queue: what was received from an earlier one concerns no message of now.
    :ivar place: the message's.
    :ivar number: which receive of the message it was, from 1.
    """

    incarnation: str
    place: int
    number: int


class Receipts:
    """Makes and opens receipts.

    A receipt says which receive of which message it stands for, and proves that this gateway issued it for this queue:
    no storage, and every node that knows the secret can open it.
    """

    def __init__(self, secret: bytes) -> None:
        # A key of its own: nothing that is signed elsewhere with the same secret is ever a receipt.
        self._key = hmac.digest(secret, b"flowgate queue receipts", "sha256")

    def _mac(self, namespace: Namespace, name: str, text: bytes) -> bytes:
        # NUL occurs in none of the parts before the text.
        whole = b"\0".join((namespace.user.encode(), namespace.app.encode(), name.encode(), text))
        return hmac.digest(self._key, whole, "sha256")[:_MAC_BYTES]

    def issue(self, namespace: Namespace, name: str, receipt: Receipt) -> str:
        """Write a receipt, of URL-safe characters: a letter first, so that no command line takes it for an option."""
        text = f"{receipt.incarnation}.{receipt.place:x}.{receipt.number:x}".encode()
        return base64.urlsafe_b64encode(text + self._mac(namespace, name, text)).rstrip(b"=").decode()

    def open(self, namespace: Namespace, name: str, receipt: str) -> Receipt:
        """Read a receipt.

        :raises ReceiptInvalid: if it was not issued for this queue.
        """
        if len(receipt) > _MAX_CHARACTERS or not receipt.isascii():
            raise ReceiptInvalid()
        try:
            raw = base64.b64decode(receipt + "=" * (-len(receipt) % 4), altchars=b"-_", validate=True)
        except ValueError:
            raise ReceiptInvalid() from None
        text, mac = raw[:-_MAC_BYTES], raw[-_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(namespace, name, text)):
            raise ReceiptInvalid()
        incarnation, place, number = text.decode().split(".")
        return Receipt(incarnation, int(place, 16), int(number, 16))
