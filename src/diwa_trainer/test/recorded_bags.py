"""Small bags for the tests of ingest: rows as a robot makes them, their messages, marks, and the file."""

import struct
from types import SimpleNamespace

import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from diwa_runtime.events import EventKind
from diwa_runtime.geometry import euler_to_quaternion
from diwa_runtime.interfaces import message_definitions
from diwa_runtime.spec import CameraSpec, Spec

PERIOD = 1_000_000_000 / 30
START = 1_750_000_000_000_000_000
SPEC = Spec()
HYBRID = Spec(mode="hybrid", cameras=(CameraSpec("static", 8, 8), CameraSpec("wrist", 6, 10)))
MAGIC = b"\x89MCAP0\r\n"
IMAGE = "sensor_msgs/msg/CompressedImage"


def quiet(line):
    """Take ingest's report and say nothing."""


def make_store():
    store = get_typestore(Stores.ROS2_JAZZY)
    for name, text in message_definitions().items():
        store.register(get_types_from_msg(text, name))
    return store


STORE = make_store()


def make(kind, fields):
    made = {}
    for name, (_, about) in STORE.fielddefs[kind][1]:
        made[name] = make(about, fields[name]) if isinstance(fields[name], dict) else fields[name]
    return STORE.types[kind](**made)


def header(stamp):
    seconds, nanoseconds = divmod(int(stamp), 1_000_000_000)
    return {"stamp": {"sec": seconds, "nanosec": nanoseconds}, "frame_id": "base"}


def serialized(message):
    """Return what is written of (topic, type, stamp, fields[, time of receipt]); fields may be bytes already."""
    topic, kind, stamp, fields, *receipt = message
    data = fields
    if not isinstance(fields, bytes):
        data = STORE.serialize_cdr(make(kind, {"header": header(stamp), **fields}), kind)
    return topic, kind, int(*receipt) if receipt else int(stamp), bytes(data)


def write_bag(folder, messages, prefix="/"):
    """Write messages as a bag."""
    connections = {}
    with Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        for topic, kind, receipt, data in map(serialized, messages):
            if topic not in connections:
                connections[topic] = writer.add_connection(prefix + topic, kind, typestore=STORE)
            writer.write(connections[topic], receipt, data)
    return folder


def text(name):
    return struct.pack("<I", len(name)) + name


def record(code, body):
    return struct.pack("<BQ", code, len(body)) + body


def write_mcap(path, messages, change=lambda topic, kind, encoding, definition: (topic, kind, encoding, definition)):
    """Write messages as a plain MCAP file without chunks; `change` may change what is said of a topic, in bytes."""
    known, out = {}, [MAGIC, record(0x01, text(b"ros2") + text(b"test"))]
    for topic, kind, receipt, data in map(serialized, messages):
        if topic not in known:
            number = known[topic] = len(known) + 1
            definition = STORE.generate_msgdef(kind, ros_version=2)[0].encode() if kind in STORE.types else b""
            name, kind, encoding, definition = change(b"/" + topic.encode(), kind.encode(), b"ros2msg", definition)
            out.append(record(0x03, struct.pack("<H", number) + text(kind) + text(encoding) + text(definition)))
            out.append(record(0x04, struct.pack("<HH", number, number) + text(name) + text(b"cdr") + text(b"")))
        head = struct.pack("<HIQQ", known[topic], 0, receipt, receipt)
        out.append(record(0x05, head + data))
    out += [record(0x0F, bytes(4)), record(0x02, bytes(20)), MAGIC]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(out))
    return path


def robot_state(stamp, proprio, accepted, gripper):
    quaternion = euler_to_quaternion(np.asarray(proprio[3:6], np.float64))
    fields = {
        "tcp_pose": {
            "position": dict(zip("xyz", map(float, proprio[:3]), strict=True)),
            "orientation": dict(zip("xyzw", map(float, quaternion), strict=True)),
        },
        "joint_positions": np.asarray(proprio[7:14], np.float64),
        "joint_velocities": np.zeros(7),
        "gripper_width": float(proprio[6]),
        "gripper_command": float(gripper),
        "accepted_translation": dict(zip("xyz", (float(a) * 0.02 for a in accepted[:3]), strict=True)),
        "accepted_rotation": dict(zip("xyz", (float(a) * 0.05 for a in accepted[3:6]), strict=True)),
        "answered_stamp": {"sec": 0, "nanosec": 0},
        "mode": 1,
    }
    return ("robot/state", "diwa_msgs/msg/RobotState", stamp, fields)


def scene_state(stamp, scene):
    fields = {"names": list(SPEC.scene), "values": np.asarray(scene, np.float64)}
    return ("scene/state", "diwa_msgs/msg/SceneState", stamp, fields)


def event(stamp, kind, task="", seed=-1):
    return ("episode/event", "diwa_msgs/msg/EpisodeEvent", stamp, {"kind": int(kind), "task": task, "seed": seed})


def random_rows(count, seed):
    """Rows as a robot makes them: the action of a row is what the next message says was accepted."""
    rng = np.random.default_rng(seed)
    proprio = rng.uniform(-1, 1, (count, 15)).astype(np.float32)
    gripper = rng.choice(np.float32([-1, 1]), count)
    proprio[:, 14] = gripper
    accepted = rng.uniform(-1, 1, (count, 6)).astype(np.float32)
    action = np.zeros((count, 7), np.float32)
    action[:-1, :6] = accepted[1:]
    action[:, 6] = np.append(gripper[1:], gripper[-1])
    scene = rng.standard_normal((count, 24)).astype(np.float32)
    return SimpleNamespace(proprio=proprio, scene=scene, action=action, accepted=accepted, gripper=gripper)


def stamps_of(count, start=START):
    return [start + round(row * PERIOD) for row in range(count)]


def messages_of(rows, start=START):
    messages = []
    for row, stamp in enumerate(stamps_of(len(rows.proprio), start)):
        messages.append(robot_state(stamp, rows.proprio[row], rows.accepted[row], rows.gripper[row]))
        messages.append(scene_state(stamp, rows.scene[row]))
    return messages


def with_episode(messages, task="", seed=-1, success_row=None, close=EventKind.END):
    """Put the marks of one episode around its messages."""
    stamps = sorted({stamp for _, _, stamp, _ in messages})
    success = [] if success_row is None else [event(stamps[success_row], EventKind.SUCCESS, task)]
    end = [] if close is None else [event(stamps[-1], close, task)]
    return [event(stamps[0], EventKind.START, task, seed), *messages, *success, *end]


def play_bag(folder, count=20, seed=0, **changes):
    return write_bag(folder, with_episode(messages_of(random_rows(count, seed))), **changes)


def assert_same_rows(dataset, episode, rows):
    got = dataset.rows(episode)
    np.testing.assert_allclose(got["proprio"], rows.proprio, atol=1e-6)
    np.testing.assert_array_equal(np.delete(got["proprio"], [3, 4, 5], 1), np.delete(rows.proprio, [3, 4, 5], 1))
    np.testing.assert_array_equal(got["scene"], rows.scene)
    np.testing.assert_array_equal(got["action"], rows.action)
