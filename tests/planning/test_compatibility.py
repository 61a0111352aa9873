"""What does not fit together is found before anything runs; expected memory is measured on a real step."""

import pytest
import torch

from ray_tl.config import Component, TrialConfig
from ray_tl.models.memory import GIB
from ray_tl.planning.compatibility import Room, memory_of, memory_problems, network_problems
from ray_tl.search_space import DataOptions

RESNET = Component(name="resnet18", params={"weights": "none"})
OPTIONS = DataOptions(image_size=64)


def config(**changes: object) -> TrialConfig:
    return TrialConfig.model_validate({"backbone": RESNET, "batch_size": 32, **changes})


def room(gib: float, **changes: int) -> Room:
    return Room("this machine", int(gib * GIB), **{"num_workers": 1, **changes})


def test_a_network_that_takes_the_images_has_no_problem():
    assert network_problems([config()], OPTIONS) == []


def test_images_too_small_for_a_network_are_refused_with_a_size_that_fits():
    (line,) = network_problems([config(backbone={"vgg11_bn": {"weights": "none"}})], DataOptions(image_size=16))
    assert line.startswith("data.image_size=16 does not fit 'vgg11_bn' (")
    assert line.endswith("choose 32 or more.")


def test_a_network_that_refuses_by_itself_says_so_in_its_own_words():
    instance = config(domain_norm="instance")
    (line,) = network_problems([instance], DataOptions(image_size=8))
    assert "needs feature maps of more than one position" in line


def test_a_batch_that_does_not_fit_is_refused_with_figures():
    (line,) = memory_problems([config(batch_size=4096)], OPTIONS, room(2))
    assert line.startswith("batch_size=4096 on 'resnet18' from stage 0 on needs ")
    assert "this machine has 2.0 GiB free; lower batch_size" in line


def test_the_largest_batch_counts_even_if_it_is_varied_apart_from_the_depth():
    separate = [config(freeze_depth=0, batch_size=2), config(freeze_depth=6, batch_size=4096)]
    assert len(memory_problems(separate, OPTIONS, room(2))) == 1
    assert memory_problems([config(freeze_depth=6, batch_size=4096)], OPTIONS, room(2)) == []


@pytest.mark.parametrize(("workers", "fits"), [(1, True), (8, False)])
def test_trials_at_the_same_time_share_the_memory(workers, fits):
    needed = memory_of(config(), OPTIONS).total
    problems = memory_problems([config()], OPTIONS, room(4 * needed / GIB, num_workers=workers))
    assert (problems == []) is fits


def test_a_batch_over_several_ranks_needs_less_of_each():
    whole, half = memory_of(config(), OPTIONS), memory_of(config(), OPTIONS, ranks=2)
    assert half.activations == pytest.approx(whole.activations / 2, rel=0.01)


def test_a_strong_view_needs_memory_too():
    plain, strong = (memory_of(config(method=name), OPTIONS) for name in ("mcc", "fixmatch"))
    assert strong.activations > 1.2 * plain.activations


def test_another_task_needs_memory_too_even_if_it_is_varied_apart_from_the_depth():
    needed = memory_of(config(multi_task="auxiliary"), OPTIONS).total
    assert needed > memory_of(config(), OPTIONS).total
    separate = [config(), config(freeze_depth=6, multi_task="auxiliary")]
    assert len(memory_problems(separate, OPTIONS, room(0.999 * needed / GIB))) == 1


@pytest.mark.parametrize("regulariser", ["l2_sp", "delta", "delta_bss"])
def test_a_copy_of_the_backbone_needs_memory_too_even_if_it_is_varied_apart_from_the_depth(regulariser):
    kept = config(regulariser=regulariser)
    num_parameters = 11_176_512  # of a ResNet-18 without its head
    assert memory_of(kept, OPTIONS).weights - memory_of(config(), OPTIONS).weights > 4 * num_parameters
    needed = memory_of(kept, OPTIONS).total
    separate = [config(), config(freeze_depth=6, regulariser=regulariser)]
    assert len(memory_problems(separate, OPTIONS, room(0.999 * needed / GIB))) == 1


@pytest.mark.parametrize(
    ("field", "value", "copies"),
    [
        ("method", "mean_teacher", 1),
        ("method", "adda", 1),
        ("averaging", "ema", 1),
        ("averaging", {"greedy_soup": {"size": 3}}, 3),
        ("averaging", "wise_ft", 2),
    ],
)
def test_copies_of_the_network_need_memory_too_even_if_they_are_varied_apart_from_the_depth(field, value, copies):
    plain, kept = memory_of(config(), OPTIONS), memory_of(config(**{field: value}), OPTIONS)
    assert kept.weights == (1 + copies) * plain.weights
    separate = [config(), config(freeze_depth=6, **{field: value})]
    assert len(memory_problems(separate, OPTIONS, room(0.999 * kept.total / GIB))) == 1


def test_a_regulariser_that_wants_more_than_the_features_have_is_refused():
    narrow = {"bottleneck": {"width": 3}}
    configs = [config(), config(regulariser={"bss": {"num_values": 4}}, adaptor=narrow)]
    (line,) = network_problems(configs, OPTIONS)
    assert line == "bss.num_values=4 is more than the 3 features have directions; choose 1..3, 1 is usual."


def test_closed_forms_train_nothing_and_need_no_memory_for_it():
    assert memory_problems([config(method="logistic", batch_size=4096)], OPTIONS, room(0.001)) == []


def test_the_estimate_is_of_the_size_of_what_a_real_step_takes():
    """Measured by torch's profiler of memory: all that is allocated on the way to the loss and not freed before it."""
    from torch.profiler import ProfilerActivity, profile

    from ray_tl.models.backbones import BackboneContext
    from ray_tl.models.transfer_model import network_of

    network = network_of(config(), 2, BackboneContext(3, load_weights=False)).train()
    rows = torch.zeros(3 * 32, 3, 64, 64)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        outputs = network(rows)
    kept = sum(event.self_cpu_memory_usage for event in found.events())
    del outputs
    assert memory_of(config(method="mcc"), OPTIONS).activations == pytest.approx(kept + rows.nbytes, rel=0.15)
