"""Search: proposals, results of combinations, and how a search study grows to its maximum."""

import json
import math
import threading
from dataclasses import replace

import pandas as pd
import pytest

from core import operations
from core.config import RunConfig
from core.errors import UserError
from core.lab import Lab
from core.run.directory import RunDirectory, list_runs
from core.scheduler.executors import EXECUTORS
from core.studies import study
from core.studies.adaptive import AdaptiveStudies, search_results
from core.studies.search import Result, next_combination
from core.studies.sweep import STARTUP_COMBINATIONS, Sweep, parse_axis
from core.tracking.sync import read_index

AXES = (
    parse_axis("lr=log 1e-5..1e-1 x 9"),
    parse_axis("lora_rank=lora_alpha=4,8,16,32"),
    parse_axis("lora_scaling=alpha,alpha/rank"),
)
SEARCH = Sweep(RunConfig(seed=7), AXES, (1,), "search", 30)
SMALL = Sweep(
    RunConfig(max_examples=50), (parse_axis("lr=1e-5,1e-4,1e-3,1e-2"),), (1, 2), "search", 6
)


def loss_of(values):
    """A loss with a minimum at lr = 10^-2.5, rank 16 and alpha/rank."""
    rank_error = abs(math.log2(values["lora_rank"]) - 4)
    is_wrong = values["lora_scaling"] == "alpha"
    return abs(math.log10(values["lr"]) + 2.5) + 0.3 * rank_error + 0.5 * is_wrong


def search(sweep, results=()):
    results = [*results] or [Result(values, loss_of(values)) for values in sweep.combinations()]
    while values := next_combination(sweep, results):
        results.append(Result(values, loss_of(values)))
    return results


def test_search_finds_good_combinations_without_repeats():
    results = search(SEARCH)
    keys = [SEARCH.effective(result.values) for result in results]
    assert len(keys) == len({*keys}) == 30
    losses = [result.loss for result in results]
    assert min(losses[STARTUP_COMBINATIONS:]) < min(losses[:STARTUP_COMBINATIONS])
    space = sorted(map(loss_of, SEARCH.search_space()))
    assert min(losses) <= space[2], "among the best three of 72 combinations"
    random_mean = sum(space) / len(space)
    assert sum(losses[15:]) / 15 < random_mean


def test_search_is_deterministic_and_depends_on_the_seed():
    assert search(SEARCH) == search(SEARCH)
    other = Sweep(RunConfig(seed=8), AXES, (1,), "search", 30)
    assert other.combinations() != SEARCH.combinations()


def test_search_starts_at_random_and_ends_when_everything_has_been_tried():
    assert len(SEARCH.combinations()) == STARTUP_COMBINATIONS
    everything = search(Sweep(SEARCH.base, AXES, (1,), "search", 500))
    assert len(everything) == 72
    short = Sweep(SEARCH.base, AXES, (1, 2), "search", 6)
    assert len(short.combinations()) == 3
    assert next_combination(short, [Result(values, 1.0) for values in short.combinations()]) is None


def test_ineffective_settings_are_not_searched():
    axes = (parse_axis("method=full,lora"), parse_axis("lora_rank=4,16"))
    sweep = Sweep(RunConfig(), axes, (1,), "search", 10)
    tried = [Result({"method": "full", "lora_rank": 16}, 1.0)]
    proposed = []
    while values := next_combination(sweep, tried):
        tried.append(Result(values, 1.0))
        proposed.append(values)
    assert sorted(values["lora_rank"] for values in proposed) == [4, 16]
    assert {values["method"] for values in proposed} == {"lora"}


def test_search_copes_with_combinations_without_results():
    start = SEARCH.combinations()
    results = [Result(start[0], None), Result(start[1], None, (20, 1.0)), Result({"lr": 5.0}, 1.0)]
    results += [Result(values, 2.0) for values in start[2:]]
    assert next_combination(SEARCH, results) is not None


def frame_of(found, rows):
    """Return rows like those of `queries.results`, from (status, reason, val_loss) by member."""
    columns = ("status", "reason", "val_loss")
    frame = pd.DataFrame([dict(zip(columns, row, strict=True)) for row in rows.values()])
    frame = frame.assign(name=[*rows], study=found.name, subset_loss=frame["val_loss"])
    return frame.assign(base_loss=4.0, step=50, steps=100)


def test_results_are_means_of_logarithms_with_the_worst_value_for_lost_runs(tmp_path):
    found = study.plan(tmp_path, "s", SMALL)
    first, second, third = (f"s-{i}" for i in (1, 2, 3))
    seeds = {name: f"s-{i}" for name, i in zip((first, second, third), (4, 5, 6), strict=True)}
    rows = {
        first: ("finished", None, 2.0), seeds[first]: ("failed", "diverged", math.nan),
        second: ("finished", None, 3.0), seeds[second]: ("finished", None, 9.0),
        third: ("finished", None, 1.0), seeds[third]: ("finished", None, 1.5),
    }  # fmt: skip
    results = search_results(found, frame_of(found, rows), [])
    assert [result.loss for result in results] == pytest.approx([
        (math.log(2) + math.log(3)) / 2, math.log(3), (math.log(1.0) + math.log(1.5)) / 2,
    ])  # fmt: skip
    rows[third] = ("stopped", "pruned after 20% of the steps", 1.2)
    rows[first] = ("running", None, 2.0)
    assert search_results(found, frame_of(found, rows), []) is None, "a run has not ended"
    del rows[first]
    assert search_results(found, frame_of(found, rows), []) is None, "not in the index yet"
    results = search_results(found, frame_of(found, rows), [first])
    assert results[0].loss == pytest.approx(math.log(3)), "the deleted run does not count"
    assert results[2] == Result(results[2].values, None, (50, math.log(1.2)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_runs": None}, "required for a search sweep"),
        ({"max_runs": 1}, "at least the number of seeds"),
        ({"metric": "charm"}, "metric = 'charm': must be one of val_loss"),
    ],
)
def test_invalid_search_raises_user_error(changes, message):
    options = {"mode": "search", "max_runs": 6, "metric": "val_loss"} | changes
    with pytest.raises(UserError, match=message):
        Sweep(SMALL.base, SMALL.axes, SMALL.seeds, **options).combinations()


def instant_training(run):
    """Finish a run at once, with a loss that depends on its learning rate."""
    config = run.config()
    loss = 1 + abs(math.log10(config.lr) + 3) + config.seed / 100
    progress = {"epoch": 1.0, "tokens": 1, "seconds": 1.0, "train_loss": None}
    with run.lock():
        run.append("status", status="running")
        run.append("plan", steps=10, steps_per_epoch=10, train_examples=10)
        for step, value in ((0, 9.0), (10, loss)):
            losses = {"val_loss": value, "subset_loss": value, "final": step == 10}
            run.append("eval", step=step, **progress, **losses)
        run.append("status", status="finished", reason=None, keep_weights="none")


@pytest.fixture(autouse=True)
def instant_executor(monkeypatch):
    monkeypatch.setitem(EXECUTORS, "instant", instant_training)
    monkeypatch.setitem(EXECUTORS, "idle", lambda run: None)


def names(runs_dir):
    return sorted((run.name for run in list_runs(runs_dir)), key=lambda n: int(n.split("-")[1]))


def test_lab_extends_a_search_until_its_maximum(tmp_path, wait):
    with Lab(tmp_path, "instant") as lab:
        created = lab.sweep(SMALL, "s")
        assert len(created) == 6
        lab.extend_study("s", runs=4)
        wait(lambda: lab.studies()[0]["finished"] == 8)
        [row] = lab.studies()
        assert (row["runs"], row["max_runs"], row["mode"]) == (8, 10, "search")
        found = lab.study("s")
        assert [(m.name, m.seed) for m in found.members[6:]] == [("s-7", 1), ("s-8", 2)]
        assert len({m.values["lr"] for m in found.members}) == 4, "all combinations were tried"
        assert lab.config("s-8").study == "s"


def wide(max_runs):
    return Sweep(RunConfig(max_examples=50), (AXES[0],), (1,), "search", max_runs)


def test_command_and_lab_propose_the_same_runs(tmp_path, wait):
    with Lab(tmp_path / "lab", "instant") as lab:
        lab.sweep(wide(8), "s")
        wait(lambda: lab.studies()[0]["finished"] == 8)
        members = lab.study("s").members
    runs_dir = tmp_path / "command"
    added = operations.sweep(runs_dir, "s", wide(8))
    while added:
        for name in added:
            instant_training(RunDirectory(runs_dir / name))
        added = operations.extend_search(runs_dir, "s")
    assert study.find(runs_dir, "s").members == members
    assert len(names(runs_dir)) == 8


def test_paused_search_proposes_nothing_and_deleted_runs_do_not_stop_it(tmp_path, wait):
    for name in operations.sweep(tmp_path, "s", wide(7)):
        instant_training(RunDirectory(tmp_path / name))
    operations.pause_study(tmp_path, "s")
    assert operations.studies(tmp_path, operations.read_runs(tmp_path)[0])[0]["is_paused"]
    assert operations.extend_search(tmp_path, "s") == []
    RunDirectory(tmp_path / "s-1").delete()
    operations.continue_study(tmp_path, "s")
    assert operations.extend_search(tmp_path, "s") == ["s-6"]
    assert operations.extend_search(tmp_path, "s") == [], "the new run has not ended"
    RunDirectory(tmp_path / "s-6").delete()
    RunDirectory.create(tmp_path, RunConfig(name="s-6"))  # reuses the name of a deleted run
    RunDirectory(tmp_path / "s-2").config_path.unlink()  # partly deleted
    assert operations.extend_search(tmp_path, "s") == ["s-7"]
    instant_training(RunDirectory(tmp_path / "s-7"))
    assert operations.extend_search(tmp_path, "s") == []
    assert len(study.find(tmp_path, "s").members) == 7


def test_runs_of_a_search_exist_once_after_a_crash(tmp_path, monkeypatch):
    for name in operations.sweep(tmp_path, "s", wide(8)):
        instant_training(RunDirectory(tmp_path / name))

    def crash(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(study, "create_runs", crash)
        with pytest.raises(KeyboardInterrupt):
            operations.extend_search(tmp_path, "s")
    assert len(names(tmp_path)) == 5
    assert len(study.find(tmp_path, "s").members) == 6, "planned before it is created"
    with Lab(tmp_path, "idle"):
        assert names(tmp_path) == [f"s-{i}" for i in range(1, 7)]


def reader(runs_dir):
    """Return a function that runs queries on an up-to-date index."""
    index = read_index(runs_dir)
    return lambda query, *args: query(index.cursor(), *args)


def test_search_that_fails_does_not_stop_the_others(tmp_path):
    for name in (
        *operations.sweep(tmp_path, "a", wide(8)),
        *operations.sweep(tmp_path, "b", wide(8)),
    ):
        instant_training(RunDirectory(tmp_path / name))
    path = tmp_path / "studies" / "a.json"
    saved = json.loads(path.read_text())
    saved["axes"][0]["values"].append(-1.0)
    path.write_text(json.dumps(saved))
    assert AdaptiveStudies(tmp_path).extend_searches(reader(tmp_path)) == ["b-6"]


def test_runs_created_before_a_search_failed_are_queued(tmp_path):
    created = operations.sweep(tmp_path, "s", wide(8))
    RunDirectory(tmp_path / "s-5").delete()
    study.write(tmp_path, replace(study.find(tmp_path, "s"), is_complete=False))
    searches = AdaptiveStudies(tmp_path)
    assert searches.extend_searches(reader(tmp_path)) == created
    assert names(tmp_path) == created
    assert searches.extend_searches(reader(tmp_path)) == []


def test_new_runs_do_not_take_the_names_of_others(tmp_path):
    for name in operations.sweep(tmp_path, "s", wide(8)):
        instant_training(RunDirectory(tmp_path / name))
    other = RunDirectory.create(tmp_path, RunConfig(name="s-6"))
    assert operations.extend_search(tmp_path, "s") == ["s-7"]
    assert other.config().study is None
    instant_training(RunDirectory(tmp_path / "s-7"))
    RunDirectory.create(tmp_path, RunConfig(name="s-9"))
    assert operations.extend_study(tmp_path, "s", seeds=1)[:2] == ["s-8", "s-10"]


def test_concurrent_extensions_add_one_combination(tmp_path):
    for name in operations.sweep(tmp_path, "s", wide(8)):
        instant_training(RunDirectory(tmp_path / name))
    added: list[str] = []
    threads = [
        threading.Thread(target=lambda: added.extend(operations.extend_search(tmp_path, "s")))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert added == ["s-6"]
    assert names(tmp_path) == [f"s-{i}" for i in range(1, 7)]


def test_search_can_be_extended_with_seeds_values_and_runs(tmp_path):
    operations.sweep(tmp_path, "s", wide(5))
    assert operations.extend_study(tmp_path, "s", 1) == [f"s-{i}" for i in range(6, 11)]
    found = study.find(tmp_path, "s")
    assert found.sweep.max_runs == 10
    assert [m.values for m in found.members[:5]] == [m.values for m in found.members[5:]]
    assert operations.extend_study(tmp_path, "s", axis="lr", values=[0.5]) == []
    assert operations.extend_study(tmp_path, "s", runs=4) == []
    found = study.find(tmp_path, "s")
    assert found.sweep.max_runs == 14
    assert found.sweep.axes[0].values[-1] == 0.5
    grid = Sweep(SMALL.base, SMALL.axes, (1,))
    operations.sweep(tmp_path, "g", grid)
    with pytest.raises(UserError, match="only a search can be extended with runs"):
        operations.extend_study(tmp_path, "g", runs=2)


def test_study_files_from_older_versions_can_be_read(tmp_path):
    operations.sweep(tmp_path, "s", Sweep(SMALL.base, SMALL.axes, (1,)))
    path = tmp_path / "studies" / "s.json"
    saved = json.loads(path.read_text())
    for key in ("metric", "prune", "is_paused"):
        del saved[key]
    path.write_text(json.dumps(saved | {"paused": ["s-1"]}))
    found = study.find(tmp_path, "s")
    assert (found.sweep.metric, found.sweep.prune, found.is_paused) == ("val_loss", False, True)
