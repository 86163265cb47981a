"""Run the whole app under AppTest, with runs written as lists of events. Nothing is trained unless a test says so."""

import base64
import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streamlit.runtime.pages_manager import PagesManager
from streamlit.testing.v1 import AppTest, app_test

from core.config import RunConfig
from core.run.directory import RunDirectory
from core.scheduler.executors import EXECUTORS
from pages.ui import figures, runtime

APP = Path(__file__).parents[2] / "app.py"


class Page(AppTest):
    """The app in a separate session. Fails the test if a script run raises an exception."""

    selections: dict[str, Any] = {}  # noqa: RUF012
    components: Any = None
    """Shared by all pages: searching installed packages for components takes longer than rendering a page."""

    def _run(self, *args: Any, **kwargs: Any) -> AppTest:
        self._bidi_component_manager = Page.components
        for key, selection in self.selections.items():  # browsers resend it, but AppTest does not
            self.session_state[key] = selection
        super()._run(*args, **kwargs)
        Page.components = self._bidi_component_manager
        self._page_hash = ""  # otherwise, the old page would run again after a page switch
        assert not self.exception, self.exception[0].message
        return self

    def go(self, page: str, /, **query: Any) -> "Page":
        """Open a page by its URL, with these query parameters."""
        self.query_params, self.selections = query, {}
        return self.switch_page(f"pages/{page}.py").run()

    def widget(self, key: str) -> Any:
        """Return the only widget with this key or label."""
        [match] = self.widgets(key)
        return match

    def widgets(self, key: str) -> list[Any]:
        """Return all widgets with this key or label."""
        kinds = ("text_input", "number_input", "selectbox", "checkbox", "text_area", "toggle")
        kinds += ("multiselect", "button", "button_group", "download_button", "file_uploader")
        listed = [widget for kind in kinds for widget in self.get(kind)]
        return [w for w in listed if key in (w.key, getattr(w, "label", None))]

    def press(self, button: str) -> "Page":
        """Press a button, which must be enabled."""
        widget = self.widget(button)
        assert not widget.disabled
        return widget.click().run()

    def choose(self, key: str, value: Any) -> "Page":
        """Set the value of a widget. In select boxes that accept new options, the value is typed in."""
        widget = self.widget(key)
        if getattr(widget.proto, "accept_new_options", False) and value not in widget.options:
            widget.options.append(value)
        return widget.set_value(value).run()

    def open_tab(self, label: str) -> "Page":
        """Open a tab of the Scoring page."""
        self.session_state["scoring:state"]["values"]["tab"] = [label]
        return self.run()

    def tick(self, *rows: int) -> "Page":
        """Select rows of the first table by position."""
        return self.select(self.dataframe[0], *rows)

    def select(self, table: Any, *rows: int) -> "Page":
        """Select rows of a table by position, like a click in the browser."""
        selection = {"selection": {"rows": list(rows), "columns": [], "cells": []}}
        self.session_state[table.key] = selection
        return self.run()

    def figure(self, title: str) -> dict[str, Any]:
        """Return the only Plotly figure, or panel of a stacked figure, whose title starts with this text."""
        figures = [json.loads(chart.proto.spec) for chart in self.get("plotly_chart")]
        panels = [panel for figure in figures for panel in _panels(figure)]
        [match] = [p for p in panels if p["layout"]["title"]["text"].startswith(title)]
        return match

    def texts(self) -> list[str]:
        """Return the source of all text on the page: alerts, captions, Markdown and HTML."""
        kinds = (
            "markdown",
            "caption",
            "success",
            "error",
            "warning",
            "info",
            "toast",
            "html",
            "title",
        )
        return [str(element.value) for kind in kinds for element in self.get(kind)]

    def says(self, expected_text: str) -> bool:
        """Whether any text on the page contains `expected_text`, ignoring Markdown escapes."""
        return any(
            expected_text in text.replace("\\", "").replace("\u2060", "") for text in self.texts()
        )


def _panels(figure: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the panels of a stacked figure as separate figures, or the figure itself."""
    layout = figure["layout"]
    if "title" in layout:
        return [figure]
    panels = []
    for i, title in enumerate(layout["annotations"]):
        axis = "y" if i == 0 else f"y{i + 1}"
        traces = [trace for trace in figure["data"] if trace["yaxis"] == axis]
        axes = {"xaxis": layout["xaxis"], "yaxis": layout[f"yaxis{axis[1:]}"]}
        panels.append({"data": traces, "layout": {**layout, **axes, "title": title}})
    return panels


def line(figure: dict[str, Any], index: int = 0) -> list[tuple[float, float]]:
    """Return the points on a line in a figure."""
    trace = figure["data"][index]
    return list(zip(_numbers(trace["x"]), _numbers(trace["y"]), strict=True))


def _numbers(values: Any) -> list[float]:
    """Decode an array in the format that Plotly sends: a list, or base64 with a dtype."""
    if isinstance(values, list):
        return values
    return np.frombuffer(base64.b64decode(values["bdata"]), values["dtype"]).tolist()


@pytest.fixture(name="line")
def line_fixture() -> Callable[..., list[tuple[float, float]]]:
    return line


@pytest.fixture
def runs_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The directory of an empty Lab whose queue does not start runs. The Lab is closed after the test."""
    # Otherwise, AppTest treats `pages/` as an old-style multipage app and runs pages without `app.py`.
    monkeypatch.setattr(PagesManager, "uses_pages_directory", False)
    monkeypatch.setattr(app_test, "PagesManager", type("Settled", (PagesManager,), {}))
    monkeypatch.setitem(EXECUTORS, "idle", lambda run: None)
    monkeypatch.setenv("EXECUTOR", "idle")
    monkeypatch.setenv("RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(figures, "HEAD_START_S", 0.0)
    yield tmp_path / "runs"
    runtime.release()


@pytest.fixture
def page(runs_dir: Path) -> Page:
    """The app, opened at Launch."""
    return Page(str(APP), default_timeout=60).go("launch")


@pytest.fixture
def open_page(runs_dir: Path) -> Callable[..., Page]:
    """A function that opens a page in a new session."""

    def open(name: str, /, **query: Any) -> Page:
        return Page(str(APP), default_timeout=60).go(name, **query)

    return open


@pytest.fixture
def write_run(runs_dir: Path) -> Iterator[Callable[..., RunDirectory]]:
    """A function that writes a run directory with settings and events, as a trainer would.

    Step n has loss `scale` * 4 / n and takes 0.5 s. There is an evaluation at every third step.
    """
    with contextlib.ExitStack() as locks:

        def write(
            name: str = "one",
            status: str = "finished",
            reason: str | None = None,
            steps: int = 6,
            planned: int | None = None,
            scale: float = 1.0,
            base_hash: str = "ab" * 32,
            samples: tuple[dict[str, Any], ...] = (),
            warnings: tuple[dict[str, Any], ...] = (),
            answers: tuple[dict[str, Any], ...] = (),
            **settings: Any,
        ) -> RunDirectory:
            config = RunConfig.parse({"name": name, **settings})
            run = RunDirectory.create(runs_dir, config)
            if status == "queued":
                return run
            if status == "running":
                locks.enter_context(run.lock())  # so that the run counts as alive
            run.append("status", status="running", pid=1, host="here")
            sizes = {"parameters": 1_000_000, "trainable": 1_000, "train_examples": 8}
            base_fields = {"base_hash": base_hash, "device": "Abacus 3000", "precision": "float32"}
            run.append("plan", steps=planned or steps, steps_per_epoch=2, **sizes, **base_fields)
            for step in range(1, steps + 1):
                _step(run, step, config.lr, scale, final=step == steps and not planned)
            events_by_kind = {"sample": samples, "warning": warnings, "generation": answers}
            for kind, events in events_by_kind.items():
                for event in events:
                    run.append(kind, **event)
            if status != "running":
                run.append("status", status=status, reason=reason)
            return run

        yield write


def _step(run: RunDirectory, step: int, lr: float, scale: float, final: bool) -> None:
    position = {"step": step, "epoch": step / 2, "tokens": 10 * step, "seconds": 0.5 * step}
    measured = {"lr": lr, "loss": scale * 4 / step, "grad_norm": scale + step}
    cost = {"tokens_per_s": 20.0 + step, "memory_mb": 500.0 + step, "padding": 0.25}
    run.append("step", **position, **measured, **cost, examples=4 * step, batch=[0, 1, 2, 3])
    if step % 3 == 0:
        losses = {"train_loss": scale * 3 / step, "val_loss": scale * 5 / step}
        run.append("eval", **position, **losses, final=final)


@pytest.fixture
def answer() -> Callable[..., dict[str, Any]]:
    """A function that returns the event for an answer to a test example."""

    def make(
        item: int, instruction: str, reference: str, text: str, **fields: Any
    ) -> dict[str, Any]:
        prompt_fields = {
            "item": item,
            "instruction": instruction,
            "input": "",
            "reference": reference,
        }
        return {
            **prompt_fields,
            "answer": text,
            "tokens": 7,
            "cut": False,
            "prompt_cut": False,
            **fields,
        }

    return make


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of 12 short examples: 10 for training, 1 for testing, 1 for validation."""
    words = ["red", "blue", "green", "one", "two", "three", "cat", "dog", "owl", "up", "down", "in"]
    path = tmp_path_factory.mktemp("data") / "words.json"
    path.write_text(json.dumps([{"instruction": f"Say {w}.", "output": w} for w in words]))
    return path
