"""The door with certificates: its own, its callers', and those of the services behind it."""

from __future__ import annotations

import asyncio
import http.client
import json
import ssl
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from libs.common.pb.basalt.v1 import gateway_pb2
from libs.common.pb.basalt.v1.gateway_pb2_grpc import GatewayServiceStub
from libs.common.pb.inference import grpc_inference_service_pb2 as pb
from libs.common.pb.inference.grpc_inference_service_pb2_grpc import GRPCInferenceServiceStub
from tests.support.certificates import write_certificates
from tests.support.door import open_door, outcome, request
from tests.support.eventually import eventually
from tools.servers import Kafka, Triton


async def test_with_certificates_everywhere_all_ways_stay_open(
    kafka: Kafka, models: Triton, short_folder: Path
) -> None:
    own = write_certificates(short_folder / "tls", ["gateway", "security"])
    faces = write_certificates(short_folder / "face", ["door", "caller"])
    credentials = grpc.ssl_channel_credentials(
        *((faces / name).read_bytes() for name in ("ca.pem", "caller.key", "caller.pem"))
    )
    async with open_door(
        short_folder,
        kafka.bootstrap,
        models,
        tls=own,
        BASALT_DOOR_CERT=str(faces / "door.pem"),
        BASALT_DOOR_KEY=str(faces / "door.key"),
        BASALT_DOOR_CLIENT_CA=str(faces / "ca.pem"),
    ) as door:
        door.neighbours.route("acme", "double", {1: 100})
        asked: dict[str, Any] = {"metadata": door.bearer(), "timeout": 10}

        async with door.channel(credentials) as channel:
            stub = GRPCInferenceServiceStub(channel)

            async def answers() -> bool:
                call = stub.ModelInfer(request([[1, 2]]), **asked)
                return (await outcome(call))[0] is grpc.StatusCode.OK

            await eventually(answers, within_s=20)
            assert (await stub.ServerReady(pb.ServerReadyRequest(), **asked)).ready
            report = GatewayServiceStub(channel).GetDoor(gateway_pb2.GetDoorRequest(), **asked)
            assert (await report).refused == ""

        def rest() -> Any:
            context = ssl.create_default_context(cafile=faces / "ca.pem")
            context.load_cert_chain(faces / "caller.pem", faces / "caller.key")
            connection = http.client.HTTPSConnection(door.listen, timeout=10, context=context)
            connection.request("GET", "/v2", headers=dict(door.bearer()))
            return json.loads(connection.getresponse().read())

        assert (await asyncio.to_thread(rest))["name"] == "basalt"

        nameless = grpc.ssl_channel_credentials((faces / "ca.pem").read_bytes())
        async with door.channel(nameless) as channel:
            call = GRPCInferenceServiceStub(channel).ModelInfer(request([[1, 2]]), **asked)
            assert (await outcome(call))[0] is grpc.StatusCode.UNAVAILABLE
