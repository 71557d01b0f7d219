"""What a node prints: lines, however the bytes came, within a rate, and every line accounted for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmbus.host.logs import BURST_LINES, LINES_PER_SECOND, MAX_LINE_BYTES, LineLimiter


class Clock:
    """A clock that only moves when it is told to."""

    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


def lines_of(count: int) -> bytes:
    return b"".join(b"line %d\n" % number for number in range(count))


@given(st.lists(st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]), max_size=30)), st.data())
def test_lines_are_the_same_however_they_come(lines: list[str], data: st.DataObject) -> None:
    """Bytes may be cut anywhere, within a line or a letter."""
    text = "\n".join(lines).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6), "cuts"))
    limiter = LineLimiter(Clock())
    heard: list[str] = []
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        heard += limiter.feed(text[start:end])[0]
    last, suppressed = limiter.finish()
    assert heard + last == (lines[:-1] if lines and lines[-1] == "" else lines)
    assert suppressed == 0


@given(st.lists(st.tuples(st.integers(0, 900), st.floats(0, 3)), max_size=8), st.booleans())
def test_every_line_is_passed_or_counted(bursts: list[tuple[int, float]], unfinished: bool) -> None:
    """Lines that passed and lines that were held back add up to what was printed, to the very end."""
    clock = Clock()
    limiter = LineLimiter(clock)
    passed = suppressed = printed = 0
    for count, pause in bursts:
        lines, held_back = limiter.feed(lines_of(count))
        assert lines or not held_back
        printed, passed, suppressed = printed + count, passed + len(lines), suppressed + held_back
        clock.now += pause
    if unfinished:
        limiter.feed(b"half a line")
        printed += 1
    lines, held_back = limiter.finish()
    assert passed + len(lines) + suppressed + held_back == printed
    assert passed + len(lines) <= BURST_LINES + (clock.now - 50) * LINES_PER_SECOND + 1


def test_a_burst_passes_and_a_flood_does_not() -> None:
    """The first lines of a flood pass; then so many a second; and the next line that passes tells how many did not."""
    clock = Clock()
    limiter = LineLimiter(clock)
    lines, suppressed = limiter.feed(lines_of(BURST_LINES + 100))
    assert lines == [f"line {number}" for number in range(BURST_LINES)]
    assert suppressed == 0  # told when a line passes again
    assert limiter.feed(lines_of(5)) == ([], 0)
    clock.now += 1.0
    lines, suppressed = limiter.feed(lines_of(LINES_PER_SECOND + 10))
    assert len(lines) == LINES_PER_SECOND
    assert suppressed == 105
    assert limiter.finish() == ([], 10)


def test_quiet_does_not_save_up_more_than_a_burst() -> None:
    """After an hour of silence a flood is still a flood."""
    clock = Clock()
    limiter = LineLimiter(clock)
    clock.now += 3600
    assert len(limiter.feed(lines_of(BURST_LINES * 3))[0]) == BURST_LINES


def test_an_unfinished_line_is_told_at_the_end() -> None:
    """The last words of a process need no line feed; Windows' line ends are none of the text."""
    limiter = LineLimiter(Clock())
    assert limiter.feed(b"whole\r\nhalf") == (["whole"], 0)
    assert limiter.finish() == (["half"], 0)
    assert limiter.finish() == ([], 0)


def test_bytes_that_are_no_text_are_shown() -> None:
    """A process may print anything; it neither fails nor swallows the line."""
    assert LineLimiter(Clock()).feed(b"a\xff\xfeb\n\n") == (["a\ufffd\ufffdb", ""], 0)


def test_a_process_that_prints_no_line_end_fills_nothing() -> None:
    """Lines have a greatest length, so what is kept of an endless one is bounded."""
    limiter = LineLimiter(Clock())
    for _ in range(100):
        lines, _ = limiter.feed(b"x" * 10_000)
        assert lines  # they do not wait for an end
        assert all(len(line) <= MAX_LINE_BYTES for line in lines)
    lines, _ = limiter.finish()
    assert sum(len(line) for line in lines) <= MAX_LINE_BYTES


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_long_line_is_cut_and_none_of_it_is_lost(end: bytes) -> None:
    """A line of three times the greatest length comes in pieces."""
    limiter = LineLimiter(Clock())
    text = b"".join(b"%07d " % number for number in range(3 * MAX_LINE_BYTES // 8))
    lines, _ = limiter.feed(text + end)
    lines += limiter.finish()[0]
    assert "".join(lines) == text.decode()
    assert max(map(len, lines)) <= MAX_LINE_BYTES
