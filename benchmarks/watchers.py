"""Dashboard sessions without a browser. They send the requests that a browser would send and time the responses.

Used by `benchmarks.load`, where ten real browsers would compete with the server for CPU time. The messages are
Streamlit's own, and a page's fragments are rerun at their intervals, as in a browser.
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
"""Timeout for a message from the server, in seconds."""


def watch(address: str, query: str, count: int, seconds: float) -> list[dict[str, float]]:
    """Keep `count` sessions open for `seconds` on a page, given by its URL path and query.

    Returns the following for each session: the number of `updates`, the longest `gap` between two updates and the
    longest time to `answer` a request. Both times are in seconds.
    """
    return asyncio.run(_watch(address, query, count, seconds))


async def _watch(address: str, query: str, count: int, seconds: float) -> list[dict[str, float]]:
    sessions = (_session(address, query, seconds) for _ in range(count))
    return list(await asyncio.gather(*sessions))


async def _session(address: str, query: str, seconds: float) -> dict[str, float]:
    page_name, _, parameters = query.partition("?")
    url = address.replace("http", "ws", 1) + "/_stcore/stream"
    async with websockets.connect(
        url, subprotocols=["streamlit"], max_size=MAX_MESSAGE_BYTES
    ) as socket:  # type: ignore[list-item]
        await socket.send(_rerun(parameters, page_name=page_name))
        intervals = await _until_finished(socket)
        while not intervals:  # the first session may still be loading data
            await asyncio.sleep(1)
            await socket.send(_rerun(parameters, page_name=page_name))
            intervals = await _until_finished(socket)
        due = {fragment: time.perf_counter() + interval for fragment, interval in intervals.items()}
        fastest = min(intervals, key=lambda fragment: intervals[fragment])
        update_times, answers = [time.perf_counter()], []
        end = update_times[0] + seconds
        while (now := time.perf_counter()) < end:
            fragment = min(due, key=lambda fragment: due[fragment])
            await asyncio.sleep(max(0.0, due[fragment] - now))
            start = time.perf_counter()
            await socket.send(
                _rerun(parameters, page_name=page_name, fragment_id=fragment, is_auto_rerun=True)
            )
            await _until_finished(socket)
            due[fragment] = start + intervals[fragment]
            if fragment == fastest:
                update_times.append(time.perf_counter())
                answers.append(update_times[-1] - start)
    gaps = [b - a for a, b in itertools.pairwise(update_times)]
    return {"updates": len(gaps), "gap": max(gaps), "answer": max(answers)}


def _rerun(query: str, **options: Any) -> bytes:
    """Return the message that reruns the page or a fragment."""
    message = BackMsg()
    message.rerun_script.query_string = query
    for name, value in options.items():
        setattr(message.rerun_script, name, value)
    return message.SerializeToString()


async def _until_finished(socket: Any) -> dict[str, float]:
    """Wait until the script has finished. Return the rerun interval of each fragment that has one."""
    intervals = {}
    while True:
        message = ForwardMsg.FromString(await asyncio.wait_for(socket.recv(), REPLY_TIMEOUT_S))
        kind = message.WhichOneof("type")
        if kind == "auto_rerun":
            intervals[message.auto_rerun.fragment_id] = message.auto_rerun.interval
        elif kind == "script_finished":
            return intervals
