"""Sessions of the dashboard that draw nothing: what a browser says to the server, and the times of its answers.

For `benchmarks.load`, where ten real browsers would take the few cores that are to be measured. Speaks Streamlit's
own messages; a page's parts that ask to be drawn anew are, at their interval, as a browser does it.
"""

import asyncio
import itertools
import time
from typing import Any

import websockets
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

MAX_MESSAGE_BYTES = 64 << 20
REPLY_TIMEOUT_S = 30.0
"""Seconds to wait for an answer."""


def watch(address: str, query: str, count: int, seconds: float) -> list[dict[str, float]]:
    """So many sessions on the page of a URL's path and query, watched for so long; what each saw.

    Returns, for each session, `updates`, the longest `gap` between two of them and the slowest `answer`, in seconds.
    """
    return asyncio.run(_watch(address, query, count, seconds))


async def _watch(address: str, query: str, count: int, seconds: float) -> list[dict[str, float]]:
    sessions = (_session(address, query, seconds) for _ in range(count))
    return list(await asyncio.gather(*sessions))


async def _session(address: str, query: str, seconds: float) -> dict[str, float]:
    path, _, words = query.partition("?")
    url = address.replace("http", "ws", 1) + "/_stcore/stream"
    async with websockets.connect(
        url, subprotocols=["streamlit"], max_size=MAX_MESSAGE_BYTES
    ) as socket:  # type: ignore[list-item]
        await socket.send(_rerun(words, page_name=path))
        parts = await _until_finished(socket)
        while not parts:  # the first visit loads what later ones find
            await asyncio.sleep(1)
            await socket.send(_rerun(words, page_name=path))
            parts = await _until_finished(socket)
        due = {part: time.perf_counter() + interval for part, interval in parts.items()}
        quickest = min(parts, key=lambda part: parts[part])
        moments, answers = [time.perf_counter()], []
        end = moments[0] + seconds
        while (now := time.perf_counter()) < end:
            part = min(due, key=lambda part: due[part])
            await asyncio.sleep(max(0.0, due[part] - now))
            start = time.perf_counter()
            await socket.send(_rerun(words, page_name=path, fragment_id=part, is_auto_rerun=True))
            await _until_finished(socket)
            due[part] = start + parts[part]
            if part == quickest:
                moments.append(time.perf_counter())
                answers.append(moments[-1] - start)
    gaps = [b - a for a, b in itertools.pairwise(moments)]
    return {"updates": len(gaps), "gap": max(gaps), "answer": max(answers)}


def _rerun(query: str, **options: Any) -> bytes:
    """A request to run the page, or a part of it."""
    message = BackMsg()
    message.rerun_script.query_string = query
    for name, value in options.items():
        setattr(message.rerun_script, name, value)
    return message.SerializeToString()


async def _until_finished(socket: Any) -> dict[str, float]:
    """Wait for the end of a run of the script; the parts it wants drawn anew, with their intervals."""
    parts = {}
    while True:
        message = ForwardMsg.FromString(await asyncio.wait_for(socket.recv(), REPLY_TIMEOUT_S))
        kind = message.WhichOneof("type")
        if kind == "auto_rerun":
            parts[message.auto_rerun.fragment_id] = message.auto_rerun.interval
        elif kind == "script_finished":
            return parts
