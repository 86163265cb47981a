"""The Data page: data set statistics, tokenized examples, and overlap between training and test sets."""

import json
import re

import pytest


@pytest.fixture
def dataset(tmp_path):
    """Forty examples. The first test example is a copy of a training example."""
    records = [{"instruction": f"Count to {n}.", "output": f"{n} it is."} for n in range(40)]
    records[34] = {"instruction": "Count to 3.", "output": "3 it is."}
    records[35] = {"instruction": "Name a <b>bird</b>.", "input": "in *French*", "output": "oiseau"}
    path = tmp_path / "forty.json"
    path.write_text(json.dumps(records))
    return path


def first_table(page):
    return page.dataframe[0].value


def token_html(page):
    return " ".join(html.proto.body for html in page.get("html"))


def test_embedded_data_set_is_the_default(page):
    page.go("data")
    assert [m.label for m in page.metric][:3] == ["Train", "Test", "Validation"]
    assert "Response" in token_html(page)
    assert first_table(page)["part"].tolist()[0] == "train"


def test_local_file_can_be_inspected(page, dataset):
    page.go("data", dataset=str(dataset))
    assert [m.value for m in page.metric][:3] == ["34", "4", "2"]
    page.widget("Find examples").set_value("bird").run()
    assert first_table(page)["item"].tolist() == [35]
    assert "&lt;" in token_html(page)
    assert "<b>" not in token_html(page)


def test_truncated_and_masked_tokens_are_counted(page, dataset):
    page.go("data", dataset=str(dataset))
    page.widget("Max length").set_value(36).run()
    page.widget("Mask prompt").set_value(True).run()
    caption = next(c.value for c in page.caption if c.value.startswith("Item 0"))
    assert "targets (blue): 0" not in caption
    assert "(struck through): 0" not in caption
    assert page.metric[6].value == "34"


def test_train_test_duplicates_are_listed(page, dataset):
    page.go("data", dataset=str(dataset))
    page.widget("View").set_value("Leaks").run()
    frame = first_table(page)
    assert frame["Items"].tolist()[0] == "34, 3"
    assert frame["Same prompt"].tolist()[0]


def test_unreadable_data_set_is_reported(page):
    page.go("data", dataset="nowhere.json")
    assert "file not found" in page.error[0].value.replace("\\", "")


def test_missing_download_is_reported(page):
    page.go("data", dataset="owner/name")
    assert "has not been downloaded yet" in page.info[0].value


def test_switching_data_sets_updates_the_page(page, dataset):
    page.go("data", dataset=str(dataset))
    page.widget("data_dataset").set_value("primer").run()
    assert page.metric[0].value == "2,006"
    page.widget("Max length").set_value(30).run()
    assert [page.metric[i].value for i in (0, 6)] == ["2,006", "2,006"]


def test_skipped_records_and_unused_keys_are_listed(page, tmp_path):
    records = [{"instruction": f"Count to {n}.", "output": f"{n} it is."} for n in range(40)]
    records[6]["output"] = " "
    records[9] |= {"system": "Be *brief* <b>.", "x <img src=x> y": 1}
    path = tmp_path / "some.json"
    path.write_text(json.dumps(records))
    page.go("data", dataset=str(path))
    assert page.says("1 of 40 records are skipped: empty output (record 7).")
    assert [e.label for e in page.expander] == ["Skipped records (1)"]
    assert first_table(page).values.tolist() == [["record 7", "empty output"]]
    assert page.says("Unused keys (with record counts): system (1), x <img")
    assert [m.value for m in page.metric][:3] == ["33", "3", "3"]
    table = page.dataframe[1].value
    assert table["item"].tolist() == list(range(39))
    page.widget("Keep empty outputs").set_value(True).run()
    assert not page.warning
    assert [m.value for m in page.metric][:3] == ["34", "4", "2"]
    assert first_table(page)["output"].tolist()[6] == " "


def test_file_without_usable_records_is_an_error(page, tmp_path):
    path = tmp_path / "none.json"
    path.write_text(json.dumps([{"instruction": "Say it.", "output": ""}] * 30))
    page.go("data", dataset=str(path))
    assert "none of its 30 records is usable" in page.error[0].value.replace("\\", "")


def test_selected_example_stays_selected_when_rows_change(page, dataset):
    page.go("data", dataset=str(dataset))
    page.select(page.dataframe[0], 5)
    assert any(c.value.startswith("Item 5 ") for c in page.caption)
    page.choose("Find examples", "count 5 6 7")
    assert first_table(page)["item"].tolist() != list(range(40))
    assert any(c.value.startswith("Item 5 ") for c in page.caption)
    page.choose("Find examples", "bird")
    assert any(c.value.startswith("Item 35 ") for c in page.caption)
    page.choose("Find examples", "")
    assert any(c.value.startswith("Item 5 ") for c in page.caption)


def test_selected_example_stays_selected_when_empty_outputs_are_kept(page, tmp_path):
    records = [{"instruction": f"Count to {n}.", "output": f"{n} it is."} for n in range(40)]
    records[2]["output"] = ""
    path = tmp_path / "some.json"
    path.write_text(json.dumps(records))
    page.go("data", dataset=str(path))
    page.select(page.dataframe[1], 5)
    assert any(c.value.startswith("Item 5 ") for c in page.caption)
    assert "Count to 6." in re.sub("<[^>]+>", "", token_html(page))
    page.choose("Keep empty outputs", True)
    assert any(c.value.startswith("Item 6 ") for c in page.caption)
    assert "Count to 6." in re.sub("<[^>]+>", "", token_html(page))
    page.choose("Keep empty outputs", False)
    assert any(c.value.startswith("Item 5 ") for c in page.caption)
    page.choose("Find examples", "count 9")
    page.choose("Find examples", "")
    assert any(c.value.startswith("Item 5 ") for c in page.caption)


CHATS = [
    {
        "messages": [
            {"role": "user", "content": f"Count to {n}."},
            {"role": "assistant", "content": f"{n}"},
        ]
    }
    for n in range(40)
]


def test_mapping_is_shown_and_can_be_set(page, tmp_path):
    path = tmp_path / "pairs.json"
    path.write_text(
        json.dumps([{"question": f"Say {n}.", "answer": "a", "other": "b"} for n in range(40)])
    )
    page.go("data", dataset=str(path))
    assert page.says("Columns: instruction ← question, output ← answer (detected)")
    page.choose("Columns", "instruction=question, output=other")
    assert page.says("Columns: instruction ← question, output ← other (set)")
    assert first_table(page)["output"].tolist() == ["b"] * 40
    page.choose("Columns", "output=other")
    assert "must name the columns" in page.error[0].value.replace("\\", "")


def test_uploaded_data_set_is_shown(page, runs_dir):
    page.go("data")
    content = "\n".join(json.dumps(chat) for chat in CHATS).encode()
    page.widget("upload").set_value(("chats.jsonl", content, "application/json")).run()
    assert [m.value for m in page.metric][:3] == ["34", "4", "2"]
    assert page.says("Columns: messages (detected)")
    [path] = (runs_dir / "uploads").glob("*/*")
    assert page.widget("data_dataset").value == str(path)
    assert path.read_bytes() == content
    page.choose("data_dataset", "primer")
    assert page.metric[0].value == "2,006"
    label = f"chats.jsonl (upload {path.parent.name[:4]})"
    assert label in page.widget("data_dataset").options
    page.choose("data_dataset", str(path)).choose("Max examples", 30)
    launch = page.press("Launch with this data set")
    assert launch.title[0].value == "Launch"
    assert launch.widget("Data set").value == str(path)
    assert label in launch.widget("Data set").options
    assert launch.says(f"Data set: primer → **{label}**")
    assert launch.says("Max examples: none → **30**")


def test_unusable_upload_shows_an_error(page, runs_dir):
    page.go("data")
    page.widget("upload").set_value(("damaged.csv", b"a,b\n1,2,3\n4", "text/csv")).run()
    assert [
        e.value.replace("\\", "").endswith("more fields than the header") for e in page.error
    ] == [True]
    page.go("data")
    page.widget("upload").set_value(("program.gz", b"x", "application/gzip")).run()
    assert "must be a JSON, JSONL, CSV, TSV or Parquet file" in page.toast[0].value.replace(
        "\\", ""
    )
    assert page.widget("data_dataset").value.endswith("damaged.csv")


def test_link_opens_an_example_of_a_run(open_page, write_run, dataset):
    write_run("one", dataset=str(dataset), train_fraction=0.5, mask_prompt=True)
    page = open_page("data", run="one", example="35")
    assert [m.value for m in page.metric][:3] == ["20", "4", "16"], "split as in the run"
    assert page.says("Item 35 as the model sees it.")
    assert "bird" in token_html(page)
    assert [link.label for link in page.get("page_link")] == ["one"]
    page.tick(2)
    assert page.says("Item 2 as the model sees it.")
    assert page.query_params["example"] == "2"
    page.press("Choose another data set")
    assert "run" not in page.query_params
    assert page.widget("data_dataset").value == "primer"


def test_invalid_links_are_reported(open_page, write_run, dataset):
    write_run("one", dataset=str(dataset))
    assert open_page("data", run="<b>gone").says("Unknown run: <b>gone.")
    assert open_page("data", run="one", example="40").says("This data set has no example 40.")
    assert open_page("data", run="one", example="x").says("This data set has no example x.")
    dataset.unlink()
    assert open_page("data", run="one", example="1").says("file not found")


def test_link_restores_all_inputs(page, open_page, dataset):
    page.go("data", dataset=str(dataset))
    page.choose("Max examples", 30).choose("Mask prompt", True).choose("Find examples", "count")
    page.choose("Split", ["test"]).choose("Columns", "instruction=instruction, output=output")
    page.tick(1)
    fresh = open_page("data", **page.query_params)
    assert [m.value for m in fresh.metric] == [m.value for m in page.metric]
    assert first_table(fresh).equals(first_table(page))
    assert [c.value for c in fresh.caption] == [c.value for c in page.caption]


def test_huge_numbers_in_a_link_are_ignored(open_page):
    page = open_page("data", max_examples="9" * 5000, max_length="9" * 5000)
    assert page.widget("Max examples").value is None
