from basalt.pb.basalt.v1 import common_pb2 as _common_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Limits(_message.Message):
    __slots__ = ("tenant", "requests_per_second", "requests_in_flight_max", "message_bytes_max", "sample_fraction", "changed")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_IN_FLIGHT_MAX_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_FRACTION_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    requests_per_second: int
    requests_in_flight_max: int
    message_bytes_max: int
    sample_fraction: float
    changed: _common_pb2.Stamp
    def __init__(self, tenant: _Optional[str] = ..., requests_per_second: _Optional[int] = ..., requests_in_flight_max: _Optional[int] = ..., message_bytes_max: _Optional[int] = ..., sample_fraction: _Optional[float] = ..., changed: _Optional[_Union[_common_pb2.Stamp, _Mapping]] = ...) -> None: ...

class GetDoorRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetDoorResponse(_message.Message):
    __slots__ = ("configuration_sha256", "routes_version", "routes", "refused", "envoy_restarts")
    CONFIGURATION_SHA256_FIELD_NUMBER: _ClassVar[int]
    ROUTES_VERSION_FIELD_NUMBER: _ClassVar[int]
    ROUTES_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    ENVOY_RESTARTS_FIELD_NUMBER: _ClassVar[int]
    configuration_sha256: str
    routes_version: int
    routes: int
    refused: str
    envoy_restarts: int
    def __init__(self, configuration_sha256: _Optional[str] = ..., routes_version: _Optional[int] = ..., routes: _Optional[int] = ..., refused: _Optional[str] = ..., envoy_restarts: _Optional[int] = ...) -> None: ...

class PutLimitsRequest(_message.Message):
    __slots__ = ("limits",)
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    limits: Limits
    def __init__(self, limits: _Optional[_Union[Limits, _Mapping]] = ...) -> None: ...

class PutLimitsResponse(_message.Message):
    __slots__ = ("limits",)
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    limits: Limits
    def __init__(self, limits: _Optional[_Union[Limits, _Mapping]] = ...) -> None: ...

class GetLimitsRequest(_message.Message):
    __slots__ = ("tenant",)
    TENANT_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    def __init__(self, tenant: _Optional[str] = ...) -> None: ...

class GetLimitsResponse(_message.Message):
    __slots__ = ("limits",)
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    limits: Limits
    def __init__(self, limits: _Optional[_Union[Limits, _Mapping]] = ...) -> None: ...
