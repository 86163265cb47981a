"""The Results page: table contents, filter, columns, downloads, and actions on selected runs."""

import io
import json
import math

import pandas as pd
import pytest
from streamlit.runtime.memory_media_file_storage import MemoryMediaFileStorage

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


def test_page_without_runs_links_to_launch(open_page):
    page = open_page("results")
    assert page.says("No runs yet")
    assert page.get("page_link")[0].label == "Launch"
    assert not page.dataframe
    journal_table = table(page.choose("Journal", True))
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
    page = open_page("results").choose("Columns", ["name", *expected])
    result_row = row(page, "one")
    assert {key: result_row[key] for key in expected} == expected


def test_ineffective_settings_and_missing_values_are_empty(write_run, open_page):
    write_run("full", method="full", min_lr=None)
    write_run("waiting", "queued", method="lora")
    page = open_page("results")
    settings = ["lora_rank", "lora_alpha", "min_lr"]
    page.choose("Columns", ["name", *settings, "val_loss", "perplexity", "seconds", "exact"])
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
        "none": set(),
        "nothing-like-it": set(),
        "": {"one", "two", "three"},
    }.items():
        page.choose("Filter", query)
        assert set(table(page)["name"]) == names, query
        expected_caption = f"{len(names)} {'run' if len(names) == 1 else 'runs'}."
        assert page.says(expected_caption if names else "No runs match this filter.")


def test_columns_can_be_selected_and_reset(write_run, open_page):
    write_run("one")
    page = open_page("results")
    assert "device" not in table(page)
    page.choose("Columns", ["name", "device", "weight_decay"])
    assert sorted(table(page)) == ["device", "name", "weight_decay"]
    assert row(page, "one")["device"] == "Abacus 3000"
    page.choose("Columns", [])
    assert "name" in table(page), "an empty selection shows the leading columns"
    page.press("Reset columns")
    assert "val_loss" in table(page)
    assert not page.widgets("Reset columns")


def test_differing_settings_are_shown_until_columns_are_selected(write_run, open_page):
    write_run("one", weight_decay=0.1)
    page = open_page("results")
    assert not {"weight_decay", "grad_clip"} & {*table(page)}
    write_run("two", weight_decay=0.2, grad_clip=None)
    runtime.lab().refresh()
    page.run()
    assert {"weight_decay", "grad_clip"} <= {*table(page)}
    page.choose("Columns", ["name"]).choose("Journal", True)
    assert "journal_run" in table(page)
    page.choose("Journal", False)
    write_run("three", seed=5)
    runtime.lab().refresh()
    page.run()
    assert [*table(page)] == ["name"], "the user's columns are kept"


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
    page.choose("Filter", "one")
    assert not page.says("different examples")


def test_filter_supports_comparisons_and_reports_invalid_ones(write_run, open_page):
    write_run("one", lr=1e-4)
    write_run("two", lr=2e-4)
    page = open_page("results").choose("Filter", "lr>1e-4")
    assert table(page)["name"].tolist() == ["two"]
    page.choose("Filter", "learning rate < 2e-4")
    assert table(page)["name"].tolist() == ["one"]
    page.choose("Filter", "time > 5")
    assert not page.error
    assert table(page).empty
    for query in ("time > 2", "Time (s) > 2", "peak memory > 200", "peak memory (MB)>200"):
        page.choose("Filter", query)
        assert table(page)["name"].tolist() == ["two", "one"], query
    page.choose("Filter", "speed>1e-4")
    assert page.says("Unknown column 'speed'")
    assert len(table(page)) == 2


def test_downloads_match_the_displayed_table(write_run, open_page, downloads):
    write_run("one", notes='a|b, "c"\nd')
    write_run("two", "failed", "no")
    page = open_page("results").choose("Filter", "one")
    csv = pd.read_csv(io.StringIO(downloads(page, "CSV")))
    assert csv.columns.tolist() == table(page).columns.tolist()
    assert csv["name"].tolist() == ["one"]
    assert csv["notes"].tolist() == ['a|b, "c"\nd']
    assert csv["val_loss"].tolist() == pytest.approx([5 / 6])
    lines = downloads(page, "Markdown").splitlines()
    assert len(lines) == 3
    header = lines[0].strip("| ").split(" | ")
    assert header == table(page).columns.tolist()
    assert "0.8333" in lines[2]
    assert 'a\\|b, "c" d' in lines[2]


def test_large_perplexity_is_shown_in_scientific_notation(write_run, open_page, downloads):
    write_run("diverged", scale=66.0 * 1.2)
    write_run("sound")
    value = math.exp(66.0)
    page = open_page("results")
    assert row(page, "diverged")["perplexity"] == pytest.approx(value)
    config = json.loads(page.dataframe[0].proto.columns)
    assert config["perplexity"]["type_config"]["format"] == "%.3e"
    assert config["val_loss"]["type_config"]["format"] == "%.4f"
    csv = pd.read_csv(io.StringIO(downloads(page, "CSV"))).set_index("name")
    assert csv["perplexity"]["diverged"] == pytest.approx(value, rel=1e-12)
    assert f"| {value:.4g} |" in downloads(page, "Markdown")
    page.choose("Filter", "sound")
    config = json.loads(page.dataframe[0].proto.columns)
    assert config["perplexity"]["type_config"]["format"] == "%.3f"


def test_empty_table_exports_only_the_header(write_run, open_page, downloads):
    write_run("one")
    page = open_page("results").choose("Filter", "nothing-like-it")
    assert downloads(page, "CSV").splitlines() == [",".join(table(page).columns)]
    assert downloads(page, "Markdown") == ""
    assert page.widget("Open in Live").disabled


def test_notes_are_saved_with_the_run_and_shown(write_run, open_page):
    run = write_run("one")
    page = open_page("results").tick(0)
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


def test_deleting_a_run_removes_its_directory(write_run, open_page):
    write_run("one")
    other_run = write_run("two")
    page = open_page("results")
    page.tick(row_index(page, "one")).press("Delete this run")
    assert table(page)["name"].tolist() == ["two"]
    assert [run.name for run in list_runs(other_run.path.parent)] == ["two"]
    assert page.says("1 run")


def test_running_run_cannot_be_deleted(write_run, open_page):
    run = write_run("one", "running", planned=99)
    page = open_page("results").tick(0).press("Delete this run")
    assert page.says("one is being trained; stop it first")
    assert run.config_path.exists()


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
    page.choose("Filter", "two")
    assert not page.widgets("notes:one")
    assert not page.widgets("notes:two")
    assert page.choose("Filter", "").widget("notes:one")
    page.choose("Columns", ["name", "lr"]).choose("Filter", "one")
    assert page.widget("notes:one")
    page.tick()
    assert not page.choose("Filter", "").widgets("notes:one")


def test_click_selects_the_run_shown_when_the_table_was_drawn(write_run, open_page):
    write_run("one")
    page = open_page("results")
    write_run("two")
    runtime.lab().refresh()  # after the table was drawn, but before the click
    page.tick(0)
    assert table(page)["name"].tolist() == ["two", "one"]
    assert page.widget("notes:one")
    page.press("Open in Live")
    assert page.widget("live_runs").value == ["one"]


def test_actions_ignore_runs_hidden_by_a_filter(write_run, open_page):
    for name in ("one", "two", "three"):
        write_run(name)
    page = open_page("results")
    page.tick(row_index(page, "one"), row_index(page, "two")).choose("Filter", "one")
    assert page.widget("notes:one")
    page.press("Open in Live")
    assert page.widget("live_runs").value == ["one"]


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
    assert page.widget("live_runs").value == ["three", "one"]


def test_selected_runs_open_in_compare(write_run, open_page, answer):
    for name in ("one", "two", "three"):
        write_run(name, answers=[answer(10, "Say red.", "red", f"from {name}")])
    page = open_page("results")
    assert page.widget("Compare").disabled
    page.tick(row_index(page, "two"), row_index(page, "three")).press("Compare")
    assert page.title[0].value == "Compare"
    assert page.widget("compare_run").value == ["two", "three"]
    assert not page.says("from one")


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
    page = open_page("results").choose("Filter", "slow rank")
    assert table(page)["name"].tolist() == ["one"]
    page.choose("Columns", ["name", "tags", "max_examples", "created", "steps"])
    result_row = row(page, "one")
    assert (result_row["tags"], result_row["max_examples"], result_row["steps"]) == (
        "rank study, slow",
        900,
        6,
    )
    assert result_row["created"].startswith("20")
    page.choose("Filter", "no such words")
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
