"""What is done with connections that show no valid token: each answer that they get is their last.

A caller that logs in on such a connection is told so with the answer (GOAWAY, `connection: close`),
and every client opens another one by itself. So nobody keeps a connection without a token.
"""

from __future__ import annotations

from services.gateway.core.envoy.guards import CLAIMS
from services.gateway.core.envoy.parts import Json, typed

NAME = "tokenless"

_LUA = "extensions.filters.http.lua.v3"
# Whose token was refused: by REST, and by gRPC, where the status of HTTP is 200 all the same.
_REFUSED = 'handle:headers():get(":status") == "401" or handle:headers():get("grpc-status") == "16"'
_DRAIN = "handle:streamInfo():drainConnectionUponCompletion()"

ANY = f"""
function envoy_on_response(handle)
  local shown = handle:streamInfo():dynamicMetadata():get("envoy.filters.http.jwt_authn")
  if shown == nil or shown["{CLAIMS}"] == nil or {_REFUSED} then
    {_DRAIN}
  end
end
"""
# Nothing reaches a prediction's answer without a token but a refusal: nothing else is looked at.
PREDICTIONS = f"""
function envoy_on_response(handle)
  if {_REFUSED} then
    {_DRAIN}
  end
end
"""


def tokenless() -> Json:
    source = {"inline_string": ANY}
    return {"name": NAME, "typed_config": typed(f"{_LUA}.Lua", default_source_code=source)}


def for_predictions() -> Json:
    """A route's own word on it."""
    source = {"inline_string": PREDICTIONS}
    return {NAME: typed(f"{_LUA}.LuaPerRoute", source_code=source)}
