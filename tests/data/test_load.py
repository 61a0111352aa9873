"""From names of domains to a pair."""

import numpy as np
import pytest
from PIL import Image

from ray_tl.data.load import load_data, load_pair
from ray_tl.data.places import MNIST, OPTDIGITS, OPTDIGITS_TEST, Places
from ray_tl.errors import InvalidInput
from ray_tl.search_space import DataOptions

OPTIONS = DataOptions(image_size=8, channels=1)


def test_target_halves_are_disjoint_and_carry_no_labels():
    pair = load_pair(MNIST, OPTDIGITS, OPTDIGITS_TEST, OPTIONS, 0)
    assert pair.target_test is not None
    assert not set(pair.target.ids) & set(pair.target_test.ids)
    assert len(pair.target) + len(pair.target_test) == 1797
    assert not hasattr(pair.target, "labels")
    assert not hasattr(pair.target_test, "labels")


def test_trials_are_given_no_name_of_a_target_image():
    pair = load_pair(MNIST, OPTDIGITS, OPTDIGITS_TEST, OPTIONS, 0).for_trials()
    assert pair.target_test is not None
    assert pair.target.ids == tuple(map(str, range(899)))
    assert pair.target_test.ids == tuple(map(str, range(898)))


def test_labelled_digits_are_so_many_a_class_of_the_half_that_is_searched():
    pair = load_pair(MNIST, OPTDIGITS, OPTDIGITS_TEST, OPTIONS.model_copy(update={"target_shots": 3}), 0, OPTDIGITS)
    assert pair.target_labelled is not None
    assert np.bincount(pair.target_labelled.labels).tolist() == [3] * 10
    assert set(pair.target_labelled.ids) <= set(pair.target.ids)


def write(folder, name, shade):
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8), shade, np.uint8)).save(folder / name)


@pytest.fixture
def folders(tmp_path):
    for shade, name in enumerate(["cat", "dog", "eel"]):
        write(tmp_path / "source" / name, "0.png", shade)
        write(tmp_path / "source" / name, "1.png", 10 + shade)
    write(tmp_path / "target", "0.png", 50)
    write(tmp_path / "target", "1.png", 51)
    write(tmp_path / "test", "0.png", 60)
    write(tmp_path / "few" / "eel", "0.png", 70)
    write(tmp_path / "few" / "dog", "0.png", 80)
    return tmp_path


def pair_of(folders, **options):
    names = [str(folders / name) for name in ("source", "target", "test")]
    return load_pair(*names, OPTIONS.model_copy(update=options), 0, str(folders / "few"))


def test_labelled_target_folders_are_numbered_as_in_the_source(folders):
    few = pair_of(folders).target_labelled
    assert few.ids == ("dog/0.png", "eel/0.png")
    assert few.labels.tolist() == [1, 2]


def test_a_class_that_the_source_lacks_is_refused(folders):
    write(folders / "few" / "fox", "0.png", 1)
    with pytest.raises(InvalidInput, match=r"target_labelled=.*has the classes fox, which the source lacks"):
        pair_of(folders)


def test_more_shots_than_there_are_images_are_refused(folders):
    with pytest.raises(InvalidInput, match=r"target_shots=2 is more than .*dog: 1, eel: 1\); choose 1 or fewer"):
        pair_of(folders, target_shots=2)


def test_an_image_may_not_be_trained_on_with_its_label_and_scored_on(folders):
    write(folders / "few" / "dog", "same.png", 60)
    with pytest.raises(
        InvalidInput, match=r"1 image of target_labelled is in target_test too, 1 exact copy \(dog/same.png is 0.png\)"
    ):
        pair_of(folders)


def test_labels_for_the_choice_are_no_trial_s(folders):
    pair = pair_of(folders, target_labels_for="choice")
    assert pair.target_labelled is None
    assert pair.target_choice.labels.tolist() == [1, 2]
    shown = pair.for_trials().target_choice
    assert (hasattr(shown, "labels"), shown.ids) == (False, ("0", "1"))


def test_labels_for_both_are_halved_within_each_class():
    options = OPTIONS.model_copy(update={"target_shots": 5, "target_labels_for": "both"})
    pair = load_pair(MNIST, OPTDIGITS, OPTDIGITS_TEST, options, 0, OPTDIGITS)
    whole = load_pair(MNIST, OPTDIGITS, OPTDIGITS_TEST, OPTIONS.model_copy(update={"target_shots": 5}), 0, OPTDIGITS)
    assert np.bincount(pair.target_labelled.labels).tolist() == [3] * 10
    assert np.bincount(pair.target_choice.labels).tolist() == [2] * 10
    assert sorted(pair.target_labelled.ids + pair.target_choice.ids) == sorted(whole.target_labelled.ids)


def test_a_class_of_one_labelled_example_can_not_be_halved(folders):
    with pytest.raises(InvalidInput, match=r"target_labels_for='both' halves .* and dog, eel have 1 each; label 2"):
        pair_of(folders, target_labels_for="both")


@pytest.mark.parametrize(
    ("use", "said"),
    [
        ("training", "2 images in 3 classes, 0 (cat) to 1 (dog)"),
        ("choice", "for the choice of the champion alone: no trial is shown these labels"),
        ("both", "2 to train on and 2 for the choice of the champion"),
    ],
)
def test_the_line_of_labelled_examples_says_what_they_are_for(folders, use, said):
    for name in ("dog", "eel") if use == "both" else ():
        write(folders / "few" / name, "1.png", 90 if name == "dog" else 100)
    places = Places(*(str(folders / name) for name in ("source", "target", "test", "few")))
    (line,) = [line for line in load_data(places, options_for(use), 0).summary.lines() if "target_labelled" in line]
    assert said in line


def options_for(use):
    return OPTIONS.model_copy(update={"target_labels_for": use})


@pytest.mark.parametrize("use", ["choice", "both"])
def test_a_use_of_labels_that_are_not_there_is_refused(use):
    with pytest.raises(InvalidInput, match=f"target_labels_for='{use}' is about labelled target examples, and there"):
        load_pair(MNIST, OPTDIGITS, None, options_for(use), 0)


def test_shots_without_labelled_examples_are_refused():
    with pytest.raises(InvalidInput, match="target_shots=2 chooses among labelled target examples, and there are none"):
        load_pair(MNIST, OPTDIGITS, None, OPTIONS.model_copy(update={"target_shots": 2}), 0)
