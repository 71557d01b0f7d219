"""The outputs of a node: each frame is encoded once, and copied once at most, whatever the number of its edges."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any, Final

from rmbus import formats, framing, values
from rmbus.delivery import latest
from rmbus.errors import FormatError
from rmbus.layouts import Array
from rmbus.media import Data, Frame, Packet, VideoFrame
from rmbus.protocol import lane
from rmbus.protocol.codec import named
from rmbus.protocol.frames import Header, Kind, encode_frame, pack_frame
from rmbus.protocol.limits import FIRST_TOPIC_EDGE, INLINE_BYTES
from rmbus.runtime.keys import latest_advice
from rmbus.runtime.links import OutputLink
from rmbus.runtime.memory import NodeMemory
from rmbus.stamps import SECOND, memory_of
from rmbus.transport import counters
from rmbus.transport.counters import Page
from rmbus.transport.mailbox import Item
from rmbus.transport.memory import Held, Lease, Slot
from rmbus.values import Draft

END_S: Final = 2.0
"""How long those who read a topic have to finish when it ends: nobody waits longer for a reader that stands still."""

_VIDEO: Final = int(Kind.VIDEO)
_DATA: Final = int(Kind.DATA)
_FRAMES_OUT: Final = int(counters.Node.FRAMES_OUT)


class OutputPort:
    """One output.

    Attributes:
        links: its edges.
        keeps_last: whether the last frame is kept for those who come later.
        on_key_wanted: called when somebody cannot decode what comes before the next key frame, and again with each
            packet that does not help.
    """

    def __init__(self, name: str, memory: NodeMemory, page: Page) -> None:
        self.name = name
        self.links: list[OutputLink] = []
        self.keeps_last = False
        self._memory = memory
        self._pool = memory.pool(name, self._reclaim)
        self._words = page.words
        self._refused: set[int] = set()
        self._base, self._num, self._den = SECOND, 1, 1
        self._seq = 0
        self._turn = 0
        self._format: formats.Format = None  # none is told yet; Any is one that is told too
        self._format_item: Item | None = None
        self._last: tuple[Item, ...] = ()  # the last frame that is kept, behind its format
        self._key: bool | None = None  # whether the packet of video that was sent last is a key; None before the first
        self.on_key_wanted: Callable[[], None] = _nothing

    @property
    def has_room(self) -> bool:
        """Whether no edge of this output is full."""
        return all(link.mailbox.has_room for link in self.links)

    @property
    def is_settled(self) -> bool:
        """Whether everything that left here has been processed, or dropped."""
        return all(link.mailbox.is_settled for link in self.links)

    @property
    def wants_key(self) -> bool:
        """Whether somebody waits for a key frame."""
        return any(link.wants_key or link.mailbox.is_awaiting_key for link in self.links)

    def add(self, link: OutputLink, *, last: bool = False) -> None:
        """Take an edge in; it is told the format first, and with `last` the last value, or the last key frame."""
        self.links.append(link)
        link.on_key_wanted = self._key_wanted
        self._refused.clear()
        kept = self._last if last else ()
        for item in kept:
            link.mailbox.offer(item)
        if self._format_item is not None and not (kept and kept[0] is self._format_item):
            link.mailbox.offer(self._format_item)
        if self._key is not None and not (self._key and kept and kept[-1].key):
            link.mailbox.await_key()  # it lacks what the next packet depends on
            if formats.is_inter_coded(self._format):
                self.on_key_wanted()

    def drop(self, link: OutputLink, reason: str) -> None:
        """The consumer of an edge is gone: what waits for it is dropped; what it still holds is never written again."""
        link.cut()
        link.mailbox.close(reason)
        self._spoil(link.lending.take_all())
        self.links.remove(link)

    def leave(self, link: OutputLink) -> None:
        """A consumer has had its time: what waits for it is dropped; what is under way it may still read."""
        link.page.drop("stopped", link.mailbox.waiting)
        self.links.remove(link)

    def room(self, size: int) -> Slot | None:
        """Return shared memory for a payload; None where nobody would read it there, or where none is to be had."""
        for link in self.links:
            if link.shares:
                return self._pool.acquire(size)
        return None

    def reclaim(self, link: OutputLink) -> None:
        """Take back what a consumer has let go of."""
        self._spoil(link.lending.reclaim())

    def trim(self) -> None:
        """Take back what consumers have let go of, and give the host memory that is not used any more."""
        self._reclaim()
        self._pool.trim()

    def send(self, frame: Frame, origin: Callable[[], None] | None = None) -> None:
        """Offer a frame to every edge, a `format` frame before it where the format is new, and send what can go."""
        if origin is None:
            kind_of = type(frame)
            if kind_of is Data and self._data_goes_on(frame):  # type: ignore[arg-type]  # it is one
                return
            if kind_of is VideoFrame and self._goes_on(frame):  # type: ignore[arg-type]  # likewise
                return
        self._words[_FRAMES_OUT] += 1
        if not self.links and not self.keeps_last:
            self._seq += 1
            if isinstance(frame, Packet) and formats.is_inter_coded(frame.format):
                self._key = False
            return
        form = frame.format
        if form is not self._format and form != self._format:
            if formats.is_inter_coded(form):
                self._refuse_latest(form)
            self._format = form
            self._format_item = self._control(Kind.FORMAT, formats.to_wire(form))
            self._offer(self._format_item)
        kind, extra, payload = framing.encode(frame)
        base = frame.time_base
        seq = self._seq
        header = named(
            Header, (int(kind), seq, self._turn, frame.pts, base.numerator, base.denominator, frame.captured_ns, extra)
        )
        self._seq = seq + 1
        key = bool(extra[0]) if kind == Kind.PACKET and formats.is_inter_coded(form) else None
        if key is not None:
            self._key = key
            if key:
                for link in self.links:
                    link.wants_key = False
        size = len(payload)
        if size <= INLINE_BYTES:
            inline = bytes(payload) if isinstance(payload, Draft) else payload
            item = named(Item, (kind, encode_frame(header, inline), size, b"", None, None, key, origin))
        else:
            item = self._large(frame, header, payload, size, key)._replace(origin=origin)
        if self.keeps_last and key is not False:
            assert self._format_item is not None
            self._last = (self._format_item, item)
        for link in self.links:
            link.offer(item)
        if key is False and self.wants_key:
            self.on_key_wanted()

    def send_array(
        self,
        kind: int,
        form: formats.Format,
        pts: int | None,
        base: Fraction,
        captured_ns: int,
        array: Array,
        held: Held | None = None,
    ) -> bool:
        """Do what `send` does with an array of the format that is told, and that can go to every edge at once.

        Args:
            kind, form, pts, base, captured_ns: of its frame, whose `extra` is None.
            array: the content, which may be written to again when it is sent, unless `held` is given.
            held: the shared memory that it lies in, whole.

        Returns:
            Whether it was sent; if not, nothing has been done.
        """
        links, size = self.links, array.nbytes
        if not self._is_clear(form):
            return False
        if base is not self._base:
            self._base, self._num, self._den = base, base.numerator, base.denominator
        if size > INLINE_BYTES:
            if held is None:
                held = self._lendable(array)
                if not self._is_clear(form):  # for the host may have been waited for, and others have sent meanwhile
                    return False
            if held is None or held.place.size != size or not all(link.may_lend(held) for link in links):
                return False
        header = (kind, self._seq, self._turn, pts, self._num, self._den, captured_ns, None)
        if size > INLINE_BYTES:
            assert held is not None
            frame = pack_frame((0, *header, held.place))
            for link in links:
                link.lend_at_once(frame, held)
        else:
            held = None  # if it lies in shared memory, it goes by value all the same
            frame = pack_frame((0, *header, array.tobytes()))
            for link in links:
                link.send_at_once(frame, size)
        self._went(header, frame, size, held)
        return True

    def _data_goes_on(self, frame: Data) -> bool:
        """Send a value, if it can go to every edge at once; whether it was sent.

        Raises:
            FormatError: it cannot travel.
        """
        form = frame.format
        if not self._is_clear(form) or memory_of(frame) is not None:
            return False
        extra, payload = values.dump(frame.value)
        size, base = len(payload), frame.time_base
        held = self.room(size) if size > INLINE_BYTES else None
        if held is None:
            if size > INLINE_BYTES:
                return False
        elif not (self._is_clear(form) and all(link.may_lend(held) for link in self.links)):
            return False  # the host may have been waited for, and others have sent meanwhile
        header = (_DATA, self._seq, self._turn, frame.pts, base.numerator, base.denominator, frame.captured_ns, extra)
        if held is None:
            data = encode_frame(named(Header, header), payload if type(payload) is bytes else bytes(payload))
            for link in self.links:
                link.send_at_once(data, size)
        else:
            held.write(payload)
            self._words[counters.Node.COPIED] += size
            data = pack_frame((0, *header, held.place))
            for link in self.links:
                link.lend_at_once(data, held)
        self._went(header, data, size, held)
        return True

    def _is_clear(self, form: formats.Format) -> bool:
        """Whether a data frame of this format that is no video packet may go to every edge at once; there is one."""
        if form is not self._format:
            if form != self._format:
                return False
            self._format = form  # which is looked at first, the next time
        links = self.links
        for link in links:
            if not link.is_clear:
                return False
        return bool(links)

    def _went(self, header: tuple[Any, ...], frame: bytes, size: int, held: Held | None) -> None:
        """Count a frame that went to every edge at once, and keep it if the last is kept."""
        self._seq += 1
        self._words[_FRAMES_OUT] += 1
        if self.keeps_last:
            assert self._format_item is not None
            item = named(Item, (header[0], frame, size, b"", held, named(Header, header), None, None))
            self._last = (self._format_item, item)

    def _goes_on(self, frame: VideoFrame) -> bool:
        """Send a picture that lies whole in shared memory, if it can go at once; whether it was sent."""
        held, array = memory_of(frame), frame.array
        return (
            isinstance(held, Held)
            and array.nbytes == held.place.size
            and array.flags.c_contiguous
            and self._memory.has(held.mapping)
            and self.send_array(_VIDEO, frame.format, frame.pts, frame.time_base, frame.captured_ns, array, held)
        )

    def _lendable(self, array: Array) -> Slot | None:
        """Return shared memory with a copy of an array in it."""
        slot = self.room(array.nbytes) if array.flags.c_contiguous else None
        if slot is not None:
            if not all(link.may_lend(slot) for link in self.links):
                return None
            slot.write(array.data.cast("B"))
            self._words[counters.Node.COPIED] += array.nbytes
        return slot

    def control(self, kind: Kind, extra: Any = None) -> None:
        """Put a control frame in band."""
        self._offer(self._control(kind, extra))

    def interrupt(self, number: int | None = None) -> None:
        """Open a new turn: frames of older turns that wait, or are kept, are thrown away.

        Args:
            number: by which nodes know the turn that comes to them by several ways.
        """
        self._turn += 1
        self._last = ()
        item = self._control(Kind.INTERRUPT, secrets.randbits(63) if number is None else number)
        for link in self.links:
            link.mailbox.interrupt(item)
            link.pump()

    def is_shared(self, segment: int) -> bool:
        """Whether a reader can see a segment; those that cannot get what lies in it apart."""
        return any(segment in link.segments for link in self.links if link.shares)

    def _large(self, frame: Frame, header: Header, payload: lane.Buffer | Draft, size: int, key: bool | None) -> Item:
        """Return an item whose payload is in shared memory, or, where none is to be had, in this process's own."""
        held = self._held(frame, payload, size)
        if held is not None:
            return Item(header.kind, encode_frame(header, held.place), size, b"", held, header, key)
        own = framing.settled(frame, payload)
        if own is not payload:
            self._words[counters.Node.COPIED] += size
        return Item(header.kind, encode_frame(header, size), size, own, None, header, key)

    def _held(self, frame: Frame, payload: lane.Buffer | Draft, size: int) -> Held | None:
        """Return where a payload lies in shared memory: where it was lent or received, or where it is copied to."""
        held = memory_of(frame)
        if (
            isinstance(held, Held)
            and _is_in(payload, held)
            and self._memory.has(held.mapping)
            and self._may_share(held.place.segment)
        ):
            return held  # it was lent to be rendered in, or is another's, and lent on
        slot = self.room(size)
        if slot is not None:
            slot.write(payload)
            self._words[counters.Node.COPIED] += size
        return slot

    def _may_share(self, segment: int) -> bool:
        if self.is_shared(segment):
            return True
        if segment not in self._refused:
            if self._memory.share(self.name, segment) and self.is_shared(segment):
                return True
            self._refused.add(segment)
        return False

    def _key_wanted(self) -> None:
        self.on_key_wanted()

    def _refuse_latest(self, form: formats.Format) -> None:
        """Refuse an edge of a pipeline that would leave out single packets of video. A topic's reader harms himself."""
        if any(link.mailbox.delivery == latest and link.edge < FIRST_TOPIC_EDGE for link in self.links):
            raise FormatError(latest_advice(self.name, formats.show(form)))

    def _reclaim(self) -> None:
        for link in self.links:
            self._spoil(link.lending.reclaim())

    def _spoil(self, spoilt: Iterable[Held]) -> None:
        """Never write again to what somebody dead may have lent on."""
        for held in spoilt:
            if isinstance(held, Lease):
                held.never()
            else:
                self._pool.retire(held.place.segment)

    def _control(self, kind: Kind, extra: Any) -> Item:
        return Item(kind, encode_frame(Header(kind, self._seq, self._turn, extra=extra)))

    def _offer(self, item: Item) -> None:
        for link in self.links:
            link.offer(item)


def _nothing() -> None:
    return


def _is_in(payload: lane.Buffer | Draft, held: Held) -> bool:
    """Whether memory still holds a frame's payload: a value may have been changed since it came, and sent on."""
    if len(payload) != held.place.size:
        return False
    if isinstance(payload, Draft):
        return payload.lies_in(held.view())
    return not isinstance(payload, bytes) or payload == held.view().tobytes()
