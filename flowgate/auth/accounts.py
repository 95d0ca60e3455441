"""What is done with accounts, with its entries in the audit log."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from flowgate.auth.audit import Actor, Audit
from flowgate.auth.keys import Keyring, new_key_id
from flowgate.auth.permissions import Grants
from flowgate.auth.records import ApiKey, User, check_plan
from flowgate.auth.shares import Share, new_id
from flowgate.errors import InvalidParameter, NotFound
from flowgate.topics import Namespace


def _listed(grants: Grants) -> dict[str, list[str]]:
    """Grants as the audit log has them."""
    return {
        "publish": [str(one) for one in grants.publish],
        "subscribe": [str(one) for one in grants.subscribe],
        "queues": list(grants.queues),
    }


class Accounts:
    """Changes users, keys and shares.

    What can be seen to be wrong is refused at once; everything else is in the audit log before it is done, or is not
    done: each method raises :class:`BusUnavailable` then.

    :ivar keyring: what there is.
    :ivar audit: what was done.
    """

    def __init__(self, keyring: Keyring, audit: Audit, plans: Collection[str] | None = None) -> None:
        """Take these together.

        :param plans: the names of the plans that there are; ``None``: any.
        """
        self.keyring = keyring
        self.audit = audit
        self._plans = plans

    # -- users

    def _user(self, name: str) -> User:
        user = self.keyring.user(name)
        if user is None:
            raise NotFound(f"there is no user {name[:40]}")
        return user

    def _check_plan(self, plan: str) -> None:
        check_plan(plan)
        if plan and self._plans is not None and plan not in self._plans:
            known = ", ".join(sorted(self._plans)) or "none"
            raise InvalidParameter(f"there is no plan {plan}; the plans are: {known}")

    async def create_user(self, actor: Actor, name: str, plan: str = "") -> User:
        """Make a user; one that is there already stays as it is.

        :raises InvalidParameter: if the name is not allowed, or there is no such plan.
        :raises Conflict: as :meth:`Keyring.create_user` does.
        """
        Namespace.checked(name, "app")
        self._check_plan(plan)
        user = self.keyring.user(name)
        if user is not None:
            return user
        return await self.audit.around(
            actor, "user.create", name, lambda: self.keyring.create_user(name, plan), user=name, plan=plan
        )

    async def suspend(self, actor: Actor, name: str, suspended: bool) -> User:
        """Suspend a user, or end the suspension.

        :raises NotFound: if there is no such user.
        """
        action = "user.suspend" if suspended else "user.resume"
        self._user(name)
        return await self.audit.around(actor, action, name, lambda: self.keyring.suspend(name, suspended), user=name)

    async def set_plan(self, actor: Actor, name: str, plan: str) -> User:
        """Give a user another plan; empty for the default one.

        :raises NotFound: if there is no such user.
        :raises InvalidParameter: if there is no such plan.
        """
        before = self._user(name).plan
        self._check_plan(plan)
        return await self.audit.around(
            actor,
            "user.plan",
            name,
            lambda: self.keyring.set_plan(name, plan),
            user=name,
            plan=plan or "(default)",
            before=before or "(default)",
        )

    async def delete_user(self, actor: Actor, name: str) -> None:
        """Remove a user; see :meth:`Keyring.delete_user`.

        :raises NotFound: if there never was such a user.
        """
        keys = [key.id for key in self.keyring.keys(name)]
        if self.keyring.user(name) is None and not keys:
            raise NotFound(f"there is no user {name[:40]}")
        await self.audit.around(
            actor, "user.delete", name, lambda: self.keyring.delete_user(name), user=name, keys=keys
        )

    # -- keys

    def _key(self, key_id: str) -> ApiKey:
        key = self.keyring.find(key_id)
        if key is None:
            raise NotFound(f"there is no API key {key_id[:40]}")
        return key

    async def create_key(
        self,
        actor: Actor,
        user: str,
        app: str,
        *,
        name: str = "",
        publish: Sequence[str] | None = None,
        subscribe: Sequence[str] | None = None,
        queues: Sequence[str] | None = None,
        expires_days: int | None = None,
    ) -> tuple[ApiKey, str]:
        """Make an API key, and its user if there is none; see :meth:`Keyring.create`."""
        wanted = self.keyring.proposed(user, app, new_key_id(), name, publish, subscribe, queues, expires_days)
        return await self.audit.around(
            actor,
            "key.create",
            wanted.id,
            lambda: self.keyring.create(
                user,
                app,
                name=name,
                publish=publish,
                subscribe=subscribe,
                queues=queues,
                expires_days=expires_days,
                key_id=wanted.id,
            ),
            user=user,
            app=app,
            name=name,
            expires_at=wanted.expires_at,
            **_listed(wanted.grants),
        )

    async def rotate_key(self, actor: Actor, key_id: str, overlap_seconds: int) -> tuple[ApiKey, str]:
        """Put another key in the place of one; see :meth:`Keyring.rotate`."""
        key = self.keyring.check_rotation(key_id, overlap_seconds)
        fresh = new_key_id()
        return await self.audit.around(
            actor,
            "key.rotate",
            key_id,
            lambda: self.keyring.rotate(key_id, overlap_seconds, new_id=fresh),
            user=key.user,
            app=key.app,
            successor=fresh,
            overlap_seconds=overlap_seconds,
        )

    async def revoke_key(self, actor: Actor, key_id: str) -> None:
        """Disable a key for good.

        :raises NotFound: if there is none.
        """
        key = self._key(key_id)
        await self.audit.around(
            actor, "key.revoke", key_id, lambda: self.keyring.revoke(key_id), user=key.user, app=key.app
        )

    # -- shares

    async def create_share(
        self,
        actor: Actor,
        owner: str,
        app: str,
        grantee: str,
        grantee_app: str = "",
        *,
        publish: Iterable[str] = (),
        subscribe: Iterable[str] = (),
        name: str = "",
    ) -> Share:
        """Let the keys of ``grantee`` use topics of ``owner``; see :meth:`Shares.create`.

        :raises NotFound: if there is no such owner or grantee: somebody else might get the name, and the share.
        """
        shares, namespace = self.keyring.shares, Namespace.checked(owner, app)
        wanted = shares.proposed(namespace, grantee, grantee_app, publish, subscribe, name, new_id())
        self._user(owner)
        self._user(grantee)
        return await self.audit.around(
            actor,
            "share.create",
            wanted.id,
            lambda: shares.create(
                namespace,
                grantee,
                grantee_app,
                publish=wanted.publish,
                subscribe=wanted.subscribe,
                name=name,
                share_id=wanted.id,
            ),
            user=owner,
            app=app,
            grantee=grantee,
            grantee_app=grantee_app,
            publish=list(wanted.publish),
            subscribe=list(wanted.subscribe),
            name=name,
        )

    async def revoke_share(self, actor: Actor, share_id: str) -> None:
        """End a share.

        :raises NotFound: if there is none.
        """
        share = self.keyring.shares.find(share_id)
        if share is None:
            raise NotFound(f"there is no share {share_id[:40]}")
        await self.audit.around(
            actor,
            "share.revoke",
            share_id,
            lambda: self.keyring.shares.revoke(share_id),
            user=share.owner,
            app=share.app,
            grantee=share.grantee,
        )
