"""Thousands of random requests on raw sockets, against a real server."""

import asyncio
import json
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.conftest import Server, ready, unmeasured
from tests.wire import Conversation, Malformed, Response, converse, read_responses

REQUESTS = 3_000
AT_ONCE = 20
SEED = 20


async def hold(port: int, conversation: Conversation) -> tuple[bytes, bool]:
    """What the server sends until it closes the connection, and whether it was reset, which may lose a response."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received = bytearray()

    async def send() -> None:
        with suppress(OSError):
            for part in conversation.parts:
                writer.write(part)
                await asyncio.sleep(0.002 if len(conversation.parts) > 1 else 0)
            if conversation.ends_first:
                writer.write_eof()

    sending = asyncio.create_task(send())
    try:
        async with asyncio.timeout(8):  # less than the deadline of a request
            while data := await reader.read(65_536):
                received += data
    except ConnectionError:
        return bytes(received), True
    finally:
        await sending
        writer.transport.abort()
    return bytes(received), False


def find_faults(conversation: Conversation, received: bytes, is_reset: bool) -> list[str]:
    """What is wrong with what a server sent; nothing where all is well."""
    valid = conversation.valid
    responses: list[Response] = []
    faults = []
    try:
        responses = read_responses(received, conversation.methods)
    except (Malformed, ValueError, KeyError) as error:
        if not is_reset:
            faults.append(f"malformed: {error!r}")
    if any(response.status == 500 for response in responses):
        faults.append("500")
    if any(response.closes for response in responses[:-1]):
        faults.append("a response after the last")
    if len(responses) > conversation.most:
        faults.append(f"{len(responses)} responses, at most {conversation.most} are due")
    # A connection ends with a response that says so, and what is no HTTP ends it after the response that is due.
    ended = is_reset or (responses and (responses[-1].closes or conversation.is_broken))
    if len(responses) < len(valid) and not ended:
        faults.append(f"{len(responses)} responses to {len(valid)} requests")
    for request, response in zip(valid, responses, strict=False):
        if response.status not in request.statuses:
            faults.append(f"{response.status}, not {request.statuses}, to {request.text[:300]!r}")
    return faults


@unmeasured
async def test_random_requests_have_one_response_each(start_server: Callable[..., Server], log: Path) -> None:
    server = start_server()
    port = await ready(server)
    count = number = 0
    wrong: list[str] = []
    while count < REQUESTS:
        conversations = [converse(random.Random(f"{SEED} {number + more}")) for more in range(AT_ONCE)]
        received = await asyncio.gather(*(hold(port, each) for each in conversations), return_exceptions=True)
        for conversation, result in zip(conversations, received, strict=True):
            faults = [repr(result)] if isinstance(result, BaseException) else find_faults(conversation, *result)
            wrong += [f"{SEED} {number}: {fault}" for fault in faults]
            number, count = number + 1, count + len(conversation.methods)
    assert wrong == []
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line for line in lines if line["level"] == "error" or "traceback" in line] == []
    assert await ready(server) == port
