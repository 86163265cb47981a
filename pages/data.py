"""Inspect a data set before training: skipped records, tokenized examples, lengths and train-test overlap."""

from typing import TYPE_CHECKING

import pandas as pd
import streamlit as st

from core.config import RunConfig
from core.views import charts, formats
from core.views.search import search
from core.views.tables import records
from pages.launch_source import open_launch
from pages.ui import runtime
from pages.ui.copy_link import copy_link
from pages.ui.dataset_size import SPLITS, show_size
from pages.ui.errors import show_errors
from pages.ui.figures import show_figure
from pages.ui.page_state import PageState
from pages.ui.run_links import run_link
from pages.ui.selection import preselect, select_rows
from pages.ui.text import escape_markdown, show_skipped, show_tokens
from pages.ui.upload import dataset_uploader

if TYPE_CHECKING:  # imports the hub client, which takes a second
    from core.data.inspection import InspectedDataset

COLUMNS = ["item", "part", "tokens", "instruction", "input", "output"]
LABELS = {"item": "Item", "part": "Split", "tokens": "Tokens", "instruction": "Instruction",
          "input": "Input", "output": "Response"}  # fmt: skip
DATA_SETTINGS = (
    "dataset", "columns", "max_length", "max_examples", "mask_prompt", "empty_outputs"
)  # fmt: skip
"""Settings that are passed to Launch."""
PARAMETERS = (
    "run", "dataset", "columns", "base_model", "max_length", "max_examples", "mask_prompt",
    "keep_empty", "view", "find", "split", "example",
)  # fmt: skip

lab = runtime.lab()
state = PageState("data", PARAMETERS)


def linked_run() -> str | None:
    """Return the run whose data set is requested in the link, and show it. Return None if there is none."""
    name = state.value("run")
    if not name:
        return None
    colors = lab.colors([name])
    state.check("run", colors, "Unknown run")
    if not colors:
        return None
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.caption("Data set used by", width="content")
        run_link(name, colors[name], key="data")
        st.button(
            "Choose another data set", icon=":material/close:", type="tertiary",
            on_click=state.clear, args=("run", "example"),
        )  # fmt: skip
    return name


def choose() -> RunConfig:
    """Draw the inputs and return their settings. Stop the page if a setting is invalid."""
    used = lab.runs()["dataset"].dropna().unique()
    current = state.value("dataset") or "primer"
    suggestions = [*dict.fromkeys(["primer", "alpaca", *used, *lab.uploads(), current])]
    name = state.widget(
        st.selectbox, "Data set", "dataset", current, options=suggestions, accept_new_options=True,
        format_func=formats.dataset_text,
        help="primer, alpaca, owner/name on the Hugging Face Hub, or the path of a JSON, JSONL, CSV, TSV or Parquet file.",
    )  # fmt: skip
    dataset_uploader(lambda path: state.set("dataset", path))
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        columns = state.text(
            "Columns", "columns", placeholder="detected", width=260,
            help="For example, instruction=question, output=answer. Roles: instruction, input, output, messages, text.",
        )  # fmt: skip
        base = state.select(
            "Base model", ["gpt2-nano", "gpt2"], "base_model", width=170,
            help="Determines the context length.",
        )  # fmt: skip
        length = state.number("Max length", "max_length", 1, 1024, placeholder="context", width=150)
        max_examples = state.number(
            "Max examples", "max_examples", 1, None, placeholder="all", width=130
        )
        masked = state.toggle(
            "Mask prompt", "mask_prompt", help="Compute the loss on the response only."
        )
        keep_empty = state.toggle(
            "Keep empty outputs",
            "keep_empty",
            help="Include records with an empty output, as runs with `empty_outputs = keep` do.",
        )
    settings = {
        "dataset": name or current,
        "columns": columns,
        "base_model": base,
        "max_length": length,
        "max_examples": max_examples,
        "mask_prompt": masked,
        "empty_outputs": "keep" if keep_empty else "drop",
    }
    with show_errors(stop=True):
        return RunConfig.parse(settings)


def show_launch(config: RunConfig) -> None:
    """Draw the button that opens Launch with the data set and the settings for reading it."""
    if st.button("Launch with this data set", icon=":material/rocket_launch:"):
        open_launch({name: getattr(config, name) for name in DATA_SETTINGS})


def show_unused(dataset: "InspectedDataset") -> None:
    """Show skipped records and unused keys."""
    if dataset.skipped:
        st.warning(escape_markdown(f"{dataset.skipped}."))
    show_skipped(dataset.records.skipped)
    if unused := dataset.unused_keys:
        st.info(escape_markdown(f"{unused[0].upper()}{unused[1:]}."))


def show_overview(table: pd.DataFrame, config: RunConfig, limit: int) -> None:
    """Show the size of each split, token lengths, and the number of truncated examples."""
    train = table[table["part"] == "train"]
    truncated = int((train["tokens"] > limit).sum())
    without_response = int((train["prompt_tokens"] >= limit).sum())
    with st.container(horizontal=True, gap="large"):
        show_size(table)
        st.metric(
            "Truncated", f"{truncated:,}", width="content",
            help=f"Training examples longer than {limit} tokens.",
        )  # fmt: skip
    if without_response:
        skipped = " and would be skipped" if config.mask_prompt else ""
        st.warning(
            f"{without_response:,} training examples are truncated before their responses start{skipped}."
        )
    lengths = {part: table.loc[table["part"] == part, "tokens"].tolist() for part in SPLITS}
    show_figure(charts.token_lengths(lengths, limit), key="lengths")


def show_examples(dataset: "InspectedDataset", config: RunConfig, context: int) -> None:
    """Draw the search box, the table of examples, and the tokens of the selected example."""
    key = f"examples:{config.dataset}"
    if state.is_opened_by_link:
        select_linked(dataset, key)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        query = state.text("Find examples", "find", placeholder="e.g. synonym for happy")
        known = [part for part in state.values("split") or () if part in SPLITS]
        parts = state.widget(
            st.pills, "Split", "split", known, options=SPLITS, selection_mode="multi"
        )
    table = dataset.table
    shown = table[table["part"].isin(parts)] if parts else table
    texts = (shown["instruction"] + " " + shown["input"] + " " + shown["output"]).tolist()
    shown = shown.iloc[search(texts, query)]
    if shown.empty:
        st.info("No matching examples.")
        return
    locations = [dataset.records.source_rows[item] for item in shown["item"]]
    selected = select_rows(
        shown[COLUMNS], locations, key, height=320,
        column_config={key: st.column_config.Column(label) for key, label in LABELS.items()},
    )  # fmt: skip
    item = int(shown["item"].iloc[locations.index(selected[0]) if selected else 0])
    if selected:
        state.set("example", str(item))
        state.show("example", str(item))
    tokens = dataset.tokens(item, config, context)
    states = [token.state for token in tokens]
    st.caption(
        f"Item {item} as the model sees it. Context tokens: {states.count('given')}, "
        f"targets (blue): {states.count('learned')}, truncated (struck through): {states.count('cut')}."
    )
    show_tokens([(token.text, token.state) for token in tokens])


def select_linked(dataset: "InspectedDataset", key: str) -> None:
    """Select the example requested in the link."""
    example, rows = state.value("example"), dataset.records.source_rows
    if example is None:
        return
    if not (example.isascii() and example.isdigit()) or int(example) >= len(rows):
        st.warning(f"This data set has no example {escape_markdown(example)}.")
        state.set("example")
        state.show("example")
        return
    st.session_state.pop(key, None)
    preselect(key, [rows[int(example)]])


def show_leaks(dataset: "InspectedDataset") -> None:
    """Show test examples that are similar to a training example."""
    with st.spinner("Comparing the test and training sets…"):
        frame = dataset.duplicates
    if frame.empty:
        st.success("No test example is similar to a training example.")
        return
    same_prompt_count = int(frame["same_prompt"].sum())
    st.write(
        f"{len(frame):,} of {len(dataset.split.test):,} test examples are at least {dataset.min_similarity:.0f}% similar to a "
        f"training example or have the same prompt ({same_prompt_count:,}). If both ask for the same thing, scores measure "
        "memorization. Short examples often differ only in the word being asked about."
    )
    examples = dataset.records.examples
    rows = [
        {
            "Similarity": row["similarity"],
            "Same prompt": row["same_prompt"],
            "Test": " ".join(examples[row["test"]].texts),
            "Training": " ".join(examples[row["train"]].texts),
            "Items": f"{row['test']}, {row['train']}",
        }
        for row in records(frame)
    ]
    st.dataframe(pd.DataFrame(rows), hide_index=True)


with st.container(horizontal=True, vertical_alignment="center"):
    st.title("Data", width="stretch")
    launch = st.container(width="content")
    copy_link()
state.show_all()
notices = st.container()
name = linked_run()
with show_errors(stop=True):
    config = lab.config(name) if name else choose()
with notices:
    state.show_notices()
state.write()  # even if the data set cannot be shown
with show_errors(stop=True), st.spinner("Loading the data set…"):
    dataset = lab.dataset(config)
with launch:
    show_launch(config)
if dataset is None:
    st.info(
        f"{escape_markdown(formats.dataset_text(config.dataset))} has not been downloaded yet. The first run that uses it downloads it."
    )
    st.stop()
with show_errors(stop=True):
    context = lab.context(config)
st.caption(escape_markdown(f"Columns: {dataset.columns}"))
show_unused(dataset)
show_overview(dataset.table, config, context)
view = state.select("View", ["Examples", "Leaks"], "view", draw=st.segmented_control, required=True)
if view == "Leaks":
    show_leaks(dataset)
else:
    show_examples(dataset, config, context)
state.write()
