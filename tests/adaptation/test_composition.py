import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ray_tl.adaptation import METHODS, AdaptationMethod, DomainOutputs, MethodContext, Outputs, StepOutputs
from ray_tl.adaptation.adversarial import Dann
from ray_tl.adaptation.alignment import Coral
from ray_tl.adaptation.composition import Composed
from ray_tl.adaptation.conditional import Cdan
from ray_tl.adaptation.confidence import Mcc
from ray_tl.adaptation.source_only import SourceOnly
from ray_tl.errors import InvalidInput

CONTEXT = MethodContext(feature_dim=4, num_classes=3)
DOMAIN = DomainOutputs(torch.zeros(1, 4), torch.zeros(1, 3))


class Agreement(AdaptationMethod):
    """A method with views, domains and a loss of its own, which keeps a diary of its hooks."""

    needs = ("target", "strong")
    needs_domains = ("target",)
    loss_names = ("task", "consistency")

    def __init__(self, diary):
        super().__init__(CONTEXT)
        self.diary = diary

    def losses(self, step):
        difference = step.target.logits - step.strong.logits
        return {"task": step.target.logits.sum(), "consistency": difference.square().sum()}

    def attach(self, model):
        self.diary.append(("attach", model))

    def begin_epoch(self, domains, progress):
        self.diary.append(("begin_epoch", list(domains), progress))

    def after_step(self, model, progress):
        self.diary.append(("after_step", model, progress))


class SourceAgreement(Agreement):
    needs_domains = ("source",)


def outputs(seed, num_rows):
    generator = torch.Generator().manual_seed(seed)
    parts = (torch.randn(num_rows, width, generator=generator, dtype=torch.float64) for width in (4, 3))
    return Outputs(*(part.requires_grad_() for part in parts))


def step():
    views = {"source": outputs(0, 3), "target": outputs(1, 5), "strong": outputs(2, 5)}
    return StepOutputs(views, torch.tensor([0, 2, 1]), progress=0.4)


def seeded(kind, **parameters):
    torch.manual_seed(0)
    return kind(CONTEXT, **parameters).double()


def gradients(domain, views):
    domain.backward()
    return [views.target.features.grad, views.target.logits.grad]


@pytest.mark.parametrize(("name", "kind"), [("dann_mcc", Dann), ("cdan_mcc", Cdan)])
def test_domain_loss_is_that_of_the_first_plus_the_weighted_one_of_mcc(name, kind):
    torch.manual_seed(0)
    parameters = {"hidden_width": 8, "gamma": 5.0, "temperature": 2.0, "second_weight": 0.5}
    composed = METHODS.create(name, parameters, CONTEXT).double()
    first = seeded(kind, hidden_width=8, gamma=5.0).losses(step())
    second = Mcc(CONTEXT, temperature=2.0).losses(step())
    losses = composed.losses(step())
    assert_close(losses["task"], first["task"], rtol=0, atol=0)
    assert_close(losses["domain"], first["domain"] + 0.5 * second["domain"], rtol=1e-12, atol=0)


@pytest.mark.parametrize(("name", "kind"), [("dann_mcc", Dann), ("cdan_mcc", Cdan)])
def test_features_feel_the_first_and_logits_feel_half_of_mcc(name, kind):
    torch.manual_seed(0)
    composed = METHODS.create(name, {"second_weight": 0.5}, CONTEXT).double()
    of_first, of_second, of_both = step(), step(), step()
    of_features, _ = gradients(seeded(kind).losses(of_first)["domain"], of_first)
    _, of_logits = gradients(Mcc(CONTEXT).losses(of_second)["domain"], of_second)
    found = gradients(composed.losses(of_both)["domain"], of_both)
    assert_close(found, [of_features, 0.5 * of_logits], rtol=1e-9, atol=1e-15)


def test_the_widest_exact_map_reaches_cdan():
    assert METHODS.create("cdan_mcc", {"max_width": 5}, CONTEXT).first.randomised


def test_a_loss_that_only_the_second_has_keeps_its_name_and_takes_the_weight():
    method = Composed(CONTEXT, Coral(CONTEXT), Agreement([]), second_weight=3.0)
    losses, views = method.losses(step()), step()
    difference = (views.target.logits - views.strong.logits).square().sum()
    assert tuple(losses) == method.loss_names == ("task", "domain", "consistency")
    assert_close(losses["consistency"], 3 * difference, rtol=1e-12, atol=0)
    assert_close(losses["domain"], Coral(CONTEXT).losses(views)["domain"], rtol=0, atol=0)


def test_a_method_of_the_task_alone_takes_what_the_second_gives():
    method = Composed(CONTEXT, SourceOnly(CONTEXT), Coral(CONTEXT), second_weight=2.0)
    expected = 2 * Coral(CONTEXT).losses(step())["domain"]
    assert method.loss_names == ("task", "domain")
    assert_close(method.losses(step())["domain"], expected, rtol=1e-12, atol=0)


def test_views_and_domains_are_those_that_either_needs_each_once():
    method = Composed(CONTEXT, Coral(CONTEXT), Agreement([]), second_weight=1.0)
    assert method.needs == ("source", "target", "strong")
    assert method.needs_domains == ("target",)


def test_hooks_reach_the_first_and_then_the_second():
    diary, model = [], nn.Linear(1, 1)
    method = Composed(CONTEXT, Agreement(diary), Agreement(diary), second_weight=1.0)
    method.attach(model)
    method.after_step(model, 0.25)
    assert diary == [("attach", model)] * 2 + [("after_step", model, 0.25)] * 2


def test_each_is_given_only_the_domains_that_it_needs():
    diary = []
    method = Composed(CONTEXT, Agreement(diary), SourceAgreement(diary), second_weight=1.0)
    method.begin_epoch({"source": DOMAIN, "target": DOMAIN}, 0.5)
    assert diary == [("begin_epoch", ["target"], 0.5), ("begin_epoch", ["source"], 0.5)]


def test_a_method_that_needs_no_domain_is_not_called_before_an_epoch():
    diary = []
    Composed(CONTEXT, Coral(CONTEXT), Agreement(diary), second_weight=1.0).begin_epoch({"target": DOMAIN}, 0.5)
    assert diary == [("begin_epoch", ["target"], 0.5)]


def test_learned_parts_of_both_are_trained_and_saved():
    method = Composed(CONTEXT, Dann(CONTEXT, hidden_width=2), Dann(CONTEXT, hidden_width=3), second_weight=1.0)
    assert len(list(method.parameters())) == len(method.state_dict()) == 12


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf])
def test_a_weight_that_is_not_above_zero_is_refused(value):
    with pytest.raises(InvalidInput, match=rf"second_weight={value} must be a finite number above 0; 1.0 is usual"):
        METHODS.create("dann_mcc", {"second_weight": value}, CONTEXT)
