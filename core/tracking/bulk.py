"""Many step events at once: Arrow reads them some times faster than Python does.

Steps are nearly all that a long run writes. Whatever is not as a trainer writes it is left to `ingest`, event by
event, which knows what to do with each odd line.
"""

import io
import re
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.json as arrow_json

from core.tracking.schema import EVENT_TABLES

FEWEST = 500
"""Steps below which it does not pay."""
BLOCK = 1 << 20
"""Bytes that a thread reads at a time; a line is shorter."""
BEGINNING = re.compile(rb'\{"seq":([1-9]\d{0,17}),"time":-?\d+(?:\.\d+)?,"event":"(\w+)"[,}]')
"""Of an event as `EventWriter` writes it."""
ARROW = {
    "BIGINT": pa.int64(),
    "DOUBLE": pa.float64(),
    "BIGINT[]": pa.list_(pa.int64()),
}
COLUMNS = EVENT_TABLES["step"]
SCHEMA = pa.schema(
    [("seq", pa.int64()), ("time", pa.float64()), *((name, ARROW[kind]) for name, kind in COLUMNS.items())]
)  # fmt: skip


def split(lines: Sequence[bytes], seq: int) -> tuple[pa.Table, list[bytes], int] | None:
    """The steps among whole lines as a table of SCHEMA, the other lines, and the last number.

    None where it does not pay, or where numbers do not grow, a run was rewound, or a step is not plain: then
    nothing is known of any line.

    Args:
        seq: number of the event before.
    """
    if len(lines) < FEWEST:
        return None
    steps: list[bytes] = []
    rest: list[bytes] = []
    for line in lines:
        found = BEGINNING.match(line)
        if found is None or (number := int(found[1])) <= seq or found[2] == b"rewind":
            return None
        seq = number
        (steps if found[2] == b"step" else rest).append(line)
    if len(steps) < FEWEST:
        return None
    data = b"\n".join(steps)
    try:
        table = arrow_json.read_json(
            io.BytesIO(data),
            arrow_json.ReadOptions(block_size=BLOCK),
            arrow_json.ParseOptions(explicit_schema=SCHEMA, unexpected_field_behavior="ignore"),
        )
    except pa.ArrowInvalid:
        return None
    return (table, rest, seq) if len(table) == len(steps) else None
