"""Each benchmark that starts Ray, run as small as it goes: that it still measures what it says is tested."""

import json

import pytest

from tests.benchmark_runs import SMALL_SPACE, drawn_emoji, last_json, printed, printed_apart

PAIR = "google>twitter"


@pytest.fixture(scope="module")
def emoji(tmp_path_factory):
    return drawn_emoji(tmp_path_factory.mktemp("emoji"))


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    path = tmp_path_factory.mktemp("space") / "space.yaml"
    path.write_text(SMALL_SPACE)
    return path


@pytest.mark.ray
def test_the_driver_is_measured():
    found = last_json(printed_apart("scale.py", "--trials", 80, "--nodes", 1, "--window", 10, "--json"))
    assert found["trials"] == 80
    assert found["tune_bytes_a_trial"] < 2000
    assert 0 < found["processor_ms_a_trial"] < 1e3 * found["wall_s"]


@pytest.mark.ray
def test_the_time_to_the_first_epoch_is_measured():
    found = last_json(printed_apart("first_epoch.py", "--runs", 1, "--json"))["now"]
    assert 0 < found["planned_s"] < found["first_epoch_s"]
    assert found["processor_s"] > 0


@pytest.mark.ray
def test_warm_slots_and_the_textbook_pattern_are_measured_on_the_same_trials():
    found = last_json(printed_apart("overhead.py", "--trials", 1, "--concurrency", 1, "--json"))["results"]
    assert set(found) == {"warm slots", "warm slots, once started", "textbook"}
    assert all(each["training_s"] > 0 for each in found.values())


@pytest.mark.ray
def test_a_search_on_image_folders_is_scored_when_it_is_over_and_again_by_the_benchmark_of_fine_tuning(
    emoji, space, tmp_path
):
    given = ("--trials", 1, "--space", space, "--data", emoji, "--home", tmp_path)
    found = last_json(printed_apart("emoji_search.py", *given, "--name", "emoji-0", "--json"))
    scored = ("source_only", "champion", "best_at_full_fidelity", "predicted_by_promoted")
    assert found["trials"] == 1
    assert [found[row] for row in scored] == [pytest.approx(1, abs=0.1)] * len(scored)
    output = printed("fine_tuning.py", "--tasks", "emoji", "--rows", "search", *given)
    source_only, champion, best = map(json.loads, output.splitlines())
    assert source_only["accuracy"] == champion["accuracy"] == best["accuracy"] == found["champion"]
    assert champion["trials"] == 1


@pytest.mark.ray
def test_a_search_is_scored_beside_recipes(emoji, space, tmp_path):
    few = ("--trials", 1, "--seeds", 1, "--epochs", 1, "--steps", 40, "--pairs", PAIR, "--balances", "same")
    output = printed_apart("search_and_recipes.py", tmp_path, "--data", emoji, "--space", space, *few, "--json")
    [found] = json.loads(output.splitlines()[-1])
    recipes = {"source-only", "bottleneck head", "IM", "BNM", "MCC", "probe, then fine-tune (as fastai)"}
    assert set(found["recipes"]) == recipes
    assert (found["search"]["trials"], found["num_target"]) == (1, 45)
    assert found["search"]["champion"] == pytest.approx(1, abs=0.1)
    assert found["recipes"]["source-only"]["accuracies"] == [pytest.approx(1, abs=0.1)]
