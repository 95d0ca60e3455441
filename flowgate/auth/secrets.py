"""The two secrets of an installation: the master secret, and the token of its administrator."""

from __future__ import annotations

import hmac
import os
import re
import secrets
from pathlib import Path

from flowgate.errors import Conflict, StartError
from flowgate.interfaces import IStore

GATEWAY = "FG_GATEWAY"
"""The bucket for what all nodes have to agree on."""

_SECRET = re.compile(r"[A-Za-z0-9_-]{32,512}\Z")
_FORM = "32 to 512 of A-Z, a-z, 0-9, '_' and '-'"


def _secret(path: Path, given: str | None, file: Path | None, name: str) -> str:
    if given is not None and file is not None:
        raise StartError(f"the {name} is given as a text and in the file {file}: one of both is needed")
    if file is not None:
        # What is mounted into a container can often be read by everybody in there; that is for who mounts it to say.
        try:
            text = file.read_text("ascii", "replace").strip()
        except OSError as error:
            raise StartError(f"{file} cannot be read: {error.strerror}") from None
        return _checked(text, file, name)
    if given is not None:
        if not _SECRET.match(given):
            raise StartError(f"the {name} must be {_FORM}")
        return given
    try:
        try:
            text = path.read_text("ascii", "replace").strip()
        except FileNotFoundError:
            text = _make(path)
        if path.stat().st_mode & 0o077:
            raise StartError(f"{path} holds a secret, but others can read it: its mode has to be 0600")
    except OSError as error:
        raise StartError(f"{path} cannot be used: {error.strerror}") from None
    return _checked(text, path, name)


def _checked(text: str, path: Path, name: str) -> str:
    if not _SECRET.match(text):
        raise StartError(f"{path} does not hold a {name} ({_FORM})")
    return text


def _make(path: Path) -> str:
    """Write a new secret: whole and for good, or not at all, because every API key hangs on it."""
    text = secrets.token_urlsafe(32)
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return text


def master_secret(data: Path, given: str | None = None, file: Path | None = None) -> bytes:
    """The secret from which API keys' secrets and the signing keys are derived.

    :param given: the secret, if the operator set one; else it is read from the data directory, and made there once.
    :param file: the file that holds it, if the operator named one.
    :raises StartError: if it cannot be read or written, others can read its file, or it is too weak.
    """
    return _secret(data / "master.secret", given, file, "master secret").encode()


def admin_token(data: Path, given: str | None = None, file: Path | None = None) -> str:
    """The token of the administration interface; found as :func:`master_secret` is."""
    return _secret(data / "admin.token", given, file, "admin token")


async def agree_on_master(store: IStore, master: bytes) -> None:
    """Make sure that every node of the gateway, and every later start, has the same master secret.

    With another one all API keys and tokens would be refused, on this node alone or on the others.

    :raises StartError: if the store belongs to another master secret.
    """
    fingerprint = hmac.digest(master, b"flowgate fingerprint 1", "sha256")[:8].hex().encode()
    try:
        await store.put(GATEWAY, "master", fingerprint, 0)
    except Conflict:
        entry = await store.get(GATEWAY, "master")
        if entry is not None and entry.value != fingerprint:
            raise StartError(
                "the stored accounts belong to another master secret: give this node the one that they were made with"
            ) from None
