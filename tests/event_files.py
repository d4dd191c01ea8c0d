"""An independent reader of TensorBoard's event files, for tests."""

import struct

import pytest


def read_events(path) -> list[tuple[int, float, str, float]]:
    """Step, time, tag and value of every scalar of an event file: records of a length and its checksum, the
    content and its checksum."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    content, found, at = path.read_bytes(), [], 0
    while at < len(content):
        (length,) = struct.unpack_from("<Q", content, at)
        event = event_pb2.Event.FromString(content[at + 12 : at + 12 + length])
        found += [(event.step, event.wall_time, v.tag, v.simple_value) for v in event.summary.value]
        at += 16 + length
    return found
