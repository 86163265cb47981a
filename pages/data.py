"""Inspect a data set before training: skipped records, tokenized examples, lengths and train-test leaks."""

from typing import Any

import pandas as pd
import streamlit as st

from core import allowed_paths
from core.config import EmptyOutputs, RunConfig
from core.data import dataset, hub, inspection
from core.data.dataset import Records, Split
from core.errors import ConfigError, UserError
from core.nn import pretrained
from core.tracking import queries
from core.views import charts
from core.views.search import search
from core.views.tables import records
from pages.ui import runtime
from pages.ui.selection import select_rows
from pages.ui.text import count, escape_markdown, show_skipped, show_tokens

COLUMNS = ["item", "part", "tokens", "instruction", "input", "output"]
LABELS = {"item": "Item", "part": "Part", "tokens": "Tokens", "instruction": "Instruction",
          "input": "Input", "output": "Response"}  # fmt: skip
PARTS = ("train", "test", "validation")

lab = runtime.lab()


Stamp = tuple[tuple[str, int, int], ...]
"""Tells versions of a file apart."""


@st.cache_resource(max_entries=3, show_spinner="Reading the data set")
def read(
    name: str, max_examples: int | None, empty_outputs: EmptyOutputs, stamp: Stamp
) -> tuple[Records, Split, pd.DataFrame]:
    """Return the records of a data set, its split and the table of its examples."""
    contents = dataset.read(name, max_examples, empty_outputs, download=False)
    split = dataset.split(contents.examples, RunConfig(dataset=name))
    return contents, split, inspection.table(split)


@st.cache_data(max_entries=3, show_spinner="Comparing the test set with the training set")
def leaks(
    name: str, max_examples: int | None, empty_outputs: EmptyOutputs, stamp: Stamp
) -> pd.DataFrame:
    """Return near-duplicates between the test set and the training set."""
    return inspection.duplicates(read(name, max_examples, empty_outputs, stamp)[1])


def choose() -> tuple[RunConfig, int]:
    """Which data set, and how a run would cut it. Stops the page where something is wrong."""
    used = queries.results(lab.db)["dataset"].dropna().unique()
    current = st.session_state.get("dataset") or st.query_params.get("dataset") or "primer"
    suggestions = [*dict.fromkeys(["primer", "alpaca", *used, current])]
    name = st.selectbox(
        "Data set", suggestions, key="dataset", bind="query-params", accept_new_options=True,
        help="primer, alpaca, owner/name on the Hugging Face hub, or the path of a JSON, JSONL or Parquet file.",
    )  # fmt: skip
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        base = st.selectbox(
            "Context of", ["gpt2-nano", "gpt2"], width=170, help="The most tokens a model can see."
        )
        length = st.number_input("Maximum length", 1, 1024, None, placeholder="context", width=150)
        max_examples = st.number_input("Examples", 1, None, None, placeholder="all", width=130)
        masked = st.toggle("Mask the prompt", help="Learn the response only.")
        keep_empty = st.toggle(
            "Keep empty outputs",
            help="Include records with an empty output, like runs with `empty_outputs = keep`.",
        )
    try:
        settings: dict[str, Any] = {
            "dataset": name or current,
            "base_model": base,
            "max_length": length,
        }
        if outside := allowed_paths.problems(settings):
            raise ConfigError(outside)
        settings |= {"max_examples": max_examples, "mask_prompt": masked}
        settings |= {"empty_outputs": "keep" if keep_empty else "drop"}
        config = RunConfig.parse(settings)
        return config, pretrained.architecture(base).context
    except ConfigError as error:
        st.error(escape_markdown(str(error)))
        st.stop()


def show_unused(contents: Records) -> None:
    """Show the skipped records and the unused keys."""
    if skipped := dataset.skipped_summary(contents):
        st.warning(escape_markdown(f"{skipped}."))
    show_skipped(contents.skipped)
    if unused := dataset.unused_summary(contents):
        st.info(escape_markdown(f"{unused[0].upper()}{unused[1:]}."))


def show_overview(table: pd.DataFrame, config: RunConfig, limit: int) -> None:
    """Sizes, lengths, and what is cut."""
    train = table[table["part"] == "train"]
    cut = int((train["tokens"] > limit).sum())
    lost = int((train["prompt_tokens"] >= limit).sum())
    with st.container(horizontal=True, gap="large"):
        for part in PARTS:
            st.metric(part.capitalize(), f"{(table['part'] == part).sum():,}", width="content")
        st.metric("Tokens", count(int(table["tokens"].sum())), width="content")
        st.metric("Mean length", f"{table['tokens'].mean():.0f}", width="content")
        st.metric("Longest of all", f"{table['tokens'].max():,}", width="content")
        st.metric(
            "Cut", f"{cut:,}", width="content",
            help=f"Training examples longer than {limit} tokens.",
        )  # fmt: skip
    if lost:
        left_out = " and would be left out" if config.mask_prompt else ""
        st.warning(f"{lost:,} training examples lose their whole response{left_out}.")
    lengths = {part: table.loc[table["part"] == part, "tokens"].tolist() for part in PARTS}
    st.plotly_chart(charts.token_lengths(lengths, limit), key="lengths")


def show_examples(loaded: Records, table: pd.DataFrame, config: RunConfig, context: int) -> None:
    """Search, a table, and the chosen example token by token."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        query = st.text_input("Find examples", placeholder="such as: synonym for happy")
        parts = st.pills("Part", PARTS, selection_mode="multi")
    shown = table[table["part"].isin(parts)] if parts else table
    texts = (shown["instruction"] + " " + shown["input"] + " " + shown["output"]).tolist()
    shown = shown.iloc[search(texts, query)]
    if shown.empty:
        st.info("No example has words like these.")
        return
    places = [loaded.places[item] for item in shown["item"]]
    selected = select_rows(
        shown[COLUMNS], places, f"examples:{config.dataset}", height=320,
        column_config={key: st.column_config.Column(label) for key, label in LABELS.items()},
    )  # fmt: skip
    item = int(shown["item"].iloc[places.index(selected[0]) if selected else 0])
    tokens = inspection.tokens(loaded.examples[item], config, context)
    states = [token.state for token in tokens]
    st.caption(
        f"Item {item} as the model sees it. Tokens given: {states.count('given')}, "
        f"learned (blue): {states.count('learned')}, cut (struck through): {states.count('cut')}."
    )
    show_tokens([(token.text, token.state) for token in tokens])


def show_leaks(split: Split, frame: pd.DataFrame) -> None:
    """What the training set gives away of the test set."""
    if frame.empty:
        st.success("No test example resembles a training example.")
        return
    same = int(frame["same_prompt"].sum())
    st.write(
        f"{len(frame)} of {len(split.test)} test examples resemble a training example by "
        f"{inspection.MIN_DUPLICATE_SIMILARITY:.0f} % or more, or have its very prompt ({same}). Where both ask for the same, a score "
        "measures memory; short ones often differ in the very word that is asked about."
    )
    examples = [*split.train, *split.test]
    rows = [
        {
            "Similarity": row["similarity"],
            "Same prompt": row["same_prompt"],
            "Test": " ".join(vars(examples[row["test"]]).values()),
            "Training": " ".join(vars(examples[row["train"]]).values()),
            "Items": f"{row['test']}, {row['train']}",
        }
        for row in records(frame)
    ]
    st.dataframe(pd.DataFrame(rows), hide_index=True)


st.title("Data")
config, context = choose()
try:
    stamp = dataset.stamps(config.dataset)
    source = config.dataset, config.max_examples, config.empty_outputs, stamp
    contents, split, table = read(*source)
except hub.NotDownloadedError:
    st.info(
        f"{escape_markdown(config.dataset)} is not on this machine yet; the first run on it downloads it."
    )
    st.stop()
except UserError as error:
    st.error(escape_markdown(str(error)))
    st.stop()
show_unused(contents)
show_overview(table, config, min(config.max_length or context, context))
view = st.segmented_control("View", ["Examples", "Leaks"], default="Examples")
if view == "Leaks":
    show_leaks(split, leaks(*source))
else:
    show_examples(contents, table, config, context)
