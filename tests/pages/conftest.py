"""The whole app under AppTest, over runs that are lists of events: no training unless a test wants it."""

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
from pages.ui import runtime

APP = Path(__file__).parents[2] / "app.py"


class Page(AppTest):
    """A page in a session of its own. Every run of it, whoever asks for it, must not raise."""

    selections: dict[str, Any] = {}  # noqa: RUF012
    components: Any = None
    """Made once for all: looking for them in every package installed takes longer than a page."""

    def _run(self, *args: Any, **kwargs: Any) -> AppTest:
        self._bidi_component_manager = Page.components
        for (
            key,
            selection,
        ) in self.selections.items():  # a browser sends it with every run, AppTest once
            self.session_state[key] = selection
        super()._run(*args, **kwargs)
        Page.components = self._bidi_component_manager
        self._page_hash = ""  # else a page that opened another would be asked for again
        assert not self.exception, self.exception[0].message
        return self

    def go(self, page: str, **query: Any) -> "Page":
        """Open a page as its address would, with these query parameters."""
        self.query_params, self.selections = query, {}
        return self.switch_page(f"pages/{page}.py").run()

    def widget(self, key: str) -> Any:
        """The widget of that key, or of that label."""
        [match] = self.widgets(key)
        return match

    def widgets(self, key: str) -> list[Any]:
        """All widgets of that key or label."""
        kinds = ("text_input", "number_input", "selectbox", "checkbox", "text_area", "toggle")
        kinds += ("multiselect", "button", "button_group", "download_button")
        listed = [widget for kind in kinds for widget in self.get(kind)]
        return [w for w in listed if key in (w.key, getattr(w, "label", None))]

    def press(self, button: str) -> "Page":
        """Press a button that may be pressed."""
        widget = self.widget(button)
        assert not widget.disabled
        return widget.click().run()

    def choose(self, key: str, value: Any) -> "Page":
        """Give a widget a value; into a choice that takes new words, it is typed."""
        widget = self.widget(key)
        if getattr(widget.proto, "accept_new_options", False) and value not in widget.options:
            widget.options.append(value)
        return widget.set_value(value).run()

    def tick(self, *rows: int) -> "Page":
        """Select rows of the first table."""
        return self.select(self.dataframe[0], *rows)

    def select(self, table: Any, *rows: int) -> "Page":
        """Select rows of a table by position, like a click in the browser."""
        selection = {"selection": {"rows": list(rows), "columns": [], "cells": []}}
        self.session_state[table.key] = selection
        return self.run()

    def figure(self, title: str) -> dict[str, Any]:
        """The Plotly figure whose title begins so."""
        figures = [json.loads(chart.proto.spec) for chart in self.get("plotly_chart")]
        [match] = [f for f in figures if f["layout"]["title"]["text"].startswith(title)]
        return match

    def texts(self) -> list[str]:
        """What the page says in words: alerts, captions, Markdown and HTML, as they were sent."""
        kinds = ("markdown", "caption", "error", "warning", "info", "toast", "html", "title")
        return [str(element.value) for kind in kinds for element in self.get(kind)]

    def says(self, expected_text: str) -> bool:
        """Whether a text on the page holds these words, Markdown's escapes aside."""
        return any(
            expected_text in text.replace("\\", "").replace("\u2060", "") for text in self.texts()
        )


def line(figure: dict[str, Any], place: int = 0) -> list[tuple[float, float]]:
    """The points of a figure's line."""
    trace = figure["data"][place]
    return list(zip(_numbers(trace["x"]), _numbers(trace["y"]), strict=True))


def _numbers(values: Any) -> list[float]:
    """An array as Plotly sends it: a list, or base64 with its type."""
    if isinstance(values, list):
        return values
    return np.frombuffer(base64.b64decode(values["bdata"]), values["dtype"]).tolist()


@pytest.fixture(name="line")
def line_fixture() -> Callable[..., list[tuple[float, float]]]:
    return line


@pytest.fixture
def runs_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty laboratory whose queue starts nothing; closed after the test."""
    # Without this, AppTest takes `pages/` for an older kind of app and runs a page without `app.py`.
    monkeypatch.setattr(PagesManager, "uses_pages_directory", False)
    monkeypatch.setattr(app_test, "PagesManager", type("Settled", (PagesManager,), {}))
    monkeypatch.setitem(EXECUTORS, "idle", lambda run: None)
    monkeypatch.setenv("EXECUTOR", "idle")
    monkeypatch.setenv("RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield tmp_path / "runs"
    runtime.release()


@pytest.fixture
def page(runs_dir: Path) -> Page:
    """The app, opened at its first page."""
    return Page(str(APP), default_timeout=60).run()


@pytest.fixture
def open_page(runs_dir: Path) -> Callable[..., Page]:
    """A function that opens a page in a session of its own."""

    def open(name: str, **query: Any) -> Page:
        return Page(str(APP), default_timeout=60).go(name, **query)

    return open


@pytest.fixture
def write_run(runs_dir: Path) -> Iterator[Callable[..., RunDirectory]]:
    """A function that writes a run directory: its settings, and events as a trainer would leave them.

    Step n has loss `scale` * 4 / n and took half a second; every third step is evaluated.
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
                locks.enter_context(run.lock())  # its trainer is alive, so nobody settles it
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
    """A function that makes the event of a test example's answer."""

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
    """Twelve short examples: ten to train on, one to answer, one to validate on."""
    words = ["red", "blue", "green", "one", "two", "three", "cat", "dog", "owl", "up", "down", "in"]
    path = tmp_path_factory.mktemp("data") / "words.json"
    path.write_text(json.dumps([{"instruction": f"Say {w}.", "output": w} for w in words]))
    return path
