"""From names of domains to a pair."""

from ray_tl.data.load import MNIST, OPTDIGITS, OPTDIGITS_TEST, load_pair
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
