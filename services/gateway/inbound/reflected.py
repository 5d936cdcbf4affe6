"""What gRPC reflection shows of the door: every service behind it, methods and messages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from libs.common.pb.basalt.v1 import (
    gateway_pb2,
    inference_pb2,
    ingest_pb2,
    monitoring_pb2,
    security_pb2,
    trainer_pb2,
)
from libs.common.pb.inference import grpc_inference_service_pb2

CONTRACTS = (
    grpc_inference_service_pb2.DESCRIPTOR,
    gateway_pb2.DESCRIPTOR,
    inference_pb2.DESCRIPTOR,
    ingest_pb2.DESCRIPTOR,
    monitoring_pb2.DESCRIPTOR,
    security_pb2.DESCRIPTOR,
    trainer_pb2.DESCRIPTOR,
    health_pb2.DESCRIPTOR,
    reflection_pb2.DESCRIPTOR,
)


class Reflected:
    """A pool that also finds the file of a method: what tools ask for to describe or call one."""

    def __init__(self, files: Iterable[FileDescriptor] = CONTRACTS) -> None:
        # The protocol's messages are in a pool of their own, so one of all is made here.
        self._pool = DescriptorPool()
        self._added: set[str] = set()
        for file in files:
            self._add(file)

    def _add(self, file: FileDescriptor) -> None:
        if file.name in self._added:
            return
        self._added.add(file.name)
        for needed in file.dependencies:
            self._add(needed)
        described = descriptor_pb2.FileDescriptorProto()
        file.CopyToProto(described)
        self._pool.Add(described)

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:  # noqa: N802 - a pool's.
        """Raises KeyError."""
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            service, _, method = symbol.rpartition(".")
            found = self._pool.FindServiceByName(service)
            if method not in found.methods_by_name:
                raise
            return found.file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)


def reflected() -> DescriptorPool:
    return cast("DescriptorPool", Reflected())
