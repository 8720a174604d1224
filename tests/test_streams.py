"""Slots, the queue of one, and the end of streams."""

import asyncio

import pytest
from starlette.types import Message

from cityweb import streams
from cityweb.streams import COMMENT, EventStream, Full, Streams, TooManyFromAddress, event


def test_an_address_has_only_so_many() -> None:
    every = Streams(per_address=1, per_process=9)
    with every.reader("a", b""), pytest.raises(TooManyFromAddress), every.reader("a", b""):
        pass
    with every.reader("a", b""), every.reader("b", b""):
        assert len(every) == 2


def test_a_process_has_only_so_many() -> None:
    every = Streams(per_address=9, per_process=2)
    with every.reader("a", b""), every.reader("b", b""), pytest.raises(Full), every.reader("c", b""):
        pass


def test_a_slot_is_free_again_when_its_reader_leaves() -> None:
    every = Streams(per_address=2, per_process=2)
    for _ in range(5):
        with every.reader("a", b""), every.reader("a", b""):
            pass
    assert len(every) == 0
    assert every._addresses == {}


async def test_a_slow_reader_skips_to_the_newest() -> None:
    every = Streams(9, 9)
    with every.reader("a", b"first") as reader:
        every.publish(b"second")
        every.publish(b"third")
        assert await reader.next() == b"third"


async def test_a_long_silence_has_a_comment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "BEAT_SECONDS", 0.01)
    with Streams(9, 9).reader("a", b"first") as reader:
        assert [await reader.next(), await reader.next()] == [b"first", COMMENT]


async def test_the_end_comes_before_what_waits_and_is_for_good() -> None:
    every = Streams(9, 9)
    with every.reader("a", b"first") as reader:
        every.close()
        assert await reader.next() is None
    with pytest.raises(Full), every.reader("a", b""):
        pass


def test_an_event_is_unnamed_and_every_line_is_marked() -> None:
    assert event("7", "<p>\na\n</p>") == b"retry: 1000\nid: 7\ndata: <p>\ndata: a\ndata: </p>\n\n"


async def stream(every: Streams, method: str, leaves: asyncio.Event) -> list[Message]:
    """What an EventStream sends until its reader leaves or the streams are closed."""
    sent: list[Message] = []
    first = True

    async def receive() -> Message:
        nonlocal first
        if first:
            first = False
            return {"type": "http.request"}
        await leaves.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    async with asyncio.timeout(2):
        await EventStream(every, "a", b"first")({"type": "http", "method": method}, receive, send)
    return sent


async def test_a_reader_that_leaves_frees_its_slot() -> None:
    every, leaves = Streams(9, 9), asyncio.Event()
    task = asyncio.create_task(stream(every, "GET", leaves))
    await asyncio.sleep(0.01)
    assert len(every) == 1
    leaves.set()
    assert [message.get("body") for message in await task] == [None, b"first", b""]
    assert len(every) == 0


async def test_a_closed_stream_ends_whole() -> None:
    every = Streams(9, 9)
    task = asyncio.create_task(stream(every, "GET", asyncio.Event()))
    await asyncio.sleep(0.01)
    every.close()
    assert (await task)[-1] == {"type": "http.response.body", "body": b""}


async def test_head_begins_no_stream() -> None:
    sent = await stream(Streams(9, 9), "HEAD", asyncio.Event())
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
