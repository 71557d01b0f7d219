"""Frames that are sent on as they were received: they stay readable, whoever has ended meanwhile."""

from __future__ import annotations

import pytest
from large import Draw, Keep, Look

from rmbus import Session

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]  # real processes


def test_a_source_may_end_before_its_pictures_are_sent_on() -> None:
    """Its memory stays as long as a process that lends it on."""
    lines: list[str] = []
    pipeline = Draw(12) >> Keep() >> Look(every_s=0.1)
    with Session(pipeline, on_log=lambda _node, _host, said, _more: lines.extend(said)) as session:
        report = session.wait(15)
    assert lines == ["12 as they had to be"]
    assert report.node("keep").copied_bytes == 0
    assert [edge.shared for edge in report.edges] == [12, 12]
