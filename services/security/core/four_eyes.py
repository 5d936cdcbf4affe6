"""Whether the one who approved a model is somebody else than those who answer for it.

`inference` judges by names; keys, roles and who gave them are known here alone.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from libs.common.errors import ForbiddenError, PreconditionError
from libs.common.identity import KEY_SUBJECT
from services.security.core import api_keys
from services.security.core.grants import REVIEWER, made_by, person
from services.security.core.names import is_user
from services.security.core.users import Users

ANOTHER = "Ask another reviewer of your tenant to approve it: `basalt model approve`."


@dataclass(frozen=True, slots=True)
class FourEyes:
    users: Users

    async def require_reviewer(self, tenant: str, name: str) -> None:
        """Raises ForbiddenError unless it is a person of the tenant who may review now."""
        found = await self.users.find(tenant, name)
        if found is None or found.state.disabled or REVIEWER not in found.state.roles:
            raise ForbiddenError(
                f"{name[:64]} is no reviewer of {tenant}.", which="approved_by", next_step=ANOTHER
            )

    async def require_others(self, tenant: str, responsible: Collection[str], name: str) -> None:
        """`responsible` are people, or "key:<name>/<id>". Raises ForbiddenError."""
        people: dict[str, str] = {}
        for each in responsible:
            who = await self._person(tenant, each)
            people.setdefault(who, each)
        reviewer = person(tenant, name)
        if reviewer in people:
            raise ForbiddenError(
                _own_work(name, people[reviewer]), which="approved_by", next_step=ANOTHER
            )
        now = self.users.clock.now().timestamp()
        if await made_by(reviewer, REVIEWER, people, self.users.grants_of, now):
            raise ForbiddenError(
                f"{name} was made a reviewer less than 24 hours ago by somebody who answers for"
                " this model.",
                which="approved_by",
                next_step="Ask a reviewer who has the role from somebody else, or for longer.",
            )

    async def _person(self, tenant: str, answerable: str) -> str:
        """A key's person is who made it, for as long as the key is a link in a chain of keys."""
        while answerable.startswith(KEY_SUBJECT):
            key_id = answerable.rpartition("/")[2]
            first = []
            if is_user(key_id):
                first = await self.users.journal.store.history(
                    f"{tenant}/{api_keys.KIND}/{key_id}", 0, 1
                )
            if not first:
                raise PreconditionError(
                    f"Nobody knows who made {answerable[:128]}, which answers for this model.",
                    which="approved_by",
                    next_step="Have somebody run the pipeline who is known here.",
                )
            answerable = first[0].by
        return person(tenant, answerable)


def _own_work(name: str, answerable: str) -> str:
    if answerable.startswith(KEY_SUBJECT):
        key = answerable.removeprefix(KEY_SUBJECT).partition("/")[0]
        return f"{name} made the key {key}, which answers for this model."
    return f"{name} answers for this model: nobody approves their own work."
