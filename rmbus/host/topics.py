"""The directory of topics on a host: who publishes what, and who wants to know."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs

from rmbus.errors import HostError
from rmbus.host.endpoints import Endpoint
from rmbus.protocol import messages
from rmbus.protocol.published import EVENTS
from rmbus.protocol.topics import matches

Tell = Callable[[messages.Message], None]


@attrs.frozen(eq=False)
class Watch:
    """Somebody who wants to know of topics that match a pattern."""

    pattern: str
    tell: Tell


class Directory:
    """Names of topics, each an output of one process."""

    def __init__(self) -> None:
        self._outputs: dict[str, tuple[Endpoint, str]] = {}
        self._watches: list[Watch] = []

    def publish(self, endpoint: Endpoint, topics: Mapping[str, str]) -> None:
        """Let outputs of a process be topics, port to topic.

        Raises:
            HostError: a name is taken.
        """
        self.check_free(topics)
        endpoint.worker.send(messages.Publish(dict(topics)))
        for port, topic in topics.items():
            self._outputs[topic] = endpoint, port
            self._tell(topic, is_there=True)

    def check_free(self, topics: Mapping[str, str]) -> None:
        """Let names pass that nobody publishes.

        Raises:
            HostError: a name is taken.
        """
        for topic in topics.values():
            if topic == EVENTS:
                raise HostError(f"the topic {topic!r} is the host's own: choose another name")
            if topic in self._outputs:
                raise HostError(f"the topic {topic!r} is published already: choose another name, or end its publisher")

    def free(self, topics: Mapping[str, str], mark: str) -> dict[str, str]:
        """Return names that nobody has: those given, or with a mark behind the first segment where one is taken."""
        if not any(topic in self._outputs for topic in topics.values()):
            return dict(topics)
        return {port: topic.replace("/", f"-{mark}/", 1) for port, topic in topics.items()}

    def withdraw(self, endpoint: Endpoint) -> None:
        """A process has ended: its topics are gone."""
        for topic in [topic for topic, (owner, _) in self._outputs.items() if owner is endpoint]:
            del self._outputs[topic]
            self._tell(topic, is_there=False)

    def matching(self, pattern: str) -> list[str]:
        """Return the topics that match."""
        return [topic for topic in sorted(self._outputs) if matches(pattern, topic)]

    def output(self, topic: str) -> tuple[Endpoint, str]:
        """Return the process and the output that a topic is."""
        return self._outputs[topic]

    def watch(self, pattern: str, tell: Tell) -> None:
        """Tell of every topic that matches and appears or goes from now on."""
        if not any(watch.pattern == pattern and watch.tell == tell for watch in self._watches):
            self._watches.append(Watch(pattern, tell))

    def unwatch(self, tell: Tell) -> None:
        """Tell no more."""
        self._watches = [watch for watch in self._watches if watch.tell != tell]

    def _tell(self, topic: str, *, is_there: bool) -> None:
        for watch in self._watches:
            if matches(watch.pattern, topic):
                watch.tell(messages.Topic(topic, is_there))
