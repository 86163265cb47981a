"""Event files: sequence numbers, torn lines, damage, a full disk, and the time it takes to write an event."""

import json
import os
import signal
import statistics
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.run import events
from core.run.events import EventWriter, parse, read_lines


def write(path, *kinds):
    writer = EventWriter(path, clock=lambda: 1.23456789)
    for kind in kinds:
        writer.append(kind)
    writer.close()


def sequence_numbers(path):
    return [parse(line)["seq"] for line in path.read_bytes().splitlines()]


def test_event_is_a_numbered_line(tmp_path):
    path = tmp_path / "events.jsonl"
    writer = EventWriter(path, clock=lambda: 1.23456789)
    writer.append("step", loss=1.5, text="naïve\nline", none=None)
    writer.close()
    assert json.loads(path.read_text(encoding="utf-8")) == {
        "seq": 1,
        "time": 1.234568,
        "event": "step",
        "loss": 1.5,
        "text": "naïve\nline",
        "none": None,
    }
    assert path.read_bytes().count(b"\n") == 1


def test_sequence_numbers_continue_across_writers(tmp_path):
    path = tmp_path / "events.jsonl"
    write(path, "a", "b")
    write(path, "c")
    assert sequence_numbers(path) == [1, 2, 3]


@pytest.mark.parametrize("torn", [b'{"seq":3,"ti', b"x" * 3 * events.TAIL_BYTES])
def test_torn_last_line_is_truncated(tmp_path, torn):
    path = tmp_path / "events.jsonl"
    write(path, "a", "b")
    complete_bytes = path.read_bytes()
    path.write_bytes(complete_bytes + torn)
    write(path, "c")
    assert path.read_bytes().startswith(complete_bytes)
    assert sequence_numbers(path) == [1, 2, 3]


def test_sequence_restarts_if_the_only_line_is_torn(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"seq":1')
    write(path, "a")
    assert sequence_numbers(path) == [1]


def test_damaged_last_lines_do_not_reset_sequence_numbers(tmp_path):
    path = tmp_path / "events.jsonl"
    write(path, "a", "b")
    with path.open("ab") as file:
        file.write(b"\0\0\0\n" + b"[" * 100_000 + b"\n" + b"z" * 2 * events.TAIL_BYTES + b"\n")
    write(path, "c")
    assert parse(path.read_bytes().splitlines()[-1])["seq"] == 3


def test_event_is_written_by_one_call(tmp_path, monkeypatch):
    calls = []
    original_write = os.write

    def spy(handle, data):
        calls.append(len(data))
        return original_write(handle, data)

    writer = EventWriter(tmp_path / "events.jsonl")
    monkeypatch.setattr(os, "write", spy)
    writer.append("generation", answer="x" * 100_000)
    writer.append("step")
    writer.close()
    assert sum(calls) == (tmp_path / "events.jsonl").stat().st_size
    assert len(calls) == 2


def test_lone_surrogates_are_replaced(tmp_path):
    writer = EventWriter(tmp_path / "events.jsonl")
    writer.append("sample", text="lone \ud800 surrogate")
    writer.close()
    [line], _ = read_lines(tmp_path / "events.jsonl", 0)
    assert parse(line)["text"] == "lone ? surrogate"


def test_killed_writer_leaves_at_most_one_torn_line(tmp_path, child, wait):
    path = tmp_path / "events.jsonl"
    code = """
import sys
from pathlib import Path
from core.run.events import EventWriter
writer = EventWriter(Path(sys.argv[1]))
while True:
    writer.append("step", text="x" * 5000)
"""
    writer = child(code, path)
    wait(lambda: path.exists() and path.stat().st_size > 1_000_000)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    lines, _ = read_lines(path, 0, limit=1 << 30)
    assert [parse(line)["seq"] for line in lines] == list(range(1, len(lines) + 1))
    write(path, "last")
    assert sequence_numbers(path) == list(range(1, len(lines) + 2))


def test_full_disk_raises_without_leaving_a_partial_event(tmp_path, child):
    code = """
import resource, sys
from pathlib import Path
from core.run.events import EventWriter
writer = EventWriter(Path(sys.argv[1]))
writer.append("a")
resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
for _ in range(2):
    try:
        writer.append("b", text="y" * 200)
    except OSError as error:
        print("failed", flush=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
writer.append("c")
"""
    path = tmp_path / "events.jsonl"
    process = child(code, path)
    assert process.communicate(timeout=30)[0].split() == ["failed", "failed"]
    parsed = [parse(line) for line in path.read_bytes().splitlines()]
    assert [(event["seq"], event["event"]) for event in parsed] == [(1, "a"), (2, "c")]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\0" * 40,
        b"\xff\xfe\x00",
        b'{"seq":1,"event":"step"',
        b"[1]",
        b"null",
        b'{"event":"step"}',
        b'{"seq":1}',
        b'{"seq":"1","event":"step"}',
        b'{"seq":true,"event":"step"}',
        b'{"seq":1.5,"event":"step"}',
        b'{"seq":0,"event":"step"}',
        b'{"seq":-4,"event":"step"}',
        b'{"seq":9223372036854775808,"event":"step"}',
        b'{"seq":1,"event":["step"]}',
        b'{"seq":1,"event":null}',
        b'{"seq":' + b"9" * 5000 + b',"event":"step"}',
        b"[" * 100_000,
    ],
)
def test_damaged_line_is_not_parsed(line):
    assert parse(line) is None


@given(st.binary(max_size=200))
def test_parser_accepts_any_bytes(line):
    event = parse(line)
    assert event is None or event["seq"] > 0


def test_lines_are_complete_for_any_limit(tmp_path):
    path = tmp_path / "events.jsonl"
    lines = [b"a" * n for n in (3, 0, 50, 7, 1, 200, 9)]
    path.write_bytes(b"\n".join(lines) + b"\ntorn")
    for limit in (1, 2, 5, 60, 1000):
        all_lines, offset = [], 0
        while True:
            new_lines, offset = read_lines(path, offset, limit)
            if not new_lines:
                break
            all_lines += new_lines
        assert all_lines == lines
        assert offset == path.stat().st_size - len(b"torn")


def test_event_is_written_within_200_microseconds(tmp_path):
    writer = EventWriter(tmp_path / "events.jsonl")
    durations = []
    for step in range(1000):
        start = time.perf_counter()
        writer.append("step", step=step, loss=1.25, lr=5e-5, seconds=1.5, batch=list(range(8)))
        durations.append(time.perf_counter() - start)
    writer.close()
    assert statistics.median(durations) < 200e-6
