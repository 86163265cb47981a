"""Baseline and noise: differences in Results, on the run page and in Compare, and a study that compares two runs."""

import pytest

from core.views.differences import NOT_COMPARABLE, ONE_PAIR
from pages.ui import runtime


@pytest.fixture
def write_pair(write_run, answer):
    """A function that writes the runs one and two, with different learning rates and answers."""

    def write(**settings):
        texts = {"one": ("red", "no"), "two": ("red", "blue")}
        for name, (first, second) in texts.items():
            answers = (
                answer(10, "Say red.", "red", first),
                answer(11, "Say blue.", "blue", second),
            )
            rate, scale = (1e-4, 1.0) if name == "one" else (2e-4, 0.99)
            write_run(name, lr=rate, scale=scale, answers=answers, **settings)

    return write


@pytest.fixture
def write_repeats(write_run):
    """A function that writes three more seeds of run one. Their losses have a standard deviation of 5%."""

    def write(**settings):
        for seed, scale in enumerate((0.95, 1.0, 1.05)):
            write_run(f"seed-{seed}", lr=1e-4, seed=seed, scale=scale, **settings)

    return write


def table(page):
    return page.dataframe[0].value.set_index("name")


def grayed(page):
    """Return the CSS of the table."""
    return page.dataframe[0].proto.arrow_data.styler.styles


def test_pinned_run_is_compared_in_results_until_it_is_unpinned(write_pair, open_page):
    write_pair()
    page = open_page("run", name="one").press("Pin as baseline")
    assert page.widget("Unpin baseline")
    page = open_page("results")
    differences = table(page)["delta_val_loss"]
    assert differences["two"] == pytest.approx(-0.01 * 5 / 6)
    assert differences.isna()["one"]
    assert table(page)["delta_exact"]["two"] == 0.5
    assert (
        table(page).columns.tolist().index("delta_exact")
        == table(page).columns.tolist().index("exact") + 1
    )
    page.choose("results_filter", "\u0394 final loss < 0")
    assert table(page).index.tolist() == ["two"]
    page.press("Unpin")
    assert "delta_val_loss" not in table(page)


def test_baseline_survives_a_restart_and_can_be_pinned_in_results(write_pair, open_page):
    write_pair()
    page = open_page("results")
    page.tick(page.dataframe[0].value["name"].tolist().index("two")).press("Pin as baseline")
    runtime.release()
    page = open_page("results")
    assert table(page)["delta_val_loss"]["one"] == pytest.approx(0.01 * 5 / 6)


def test_deleted_baseline_is_unpinned_with_a_message(write_pair, open_page):
    write_pair()
    open_page("run", name="one").press("Pin as baseline")
    runtime.lab().delete("one")
    runtime.lab().refresh()
    page = open_page("results")
    assert page.says("The baseline one was deleted, so it is no longer pinned.")
    assert "delta_val_loss" not in table(page)
    assert not open_page("run", name="two").says("The baseline one was deleted")


def test_one_pair_proves_nothing_and_three_seeds_are_offered(write_pair, open_page):
    write_pair()
    open_page("run", name="one").press("Pin as baseline")
    page = open_page("results")
    assert page.says(ONE_PAIR)
    page = open_page("results", run="two")
    sentence = f"two vs. one: validation loss -0.0083. {ONE_PAIR}"
    assert page.says(sentence)
    assert sum(ONE_PAIR in text.replace("\\", "") for text in page.texts()) == 1, "said once"
    assert page.says("The noise is unknown. Start with 3 seeds of both settings")
    assert page.says("6 runs: Learning rate 1e-4 or 2e-4, with 3 seeds each.")
    page.press("plan_repeats")
    assert page.title[0].value == "Launch"
    assert page.query_params["from"] == "one"


def test_difference_within_the_noise_is_gray(write_pair, write_repeats, open_page):
    write_pair()
    write_repeats()
    open_page("run", name="one").press("Pin as baseline")
    page = open_page("results", run="two")
    assert page.says(
        "two vs. one: validation loss -0.0083, within the noise of two single runs (up to 18%, estimated from 3 repeats)."
    )
    assert page.says("To detect 1.0% in 80% of studies")
    assert not page.says(ONE_PAIR)
    assert "color: #767c88" in grayed(page)


def test_effect_is_shown_if_both_settings_have_several_seeds(write_run, open_page):
    for rate, scales in ((1e-4, (1.0, 1.02, 1.01)), (3e-4, (0.5, 0.52, 0.5))):
        for seed, scale in enumerate(scales):
            write_run(f"rate-{rate}-{seed}", lr=rate, seed=seed, scale=scale)
    page = open_page("results", run=["rate-0.0001-0", "rate-0.0003-0"])
    assert page.says("validation loss -0.4167. With several seeds of both settings: -0.4")
    assert page.says(", better, 3 seeds.")


def test_number_of_seeds_follows_the_smallest_difference(write_pair, write_repeats, open_page):
    write_pair()
    write_repeats()
    open_page("run", name="one").press("Pin as baseline")
    page = open_page("results", run="two").choose("smallest_difference:val_loss", 10.0)
    assert page.says("To detect 10% in 80% of studies: 6 seeds of both settings (4")


def test_runs_with_the_same_settings_differ_by_noise(write_repeats, open_page):
    write_repeats()
    page = open_page("results", run=["seed-0", "seed-2"])
    assert page.says("The settings are the same, so the difference is noise.")
    assert not page.widgets("plan_repeats")


def test_run_page_compares_with_the_baseline_or_the_parent(write_pair, write_run, open_page):
    write_pair()
    write_run("child", parent="one", lr=3e-4, scale=1.2)
    page = open_page("run", name="child")
    assert page.says("Differences from the parent")
    [tile] = [metric for metric in page.metric if metric.label == "Best validation loss"]
    assert tile.delta == "+0.3333"
    open_page("run", name="two").press("Pin as baseline")
    page = open_page("run", name="child")
    assert page.says("Differences from the baseline")
    assert not open_page("run", name="two").says("Differences from")


def test_losses_on_other_data_are_not_compared(write_pair, write_run, open_page):
    write_pair()
    write_run("other", parent="one", mask_prompt=True)
    write_run("stopped", "stopped", parent="one")
    assert not open_page("run", name="stopped").says("Differences from")
    page = open_page("run", name="other")
    assert page.says(NOT_COMPARABLE)
    [tile] = [metric for metric in page.metric if metric.label == "Best validation loss"]
    assert not tile.delta


def test_compare_says_whether_exact_answers_differ_by_more_than_the_noise(
    write_pair, write_run, answer, open_page
):
    write_pair()
    page = open_page("compare", run=["one", "two"])
    assert page.says(f"one vs. two: exact answers -50.0 pp. {ONE_PAIR}")
    for seed, text in enumerate(("red", "no", "red")):
        answers = (answer(10, "Say red.", "red", text), answer(11, "Say blue.", "blue", "no"))
        write_run(f"seed-{seed}", seed=seed, answers=answers)
    runtime.lab().refresh()
    page.run()
    assert page.says("one vs. two: exact answers -50.0 pp, within the noise of two single runs")


def graph(page):
    [chart] = page.get("graphviz_chart")
    return chart.proto.spec


def test_journal_rows_have_no_difference(write_pair, write_run, open_page):
    write_pair()
    write_run("run_4", lr=3e-4)
    open_page("run", name="one").press("Pin as baseline")
    page = open_page("results", journal="1")
    rows = page.dataframe[0].value
    same_name = rows[rows["name"] == "run_4"]
    assert same_name["delta_val_loss"].notna().sum() == 1


def test_lineage_of_a_run_is_a_tab(write_pair, write_run, open_page):
    write_pair()
    write_run("child", parent="one", lr=3e-4, scale=0.9)
    page = open_page("run", name="one", tab="Lineage")
    assert "learning rate 1e-4 → 3e-4" in graph(page)
    assert "single pair" in graph(page)
    assert "two" not in graph(page)
    assert open_page("run", name="two", tab="Lineage").says("This run was not cloned from another")


def test_lineage_in_results_shows_the_listed_or_selected_runs(write_pair, write_run, open_page):
    write_pair()
    write_run("child", parent="one", lr=3e-4)
    write_run("grandchild", parent="two", lr=3e-4)
    page = open_page("results").choose("results_lineage", True)
    assert page.query_params["lineage"] == "1"
    assert all(f"name={name}" in graph(page) for name in ("one", "child", "two", "grandchild"))
    page = open_page("results", lineage="1", run="child")
    assert "name=one" in graph(page)
    assert "name=two" not in graph(page)
