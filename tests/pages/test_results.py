"""The Results page: table contents, filter, columns, downloads, and actions on selected runs."""

import io
import json
import math

import pandas as pd
import pyarrow as pa
import pytest
from streamlit.runtime.memory_media_file_storage import MemoryMediaFileStorage

from core.presets import preset
from core.run.directory import RunDirectory, list_runs
from core.views import journal
from pages.ui import runtime


@pytest.fixture
def downloads(monkeypatch):
    """Return a function that reads the file behind a download button on the current page."""
    storages = []

    class RecordingStorage(MemoryMediaFileStorage):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            storages.append(self)

    monkeypatch.setattr("streamlit.testing.v1.app_test.MemoryMediaFileStorage", RecordingStorage)

    def read_download(page, label):
        url = page.widget(label).proto.url
        return storages[-1].get_file(url.rpartition("/")[2]).content.decode()

    return read_download


def table(page):
    return page.dataframe[0].value


def row(page, name):
    frame = table(page)
    return frame[frame["name"] == name].iloc[0]


def row_index(page, name):
    """Return the position of a run in the table."""
    return table(page)["name"].tolist().index(name)


def test_empty_page_launches_the_demo(open_page):
    page = open_page("results")
    assert page.says("No runs yet")
    assert not page.dataframe
    page.press("Launch the demo")
    assert table(page)["name"].tolist() == ["demo"]
    assert runtime.lab().config("demo").changed(color="") == preset("demo").changed(name="demo")


def test_empty_page_opens_launch_with_a_preset(open_page):
    page = open_page("results").choose("Preset", "run_4").press("Open in Launch")
    assert page.title[0].value == "Launch"
    assert page.query_params["from"] == "run_4"


def test_empty_page_opens_an_uploaded_data_set(open_page):
    page = open_page("results")
    page.widget("upload").set_value(
        ("words.json", b'[{"instruction": "Say a.", "output": "a"}]', "application/json")
    ).run()
    assert page.title[0].value == "Data"
    assert page.says("words.json") or "words" in str(page.query_params)


def test_empty_page_shows_the_journal(open_page):
    page = open_page("results")
    journal_table = table(page.choose("results_journal", True))
    assert journal_table["name"].tolist() == [row["name"] for row in journal.rows()]
    assert not page.exception


def test_row_shows_settings_and_results(write_run, open_page, answer):
    correct_answer = answer(10, "Say red.", "red", "Red!")
    wrong_answer = answer(11, "Say blue.", "blue", "green")
    write_run("one", method="lora", lora_rank=3, lora_alpha=6, lr=2e-4, min_lr=1e-5, epochs=3,
              warmup_fraction=0.2, batch_size=2, notes="mine", answers=[correct_answer, wrong_answer])  # fmt: skip
    expected = {
        "status": "finished", "base_model": "gpt2-nano", "method": "lora", "lora_rank": 3,
        "lora_alpha": 6, "batch_size": 2, "epochs": 3, "lr": 2e-4, "min_lr": 1e-5,
        "warmup_fraction": 0.2, "val_loss": 5 / 6, "perplexity": math.exp(5 / 6), "seconds": 3.0,
        "peak_memory_mb": 506.0, "exact": 0.5, "notes": "mine",
    }  # fmt: skip
    page = open_page("results").choose("columns", [*expected])
    result_row = row(page, "one")
    assert {key: result_row[key] for key in expected} == expected


def test_ineffective_settings_and_missing_values_are_empty(write_run, open_page):
    write_run("full", method="full", min_lr=None)
    write_run("waiting", "queued", method="lora")
    page = open_page("results")
    settings = ["lora_rank", "lora_alpha", "min_lr"]
    page.choose("columns", [*settings, "val_loss", "perplexity", "seconds", "exact"])
    assert pd.isna(row(page, "full")[settings]).all()
    assert pd.isna(row(page, "waiting")[["val_loss", "perplexity", "seconds", "exact"]]).all()
    assert row(page, "waiting")["lora_rank"] == 16
    assert str(table(page)["lora_rank"].dtype).startswith("Int"), "16 and not 16.0"


def test_filter_matches_every_word_in_any_visible_or_hidden_column(write_run, open_page):
    write_run("one", method="lora", notes="Some Thoughts")
    write_run("two", method="full")
    write_run("three", "failed", "no", method="lora")
    page = open_page("results")
    assert len(table(page)) == 3
    for query, names in {
        "lora": {"one", "three"},
        "LORA finished": {"one"},
        "thoughts": {"one"},
        "abacus": {"one", "two", "three"},
        "nothing-like-it": set(),
        "": {"one", "two", "three"},
    }.items():
        page.choose("results_filter", query)
        assert set(table(page)["name"]) == names, query
        expected_caption = f"{len(names)} {'run' if len(names) == 1 else 'runs'}."
        assert page.says(expected_caption if names else "No runs match this filter.")


def shown(page):
    """Return the table's columns, except for the dot, the name and the row buttons."""
    return [c for c in table(page) if c not in ("dot", "name") and not c.startswith("row_")]


DEFAULT_COLUMNS = [
    "status", "changed", "best_val_loss", "best_step", "val_loss", "exact", "seconds",
]  # fmt: skip


def test_added_columns_follow_the_changes(write_run, open_page):
    write_run("one")
    page = open_page("results")
    assert shown(page) == DEFAULT_COLUMNS
    page.choose("columns", [*DEFAULT_COLUMNS, "device", "weight_decay"])
    assert shown(page) == [*DEFAULT_COLUMNS[:2], "device", "weight_decay", *DEFAULT_COLUMNS[2:]]
    assert row(page, "one")["device"] == "Abacus 3000"
    page.choose("columns", [])
    assert table(page)["name"].tolist() == ["one"]
    assert shown(page) == []
    page.press("Reset columns")
    assert shown(page) == DEFAULT_COLUMNS
    assert not page.widgets("Reset columns")


def test_chosen_columns_are_kept_when_the_journal_is_shown(write_run, open_page):
    write_run("one")
    page = (
        open_page("results").choose("columns", ["lr", "val_loss"]).choose("results_journal", True)
    )
    assert {"lr", "val_loss", "journal_run"} <= {*shown(page)}
    assert shown(page.choose("results_journal", False)) == ["lr", "val_loss"]


def test_changes_from_the_parent_are_shown(write_run, open_page):
    write_run("one", method="lora", grad_clip=1.0)
    write_run("two", method="lora", grad_clip=None, parent="one")
    page = open_page("results")
    assert row(page, "two")["changed"] == "gradient clipping 1 → none"
    assert row(page, "one")["changed"].startswith("preset demo_lora: ")
    page.choose("results_filter", "demo_lora")
    assert table(page).empty, "names of presets are not searched"


def test_selected_settings_without_effect_are_dashes(write_run, open_page):
    write_run("lora", method="lora", lora_rank=4)
    write_run("full", method="full")
    page = open_page("results")
    page.tick(row_index(page, "lora"), row_index(page, "full"))
    assert page.dataframe[1].value.loc["Rank", ["lora", "full"]].tolist() == ["4", "—"]


def test_settings_of_selected_runs_are_shown_side_by_side(write_run, open_page):
    write_run("one", method="lora", lora_rank=4, notes="mine")
    write_run("two", method="lora", lora_rank=8, dropout=0.1)
    page = open_page("results")
    page.tick(row_index(page, "one"), row_index(page, "two"))
    settings_table = page.dataframe[1].value
    assert settings_table.loc["Rank", ["one", "two"]].tolist() == ["4", "8"]
    assert settings_table.loc["Dropout", ["one", "two"]].tolist() == ["0", "0.1"]
    assert "Method" not in settings_table.index
    page.choose("Show all settings", True)
    page.tick(row_index(page, "one")).tick(row_index(page, "one"), row_index(page, "two"))
    assert "Method" in page.dataframe[1].value.index


def test_settings_of_one_run_are_shown_next_to_the_defaults(write_run, open_page):
    write_run("one", method="full", epochs=7)
    page = open_page("results").tick(0)
    settings_table = page.dataframe[1].value
    assert settings_table.loc["Epochs", ["one", "Default value"]].tolist() == ["7", "1"]
    assert "Rank" not in settings_table.index, "a rank has no effect without LoRA"


def test_runs_with_different_test_examples_show_a_warning(write_run, open_page):
    write_run("one", max_examples=900)
    assert not open_page("results").says("different examples")
    write_run("two", max_examples=90)
    runtime.lab().refresh()
    page = open_page("results")
    assert page.says("tested on different examples (Max examples)")
    page.choose("results_filter", "one")
    assert not page.says("different examples")


def test_filter_supports_comparisons_and_reports_invalid_ones(write_run, open_page):
    write_run("one", lr=1e-4)
    write_run("two", lr=2e-4)
    page = open_page("results").choose("results_filter", "lr>1e-4")
    assert table(page)["name"].tolist() == ["two"]
    page.choose("results_filter", "learning rate < 2e-4")
    assert table(page)["name"].tolist() == ["one"]
    page.choose("results_filter", "time > 5")
    assert not page.error
    assert table(page).empty
    page.choose("results_filter", "final loss < 9")
    assert len(table(page)) == 2
    for query in ("time > 2", "Time (s) > 2", "peak memory > 200", "peak memory (MB)>200"):
        page.choose("results_filter", query)
        assert table(page)["name"].tolist() == ["two", "one"], query
    page.choose("results_filter", "speed>1e-4")
    assert page.says("Unknown column 'speed'")
    assert len(table(page)) == 2


def test_downloads_have_the_headings_rows_and_formats_of_the_table(write_run, open_page, downloads):
    write_run("one", notes='a|b, "c"\nd', lr=5e-5)
    write_run("two", lr=1e-4)
    write_run("three", "failed", "no")
    page = open_page("results").choose("results_filter", "finished").choose("results_sort", "lr")
    page.choose("columns", ["status", "lr", "val_loss", "seconds", "notes"])
    csv = pd.read_csv(io.StringIO(downloads(page, "CSV")), dtype=str)
    assert csv.columns.tolist() == [
        "Run",
        "Status",
        "Learning rate",
        "Notes",
        "Final loss",
        "Time (s)",
    ]
    assert csv["Run"].tolist() == table(page)["name"].tolist() == ["one", "two"]
    assert csv["Notes"].tolist()[0] == 'a|b, "c"\nd'
    assert csv["Learning rate"].tolist() == ["5e-5", "1e-4"]
    assert float(csv["Final loss"][0]) == pytest.approx(5 / 6, rel=1e-12)
    lines = downloads(page, "Markdown").splitlines()
    assert lines[0] == "| Run | Status | Learning rate | Notes | Final loss | Time |"
    assert lines[2] == '| one | finished | 5e-5 | a\\|b, "c" d | 0.8333 | 3 s |'
    assert len(lines) == 4
    page.choose("results_sort", "name").press(":material/arrow_upward:").choose(
        "results_group", "lr"
    )
    csv = pd.read_csv(io.StringIO(downloads(page, "CSV")), dtype=str)
    assert csv.columns.tolist()[:2] == ["Group", "Run"]
    assert csv["Group"].tolist() == ["5e-5 · 1 run", "1e-4 · 1 run"]


def test_journal_download_has_the_columns_of_the_journal(write_run, open_page, downloads):
    write_run("one", lr=5e-5)
    page = open_page("results").choose("results_journal", True).choose("results_filter", "one")
    header = downloads(page, "Markdown").splitlines()[0]
    assert header.startswith("| run_name | model_sz | batch_sz |")


def test_numbers_have_consistent_formats_and_stay_numbers(write_run, open_page, downloads):
    write_run("diverged", scale=66.0 * 1.2, lr=5e-5)
    write_run("sound", lr=0.001)
    value = math.exp(66.0)
    page = open_page("results").choose("columns", ["lr", "val_loss", "perplexity", "mask_prompt"])
    assert row(page, "diverged")["perplexity"] == pytest.approx(value)
    cells = displayed(page)
    assert cells["lr"] == ["0.001", "5e-5"]
    assert cells["val_loss"] == ["0.8333", "66.0000"]
    assert cells["perplexity"] == ["2.301", f"{value:.4g}"]
    assert row(page, "sound")["mask_prompt"] == "off"
    csv = pd.read_csv(io.StringIO(downloads(page, "CSV"))).set_index("Run")
    assert csv["Perplexity"]["diverged"] == pytest.approx(value, rel=1e-12)
    assert f"| {value:.4g} |" in downloads(page, "Markdown")


def displayed(page):
    """Return the text of the cells by column, as displayed."""
    proto = page.dataframe[0].proto
    return pa.ipc.open_stream(proto.arrow_data.styler.display_values).read_pandas().to_dict("list")


def test_empty_table_exports_only_the_header(write_run, open_page, downloads):
    write_run("one")
    page = open_page("results").choose("results_filter", "nothing-like-it")
    assert downloads(page, "CSV").splitlines() == [
        "Run,Status,Changed from parent,Best validation loss,@ step,Final loss,Exact,Time (s)"
    ]
    assert downloads(page, "Markdown") == ""
    assert page.widget("Open in Live").disabled


def test_notes_are_saved_with_the_run_and_shown(write_run, open_page):
    run = write_run("one")
    page = open_page("results", column="notes").tick(0)
    page.widget("notes:one").set_value("it *learned*\nfast")
    page.run()
    assert json.loads(run.config_path.read_text())["notes"] == "it *learned*\nfast"
    assert row(page, "one")["notes"] == "it *learned*\nfast"
    assert page.widget("notes:one").value == "it *learned*\nfast"
    assert open_page("results").tick(0).widget("notes:one").value == "it *learned*\nfast"


def test_notes_over_the_length_limit_are_rejected(write_run, open_page):
    run = write_run("one", notes="short")
    page = open_page("results").tick(0)
    page.widget("notes:one").set_value("x" * 20_001)
    page.run()
    assert page.says("must have at most 20000 characters")
    assert run.config().notes == "short"


def test_unsaved_notes_show_a_hint(write_run, open_page):
    run = write_run("one", notes="short")
    page = open_page("results").tick(0)
    page.widget("notes:one").set_value("x" * 20_001)
    page.run().run()
    assert page.says("You have unsaved changes.")
    page.choose("notes:one", "long enough")
    assert not page.says("You have unsaved changes.")
    assert run.config().notes == "long enough"


def test_notes_edited_in_two_tabs_are_not_overwritten_silently(write_run, open_page):
    run = write_run("one")
    first_tab, second_tab = (open_page("results").tick(0) for _ in range(2))
    second_tab.choose("notes:one", "from *there*")
    assert first_tab.run().widget("notes:one").value == "from *there*", (
        "this tab has no unsaved edits"
    )
    second_tab.choose("notes:one", "from there again")
    first_tab.choose("notes:one", "from here")
    assert first_tab.says("Current notes: from there again.")
    assert run.config().notes == "from there again"
    assert first_tab.widget("notes:one").value == "from here"
    first_tab.press("Save notes")
    assert run.config().notes == "from here"
    assert not first_tab.widgets("Save notes")


def test_editing_notes_does_not_affect_a_running_run(write_run, open_page):
    run = write_run("one", "running", planned=99)
    page = open_page("results").tick(0)
    page.widget("notes:one").set_value("going well")
    page.run()
    assert run.config().notes == "going well"
    assert run.status() == "running"


def names_on_disk():
    return {run.name for run in list_runs(runtime.lab().runs_dir)}


def test_deleted_runs_can_be_restored(write_run, open_page):
    for name in ("one", "two", "three"):
        write_run(name)
    page = open_page("results")
    page.tick(row_index(page, "one"), row_index(page, "two")).press("Delete")
    assert page.says("Deleted 2 runs.")
    assert table(page)["name"].tolist() == ["three"]
    assert names_on_disk() == {"three"}
    page.press("Undo")
    assert names_on_disk() == {"one", "two", "three"}
    assert not page.widgets("Undo")

    page.tick(row_index(page, "one")).press("Delete")
    page.press("dismiss_undo").press("Restore")
    assert set(table(page)["name"]) == {"one", "two", "three"}
    page.tick(row_index(page, "one")).press("Delete").press("Empty trash")
    assert not runtime.lab().trash()
    assert not page.widgets("Undo")


def test_running_run_cannot_be_deleted(write_run, open_page):
    run = write_run("one", "running", planned=99)
    page = open_page("results").tick(0).press("Delete")
    assert page.says("one is being trained; stop it first")
    assert run.config_path.exists()
    assert not page.widgets("Undo")


def test_archived_runs_are_hidden_unless_shown(write_run, open_page):
    write_run("one")
    run = write_run("two")
    page = open_page("results")
    assert not page.widgets("archived")
    page.tick(row_index(page, "two")).press("Archive")
    assert run.config().archived
    assert table(page)["name"].tolist() == ["one"]
    assert page.says("1 run, 1 archived.")
    page.choose("results_archived", True)
    assert table(page)["name"].tolist() == ["two", "one"]
    page.tick(row_index(page, "two")).press("Unarchive")
    assert not run.config().archived
    page.press("Undo")
    assert run.config().archived


def test_clone_opens_launch_with_the_run(write_run, open_page):
    write_run("one")
    page = open_page("results").tick(0).press("Clone")
    assert page.title[0].value == "Launch"
    assert page.query_params["from"] == "one"


def test_rows_are_grouped_by_setting_tag_or_parent(write_run, open_page):
    write_run("one", lora_rank=16, tags=["a"])
    write_run("two", lora_rank=4, tags=["a", "b"], parent="one")
    write_run("three", method="full", parent="one")
    write_run("four", lora_rank=16, parent="deleted")
    page = open_page("results")

    def groups():
        return list(zip(table(page)["group"], table(page)["name"], strict=True))

    page.choose("results_group", "lora_rank")
    assert [*table(page)][:3] == ["group", "dot", "name"]
    assert groups() == [
        ("4 · 1 run", "two"), ("16 · 2 runs", "four"), ("16 · 2 runs", "one"), ("— · 1 run", "three"),
    ]  # fmt: skip
    page.choose("results_group", "tags")
    assert groups() == [
        ("a · 2 runs", "two"), ("a · 2 runs", "one"), ("b · 1 run", "two"),
        ("no tag · 2 runs", "four"), ("no tag · 2 runs", "three"),
    ]  # fmt: skip
    assert page.says("4 runs.")
    page.choose("results_group", "parent")
    assert groups() == [
        ("deleted · 1 run", "four"), ("one · 3 runs", "three"), ("one · 3 runs", "two"),
        ("one · 3 runs", "one"),
    ]  # fmt: skip
    page.choose("results_sort", "name")
    assert [name for _, name in groups()] == ["four", "one", "three", "two"]


def test_rows_are_sorted_by_a_column(write_run, open_page):
    write_run("b", scale=1.0)
    write_run("A", scale=2.0)
    write_run("c", "queued")
    page = open_page("results")
    assert table(page)["name"].tolist() == ["c", "a", "b"], "newest first"
    assert table(page.choose("results_sort", "val_loss"))["name"].tolist() == ["b", "a", "c"]
    page.press(":material/arrow_upward:")
    assert table(page)["name"].tolist() == ["a", "b", "c"], "missing values come last"


def test_link_restores_the_view(write_run, open_page):
    for name in ("one", "two", "three"):
        write_run(name, lora_rank=len(name))
    write_run("old", archived=True)
    page = open_page("results").choose("results_filter", "o").choose("results_group", "lora_rank")
    page.choose("results_sort", "name").press(":material/arrow_upward:").choose(
        "results_archived", True
    )
    page.choose("columns", [*DEFAULT_COLUMNS[1:], "lr"]).tick(row_index(page, "one"))
    link = page.query_params
    assert link == {
        "filter": "o", "group": "lora_rank", "sort": "-name", "column": ["lr", "-status"],
        "archived": "1", "run": "one",
    }  # fmt: skip
    fresh = open_page("results", **link)
    assert table(fresh).equals(table(page))
    assert fresh.widget("notes:one")
    assert fresh.query_params == link
    page.go("live").go("results")
    assert page.query_params == link, "the session remembers the view"
    page.choose("results_filter", "").choose("results_group", None).choose(
        "results_sort", None
    ).choose("results_archived", False)
    page.press("Reset columns").tick()
    assert page.query_params == {}


def test_unknown_names_in_a_link_are_reported(write_run, open_page):
    write_run("one")
    page = open_page("results", run=["one", "x"], group="abacus", sort="-y", column=["lr", "z"])
    for notice in ("run: x", "group: abacus", "column: z", "sort: y"):
        assert page.says(f"Unknown {notice}.")
    assert page.widget("notes:one")
    assert "lr" in shown(page)
    assert page.query_params == {"run": "one", "column": "lr"}
    page.tick()
    assert not page.says("Unknown run")


def test_selected_runs_stay_selected_when_rows_change(write_run, open_page):
    write_run("one")
    page = open_page("results").tick(0)
    assert page.widget("notes:one")
    write_run("two")
    runtime.lab().refresh()
    page.run()
    assert table(page)["name"].tolist() == ["two", "one"]
    assert page.widget("notes:one")
    assert page.session_state["results"]["selection"]["rows"] == [1]
    page.choose("results_filter", "two")
    assert not page.widgets("notes:one")
    assert not page.widgets("notes:two")
    assert page.choose("results_filter", "").widget("notes:one")
    page.choose("columns", ["lr"]).choose("results_filter", "one")
    assert page.widget("notes:one")
    page.tick()
    assert not page.choose("results_filter", "").widgets("notes:one")


def test_click_selects_the_run_shown_when_the_table_was_drawn(write_run, open_page):
    write_run("one")
    page = open_page("results")
    write_run("two")
    runtime.lab().refresh()  # after the table was drawn, but before the click
    page.tick(0)
    assert table(page)["name"].tolist() == ["two", "one"]
    assert page.widget("notes:one")
    page.press("Open in Live")
    assert page.widget("live_run").value == ["one"]


def test_actions_ignore_runs_hidden_by_a_filter(write_run, open_page):
    for name in ("one", "two", "three"):
        write_run(name)
    page = open_page("results")
    page.tick(row_index(page, "one"), row_index(page, "two")).choose("results_filter", "one")
    assert page.widget("notes:one")
    page.press("Open in Live")
    assert page.widget("live_run").value == ["one"]


def test_selection_survives_a_visit_to_another_page(write_run, open_page):
    write_run("one")
    write_run("two")
    page = open_page("results")
    page.tick(row_index(page, "one")).go("live").go("results")
    assert page.widget("notes:one")


def test_selected_runs_open_in_live(write_run, open_page):
    for name in ("one", "two", "three"):
        write_run(name)
    page = open_page("results")
    assert page.widget("Open in Live").disabled
    row_indices = [row_index(page, "three"), row_index(page, "one")]
    page.tick(*row_indices).press("Open in Live")
    assert page.title[0].value == "Live"
    assert page.widget("live_run").value == ["three", "one"]


def test_selected_runs_open_in_compare(write_run, open_page, answer):
    for name in ("one", "two", "three"):
        write_run(name, answers=[answer(10, "Say red.", "red", f"from {name}")])
    page = open_page("results")
    assert page.widget("Compare").disabled
    page.tick(row_index(page, "two"), row_index(page, "three")).press("Compare")
    assert page.title[0].value == "Compare"
    assert page.widget("compare_run").value == ["two", "three"]
    assert not page.says("from one")
    assert page.query_params["run"] == ["two", "three"]


def test_run_started_by_another_process_appears(write_run, open_page, wait):
    page = open_page("results")
    write_run("from-shell")
    wait(lambda: page.run().dataframe, 10)
    assert table(page)["name"].tolist() == ["from-shell"]


def test_damaged_run_does_not_hide_others(write_run, open_page):
    write_run("sound")
    broken = write_run("broken")
    broken.config_path.write_text("{]")
    broken.events_path.write_text('{"seq": 1, "event": "status"}\nrubbish\n')
    page = open_page("results")
    assert row(page, "sound")["status"] == "finished"
    assert "broken" in table(page)["name"].tolist()
    page.tick(row_index(page, "broken"))
    assert RunDirectory(broken.path).status() == "queued"


def test_every_setting_is_a_selectable_and_filterable_column(write_run, open_page):
    write_run("one", tags=["rank study", "slow"], max_examples=900)
    write_run("two")
    page = open_page("results").choose("results_filter", "slow rank")
    assert table(page)["name"].tolist() == ["one"]
    page.choose("columns", ["tags", "max_examples", "created", "steps"])
    result_row = row(page, "one")
    assert (result_row["tags"], result_row["max_examples"], result_row["steps"]) == (
        "rank study, slow",
        900,
        6,
    )
    assert result_row["created"].startswith("20")
    page.choose("results_filter", "no such words")
    assert page.says("No runs match this filter.")


def test_validation_losses_of_unfinished_runs_are_marked(write_run, open_page):
    write_run("done", steps=6)
    page = open_page("results")
    assert "val_set" not in table(page)
    write_run("active", "running", steps=3, planned=6)
    runtime.lab().refresh()
    page.run()
    marks = table(page).set_index("name")["val_set"].to_dict()
    assert marks == {"done": "whole set", "active": "subset"}


def test_column_widths_fit_their_headings(write_run, open_page):
    write_run("a")
    page = open_page("results", column="min_lr")
    config = json.loads(page.dataframe[0].proto.columns)
    assert config["min_lr"]["width"] >= 6 * len("Min learning rate")
