"""The live streams without a server: who gets a slot, what a slow reader skips, and how every stream ends."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from starlette.types import Message

from cityweb import streams as streams_module
from cityweb.streams import COMMENT, EventStream, Full, Reader, Streams, TooManyFromAddress, event
from tests.conftest import until


@pytest.fixture
def quick_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams_module, "BEAT_SECONDS", 0.01)


# --- a reader ---


async def test_a_reader_begins_with_its_first_event() -> None:
    assert await Reader(b"first").next() == b"first"


async def test_a_reader_gets_each_event_once() -> None:
    reader = Reader(b"first")
    await reader.next()
    reader.put(b"second")
    assert await reader.next() == b"second"


async def test_the_newest_event_replaces_what_waits() -> None:
    reader = Reader(b"first")
    reader.put(b"second")
    reader.put(b"third")
    assert await reader.next() == b"third"


@pytest.mark.usefixtures("quick_beat")
async def test_what_was_replaced_never_comes() -> None:
    reader = Reader(b"first")
    reader.put(b"second")
    await reader.next()
    assert await reader.next() == COMMENT


async def test_a_reader_waits_for_the_next_event() -> None:
    reader = Reader(b"first")
    await reader.next()
    waiting = asyncio.create_task(reader.next())
    await asyncio.sleep(0)
    reader.put(b"second")
    assert await waiting == b"second"


@pytest.mark.usefixtures("quick_beat")
async def test_after_a_long_silence_a_comment_comes() -> None:
    reader = Reader(b"first")
    assert [await reader.next() for _ in range(3)] == [b"first", COMMENT, COMMENT]


@pytest.mark.usefixtures("quick_beat")
async def test_an_event_after_a_comment_is_not_lost() -> None:
    reader = Reader(b"first")
    assert [await reader.next() for _ in range(2)] == [b"first", COMMENT]
    reader.put(b"second")
    assert await reader.next() == b"second"


async def test_an_ended_reader_gets_nothing_whatever_waits() -> None:
    reader = Reader(b"first")
    reader.end()
    assert await reader.next() is None


async def test_a_reader_that_waits_is_woken_by_the_end() -> None:
    reader = Reader(b"first")
    await reader.next()
    waiting = asyncio.create_task(reader.next())
    await asyncio.sleep(0)
    reader.end()
    assert await waiting is None


async def test_no_event_comes_after_the_end() -> None:
    reader = Reader(b"first")
    reader.end()
    reader.put(b"second")
    assert await reader.next() is None


def test_a_comment_is_no_event_to_a_browser() -> None:
    assert COMMENT.startswith(b":")
    assert COMMENT.endswith(b"\n\n")


# --- slots ---


async def test_an_address_has_as_many_streams_as_it_may() -> None:
    streams = Streams(per_address=2, per_process=9)
    with (
        streams.reader("a", b""),
        streams.reader("a", b""),
        pytest.raises(TooManyFromAddress),
        streams.reader("a", b""),
    ):
        pass


async def test_another_address_has_its_own() -> None:
    streams = Streams(per_address=1, per_process=9)
    with streams.reader("a", b""), streams.reader("b", b""):
        assert len(streams) == 2


async def test_a_process_has_as_many_streams_as_it_may() -> None:
    streams = Streams(per_address=2, per_process=2)
    with streams.reader("a", b""), streams.reader("b", b""), pytest.raises(Full), streams.reader("c", b""):
        pass


async def test_leaving_frees_the_slot() -> None:
    streams = Streams(per_address=1, per_process=1)
    with streams.reader("a", b""):
        pass
    with streams.reader("a", b""):
        assert len(streams) == 1


async def test_failing_frees_the_slot() -> None:
    streams = Streams(per_address=1, per_process=1)
    with pytest.raises(OSError, match="gone"), streams.reader("a", b""):
        raise OSError("gone")
    with streams.reader("a", b""):
        assert len(streams) == 1


async def test_one_of_two_leaving_frees_one_slot() -> None:
    streams = Streams(per_address=2, per_process=9)
    with streams.reader("a", b""):
        with streams.reader("a", b""):
            pass
        with streams.reader("a", b""), pytest.raises(TooManyFromAddress), streams.reader("a", b""):
            pass


async def test_who_is_turned_away_takes_no_slot() -> None:
    streams = Streams(per_address=1, per_process=2)
    with streams.reader("a", b""):
        with pytest.raises(TooManyFromAddress), streams.reader("a", b""):
            pass
        with streams.reader("b", b""):
            assert len(streams) == 2


async def test_an_address_without_streams_is_forgotten() -> None:
    streams = Streams(per_address=2, per_process=9)
    with streams.reader("a", b""):
        assert set(streams._addresses) == {"a"}
    assert set(streams._addresses) == set()


async def test_an_event_is_for_every_reader() -> None:
    streams = Streams(per_address=2, per_process=9)
    with streams.reader("a", b"first") as one, streams.reader("b", b"first") as other:
        streams.publish(b"second")
        assert (await one.next(), await other.next()) == (b"second", b"second")


async def test_closing_ends_every_reader() -> None:
    streams = Streams(per_address=2, per_process=9)
    with streams.reader("a", b"first") as one, streams.reader("b", b"first") as other:
        streams.close()
        assert (await one.next(), await other.next()) == (None, None)


async def test_who_comes_after_closing_is_turned_away() -> None:
    streams = Streams(per_address=2, per_process=9)
    streams.close()
    with pytest.raises(Full), streams.reader("a", b""):
        pass


# --- the answer ---


class Visitor:
    """The other side of a stream: keeps what it is sent, and leaves when told to."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.incoming: asyncio.Queue[Message] = asyncio.Queue()
        self.incoming.put_nowait({"type": "http.request", "body": b"", "more_body": False})

    async def receive(self) -> Message:
        return await self.incoming.get()

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    def leave(self) -> None:
        self.incoming.put_nowait({"type": "http.disconnect"})

    def has(self, *events: bytes) -> Callable[[], bool]:
        """Asks whether these are the events so far."""
        return lambda: [message["body"] for message in self.sent[1:]] == [*events]


END = {"type": "http.response.body", "body": b""}


@asynccontextmanager
async def streaming(
    streams: Streams, address: str = "a", method: str = "GET"
) -> AsyncIterator[tuple[Visitor, asyncio.Task[None]]]:
    """A visitor with an open stream, and the task that serves it, which ends with the block at the latest."""
    visitor = Visitor()
    answer = EventStream(streams, address, b"first")
    serving = asyncio.create_task(answer({"type": "http", "method": method}, visitor.receive, visitor.send))
    try:
        yield visitor, serving
    finally:
        serving.cancel()
        await asyncio.wait([serving])


@pytest.fixture
def streams() -> Streams:
    return Streams(per_address=1, per_process=2)


async def test_a_stream_says_what_it_is_and_that_nobody_may_keep_it_back(streams: Streams) -> None:
    async with streaming(streams) as (visitor, _):
        await until(visitor.has(b"first"))
    assert visitor.sent[0] == {
        "type": "http.response.start",
        "status": 200,
        "headers": [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),
        ],
    }


async def test_a_stream_sends_the_first_event_and_then_each_other(streams: Streams) -> None:
    async with streaming(streams) as (visitor, _):
        await until(visitor.has(b"first"))
        streams.publish(b"second")
        await until(visitor.has(b"first", b"second"))
        assert all(message["more_body"] for message in visitor.sent[1:])


@pytest.mark.usefixtures("quick_beat")
async def test_a_silent_stream_sends_comments(streams: Streams) -> None:
    async with streaming(streams) as (visitor, _):
        await until(visitor.has(b"first", COMMENT))


async def test_a_reader_who_is_slow_skips_to_the_newest(streams: Streams) -> None:
    async with streaming(streams) as (visitor, _):
        await until(visitor.has(b"first"))
        streams.publish(b"second")
        streams.publish(b"third")
        await until(visitor.has(b"first", b"third"))


async def test_leaving_ends_the_stream(streams: Streams) -> None:
    async with streaming(streams) as (visitor, serving):
        await until(visitor.has(b"first"))
        visitor.leave()
        await asyncio.wait_for(serving, 5)
    assert visitor.sent[-1] == END


async def test_who_left_has_no_slot(streams: Streams) -> None:
    async with streaming(streams) as (visitor, serving):
        await until(visitor.has(b"first"))
        assert len(streams) == 1
        visitor.leave()
        await asyncio.wait_for(serving, 5)
        assert len(streams) == 0


async def test_a_stream_that_is_cancelled_has_no_slot(streams: Streams) -> None:
    async with streaming(streams) as (visitor, serving):
        await until(visitor.has(b"first"))
        serving.cancel()
        await asyncio.wait([serving])
        assert len(streams) == 0


async def test_nobody_waits_for_a_visitor_after_the_stream(streams: Streams) -> None:
    before = asyncio.all_tasks()
    async with streaming(streams) as (visitor, serving):
        await until(visitor.has(b"first"))
        streams.close()
        await asyncio.wait_for(serving, 5)
    await until(lambda: asyncio.all_tasks() == before)


async def test_closing_ends_every_stream_with_a_whole_answer(streams: Streams) -> None:
    async with streaming(streams) as (visitor, serving), streaming(streams, "b") as (other, other_serving):
        await until(lambda: visitor.has(b"first")() and other.has(b"first")())
        streams.close()
        await asyncio.wait_for(asyncio.gather(serving, other_serving), 5)
    assert (visitor.sent[-1], other.sent[-1]) == (END, END)


@pytest.mark.parametrize("closed", [True, False])
async def test_who_is_turned_away_is_sent_nothing(closed: bool) -> None:
    streams = Streams(per_address=1, per_process=0)
    streams.closed = closed
    async with streaming(streams) as (visitor, serving):
        with pytest.raises(Full):
            await serving
    assert visitor.sent == []


async def test_an_address_with_too_many_is_sent_nothing(streams: Streams) -> None:
    async with streaming(streams) as (visitor, _):
        await until(visitor.has(b"first"))
        async with streaming(streams) as (other, serving):
            with pytest.raises(TooManyFromAddress):
                await serving
    assert other.sent == []


async def test_head_is_answered_at_once_with_the_headers_alone(streams: Streams) -> None:
    async with streaming(streams) as (visitor, _):
        await until(visitor.has(b"first"))
        async with streaming(streams, "b", method="HEAD") as (other, serving):
            await asyncio.wait_for(serving, 5)
    assert other.sent == [visitor.sent[0], END]


async def test_head_keeps_no_slot(streams: Streams) -> None:
    async with streaming(streams, method="HEAD") as (_, serving):
        await asyncio.wait_for(serving, 5)
        assert len(streams) == 0


# --- an event ---


@pytest.mark.parametrize(
    ("document", "lines"),
    [
        ("<p>Tokyo</p>", ["<p>Tokyo</p>"]),
        ("<ol>\n<li>Zürich</li>\n</ol>\n", ["<ol>", "<li>Zürich</li>", "</ol>"]),
        ("a\n\nb", ["a", "", "b"]),
        ("a\r\nb\rc", ["a", "b", "c"]),
        ("id: 7\n: x", ["id: 7", ": x"]),
    ],
)
def test_every_line_of_an_event_is_marked_as_data(document: str, lines: list[str]) -> None:
    # HTML Standard, 9.2.6: a carriage return ends a line as well.
    expected = ["retry: 1000", "id: 3f2a", *(f"data: {line}" for line in lines), "", ""]
    assert event("3f2a", document).decode() == "\n".join(expected)


def test_an_event_has_no_name() -> None:
    assert b"event:" not in event("3f2a", "<p>Tokyo</p>")
