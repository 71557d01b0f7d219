"""This process's end of a remote object: requests go out by one edge, answers come by another.

Whoever waits for an answer serves the edges himself, in his own thread, so that no thread stands between an answer and
him; of several who wait one serves for all. A thread beside them hears the host and maps memory.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import numpy as np

from rmbus.errors import Broken, Closed, HostError, MalformedFrame, NodeError, RmbusError, node_error
from rmbus.media import datum
from rmbus.protocol import lane, messages
from rmbus.protocol.calls import CALLS, Reply, Request
from rmbus.protocol.codec import named
from rmbus.protocol.frames import Kind
from rmbus.runtime.ends import Ends
from rmbus.runtime.forks import own
from rmbus.runtime.links import OTHER, InputLink, OutputLink
from rmbus.runtime.loop import now_ns
from rmbus.runtime.memory import NodeMemory
from rmbus.runtime.orders import wire
from rmbus.transport.counters import Page
from rmbus.transport.lanes import DealerLane, FastLane
from rmbus.transport.umbilical import Stripped, Umbilical

RECHECK_S: Final = 0.5
"""Whoever waits while another serves looks by himself after this time: that one may have been interrupted."""

LEAVE_S: Final = 1.0
"""How long a host may take to hear that a process leaves it."""

Pickled = tuple[bytes, list[memoryview]]
"""A pickle, and the buffers that lie beside it."""


class Answers:
    """What has been answered to one call and not been taken yet.

    Args:
        window: how many items may come, if any do.

    Attributes:
        call: its number, 0 until it is asked.
        on_come: called, in whatever thread serves, when something has come or nothing more will; None: nobody waits.
    """

    __slots__ = ("call", "is_flow", "is_over", "on_come", "replies", "room")

    def __init__(self, window: int = 0) -> None:
        self.call = 0
        self.room = window
        self.replies: deque[Reply] = deque()
        self.on_come: Callable[[], object] | None = None
        self.is_flow = self.is_over = False


class Caller(Ends):
    """The end, from its host's first word on. Any thread may ask and wait.

    Args:
        umbilical: of a process that has joined to call. page: where it counts.
        name: of the object. host: that it is on, for errors.
    """

    def __init__(self, umbilical: Umbilical, page: Page, name: str, host: str) -> None:
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        super().__init__([CALLS], page, NodeMemory(umbilical.send, self._lock))
        self._umbilical = umbilical
        self._name, self._host = name, host
        self._port = self._ports[CALLS]
        self._numbers = 0
        self._asked: dict[int, Answers] = {}
        self._server = 0  # the thread that serves, 0: none
        self._idle: set[threading.Event] = set()  # of threads that wait beside it
        self._failure: RmbusError | None = None
        self._status = ""
        self._is_up = self._is_closed = False
        self._thread = threading.Thread(target=self._listen, name=f"rmbus-{name}", daemon=True)
        self._thread.start()
        own(self)

    @property
    def failure(self) -> RmbusError | None:
        """Why nothing can be asked any more, None as long as it can."""
        return self._failure

    def disown(self) -> None:
        """Another process has it, of which this one is a child."""
        self._lock, self._server = threading.RLock(), 0
        self._changed = threading.Condition(self._lock)
        self._failure = Closed(f"{self._name} is called by another process: connect() after the fork, not before")
        self._umbilical.disown()
        for end in (*self._lanes_in.values(), *(watched.end for watched in self._watched.values())):
            end.close()

    def begin(self, timeout_s: float) -> None:
        """Wait until both edges are up.

        Raises:
            HostError: the host is gone, or has not joined them in time.
        """
        deadline = time.monotonic() + timeout_s
        while not (self._is_up and any(link.is_up for link in self._inputs)):
            if self._failure is not None:
                raise self._failure
            if time.monotonic() > deadline:
                raise HostError(f"the host did not join this process to {self._name} within {timeout_s:g} s")
            self._serve(min(0.1, deadline - time.monotonic()))

    # --- asking ------------------------------------------------------------------------------------------------------

    def ask(
        self,
        answers: Answers,
        word: str,
        name: str = "",
        value: Pickled = (b"", []),
        *,
        limit_s: float | None = None,
    ) -> None:
        """Ask something; what comes of it is waited for with `wait`.

        Args:
            answers: new ones, so that whoever is interrupted in here has what to cancel.
            word, name: see `Request`. value: a pickle and its buffers. limit_s: how long the user's code may take.

        Raises:
            NodeError, HostError: the object, or its host, is gone.
        """
        limit_ms = 0 if limit_s is None else max(1, int(limit_s * 1000))
        data, buffers = value
        arrays = [np.frombuffer(buffer, np.uint8) for buffer in buffers]
        with self._lock:
            call = answers.call = self._numbers = self._numbers + 1
            self._send(named(Request, (call, word, name, limit_ms, answers.room, data, arrays)))
            self._asked[call] = answers

    def ask_more(self, answers: Answers, number: int) -> None:
        """Take so many items more."""
        with self._lock:
            answers.room += number
            self._send(Request(answers.call, "next", number=number))

    def close_flow(self, answers: Answers) -> None:
        """Take no more items: the generator is closed, and that is answered."""
        with self._lock:
            self._send(Request(answers.call, "close"))

    def cancel(self, answers: Answers) -> None:
        """Wait for a call no more: it is stopped at the far end, also where it has not arrived there yet."""
        if not answers.call:
            return
        with contextlib.suppress(RmbusError):  # then it has been
            self._umbilical.send(messages.Cancel(answers.call))

    def wait(self, answers: Answers, timeout_s: float | None = None) -> Reply:
        """Return the next reply to a call.

        Raises:
            NodeError, HostError: the object, or its host, is gone. TimeoutError: none came in time.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        come: threading.Event | None = None
        try:
            while not answers.replies and self._failure is None:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError(f"{self._name} has not answered within {timeout_s:g} s")
                if self._serve_if_free(left, answers):
                    continue
                if come is None:  # whoever serves may be through before he knows of it: look again
                    come = threading.Event()
                    answers.on_come = come.set
                    self._idle.add(come)
                else:
                    come.wait(RECHECK_S if left is None else min(left, RECHECK_S))
                    come.clear()
        finally:
            if come is not None:
                answers.on_come = None
                self._idle.discard(come)
        return self.taken(answers)

    def taken(self, answers: Answers) -> Reply:
        """Return a reply that has come.

        Raises:
            as `wait`.
        """
        if answers.replies:
            return answers.replies.popleft()
        assert self._failure is not None
        raise self._failure

    def serve_at_once(self) -> None:
        """Serve what there is, unless somebody else serves: for an event loop, which watches `reactor`."""
        self._serve_if_free(0)

    def close(self) -> None:
        """Leave the object; harmless when it was left."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            self._fail(Closed(f"{self._name}: this end was closed"))
        self.reactor.call_soon(lambda: None)  # whoever serves sees it
        self._wait_for_server()
        self._umbilical.finish()
        self._thread.join(LEAVE_S)
        self._umbilical.close()
        self._thread.join()
        super().close()

    def _send(self, request: Request) -> None:
        """Send a request, under the lock."""
        if self._failure is not None:
            raise self._failure
        try:
            self._port.send(datum(request.to_wire(), Any))
        except Exception:
            raise
        except BaseException:
            self._fail(Broken("the last call was interrupted on its way"))
            raise

    # --- serving -----------------------------------------------------------------------------------------------------

    def _serve(self, timeout_s: float | None) -> None:
        """Wait for something, and take it in."""
        found = self.reactor.wait(None if timeout_s is None else max(timeout_s, 0))
        if found:
            with self._lock:
                try:
                    self.reactor.serve(found)
                except RmbusError as error:
                    self._fail(error)
                except BaseException:
                    self._fail(Broken("an answer was interrupted on its way"))
                    raise

    def _serve_if_free(self, timeout_s: float | None, answers: Answers | None = None) -> bool:
        """Serve, unless another thread does, or what is waited for has come; whether no other does."""
        me = threading.get_ident()
        try:
            with self._lock:
                if not self._server:
                    self._server = me
            if self._server == me and not (answers is not None and (answers.replies or self._failure is not None)):
                self._serve(timeout_s)
            return self._server == me
        finally:
            if self._server == me:
                self._server = 0
                self._hand_over()

    def _wait_for_server(self) -> None:
        """Wait, for a bounded time, until no other thread serves."""
        with self._changed:
            self._changed.wait_for(lambda: self._server in (0, threading.get_ident()), LEAVE_S)

    def _hand_over(self) -> None:
        """Whoever has served has what he waited for: another may serve."""
        for come in tuple(self._idle):
            come.set()
        if self._is_closed:
            with self._changed:
                self._changed.notify_all()

    def _arrive(self, link: InputLink, message: lane.Message) -> None:
        value = link.take_value(message)
        if value is not OTHER:
            self._come(Reply.of(value))
            link.tell_if_due()
            return
        for arrival in link.receive(message):
            if arrival.frame is not None:
                link.begin(arrival, now_ns())
                self._come(Reply.of(getattr(arrival.frame, "value", None)))
                arrival.release()
            elif arrival.header.kind in (Kind.EOS, Kind.ERROR):
                link.ended = True
            if link.finish(arrival):
                link.tell()

    def _come(self, reply: Reply) -> None:
        answers = self._asked.get(reply.call)
        if reply.call == 0:
            raise MalformedFrame(f"{self._name} did not understand: {reply.message}")
        if answers is None:
            return  # nobody waits for it any more
        answers.is_flow |= reply.word == "flow"
        if reply.word == "item":
            answers.room -= 1
            if answers.room < 0 or not answers.is_flow:
                raise MalformedFrame(f"{self._name} gives more items than it was asked for")
        if reply.word in ("value", "end", "raised"):
            answers.is_over = True
            del self._asked[reply.call]
        answers.replies.append(reply)
        _tell(answers)

    def _fail(self, error: RmbusError) -> None:
        """Nothing more comes."""
        if self._failure is None:
            self._failure = error
        asked, self._asked = self._asked, {}
        for answers in asked.values():
            answers.is_over = True
            _tell(answers)

    def _without_producer(self, edge: int) -> None:
        super()._without_producer(edge)
        self._inbox.clear()
        self._lost(self._status or "its process is gone")

    def _lost(self, status: str) -> None:
        self._fail(node_error(f"the remote object is gone: {status}", node=self._name, host=self._host))

    def gone(self, message: messages.Gone) -> None:
        """The object is gone."""
        super().gone(message)
        self._lost(self._status or "its process is gone")

    def _new_output(self, message: messages.Output, page: Page, end: DealerLane | FastLane) -> OutputLink:
        return OutputLink.of(message, page, end, self._memory.readers(message.edge))

    def _note_waiting(self) -> None:
        """What waits goes when the object has room for it."""

    # --- the host, in a thread beside --------------------------------------------------------------------------------

    def _listen(self) -> None:
        while True:
            try:
                try:
                    _, message, descriptors = self._umbilical.receive()
                except Stripped as stripped:
                    message, descriptors = stripped.message, []
                except messages.UnknownTag:
                    continue  # a later host may say more
                if self._memory.take(message, descriptors):
                    continue
            except RmbusError as error:
                reason = "it has ended" if isinstance(error, Closed) else f"it broke the protocol: {error}"
                self.reactor.call_soon(partial(self._cut, reason))
                return
            if isinstance(message, messages.NodeEvent):
                self.reactor.call_soon(partial(self._told, message))
            else:
                self.reactor.call_soon(partial(wire, self, message, descriptors, self._heard_up, ""))

    def _heard_up(self, message: messages.Message) -> None:
        """The edge to the object is up."""
        self._is_up = True

    def _told(self, event: messages.NodeEvent) -> None:
        """How it goes with the object."""
        if event.state == "failed":
            self._fail(_failed(event, self._name, self._host))
            return
        words = {"released": "it was released", "replaced": "it was replaced by another"}
        self._status = words.get(event.state, f"its process ended: {event.status}")
        self._lost(self._status)

    def _cut(self, reason: str) -> None:
        self._fail(HostError(f"the host {self._host} is gone: {reason}", host=self._host))


def _tell(answers: Answers) -> None:
    """Tell whoever waits; he may just be leaving."""
    on_come = answers.on_come
    if on_come is not None:
        on_come()


def _failed(event: messages.NodeEvent, name: str, host: str) -> NodeError:
    return node_error(event.message, node=name, host=host, type_name=event.type_name, traceback_text=event.traceback)
