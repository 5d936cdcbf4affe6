"""What the journal of this service holds: of each kind of aggregate, the class of its states."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel

from services.security.core import (
    accounts,
    api_keys,
    checkpoints,
    revoking,
    signing,
    source_keys,
    users,
)
from services.security.core import checkpoint_keys as keys
from services.security.core.access import AccessState
from services.security.core.audit import Record

STATES: Mapping[str, type[BaseModel]] = {
    "access": AccessState,
    "audit": Record,
    api_keys.KIND: api_keys.KeyState,
    api_keys.QUOTA_KIND: api_keys.QuotaState,
    revoking.KIND: revoking.RevokedState,
    checkpoints.KIND: checkpoints.Checkpoint,
    checkpoints.TILE_KIND: checkpoints.Tile,
    keys.KIND: keys.KeysState,
    signing.KIND: signing.Signature,
    source_keys.KIND: source_keys.SourceKeyState,
    users.KIND: accounts.UserState,
}
