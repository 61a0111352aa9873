"""Heads from whole domains, against pipelines of scikit-learn and NumPy on the raw features."""

import inspect
import subprocess
import sys

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import fractional_matrix_power
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.testing import assert_close

from ray_tl.adaptation.closed_form import CLOSED_FORM, load_closed_form_head
from ray_tl.adaptation.closed_form.alignment import coral_map
from ray_tl.adaptation.closed_form.probes import round_down
from ray_tl.adaptation.method import MethodContext
from ray_tl.errors import InvalidInput

PARAMS = {
    "logistic": {},
    "nearest_mean": {},
    "knn": {"k": 3, "metric": "cosine"},
    "random_forest": {"num_trees": 5},
    "coral_closed": {},
    "subspace_alignment": {"num_components": 2},
    "pca_alignment": {"num_components": 2},
}
NAMES = sorted(PARAMS)
# The solver stops at slopes of 1e-6 a row: with a penalty of curvature 1, 24 rows and C = 10, 2e-4 in a weight.
SOLVED = 1e-4
ALIGNED = ["coral_closed", "pca_alignment", "subspace_alignment"]

seeds = st.integers(0, 2**32 - 1)
widths = st.integers(2, 5)
class_counts = st.integers(2, 4)
examples = settings(max_examples=20, deadline=None)


def domains(seed, width=4, num_classes=3, num_source=24, num_target=17):
    """Correlated features of unlike scale, far from 0; every class has rows; the target is moved."""
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.arange(num_source) % num_classes)
    centres = generator.normal(0, 1, (num_classes, width))
    mixing = generator.normal(0, 1, (2, width, width))
    source = (centres[labels] + generator.normal(0, 1, (num_source, width))) @ mixing[0] * 3 + 10
    target = generator.normal(0, 1, (num_target, width)) @ mixing[1] - 5
    return source, labels, target


def create(name, width=4, num_classes=3, **params):
    return CLOSED_FORM.create(name, params, MethodContext(feature_dim=width, num_classes=num_classes))


def fit(name, source, labels, target, seed=0, **params):
    method = create(name, source.shape[1], int(max(labels)) + 1, **params)
    return method.fit(torch.tensor(source), torch.tensor(labels), torch.tensor(target), seed)


def probabilities(head, rows):
    with torch.no_grad():
        return head(torch.tensor(rows)).softmax(dim=1).numpy()


def exact_logistic(inverse_penalty):
    """Another solver than the one under test, to the end."""
    return LogisticRegression(C=inverse_penalty, solver="newton-cg", tol=1e-10, max_iter=10_000)


def standard_scores(rows):
    return (rows - rows.mean(axis=0)) / rows.std(axis=0)


@examples
@given(seeds, widths, class_counts, st.floats(0.01, 10))
def test_logistic_gives_the_probabilities_of_the_pipeline(seed, width, num_classes, inverse_penalty):
    source, labels, target = domains(seed, width, num_classes)
    pipeline = make_pipeline(StandardScaler(), exact_logistic(inverse_penalty)).fit(source, labels)
    found = probabilities(fit("logistic", source, labels, target, C=inverse_penalty), target)
    np.testing.assert_allclose(found, pipeline.predict_proba(target), atol=SOLVED)


@examples
@given(seeds, st.integers(3, 4), st.floats(0.01, 10))
def test_logistic_is_where_the_slope_of_the_penalised_likelihood_is_zero(seed, num_classes, inverse_penalty):
    source, labels, target = domains(seed, num_classes=num_classes)
    head = fit("logistic", source, labels, target, C=inverse_penalty)
    weight = head.weight.detach().numpy() * source.std(axis=0)
    errors = probabilities(head, source) - np.eye(num_classes)[labels]
    slope = inverse_penalty * errors.T @ standard_scores(source) + weight
    np.testing.assert_allclose(slope, 0, atol=1e-6 * inverse_penalty * len(source))
    np.testing.assert_allclose(errors.sum(axis=0), 0, atol=1e-6 * len(source))


@examples
@given(seeds, widths, class_counts, st.floats(0.5, 100))
def test_nearest_mean_is_the_softmax_of_negative_squared_distances(seed, width, num_classes, temperature):
    source, labels, target = domains(seed, width, num_classes)
    scores, queries = standard_scores(source), (target - source.mean(axis=0)) / source.std(axis=0)
    means = [scores[labels == label].mean(axis=0) for label in range(num_classes)]
    distances = np.array([[sum((query - mean) ** 2) for mean in means] for query in queries])
    shares = np.exp(-(distances - distances.min(axis=1, keepdims=True)) / temperature)
    found = probabilities(fit("nearest_mean", source, labels, target, temperature=temperature), target)
    np.testing.assert_allclose(found, shares / shares.sum(axis=1, keepdims=True), rtol=1e-8, atol=1e-12)


@examples
@given(seeds, widths, class_counts)
def test_nearest_mean_predicts_as_the_nearest_centroid(seed, width, num_classes):
    source, labels, target = domains(seed, width, num_classes)
    pipeline = make_pipeline(StandardScaler(), NearestCentroid()).fit(source, labels)
    found = probabilities(fit("nearest_mean", source, labels, target), target)
    np.testing.assert_array_equal(found.argmax(axis=1), pipeline.predict(target))


@examples
@given(seeds, widths, class_counts, st.integers(1, 24), st.sampled_from(["euclidean", "cosine"]))
def test_knn_gives_the_neighbours_of_the_pipeline_and_one_more_of_all_classes(seed, width, num_classes, k, metric):
    source, labels, target = domains(seed, width, num_classes)
    pipeline = make_pipeline(StandardScaler(), KNeighborsClassifier(k, metric=metric)).fit(source, labels)
    counts = k * pipeline.predict_proba(target)
    found = probabilities(fit("knn", source, labels, target, k=k, metric=metric), target)
    np.testing.assert_allclose(found, (counts + 1 / num_classes) / (k + 1), rtol=1e-9)


@examples
@given(seeds, widths, class_counts, st.integers(1, 6))
def test_random_forest_gives_the_probabilities_of_scikit_learn(seed, width, num_classes, min_leaf_rows):
    source, labels, target = domains(seed, width, num_classes)
    forest = RandomForestClassifier(7, min_samples_leaf=min_leaf_rows, random_state=seed).fit(source, labels)
    head = fit("random_forest", source, labels, target, seed, num_trees=7, min_leaf_rows=min_leaf_rows)
    np.testing.assert_allclose(probabilities(head, target), forest.predict_proba(target), atol=1e-6)


@examples
@given(seeds)
def test_forest_in_float32_splits_neighbouring_numbers_as_scikit_learn(seed):
    generator = np.random.default_rng(seed)
    steps = generator.integers(0, 4, (30, 3)).astype(np.int32)
    rows = (np.float32(1).view(np.int32) + steps).view(np.float32)
    labels = np.concatenate([[0, 1], generator.integers(0, 2, 28)])
    forest = RandomForestClassifier(5, random_state=seed).fit(rows, labels)
    head = fit("random_forest", rows, labels, rows, seed, num_trees=5)
    np.testing.assert_allclose(probabilities(head, rows), forest.predict_proba(rows), atol=1e-6)


@examples
@given(st.floats(-1e30, 1e30))
def test_a_threshold_is_rounded_down_by_less_than_one_step(threshold):
    found = round_down(np.array([threshold]))
    assert found.dtype == np.float32
    assert found.astype(float) <= threshold < np.nextafter(found, np.float32(np.inf)).astype(float)


@examples
@given(seeds, widths, st.floats(0.01, 10))
def test_coral_map_gives_the_source_the_covariance_of_the_target(seed, width, regularisation):
    source, _, target = domains(seed, width)
    ridge = regularisation * np.eye(width)
    found = coral_map(source, target, regularisation=regularisation)
    recoloured = found.T @ (np.cov(source.T) + ridge) @ found
    np.testing.assert_allclose(recoloured, np.cov(target.T) + ridge, rtol=1e-6, atol=1e-6)


@examples
@given(seeds, widths, class_counts, st.floats(0.01, 10))
def test_coral_closed_gives_the_probabilities_of_whitening_recolouring_and_classifying(
    seed, width, num_classes, regularisation
):
    source, labels, target = domains(seed, width, num_classes)
    scores, queries, ridge = standard_scores(source), standard_scores(target), regularisation * np.eye(width)
    whitened = scores @ fractional_matrix_power(np.cov(scores.T) + ridge, -0.5)
    recoloured = whitened @ fractional_matrix_power(np.cov(queries.T) + ridge, 0.5)
    expected = exact_logistic(0.5).fit(recoloured, labels).predict_proba(queries)
    found = probabilities(fit("coral_closed", source, labels, target, regularisation=regularisation, C=0.5), target)
    np.testing.assert_allclose(found, expected, atol=SOLVED)


@examples
@given(seeds, widths, class_counts, st.data())
def test_subspace_alignment_gives_the_probabilities_of_two_pcas_and_classifying(seed, width, num_classes, data):
    num_components = data.draw(st.integers(1, width))
    source, labels, target = domains(seed, width, num_classes)
    scores, queries = standard_scores(source), standard_scores(target)
    source_axes = PCA(num_components).fit(scores).components_.T
    target_axes = PCA(num_components).fit(queries).components_.T
    aligned = scores @ source_axes @ (source_axes.T @ target_axes)
    expected = exact_logistic(0.5).fit(aligned, labels).predict_proba(queries @ target_axes)
    found = fit("subspace_alignment", source, labels, target, num_components=num_components, C=0.5)
    np.testing.assert_allclose(probabilities(found, target), expected, atol=SOLVED)


@examples
@given(seeds, widths, class_counts, st.data())
def test_pca_alignment_gives_the_probabilities_of_one_pca_and_classifying(seed, width, num_classes, data):
    num_components = data.draw(st.integers(1, width))
    source, labels, target = domains(seed, width, num_classes)
    scores, queries = standard_scores(source), standard_scores(target)
    pca = PCA(num_components).fit(np.concatenate([scores, queries]))
    expected = exact_logistic(0.5).fit(pca.transform(scores), labels).predict_proba(pca.transform(queries))
    found = fit("pca_alignment", source, labels, target, num_components=num_components, C=0.5)
    np.testing.assert_allclose(probabilities(found, target), expected, atol=SOLVED)


@pytest.mark.parametrize("name", ALIGNED)
def test_a_target_in_other_units_is_predicted_alike(name):
    source, labels, target = domains(0)
    moved = target * [0.1, 2, 30, 5] + [1, 2, -3, 100]
    expected = probabilities(fit(name, source, labels, target, **PARAMS[name]), target)
    found = probabilities(fit(name, source, labels, moved, **PARAMS[name]), moved)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("coral_closed", {"regularisation": 0.1}),
        ("pca_alignment", {"num_components": 4}),
        ("subspace_alignment", {"num_components": 4}),
    ],
)
def test_alignment_with_the_source_itself_is_the_logistic_probe(name, params):
    source, labels, target = domains(0)
    expected = probabilities(fit("logistic", source, labels, target), target)
    found = probabilities(fit(name, source, labels, source, **params), target)
    np.testing.assert_allclose(found, expected, atol=SOLVED)


def test_every_method_is_tested_here():
    assert CLOSED_FORM.names() == [*NAMES, "zero_shot"]  # which fits nothing: test_zero_shot.py


@pytest.mark.parametrize("name", NAMES)
def test_everything_but_the_context_is_keyword_only_and_has_a_range(name):
    parameters = inspect.signature(CLOSED_FORM.factory(name)).parameters.values()
    assert [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY] == ["context"]
    assert all(parameter.range for parameter in CLOSED_FORM.parameters(name).values())
    assert CLOSED_FORM.summary(name).endswith(".")


@pytest.mark.parametrize("name", NAMES)
def test_defaults_and_both_ends_of_each_range_give_finite_logits(name):
    source, labels, target = domains(0, width=80, num_source=150, num_target=120)
    ranges = {p.name: p.range for p in CLOSED_FORM.parameters(name).values()}
    choices = [{key: bound} for key, range_ in ranges.items() for bound in next(iter(range_.values()))]
    for params in [{}, *choices]:
        assert np.isfinite(probabilities(fit(name, source, labels, target, **params), target)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_a_head_survives_safetensors_to_the_bit(name, dtype):
    source, labels, target = (torch.tensor(array) for array in domains(0))
    head = create(name, **PARAMS[name]).fit(source.to(dtype), labels, target.to(dtype))
    state = safetensors.torch.load(safetensors.torch.save(head.state_dict()))
    loaded = load_closed_form_head(state, name, PARAMS[name], MethodContext(feature_dim=4, num_classes=3))
    assert not loaded.training
    assert_close(loaded(target.to(dtype)), head(target.to(dtype)), rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_head_shares_no_memory_with_what_it_came_from(name):
    source, labels, target = (torch.tensor(array) for array in domains(0))
    head = create(name, **PARAMS[name]).fit(source, labels, target)
    loaded = load_closed_form_head(head.state_dict(), name, PARAMS[name], MethodContext(feature_dim=4, num_classes=3))
    expected, queries = head(target).detach().clone(), target.clone()
    for tensor in (source, labels, target):
        tensor.zero_()
    assert_close(head(queries), expected, rtol=0, atol=0)
    for tensor in head.state_dict().values():
        tensor.zero_()
    assert_close(loaded(queries), expected, rtol=0, atol=0)


def test_a_linear_head_can_be_trained_on():
    head = fit("logistic", *domains(0))
    head(torch.ones(2, 4).double()).sum().backward()
    assert head.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_state_of_another_size_or_method_is_refused(name):
    context = MethodContext(feature_dim=4, num_classes=3)
    wider = fit(name, *domains(0, width=5, num_classes=4), **PARAMS[name]).state_dict()
    for state in ({}, {"stranger": torch.zeros(3)}, wider):
        with pytest.raises(InvalidInput, match="state must be that of a head for 4 features and 3 classes"):
            load_closed_form_head(state, name, PARAMS[name], context)


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_features_give_a_head_in_float32(name):
    source, labels, target = (torch.tensor(array) for array in domains(0))
    source, target = source.bfloat16(), target.bfloat16()
    head = create(name, **PARAMS[name]).fit(source, labels, target)
    wide = create(name, **PARAMS[name]).fit(source.double(), labels, target.double())
    found, expected = probabilities(head, target.float().numpy()), probabilities(wide, target.double().numpy())
    np.testing.assert_allclose(found, expected, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert head(target).isfinite().all()


@pytest.mark.parametrize(
    ("name", "params"),
    [("knn", {"metric": "euclidean"}), ("knn", {"metric": "cosine"}), ("random_forest", {"num_trees": 5})],
)
def test_neighbours_and_trees_are_compared_in_full_precision_under_autocast(name, params):
    source, labels, target = (torch.tensor(array) for array in domains(0, width=64, num_source=300))
    head = CLOSED_FORM.create(name, params, MethodContext(64, 3)).fit(source.float(), labels, target.float())
    with torch.autocast("cpu", torch.bfloat16):
        found = head(target.bfloat16())
    assert_close(found, head(target.bfloat16().float()), rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_head_in_float32_gives_the_probabilities_of_float64_far_from_zero(name):
    source, labels, target = (array.astype(np.float32) for array in domains(0))
    source, target = source + 1000, target + 1000
    narrow = fit(name, source, labels.astype(int), target, **PARAMS[name])
    wide = fit(name, source.astype(float), labels.astype(int), target.astype(float), **PARAMS[name])
    np.testing.assert_allclose(probabilities(narrow, target), probabilities(wide, target.astype(float)), atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_features_of_any_size_have_finite_logits(name):
    head = fit(name, *domains(0), **PARAMS[name])
    assert head(torch.tensor([[1e4, -1e4, 1e4, 1e4], [0.0, 0.0, 0.0, 0.0]]).double()).isfinite().all()
    assert head(torch.zeros(0, 4).double()).shape == (0, 3)


@pytest.mark.parametrize("name", NAMES)
def test_one_seed_gives_one_head(name):
    first, second = (fit(name, *domains(0), seed=2**40 + 3, **PARAMS[name]).state_dict() for _ in range(2))
    assert_close(first, second, rtol=0, atol=0)


def test_another_seed_gives_another_forest():
    first, second = (fit("random_forest", *domains(0), seed=seed, num_trees=5) for seed in (0, 1))
    assert not np.array_equal(probabilities(first, domains(0)[2]), probabilities(second, domains(0)[2]))


@pytest.mark.parametrize("name", NAMES)
def test_a_class_with_one_example_is_learned(name):
    source, labels, target = domains(0)
    source, labels = np.vstack([source, source[labels == 0].mean(axis=0) + 100]), np.append(labels, 3)
    found = probabilities(fit(name, source, labels, target, **PARAMS[name]), target)
    assert found.shape == (17, 4)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"random_forest"}))
def test_a_feature_that_is_constant_in_both_domains_changes_nothing(name):
    source, labels, target = domains(0)
    wider = [np.hstack([domain, np.full((len(domain), 1), 7.0)]) for domain in (source, target)]
    found = probabilities(fit(name, wider[0], labels, wider[1], **PARAMS[name]), wider[1])
    expected = probabilities(fit(name, source, labels, target, **PARAMS[name]), target)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("name", ["coral_closed", "knn", "logistic", "nearest_mean", "random_forest"])
def test_constant_features_give_finite_logits(name):
    _, labels, _ = domains(0)
    found = probabilities(fit(name, np.ones((24, 4)), labels, np.ones((17, 4)), **PARAMS[name]), np.ones((2, 4)))
    assert np.isfinite(found).all()


@pytest.mark.parametrize("name", ["pca_alignment", "subspace_alignment"])
def test_more_components_than_the_rank_are_refused(name):
    source, labels, target = domains(0)
    for rank, factor in ((0, [0, 0, 0, 0]), (1, [1, 0, 0, 0])):
        flat = source * factor, labels, target * factor
        with pytest.raises(InvalidInput, match=rf"num_components=2 is more than the rank {rank} of .* features"):
            fit(name, *flat, num_components=2)


def test_the_rank_that_is_too_low_may_be_that_of_the_target():
    source, labels, target = domains(0)
    with pytest.raises(InvalidInput, match="num_components=3 is more than the rank 2 of the target features"):
        fit("subspace_alignment", source, labels, target * [1, 1, 0, 0], num_components=3)


@pytest.mark.parametrize(("name", "axes"), [("subspace_alignment", 2), ("pca_alignment", 25)])
def test_more_components_than_few_rows_can_have_are_refused_before_there_are_features(name, axes):
    method = create(name, width=64, num_components=axes + 1)
    with pytest.raises(InvalidInput, match=rf"{name}.num_components={axes + 1} is more than the {axes} axes"):
        method.require_rows(24, 3)
    create(name, width=64, num_components=axes).require_rows(24, 3)


@pytest.mark.parametrize("name", ["pca_alignment", "subspace_alignment"])
@pytest.mark.parametrize("num_components", [0, 5])
def test_components_outside_the_width_are_refused(name, num_components):
    rule = rf"{name}.num_components={num_components} must lie in 1..4, the width of the features"
    with pytest.raises(InvalidInput, match=rule):
        create(name, num_components=num_components)


@pytest.mark.parametrize(
    ("name", "parameter"),
    [
        ("logistic", "C"),
        ("coral_closed", "C"),
        ("subspace_alignment", "C"),
        ("pca_alignment", "C"),
        ("coral_closed", "regularisation"),
        ("nearest_mean", "temperature"),
        ("knn", "k"),
        ("random_forest", "num_trees"),
        ("random_forest", "min_leaf_rows"),
    ],
)
def test_a_scale_or_count_that_is_not_above_zero_is_refused(name, parameter):
    with pytest.raises(InvalidInput, match=rf"{name}.{parameter}=0 must be a finite number above 0"):
        create(name, **{**PARAMS[name], parameter: 0})


def test_more_neighbours_than_rows_are_refused():
    with pytest.raises(InvalidInput, match=r"knn.k=25 is more than the 24 source rows; choose 1..24"):
        fit("knn", *domains(0), k=25)


def test_a_target_of_one_row_has_no_covariance():
    source, labels, target = domains(0, num_target=1)
    with pytest.raises(InvalidInput, match="a target of 1 row has no covariance; give 2 or more"):
        fit("coral_closed", source, labels, target)


@pytest.mark.parametrize("name", NAMES)
def test_one_class_is_refused(name):
    with pytest.raises(InvalidInput, match="num_classes=1 must be at least 2"):
        create(name, num_classes=1, **PARAMS[name])
    source, labels, target = (torch.tensor(array) for array in domains(0))
    with pytest.raises(InvalidInput, match=r"classes \[0, 2\] have no source row; give at least one row of each"):
        create(name, **PARAMS[name]).fit(source, torch.ones_like(labels), target)


def test_all_that_does_not_fit_is_named_at_once():
    source, labels, target = (torch.tensor(array) for array in domains(0))
    source[3, 1] = float("nan")
    with pytest.raises(InvalidInput) as raised:
        create("logistic").fit(source, labels + 1, target[:, :3])
    assert "4 problems" in str(raised.value)
    for problem in (
        "source features hold values that are not finite",
        "target features of shape [17, 3] must be [rows, 4]",
        "labels [3] are outside 0..2",
        "classes [0] have no source row",
    ):
        assert problem in str(raised.value)


def test_labels_of_another_length_are_refused():
    source, labels, target = (torch.tensor(array) for array in domains(0))
    with pytest.raises(InvalidInput, match=r"labels of shape \[23\] must be \[24\], one for each source row"):
        create("logistic").fit(source, labels[1:], target)


def test_an_empty_target_is_refused():
    with pytest.raises(InvalidInput, match=r"target features of shape \[0, 4\] must be \[rows, 4\]"):
        fit("logistic", *domains(0, num_target=0))


def test_importing_the_methods_does_not_import_scikit_learn():
    program = "import sys, ray_tl.adaptation; print('sklearn' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
