"""The sync's Arrow path: it stores the same rows as the row path and leaves unusual lines to the row path."""

import json

import pytest

from core.config import RunConfig
from core.run.directory import RunDirectory
from core.tracking import sync
from core.tracking.index import Index
from core.tracking.sync import Sync

COUNT = 700


def step(seq, **options):
    fields = {"step": seq, "epoch": seq / 9, "examples": 4 * seq, "tokens": 31 * seq, "padding": 0.1, "lr": 5e-5,
              "loss": 2.5 + 1 / (seq + 1), "grad_norm": 1.5, "seconds": 0.1 * seq, "tokens_per_s": 3000.125,
              "memory_mb": 900, "batch": [seq, 7]}  # fmt: skip
    return line(seq, "step", **fields | options)


def line(seq, kind, **fields):
    event = {"seq": seq, "time": 1e9 + seq / 1000, "event": kind, **fields}
    return json.dumps(event, ensure_ascii=False, separators=(",", ":"))


def ingested_tables(tmp_path, monkeypatch, lines, min_arrow_steps):
    """Index a run with these lines. Return its tables and the stored offset as text."""
    monkeypatch.setattr(sync, "MIN_ARROW_STEPS", min_arrow_steps)
    folder = tmp_path / f"at-least-{min_arrow_steps}"
    run = RunDirectory.create(folder, RunConfig(name="a"))
    run.events_path.write_bytes(b"".join(text.encode(errors="surrogatepass") + b"\n" for text in lines))  # fmt: skip
    index = Index(None)
    Sync(index.new_cursor()).run([run])
    rows_by_table = {
        table: index.cursor().execute(f'select * from "{table}" order by seq').fetchall()
        for table in ("step", "eval", "status", "generation", "ingested")
    }
    index.close()
    return repr(rows_by_table)


PLAIN = [
    line(1, "status", status="running", pid=1),
    *(step(seq) for seq in range(2, COUNT)),
    line(COUNT, "eval", step=COUNT, val_loss=1.5),
    line(COUNT + 1, "status", status="finished"),
]


def test_steps_use_the_arrow_path():
    parsed = sync.parse_steps([text.encode() for text in PLAIN], 0)
    table, other_lines, last_seq = parsed
    assert (len(table), len(other_lines), last_seq) == (COUNT - 2, 3, COUNT + 1)
    assert sync.parse_steps([text.encode() for text in PLAIN[:300]], 0) is None, "too few"


@pytest.mark.parametrize(
    ("line_index", "odd_line", "uses_arrow"),
    [
        (350, step(351, loss=None, grad_norm=None), True),
        (350, step(351, batch=[]), True),
        (350, step(351, new_field="later", nested={"a": [1]}), True),
        (350, step(351, step=2**53 + 1, loss=1e308, lr=5e-324), True),
        (350, line(351, "step", step=351), True),
        (350, line(351, "sample", step=351, prompt="größer \ud83d", text="x"), True),
        (350, step(351, loss=float("nan")), None),
        (350, step(351, loss="2.5"), False),
        (350, step(351, loss=True), False),
        (350, step(351, step=2.5), False),
        (350, step(351, step=2**63), False),
        (350, step(351, batch=[1.5]), False),
        (350, step(351, batch=7), False),
        (350, "nonsense", False),
        (350, "", False),
        (350, '{"seq":351,"time":1,"event":"step","loss":1', False),
        (350, step(12), False),
        (350, step(0), False),
        (350, line(351, "rewind", step=20), False),
        (350, '{"event":"step","seq":351,"time":1}', False),
        (350, '{"seq":351,"time":"soon","event":"step","step":3}', False),
    ],
)
def test_arrow_and_row_paths_store_the_same(
    tmp_path, monkeypatch, line_index, odd_line, uses_arrow
):
    lines = [*PLAIN[:line_index], odd_line, *PLAIN[line_index + 1 :]]
    if uses_arrow is not None:
        data = [text.encode(errors="surrogatepass") for text in lines]
        assert (sync.parse_steps(data, 0) is not None) == uses_arrow
    row_by_row = ingested_tables(tmp_path, monkeypatch, lines, 10**9)
    assert ingested_tables(tmp_path, monkeypatch, lines, 500) == row_by_row


def test_unreadable_run_does_not_block_a_group_of_new_runs(tmp_path):
    runs = [RunDirectory.create(tmp_path, RunConfig(name=f"r{i}")) for i in range(5)]
    for run in runs:
        run.events_path.write_text("\n".join(PLAIN) + "\n")
    runs[2].config_path.unlink()
    runs[2].config_path.mkdir()
    index = Index(None)
    index_sync = Sync(index.new_cursor())
    assert index_sync.run(runs)
    assert index_sync.fault.startswith("r2 cannot be indexed")
    rows = index.cursor().execute("select run, count(*) from step group by run order by run")
    assert rows.fetchall() == [(f"r{i}", COUNT - 2) for i in (0, 1, 3, 4)]
    assert not index_sync.run([*runs[:2], *runs[3:]])
    index.close()
