"""The host's gateway process, seen from the host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rmbus.errors import HostError
from rmbus.host.endpoints import Endpoint
from rmbus.host.hosted import HostedSession
from rmbus.protocol import messages
from rmbus.transport.security import make_pair
from rmbus.transport.umbilical import Umbilical


class GatewayChild:
    """Starts the gateway when it is needed and passes on what it says.

    Attributes:
        endpoint: where it listens on the network, "" where it does not. public: its key.

    Args:
        spawn: starts the process. path: of the socket where those who come by ssh find it.
    """

    def __init__(self, spawn: Callable[[], Endpoint], path: Path) -> None:
        public, secret = make_pair()
        self.endpoint = ""
        self.public = public.decode()
        self._secret = secret.decode()
        self._spawn = spawn
        self._path = path
        self._process: Endpoint | None = None
        self._sessions: dict[str, HostedSession] = {}
        self._on_listening: Callable[[], None] | None = None
        self._listen = ""
        self._clients: list[str] = []
        self._is_up = False
        self._is_closed = False
        self._waiting: list[tuple[Callable[[], None], Callable[[str], None]]] = []

    def allow(self, clients: Sequence[str]) -> None:
        """Say whose keys are good."""
        self._clients = list(clients)

    def start(self, listen: str, *, on_listening: Callable[[], None] | None = None) -> Endpoint:
        """Start the process; `on_listening` is called once it is up."""
        self._listen = listen
        self._on_listening = on_listening
        self._is_up = False
        self._process = self._spawn()
        worker = self._process.worker
        worker.on_message = self._said
        worker.on_exit = self._exited
        worker.send(messages.GatewayJob(listen, self.public, self._secret, self._clients, str(self._path)))
        return self._process

    def ensure(self) -> Endpoint:
        """Return the process, started if it is not."""
        return self._process or self.start(self._listen)

    def when_up(self, call: Callable[[], None], failed: Callable[[str], None]) -> None:
        """Call back when the process listens, now if it does, or with why it cannot; it is started if it is not."""
        self.ensure()
        if self._is_up:
            call()
        else:
            self._waiting.append((call, failed))

    def admit(self, visit: messages.Visit) -> tuple[Umbilical, int]:
        """Let the gateway expect somebody from another machine.

        Returns:
            What the host has as his umbilical, and the process at the other end of it.
        """
        gateway = self.ensure()
        ours, theirs = Umbilical.pair()
        gateway.worker.send(visit, [theirs.detach()])
        return ours, gateway.worker.pid

    def attend(self, session: HostedSession) -> None:
        """Tell a session of what befalls its edges."""
        self._sessions[session.name] = session

    def forget(self, session: str) -> None:
        """A session has ended: its edges are carried no more."""
        if self._sessions.pop(session, None) is not None and self._process is not None:
            self._process.worker.send(messages.Stop(session, drain=False))

    def close(self) -> None:
        """End the process."""
        self._is_closed = True
        if self._process is not None:
            self._process.worker.kill()

    def _said(self, message: messages.Message) -> None:
        if isinstance(message, messages.Listening):
            self._is_up = True
            self.endpoint = message.endpoint
            if self._on_listening is not None:
                self._on_listening()
            waiting, self._waiting = self._waiting, []
            for call, _ in waiting:
                call()
        elif isinstance(message, messages.PeerLost) and message.session in self._sessions:
            self._sessions[message.session].tell(message)

    def _exited(self, status: str) -> None:
        """The gateway is gone: its sessions are told; a host that listens gets a new one, at the same address."""
        process, self._process = self._process, None
        if process is not None:
            process.remove()
        for session in self._sessions.values():
            session.tell(messages.PeerLost(session.name, f"its gateway ({status})", []))
        waiting, self._waiting = self._waiting, []
        for _, failed in waiting:
            failed(f"the host's gateway could not start: {status}")
        if self._is_closed or not self._listen:
            return
        if not self._is_up and not self.endpoint:
            raise HostError(f"the gateway could not start: {status}")
        if self._is_up:  # else its address is taken: the next link that needs it tries again
            self.start(self.endpoint)
