"""Records a sample of what this release keeps: python -m tests.contract.history.record RELEASE

It runs a platform, drives it through everything (`driving.py`), and writes what then lies in its
journals, objects and topics into the folder of that name beside this file.
"""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import sys
import tempfile
from pathlib import Path

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from libs.common import flow
from libs.common.publishing import stopped
from libs.common.settings import SERVICES
from tests.contract.history import samples
from tests.contract.history.driving import UNREADABLE, drive
from tests.contract.history.samples import Published
from tests.support.laptop import Laptop


def record(release: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="basalt-") as folder:
        root = Path(folder)
        seal(root)
        platform = Laptop(root)
        platform.start()
        try:
            asyncio.run(drive(platform))
            published = asyncio.run(on_topics(platform))
        finally:
            platform.stop()
        samples.write(release, root, published)


def seal(root: Path) -> None:
    """An installation's secrets: made anew, but for the master key, which opens samples."""
    made = {
        "master_key": base64.b64encode(samples.MASTER_KEY).decode(),
        "triton_control_key": secrets.token_hex(),
        "service_credentials": {service: secrets.token_urlsafe() for service in SERVICES},
    }
    file = root / "secrets.json"
    file.write_text(json.dumps(made))
    file.chmod(0o600)


async def on_topics(platform: Laptop) -> list[Published]:
    """Whatever stands on the topics between services; whoever writes one may read it."""
    published: list[Published] = []
    for topic in flow.TOPICS:
        access = platform.kafka_of(topic.producer)
        consumer = AIOKafkaConsumer(**access.for_aiokafka(), auto_offset_reset="earliest")
        await consumer.start()
        try:
            places = [TopicPartition(topic.name, each) for each in range(topic.partitions)]
            consumer.assign(places)
            ends = await consumer.end_offsets(places)
            for place in places:
                while await consumer.position(place) < ends[place]:
                    published.append(_published(await consumer.getone(place)))
        finally:
            await stopped(consumer.stop())
    return [each for each in published if each.headers.get("ce_source") != UNREADABLE]


def _published(record: ConsumerRecord[bytes, bytes]) -> Published:
    return Published(
        topic=record.topic,
        key=(record.key or b"").decode(),
        headers={name: value.decode() for name, value in record.headers},
        body=(record.value or b"").decode(),
    )


if __name__ == "__main__":
    record(samples.HERE / sys.argv[1])
