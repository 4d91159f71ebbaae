"""Which of a bag's topics is which of the Spec's, and the messages of those."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from diwa_runtime.errors import InputError
from diwa_trainer.ingest.bags import Bag
from diwa_trainer.ingest.definitions import Read, reader_of
from diwa_trainer.ingest.mcap import Channel, Message


class TopicNames:
    """Which of a bag's topics is which of the Spec's; the Spec's are relative to a namespace that is not told.

    Attributes:
        types: by the Spec's name.
        found: full name by the Spec's name.
        others: what else the bag has.
        mistyped: by the Spec's name, what to say of a topic that would fit and is of another type.
    """

    def __init__(self, types: Mapping[str, str]) -> None:
        """Look for topics of these names and types."""
        self.types = dict(types)
        self.found: dict[str, str] = {}
        self.others: set[str] = set()
        self.mistyped: dict[str, str] = {}

    def of(self, topic: str, kind: str) -> str | None:
        """Return the Spec's name of a topic of the bag; None where the Spec does not name it, or as another type.

        Raises:
            InputError: two of the bag's topics fit the same name and type.
        """
        fitting = [name for name in self.types if f"/{topic}".endswith(f"/{name}")]
        name = max(fitting, key=len, default=None)  # what says most is meant: gripper/joint_states, not joint_states
        if name is None:
            self.others.add(topic)
            return None
        if kind != self.types[name]:
            self.others.add(topic)
            self.mistyped[name] = (
                f"topic {topic} is of type {kind}, the Spec has {self.types[name]}; give a Spec for this robot"
            )
            return None
        if self.found.setdefault(name, topic) != topic:
            raise InputError(f"both {self.found[name]} and {topic} could be {name!r}; record one robot a bag")
        return name

    def check(self, name: str) -> None:
        """Refuse a bag that has a topic of that name as another type alone.

        Raises:
            InputError: it has; names the types.
        """
        if name not in self.found and name in self.mistyped:
            raise InputError(self.mistyped[name])


def messages_of(bag: Bag, topics: TopicNames, skip_damaged: bool) -> Iterator[tuple[str, Read, Message]]:
    """Yield (the Spec's topic, what reads the message, the message) for all of these topics, in the bag's order."""
    # Channels are told apart by identity: comparing them would compare the texts of their definitions.
    readers: dict[int, tuple[str, Read] | None] = {}
    seen: list[Channel] = []
    for message in bag.messages(skip_damaged):
        channel = message.channel
        if id(channel) not in readers:
            seen.append(channel)
            name = topics.of(channel.topic, channel.type)
            readers[id(channel)] = None if name is None else (name, _reader_of(channel))
        found = readers[id(channel)]
        if found is not None:
            yield (*found, message)


def _reader_of(channel: Channel) -> Read:
    """Return what reads a channel's messages; where none can be read, that is what each of them says."""
    try:
        return reader_of(channel)
    except InputError as error:
        kind, why = type(error), str(error)

    def refuse(_: bytes | memoryview) -> None:
        raise kind(why)

    return refuse
