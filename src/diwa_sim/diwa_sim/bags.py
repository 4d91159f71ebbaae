"""Writes what the simulator does as a ROS 2 bag (MCAP), as a recorder of the live topics would, only faster."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rosbags.interfaces import Connection, Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.rosbag2.errors import WriterError
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from diwa_runtime import events
from diwa_runtime import robot_messages as messages
from diwa_runtime.cameras import DEVICE_TYPE, device_topic
from diwa_runtime.errors import DiwaError, InputError, StorageError, one_line
from diwa_runtime.events import EventKind
from diwa_runtime.files import TEMPORARY_SUFFIX, onto_disk, written_whole
from diwa_runtime.interfaces import message_definitions
from diwa_runtime.robot_messages import Fields
from diwa_runtime.spec import Spec
from diwa_sim.snapshot import Snapshot

_NEVER = QosTime(2147483647, 4294967295)
RELIABLE = Qos(
    QosHistory.KEEP_LAST, 10, QosReliability.RELIABLE, QosDurability.VOLATILE,
    _NEVER, _NEVER, QosLiveliness.AUTOMATIC, _NEVER, avoid_ros_namespace_conventions=False,
)  # fmt: skip

Place = Callable[[Path], AbstractContextManager[Path]]
"""Gives a temporary path for a path, and puts the one in the other's place when all went well."""

_HEAD_BYTES = 100
"""Before its first chunk a file of rosbags is smaller."""


@cache
def typestore() -> Typestore:
    """Return the message types of ROS 2 Jazzy and of diwa_msgs.

    Raises:
        InputError: diwa_msgs is not to be found.
    """
    store = get_typestore(Stores.ROS2_JAZZY)
    types = {}
    for name, text in message_definitions().items():
        types.update(get_types_from_msg(text, name))
    store.register(types)
    return store


def make_message(store: Typestore, name: str, fields: Fields) -> Any:
    """Make a message of type `name` from plain fields; nested dicts become nested messages."""
    made = {}
    for field, (_, about) in store.fielddefs[name][1]:
        value = fields[field]
        made[field] = make_message(store, str(about), value) if isinstance(value, dict) else value
    return store.types[name](**made)


@contextmanager
def kept_on_failure(path: Path) -> Iterator[Path]:
    """As `written_whole`, for what cannot be made again: what an exception cuts off stays, and the error says where.

    It lies beside its place as ``NAME.PID.partial``, which `remove_orphans` leaves alone.

    Raises:
        StorageError: the disk refused.
        KeyboardInterrupt: interrupted, with what to say.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        onto_disk(temporary)
        temporary.replace(path)
    except BaseException as error:
        if not any(file.stat().st_size > _HEAD_BYTES for file in temporary.rglob("*.mcap")):
            shutil.rmtree(temporary, ignore_errors=True)
            kept = "nothing was recorded"
        else:
            kept = f"what was recorded is kept up to its last whole chunk: ingest --bags {temporary}"
        if isinstance(error, OSError):
            raise StorageError(f"{path}: could not be written ({error.strerror or error}); {kept}") from error
        if isinstance(error, DiwaError | KeyboardInterrupt):
            raise type(error)("; ".join(filter(None, (one_line(error), kept)))) from error
        error.add_note(kept)
        raise


class BagWriter(AbstractContextManager["BagWriter"]):
    """One bag, which appears under its name when it is whole.

    While it is written it lies beside its place, by default as ``.NAME.PID.partial``; its chunks go to disk as they
    fill, so that what a killed process leaves there can still be read up to its last whole chunk.
    """

    def __init__(
        self,
        folder: Path | str,
        spec: Spec | None = None,
        notes: Mapping[str, str] | None = None,
        place: Place = written_whole,
    ) -> None:
        """Prepare to write.

        Args:
            folder: the bag, which must not be there yet.
            spec: says how a snapshot's scene is named, and what an action of 1 means; none: the play table's.
            notes: text by name, kept in the bag's metadata as rosbag2's custom data.
            place: what becomes of a bag that is cut off: `written_whole` removes it, `kept_on_failure` does not.

        Raises:
            InputError: something lies there.
        """
        self.folder = Path(folder)
        if os.path.lexists(self.folder) and not (self.folder.is_dir() and not any(self.folder.iterdir())):
            raise InputError(f"{self.folder}: is there already; a bag is never written over, choose another name")
        self._spec = spec or Spec()
        self._notes = dict(notes or {})
        self._place = place
        self._store = typestore()
        self._connections: dict[str, Connection] = {}

    def __enter__(self) -> Self:
        self._whole = self._place(self.folder)
        self._temporary = self._whole.__enter__()
        # rosbags names the file after its folder: give it the final name inside, and lift it out when closed.
        self._writer = Writer(self._temporary / self.folder.name, version=9, storage_plugin=StoragePlugin.MCAP)
        for name, text in self._notes.items():
            self._writer.set_custom_data(name, text)
        try:
            self._writer.open()
        except (OSError, WriterError) as error:
            self._abandon(error)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        if error is not None:
            self._abandon(error)
        try:
            self._writer.close()
            for path in self._writer.path.iterdir():
                path.rename(self._temporary / path.name)
            self._writer.path.rmdir()
        except BaseException as failure:
            self._abandon(failure)
        self._whole.__exit__(None, None, None)
        return None

    def note(self, name: str, text: str) -> None:
        """Keep a text in the bag's metadata, as `notes`; also after the first message."""
        self._writer.set_custom_data(name, text)

    def write(self, topic: tuple[str, str], fields: Fields, stamp_ns: int) -> None:
        """Write one message of a (topic, type), received when it was stamped.

        Raises:
            OSError: the disk refused; the context manager makes it a StorageError.
        """
        data = self._store.serialize_cdr(make_message(self._store, topic[1], fields), topic[1])
        self.write_serialized(topic, data, stamp_ns)

    def write_serialized(self, topic: tuple[str, str], data: bytes | memoryview, received_ns: int) -> None:
        """Write one message of a (topic, type) as the middleware gave it.

        Raises:
            OSError: as `write`.
        """
        name, kind = topic
        if name not in self._connections:
            self._connections[name] = self._writer.add_connection(
                f"/{name}", kind, typestore=self._store, offered_qos_profiles=[RELIABLE]
            )
        self._writer.write(self._connections[name], received_ns, data)

    def write_snapshot(self, snapshot: Snapshot, stamp_ns: int) -> None:
        """Write all topics of one instant."""
        self.write(messages.ROBOT_STATE, messages.robot_state(snapshot, stamp_ns, self._spec.action_scale), stamp_ns)
        self.write(messages.JOINT_STATES, messages.joint_states(snapshot, stamp_ns), stamp_ns)
        scene = messages.scene_state(snapshot.scene, stamp_ns, self._spec.scene)
        self.write(messages.SCENE_STATE, scene, stamp_ns)
        for camera, image in snapshot.images.items():
            if device_topic(camera) not in self._connections:
                from diwa_sim.rendering import device  # MuJoCo's, which another simulator's bags do not need

                self.write((device_topic(camera), DEVICE_TYPE), {"data": device()}, stamp_ns)
            fields = messages.compressed_image(image, stamp_ns, camera)
            self.write(messages.image_topic(camera), fields, stamp_ns)

    def write_event(self, kind: EventKind, stamp_ns: int, task: str | None = None, seed: int | None = None) -> None:
        """Write a mark that belongs to the snapshot of that stamp."""
        self.write((events.TOPIC, events.TYPE), messages.episode_event(kind, stamp_ns, task, seed), stamp_ns)

    def _abandon(self, error: BaseException) -> None:
        with suppress(OSError):  # on a full disk it is what could not be written before
            self._writer.abort()
        if isinstance(error, WriterError):
            error = StorageError(f"{self.folder}: {error}")
        self._whole.__exit__(type(error), error, error.__traceback__)
        raise error
