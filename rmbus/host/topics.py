"""The directory of topics on a host: who publishes what, and where subscribers connect."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs

from rmbus.errors import HostError
from rmbus.host.endpoints import Endpoint
from rmbus.protocol import messages
from rmbus.protocol.topics import matches

Tell = Callable[[messages.Message], None]


@attrs.frozen(eq=False)
class Watch:
    """Somebody who wants to know of topics that match a pattern."""

    pattern: str
    tell: Tell


class Directory:
    """Names of topics, each with one publisher."""

    def __init__(self) -> None:
        self._paths: dict[str, str] = {}
        self._owners: dict[str, Endpoint] = {}
        self._watches: list[Watch] = []

    def publish(self, endpoint: Endpoint, topics: Mapping[str, str]) -> None:
        """Let a process publish outputs, port to topic.

        Raises:
            HostError: a name is taken.
        """
        self.check_free(topics)
        path, listener = endpoint.listen("pub.sock")
        endpoint.worker.send(messages.Publish(dict(topics), listener=0, path=str(path)), [listener])
        for topic in topics.values():
            self._owners[topic] = endpoint
            self._set(topic, str(path))

    def check_free(self, topics: Mapping[str, str]) -> None:
        """Let names pass that nobody publishes.

        Raises:
            HostError: a name is taken.
        """
        for topic in topics.values():
            if topic in self._owners:
                raise HostError(f"the topic {topic!r} is published already: choose another name, or end its publisher")

    def free(self, topics: Mapping[str, str], mark: str) -> dict[str, str]:
        """Return names that nobody has: those given, or with a mark behind the first segment where one is taken."""
        if not any(topic in self._owners for topic in topics.values()):
            return dict(topics)
        return {port: topic.replace("/", f"-{mark}/", 1) for port, topic in topics.items()}

    def withdraw(self, endpoint: Endpoint) -> None:
        """A process has ended: its topics are gone."""
        for topic in [topic for topic, owner in self._owners.items() if owner is endpoint]:
            del self._owners[topic]
            self._set(topic, "")

    def matching(self, pattern: str) -> list[tuple[str, str]]:
        """Return the topics that match, each with the path of its socket."""
        return [(topic, path) for topic, path in sorted(self._paths.items()) if matches(pattern, topic)]

    def watch(self, pattern: str, tell: Tell) -> None:
        """Tell of every topic that matches and appears or goes from now on."""
        if not any(watch.pattern == pattern and watch.tell == tell for watch in self._watches):
            self._watches.append(Watch(pattern, tell))

    def unwatch(self, tell: Tell) -> None:
        """Tell no more."""
        self._watches = [watch for watch in self._watches if watch.tell != tell]

    def _set(self, topic: str, path: str) -> None:
        if path:
            self._paths[topic] = path
        else:
            del self._paths[topic]
        for watch in self._watches:
            if matches(watch.pattern, topic):
                watch.tell(messages.Topic(topic, path))
