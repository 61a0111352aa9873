import json

import pytest

from ray_tl import api
from ray_tl.data.digits import load_optdigits
from ray_tl.data.preprocessing import Preprocessing
from ray_tl.errors import BrokenStudy, InvalidInput, StudyBusy, UnknownName
from ray_tl.planning.plan import load_places
from ray_tl.study.records import DataSource, TrialState
from ray_tl.study.store import StudyStore
from ray_tl.training.files import TrialFiles
from tests.examples import epoch
from tests.scoring.studies import OPTIONS, TRUTH, certain, study, write_folders, write_image, write_sorted

SOURCE_ONLY = (0, 0, 0, 1, 1, 1, 0, 0, 0, 0)  # 5 of 10 right
CHAMPION = (0, 0, 0, 0, 1, 1, 1, 0, 2, 0)  # 8
BEST = (0, 0, 0, 0, 1, 1, 1, 1, 2, 0)  # 9


@pytest.fixture
def pets(tmp_path) -> StudyStore:
    write_folders(tmp_path)
    names = {"source": "source", "target": "new", "target_test": "test"}
    data = DataSource(**{key: str(tmp_path / name) for key, name in names.items()}, options=OPTIONS)
    return study(tmp_path, data, [SOURCE_ONLY, CHAMPION, BEST])


@pytest.fixture
def evaluate(pets, tmp_path):
    def evaluate(labels="sorted", **given):
        return api.evaluate("pets", str(tmp_path / labels), home=tmp_path, **given)

    return evaluate


def table(path, *lines):
    path.write_text("\n".join(lines) + "\n")


def test_the_champion_is_scored_beside_source_only_and_the_best(evaluate, tmp_path):
    write_sorted(tmp_path / "sorted", 200)
    found = evaluate()
    assert (found.trial.number, found.is_champion, found.domain) == (1, True, "target_test")
    assert (found.num_labels, found.num_rows, found.score.accuracy.value) == (10, 10, 0.8)
    assert found.score.recalls == (1.0, 0.75, 0.5)
    assert (found.source_only[0], found.source_only[1].accuracy.value) == (0, 0.5)
    assert found.difference.difference.value == pytest.approx(0.3)
    standing = found.standing
    assert (standing.best, standing.rank, standing.num_ranked) == (2, 2, 3)
    assert standing.regret_points == pytest.approx(10)
    assert found.accuracies == {0: 0.5, 1: 0.8, 2: 0.9}


def test_a_champion_that_was_trained_again_is_ranked_among_all_and_is_no_trial_of_the_search(evaluate, pets, tmp_path):
    refit = pets.begin_refit(1, pets.trial(1).config)
    pets.add_epoch(refit.number, epoch(9), 1)
    pets.finish(refit.number, TrialState.COMPLETE)
    TrialFiles(pets.folder, refit.number).save_evidence(dict.fromkeys(("target", "target_test"), certain(TRUTH)))
    pets.write_json("champion.json", {"trial": refit.number, "reason": "best", "candidates": []})
    write_sorted(tmp_path / "sorted", 200)
    standing = evaluate().standing
    assert (standing.best, standing.rank, standing.num_ranked, standing.regret_points) == (3, 1, 4, 0.0)
    (row,) = api.ledger(tmp_path)
    assert (row.trials, row.champion_trial, row.champion) == (3, 3, 1.0)


def test_images_are_found_by_their_pixels_in_whichever_domain_has_them(evaluate, tmp_path):
    write_sorted(tmp_path / "sorted", 100)
    assert evaluate().domain == "target"
    with pytest.raises(InvalidInput, match=r"no example with equal pixels is in the study \(target_test has 10 images"):
        evaluate(on="target_test")


def test_labels_of_some_examples_are_enough_and_what_fits_nothing_is_told(evaluate, tmp_path):
    write_sorted(tmp_path / "sorted", 200, TRUTH[:5])
    write_image(tmp_path / "sorted" / "dog" / "foreign.png", 999)
    found = evaluate()
    assert (found.num_labels, found.score.accuracy.value) == (5, 1.0)
    assert found.notes == ("1 of 6 labels belong to no example of target_test",)


def test_another_trial_is_scored_and_the_ledger_keeps_the_champion(evaluate, tmp_path):
    write_sorted(tmp_path / "sorted", 200)
    found = evaluate(trial=2)
    assert (found.is_champion, found.standing.rank, found.standing.regret_points) == (False, 1, 0)
    assert [(row.champion_trial, row.champion) for row in api.ledger(tmp_path)] == [(1, 0.8)]


def test_a_table_of_paths_names_the_images(evaluate, tmp_path):
    table(tmp_path / "labels.csv", "path,label", f"{tmp_path}/test/0.png,cat", "4.png,cat")
    found = evaluate("labels.csv", on="target_test")
    assert (found.num_labels, found.score.accuracy.value) == (2, 0.5)


def test_paths_that_both_domains_have_need_a_domain(evaluate, tmp_path):
    table(tmp_path / "labels.csv", "path,label", "0.png,cat")
    with pytest.raises(InvalidInput, match="both target and target_test have some of these; say which one is meant"):
        evaluate("labels.csv")


def test_rows_without_a_class_are_told_and_left_out(evaluate, tmp_path):
    table(tmp_path / "labels.csv", "path,label", "0.png,cat", "1.png,", "2.png,cat")
    found = evaluate("labels.csv", on="target")
    assert found.num_labels == 2
    assert found.notes[0] == "1 row without a class that can be read (row 2 has no label)"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (("path,label", "0.png,cow"), "has the classes cow, which the source lacks; .* The source has cat, dog, eel"),
        (("path,label", "0.png,Cat"), "classes 'Cat' and 'cat' differ by case"),
        (("path,label", "0.png,cat", "0.png,dog"), r"contradict each other for 1 row of target \(0.png: cat, dog\)"),
        (("path,label", "x.png,cat"), "has labels of 1 row, such as x.png, and no example with that path"),
        (("path,class", "0.png,cat"), "has no column 'label'"),
        (("label", "cat"), "does not say which example a row is; give it a column image, path"),
        (("path,label", "0.png,"), "has no row with a class in 'label'; 1 row without a class"),
    ],
)
def test_labels_that_do_not_fit_are_one_clear_error(evaluate, tmp_path, lines, said):
    table(tmp_path / "labels.csv", *lines)
    with pytest.raises(InvalidInput, match=said):
        evaluate("labels.csv", on="target")


def test_one_image_in_two_class_folders_contradicts_itself(evaluate, tmp_path):
    write_sorted(tmp_path / "sorted", 200)
    write_image(tmp_path / "sorted" / "eel" / "again.png", 200)
    with pytest.raises(InvalidInput, match=r"contradict each other for 1 image of target_test \(0.png: cat, eel\)"):
        evaluate()


def test_class_folders_of_the_target_itself_are_read_by_name(tmp_path):
    write_folders(tmp_path)
    write_sorted(tmp_path / "sorted", 300)
    names = {"source": tmp_path / "source", "target": tmp_path / "sorted", "target_test": tmp_path / "test"}
    data = DataSource(**{key: str(path) for key, path in names.items()}, options=OPTIONS)
    study(tmp_path, data, [SOURCE_ONLY, CHAMPION])
    found = api.evaluate("pets", str(tmp_path / "sorted"), home=tmp_path)
    # In the order of paths: cat 0 to 3, dog 4 to 7, eel 8 and 9.
    assert (found.domain, found.num_labels, found.score.accuracy.value) == ("target", 10, 0.8)


def test_examples_that_trials_were_given_the_labels_of_do_not_count(tmp_path):
    write_folders(tmp_path)
    write_sorted(tmp_path / "few", 100, TRUTH[:4])
    write_sorted(tmp_path / "few", 100 + 4, TRUTH[4:5])
    names = {"source": "source", "target": "new", "target_labelled": "few"}
    data = DataSource(**{key: str(tmp_path / name) for key, name in names.items()}, options=OPTIONS)
    study(tmp_path, data, [SOURCE_ONLY, CHAMPION])
    found = api.evaluate("pets", str(write_sorted(tmp_path / "sorted", 100)), home=tmp_path)
    assert (found.num_labels, found.score.accuracy.value) == (5, 3 / 5)
    assert found.notes == ("5 labelled examples are in target_labelled, and do not count",)


def texts(path, *rows):
    path.write_text("\n".join(json.dumps(dict(zip(("id", "body", "stars"), row, strict=False))) for row in rows))


@pytest.fixture
def reviews(tmp_path) -> str:
    """A study of texts whose columns are named; of its target, rows 3 and 5 are equal."""
    words = [f"animal number {row} is here" for row in range(9)]
    texts(tmp_path / "source.jsonl", *((row, text, ("cat", "dog", "eel")[row % 3]) for row, text in enumerate(words)))
    said = ["one sleeps", "two runs", "the same", "four eats", "the same"]
    texts(tmp_path / "new.jsonl", *((row, text) for row, text in enumerate(said)))
    columns = {"modality": "text", "text_column": "body", "label_column": "stars", "max_length": 8}
    names = {"source": str(tmp_path / "source.jsonl"), "target": str(tmp_path / "new.jsonl")}
    study(tmp_path, DataSource.model_validate({**names, "options": columns}), [(0, 1, 2, 0, 2), (0, 1, 2, 1, 1)])
    return str(tmp_path / "labels.jsonl")


def test_texts_are_found_by_their_words_in_the_columns_of_the_study(reviews, tmp_path):
    texts(tmp_path / "labels.jsonl", ("", "four eats", "dog"), ("", "the same", "eel"), ("", "one sleeps ", "cat"))
    found = api.evaluate("pets", reviews, home=tmp_path)
    assert (found.domain, found.num_labels, found.score.accuracy.value) == ("target", 4, 3 / 4)


def test_equal_texts_of_two_classes_need_the_number_of_the_row(reviews, tmp_path):
    texts(tmp_path / "labels.jsonl", ("", "the same", "eel"), ("", "the same", "dog"))
    with pytest.raises(InvalidInput, match=r"contradict each other .* \(3: eel, dog; 5: eel, dog\).* a column id"):
        api.evaluate("pets", reviews, home=tmp_path)
    texts(tmp_path / "labels.jsonl", (3, "the same", "eel"), (5, "the same", "dog"))
    found = api.evaluate("pets", reviews, home=tmp_path)
    assert (found.num_labels, found.score.accuracy.value) == (2, 1.0)


def test_a_table_of_images_is_matched_by_paths_and_by_its_own_rows(tmp_path):
    write_folders(tmp_path)
    table(tmp_path / "new.csv", "image,label", *(f"new/{row}.png,{'cat' if row < 4 else 'dog'}" for row in range(10)))
    table(tmp_path / "labels.csv", "image,label", "elsewhere/new/4.png,dog", "elsewhere/new/7.png,dog")
    names = {"source": str(tmp_path / "source"), "target": str(tmp_path / "new.csv")}
    study(tmp_path, DataSource(**names, options=OPTIONS), [SOURCE_ONLY, CHAMPION])
    found = api.evaluate("pets", str(tmp_path / "labels.csv"), home=tmp_path)
    assert (found.num_labels, found.score.accuracy.value) == (2, 0.5)
    own = api.evaluate("pets", str(tmp_path / "new.csv"), home=tmp_path)
    assert (own.num_labels, own.score.accuracy.value) == (10, 7 / 10)


def test_packaged_labels_score_a_study_of_digits(tmp_path):
    data = DataSource(source="digits:mnist", target="digits:optdigits", options=OPTIONS)
    digits = load_optdigits(Preprocessing(image_size=8, channels=1))
    truth = dict(zip(digits.ids, digits.labels.tolist(), strict=True))
    predicted = [truth[id] for id in load_places(data, 0).pair.target.ids]
    predicted[:9] = [(label + 1) % 10 for label in predicted[:9]]
    study(tmp_path, data, [predicted], champion=0)
    found = api.evaluate("pets", "digits:optdigits", home=tmp_path)
    assert (found.num_labels, found.num_rows) == (899, 899)
    assert found.score.accuracy.value == pytest.approx(890 / 899)


# what the study must be like


def test_without_a_champion_a_trial_has_to_be_named(evaluate, pets, tmp_path):
    write_sorted(tmp_path / "sorted", 200)
    (pets.folder / "champion.json").unlink()
    with pytest.raises(InvalidInput, match="has no champion yet; finish it with: ray-tl search --resume pets"):
        evaluate()
    assert evaluate(trial=2).score.accuracy.value == 0.9
    assert api.ledger(tmp_path) == []


def test_a_trial_without_predictions_or_that_is_not_there_is_refused(evaluate, pets, tmp_path):
    write_sorted(tmp_path / "sorted", 200)
    (pets.folder / "evidence" / "0002.npz").unlink()
    with pytest.raises(InvalidInput, match="left no predictions on target_test; choose from 0, 1"):
        evaluate(trial=2)
    with pytest.raises(UnknownName, match="trial=7 is not in study 'pets'"):
        evaluate(trial=7)


def test_predictions_that_were_cut_are_told_of(evaluate, pets, tmp_path):
    write_sorted(tmp_path / "sorted", 200)
    path = pets.folder / "evidence" / "0002.npz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(BrokenStudy, match=r"0002\.npz is not what was written"):
        evaluate()


def test_labels_are_not_read_while_a_search_runs(evaluate, pets):
    with pets.exclusive(), pytest.raises(StudyBusy, match="labels are read when it has ended"):
        evaluate("missing")


def test_data_that_have_changed_are_refused(evaluate, tmp_path):
    write_sorted(tmp_path / "sorted", 200)
    write_image(tmp_path / "test" / "0.png", 777)
    with pytest.raises(InvalidInput, match="was searched on other data than"):
        evaluate()


def test_domain_that_the_study_lacks_is_refused(evaluate, tmp_path):
    write_sorted(tmp_path / "sorted", 200)
    with pytest.raises(InvalidInput, match="on='source' is no domain of study 'pets'; choose from target_test, target"):
        evaluate(on="source")


EXPECTED = {"accuracy": 0.7, "low": 0.6, "high": 0.75}


def test_an_expectation_of_the_search_is_compared_with_the_truth(evaluate, pets, tmp_path):
    write_sorted(tmp_path / "sorted", 200)
    pets.write_json("champion.json", {"trial": 1, "reason": "", "candidates": [], "expected": EXPECTED})
    assert evaluate().summary()["expected"] == {**EXPECTED, "is_inside": False}
    assert evaluate(trial=2).expected is None


def corrected(trial, correction):
    prior = {"trial": trial, "correction": correction, "words": []}
    return {"trial": 1, "reason": "", "candidates": [], "prior": prior}


def test_the_champion_is_scored_as_it_is_promoted(evaluate, pets, tmp_path):
    write_sorted(tmp_path / "sorted", 200)
    pets.write_json("champion.json", corrected(1, [-9.0, 0.0, 9.0]))  # all are eels now: 2 of 10
    found = evaluate()
    assert found.score.accuracy.value == 0.2
    assert found.accuracies == {0: 0.5, 1: 0.2, 2: 0.9}
    assert (
        found.notes[-1] == "trial 1 as it is promoted: its predictions are corrected to the class shares of the target."
    )


def test_by_its_number_the_champion_is_scored_as_it_was_and_the_ledger_keeps_it_as_promoted(evaluate, pets, tmp_path):
    write_sorted(tmp_path / "sorted", 200)
    pets.write_json("champion.json", {**corrected(1, [-9.0, 0.0, 9.0]), "expected": EXPECTED})
    found = evaluate(trial=1)
    assert (found.is_champion, found.score.accuracy.value, found.expected) == (True, 0.8, None)
    assert found.accuracies == {0: 0.5, 1: 0.8, 2: 0.9}
    said = "as it was; without --trial its predictions are corrected to the class shares of the target."
    assert found.notes[-1] == f"trial 1 {said}"
    assert [(row.champion_trial, row.champion) for row in api.ledger(tmp_path)] == [(1, 0.2)]


def test_where_nothing_is_corrected_the_champion_by_its_number_is_the_champion(evaluate, tmp_path):
    write_sorted(tmp_path / "sorted", 200)
    assert evaluate(trial=1).summary() == evaluate().summary()


def test_among_trials_by_number_the_champion_is_ranked_as_it_was(evaluate, pets, tmp_path):
    write_sorted(tmp_path / "sorted", 200)
    pets.write_json("champion.json", corrected(1, [-9.0, 0.0, 9.0]))
    assert evaluate(trial=0).standing.rank == 3
    assert evaluate(trial=0).accuracies == {0: 0.5, 1: 0.8, 2: 0.9}


def test_a_correction_of_another_trial_is_not_the_champions(evaluate, pets, tmp_path):
    write_sorted(tmp_path / "sorted", 200)
    pets.write_json("champion.json", corrected(2, [-9.0, 0.0, 9.0]))
    assert evaluate().score.accuracy.value == 0.8


@pytest.mark.parametrize("correction", [[1.0], ["much", 0.0, 0.0], [float("nan"), 0.0, 0.0], 3])
def test_a_correction_that_was_not_written_so_is_refused(evaluate, pets, tmp_path, correction):
    write_sorted(tmp_path / "sorted", 200)
    pets.write_json("champion.json", corrected(1, correction))
    with pytest.raises(BrokenStudy, match=r"champion.json is not what was written"):
        evaluate()


# the ledger


def test_scoring_again_replaces_the_row_of_the_same_domain(evaluate, pets, tmp_path):
    write_sorted(tmp_path / "sorted", 200, TRUTH[:5])
    evaluate()
    write_sorted(tmp_path / "sorted", 200)
    evaluate()
    write_sorted(tmp_path / "other", 100)
    evaluate("other")
    (row,) = api.ledger(tmp_path)
    assert (row.domain, row.num_labels) == ("target_test", 10)
    assert sorted(json.loads((pets.folder / "evaluation.json").read_bytes())) == ["target", "target_test"]


def test_a_row_that_was_cut_is_left_out_and_replaced(evaluate, pets, tmp_path, caplog):
    write_sorted(tmp_path / "sorted", 200)
    (pets.folder / "evaluation.json").write_text('{"target": {"study"')
    assert api.ledger(tmp_path) == []
    assert "evaluation.json is not what was written" in caplog.text
    evaluate()
    assert len(api.ledger(tmp_path)) == 1


def test_a_study_that_may_only_be_read_is_scored_without_a_row(evaluate, pets, tmp_path, only_readable):
    write_sorted(tmp_path / "sorted", 200)
    only_readable(pets.folder)
    found = evaluate()
    assert found.score.accuracy.value == 0.8
    assert found.notes[0].startswith("it is not in the ledger: ")
