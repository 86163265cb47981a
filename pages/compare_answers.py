"""The stored view of the Compare page: one row per test prompt, one column per run.

At most one prompt is current: it is shown in full and kept in view. Shortcut keys move to the next or previous prompt.
"""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import streamlit as st

from core.errors import UserError
from core.lab import Lab
from core.views import comparison, differences, formats, report
from core.views.comparison import FILTERS, SORTS, Prompt
from core.views.search import differing_words, search
from core.views.tables import records
from pages.ui import baseline
from pages.ui.compared_runs import select_runs
from pages.ui.page_state import PageState
from pages.ui.run_links import run_link
from pages.ui.run_pair import show_pair
from pages.ui.text import escape_markdown, text_html, words_html

MAX_RUNS = 6
MAX_DEFAULT_RUNS = 3
PAGE_SIZE = 20
"""Number of prompts on a page."""
BEST_MATCH = "Best match"
EXACT = "Exact match"
NOT_CHOSEN = "Not among the selected runs"
PLACE = "prompt", "page"
"""URL parameters for the position in the list. Cleared when the list changes."""
SCROLL_JS = """
export default function ({ data }) {
  if (window.shownPrompt === data.prompt) return;
  window.shownPrompt = data.prompt;
  document.querySelector('.st-key-compare-current')?.scrollIntoView({ block: 'nearest' });
}
"""
scroll_to_current = st.components.v2.component("scroll_to_current_prompt", js=SCROLL_JS)


@dataclass(frozen=True)
class Listing:
    """The prompts that match the search and the filter, and the position in them.

    Args:
        prompts: All prompts.
        shown: The matching prompts, in order.
        position: Position of the current prompt in `shown`, or None.
        page: Number of the page, starting at 0.
    """

    prompts: Sequence[Prompt]
    shown: Sequence[Prompt]
    position: int | None
    page: int


def show_stored(lab: Lab, state: PageState) -> None:
    """Select runs, find test prompts, and show the answers next to the reference."""
    results = lab.runs()
    answered = results[results["exact"].notna()]
    if answered.empty:
        st.info("No answers yet. A run answers its test set when training finishes.")
        st.page_link("pages/launch.py", label="Launch", icon=":material/rocket_launch:")
        return
    names = select_runs(
        state,
        answered["name"].tolist(),
        results["name"].tolist(),
        report.same_test_set(answered)[:MAX_DEFAULT_RUNS],
        MAX_RUNS,
        "have no answers yet",
    )
    if not names:
        st.info("Choose at least one run.")
        return
    summary = st.container()
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        query = state.text(
            "Find a prompt",
            "search",
            on_change=lambda: state.clear("sort", *PLACE),  # best match first
            placeholder="e.g. synonym for happy",
            icon=":material/search:",
        )
        filter, a, b = _select_filter(state, names)
        measure, metric, scores = _select_scores(lab, state, names)
        sort = _select_sort(state, len(names) > 1, bool(query))
    prompts = comparison.prompts(lab.answers(names), scores)
    if a != b:
        with summary:
            _show_record(prompts, a, b, measure)
            _show_noise(lab, results, prompts, a, b, metric)
    matches = search([prompt.text for prompt in prompts], query)
    found = [prompts[i] for i in matches] if query else prompts
    shown = comparison.matching(found, filter, a, b)
    if sort != BEST_MATCH:
        shown = comparison.arranged(shown, sort, a, b)
    listing = Listing(prompts, shown, *_current(state, prompts, shown))
    if not shown:
        st.info(f"No prompts match this {'search' if query and not found else 'filter'}.")
        return
    columns = f"--compare-runs: {len(names)}; --compare-share: {len(names)}fr"
    st.html(f"<style>.st-key-compare-table {{ {columns} }}</style>")
    with st.container(key="compare-table"):
        colors = dict(zip(results["name"], results["color"], strict=True))
        with st.container(key="compare-header"):
            _show_moves(state, listing)
            _show_names(names, colors, (a, b), prompts, scores is None)
        first = listing.page * PAGE_SIZE
        for place, prompt in enumerate(shown[first : first + PAGE_SIZE], first):
            _show_row(state, prompt, names, place, place == listing.position, scores is None)
    _show_pager(state, shown, listing.page)
    current = None if listing.position is None else shown[listing.position].id
    scroll_to_current(data={"prompt": current}, key="scroll_to_current")
    st.caption("Words that differ from the reference are highlighted.")


def _select_filter(state: PageState, names: Sequence[str]) -> tuple[str, str, str]:
    """Let the user choose which prompts to show, and the runs A and B. If there is a single run, it is both."""
    if len(names) < 2:
        return next(iter(FILTERS)), names[0], names[0]

    def restart() -> None:
        state.clear(*PLACE)

    filter = state.select(
        "Show",
        list(FILTERS),
        "filter",
        on_change=restart,
        help="Right: the answer matches the reference, ignoring case and punctuation.",
        width=180,
    )
    a = state.select("A", names, "a", on_change=restart, problem=NOT_CHOSEN, width=160)
    others = [name for name in names if name != a]
    b = state.select("B", others, "b", on_change=restart, problem=NOT_CHOSEN, width=160)
    return filter, a, b


def _select_scores(
    lab: Lab, state: PageState, names: Sequence[str]
) -> tuple[str, str, dict[tuple[str, comparison.Example], float] | None]:
    """Let the user choose how answers are scored.

    Returns:
        The name of the measure; its metric, which is `exact` or a judge's ID; and the scores by run and example, which
        are None for exact matches.
    """
    judged = lab.scoring.answers(names).without_bases()
    verdicts = lab.scoring.verdicts(judged)
    models = dict(zip(verdicts["id"], verdicts["model"], strict=True))
    titles = [*models.values()]
    labels = {
        model if titles.count(model) == 1 and model != EXACT else f"{model} ({id})": id
        for id, model in models.items()
    }
    measure = state.select(
        "Score",
        [EXACT, *labels],
        "score",
        help="Exact match, or a judge that has scored answers from these runs.",
        width=170,
    )
    if measure == EXACT:
        return "exact match", differences.EXACT, None
    rows = lab.scoring.example_scores(verdicts[verdicts["id"] == labels[measure]])
    scores = {
        (run, (instruction, input, reference)): score
        for run, instruction, input, reference, score in rows.itertuples(index=False)
    }
    return measure, labels[measure], scores


def _select_sort(state: PageState, has_pair: bool, has_query: bool) -> str:
    sorts = [BEST_MATCH] if has_query else []
    sorts += [sort for sort in SORTS if has_pair or sort != comparison.SCORE_DIFFERENCE]
    return state.select(
        "Sort",
        sorts,
        "sort",
        on_change=lambda: state.clear(*PLACE),
        help="Most different: answers that share the fewest words first. Score difference: between A and B.",
        width=170,
    )


def _show_record(prompts: Sequence[Prompt], a: str, b: str, measure: str) -> None:
    """Show how often A does better than B, with a link to the page that tests the difference."""
    sentence = comparison.record(prompts, a, b).sentence(a, b, measure)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"**{escape_markdown(sentence)}**", width="content")
        st.page_link(
            "pages/scoring.py",
            label="Is the difference clear?",
            icon=":material/balance:",
            query_params=[("run", a), ("run", b)],
        )


def _show_noise(
    lab: Lab, results: pd.DataFrame, prompts: Sequence[Prompt], a: str, b: str, metric: str
) -> None:
    """Show whether A's mean score differs from B's by more than the noise."""
    means = comparison.mean_scores(prompts, a, b)
    if means is None:
        return
    scale = 0.01 if metric == differences.EXACT else 1.0
    rows = {row["name"]: row for row in records(results[results["name"].isin([a, b])])}
    title = "exact answers" if metric == differences.EXACT else "mean score"
    try:
        noise = baseline.noise(lab, [metric], results)[metric]
    except UserError:  # the judge has scored too few answers
        return
    show_pair(lab, rows[b], rows[a], noise, (scale * means[1], scale * means[0]), title)


def _current(
    state: PageState, prompts: Sequence[Prompt], shown: Sequence[Prompt]
) -> tuple[int | None, int]:
    """Return the position of the current prompt in the list, or None, and the page to show."""
    wanted = state.value("prompt")
    position = _position(shown, wanted)
    if _position(prompts, wanted) is None:
        state.check("prompt", (), "Unknown prompt")
    if position is not None:
        state.show("prompt", shown[position].id)
        return position, position // PAGE_SIZE
    number = state.value("page") or ""
    last_page = max(0, (len(shown) - 1) // PAGE_SIZE)
    page = min(last_page, max(0, int(number) - 1)) if number.isdecimal() else 0
    state.show("page", *([str(page + 1)] if page else []))
    return None, page


def _position(prompts: Sequence[Prompt], wanted: str | None) -> int | None:
    """Return the position of the prompt with this id or, for short links, this data set index."""
    for ids in ([p.id for p in prompts], [str(p.item) for p in prompts]):
        if wanted in ids:
            return ids.index(wanted)
    return None


def _open(state: PageState, id: str | None, page: int = 0) -> None:
    """Make a prompt the current one, or show a page without a current prompt."""
    state.set("prompt", *([] if id is None else [id]))
    state.set("page", str(page + 1))


def _show_moves(state: PageState, listing: Listing) -> None:
    """Draw buttons to move between prompts, and the position in the list."""
    shown, position = listing.shown, listing.position
    after = listing.page * PAGE_SIZE if position is None else position + 1
    before = -1 if position is None else position - 1
    with st.container(key="compare-moves"):
        with st.container(horizontal=True, gap="xsmall", vertical_alignment="center"):
            for label, shortcut, target in (("Previous", "K", before), ("Next", "J", after)):
                id = shown[target].id if 0 <= target < len(shown) else None
                st.button(
                    label, shortcut=shortcut, disabled=id is None, on_click=_open, args=(state, id)
                )
        st.caption(_place(listing))


def _show_names(
    names: Sequence[str],
    colors: Mapping[str, str],
    pair: tuple[str, str],
    prompts: Sequence[Prompt],
    is_exact: bool,
) -> None:
    """Draw the names of the runs, with their letters and mean scores."""
    with st.container(key="compare-names"):
        for name in names:
            with st.container(gap=None):
                run_link(name, colors[name], "compare")
                letters = [letter for letter, run in zip("AB", pair, strict=True) if run == name]
                letter = f"{letters[0]} · " if len(names) > 1 and letters else ""
                st.caption(letter + _summary(prompts, name, is_exact))


def _place(listing: Listing) -> str:
    """Return the position in the list of prompts as text."""
    shown, total = len(listing.shown), len(listing.prompts)
    listed = f"{shown:,} prompts" if shown == total else f"{shown:,} of {total:,} prompts"
    if listing.position is not None:
        return f"Prompt {listing.position + 1:,} · {listed}"
    first = listing.page * PAGE_SIZE
    return f"{first + 1:,} to {min(shown, first + PAGE_SIZE):,} · {listed}"


def _summary(prompts: Sequence[Prompt], name: str, is_exact: bool) -> str:
    """Return a run's mean score over its test set."""
    scores = [prompt.scores[name] for prompt in prompts if name in prompt.scores]
    if not scores:
        return "no scores"
    mean = sum(scores) / len(scores)
    return f"{formats.percent(mean / 100)} exact" if is_exact else f"mean {formats.score(mean)}"


def _show_row(
    state: PageState,
    prompt: Prompt,
    names: Sequence[str],
    place: int,
    is_current: bool,
    is_exact: bool,
) -> None:
    """Draw a prompt with the reference and the answers. Pressing the instruction makes it the current prompt."""
    with st.container(key="compare-current" if is_current else f"compare-row-{place % PAGE_SIZE}"):
        with st.container(gap=None):
            st.button(
                escape_markdown(prompt.instruction) or "(empty)",
                key=f"open-{prompt.id}",
                type="tertiary",
                on_click=_open,
                args=(state, None if is_current else prompt.id, place // PAGE_SIZE),
            )
            input = text_html(prompt.input, "") if prompt.input.strip() else ""
            st.html(
                f'<div class="compare-prompt">{input}<span class="compare-label">Reference</span>'
                f"{text_html(prompt.reference, '')}</div>"
            )
        cells = "".join(_cell(prompt, name, is_exact) for name in names)
        st.html(f'<div class="compare-cells">{cells}</div>')


def _cell(prompt: Prompt, name: str, is_exact: bool) -> str:
    """Return the HTML of a run's answer with its score."""
    open_tag = f'<div class="compare-cell" role="group" aria-label="{html.escape(name)}">'
    row: Mapping = prompt.answers.get(name, {})
    if not row:
        note = "This run has no answer to this prompt."
        return f'{open_tag}<span class="compare-note">{note}</span></div>'
    if is_exact:
        kind = "right" if prompt.is_right(name) else "wrong"
        score = f'<span class="compare-score compare-{kind}">{kind.capitalize()}</span>'
    else:
        score = f'<span class="compare-score">{formats.score(prompt.scores.get(name))}</span>'
    words = differing_words(row["answer"].strip(), prompt.reference)
    answer = words_html(words, "") if words else '<span class="compare-note">(empty)</span>'
    notes = []
    if row["cut"]:
        notes.append(f"Cut off at {row['tokens']} tokens.")
    if row["prompt_cut"]:
        notes.append("The prompt exceeded the context length, so its beginning was cut off.")
    listed = "".join(f'<span class="compare-note">{note}</span>' for note in notes)
    return f"{open_tag}{score}{answer}{listed}</div>"


def _show_pager(state: PageState, shown: Sequence[Prompt], page: int) -> None:
    """Draw buttons for the previous and next pages, unless everything fits on one page."""
    pages = -(-len(shown) // PAGE_SIZE)
    if pages < 2:
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        for label, target in (("Previous page", page - 1), ("Next page", page + 1)):
            st.button(
                label, disabled=not 0 <= target < pages, on_click=_open, args=(state, None, target)
            )
        st.caption(f"Page {page + 1:,} of {pages:,}")
