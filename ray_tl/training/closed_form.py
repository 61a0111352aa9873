"""Run a trial whose head is solved for instead of trained: one look at the domains, one report."""

import time
from dataclasses import asdict

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ray_tl.adaptation.closed_form import CLOSED_FORM
from ray_tl.adaptation.method import MethodContext
from ray_tl.collectives import rank, world_size
from ray_tl.config import TrialConfig
from ray_tl.data.augmentation import views_of
from ray_tl.errors import InvalidInput
from ray_tl.models.domain_norm import domain_of
from ray_tl.randomness import derive_seed
from ray_tl.selection import SelectionRule
from ray_tl.training.class_balance import CLASS_BALANCES, balanced_domain
from ray_tl.training.data import Inputs, TrialData
from ray_tl.training.doctor import findings
from ray_tl.training.evaluation import predict_features
from ray_tl.training.examination import (
    Evidence,
    confidence_gap,
    gap_of_domains,
    gather_evidence,
    histogram_drift,
    scores_of,
    source_recalls,
)
from ray_tl.training.files import State
from ray_tl.training.final_evidence import look_closer
from ray_tl.training.network import BARE, PREFIX, build_model, built, restore_model
from ray_tl.training.report import EpochReport, before
from ray_tl.validation.evidence import FinalEvidence


class ClosedFormRun:
    """A trial whose backbone stays as it is and whose head a closed-form method gives.

    It has one epoch, the last: what it reports is its result at full fidelity.

    Args:
        config: The whole trial; `ClosedForm` says what of it has no part here.
        data: Domains of the study.
        rule: Says what is looked at in each epoch, and what is maximised.
    """

    def __init__(self, config: TrialConfig, data: TrialData, rule: SelectionRule) -> None:
        self.config, self.data, self.rule = config, data, rule
        self.model = build_model(config, data).to(data.device)
        context = MethodContext(
            self.model.feature_dim,
            data.pair.num_classes,
            class_names=data.pair.source.classes,
            embed_texts=self.model.backbone.embed_texts,
        )
        self.method = CLOSED_FORM.create(config.method.name, config.method.params, context)
        self._balance = CLASS_BALANCES.create(config.class_balance.name, config.class_balance.params)
        self.first_epoch = config.epochs - 1
        self.evidence: Evidence = {}
        self.final_evidence: FinalEvidence | None = None

    def epoch(self, epoch: int) -> EpochReport:
        """Fit the head and evaluate; raises `InvalidInput` if a parameter does not fit the domains."""
        start = time.perf_counter()
        device, num_stages = self.data.device, self.model.backbone.num_stages
        inputs = self.data.inputs(self.model, num_stages)
        evaluated = self.data.evaluated(self.model, num_stages, views_of(self.config.test_time_augmentation))
        self.model.head = self._fitted_head(inputs).to(device)
        self.evidence = gather_evidence(self.model, evaluated, device)
        self.final_evidence = look_closer(self.model, evaluated[0], self.data, self.evidence["target"])
        scores, histogram = scores_of(self.evidence, self.data, self.rule)
        gap = gap_of_domains(self.model, inputs, device, self.config.seed)
        health = {**gap, **before(gap), "histogram_drift": histogram_drift(histogram, self.data)}
        report = EpochReport(
            epoch=epoch + 1,
            scores=scores,
            histogram=histogram,
            losses={},
            weights={},
            freeze_depth=num_stages,
            lr=0.0,
            seconds=time.perf_counter() - start,
            gap=confidence_gap(self.evidence),
            health=health,
            cached_stages=inputs.start,
            source_recalls=source_recalls(self.evidence, self.data),
        )
        report.findings.extend([*self._left_out(), *findings(report, 1.0, aligns_features=False)])
        return report

    def state(self, report: EpochReport) -> State:
        """All that `restore` needs."""
        network = {f"{PREFIX}{key}": value for key, value in self.model.state_dict().items()}
        return {"task": network, "report": asdict(report)}

    def restore(self, state: State | None) -> EpochReport | None:
        """Take up a saved state; gives the report of the trial."""
        if state is None:
            return None
        restore_model(self.model, self.config, state)
        self.model.to(self.data.device)
        return EpochReport(**state["report"])

    def _fitted_head(self, inputs: Inputs) -> nn.Module:
        """The same on every rank, to the bit: rank 0 solves, all learn the answer or what was wrong."""
        names = ("source", "target", *(("target_labelled",) if self._takes_target_labels() else ()))
        features = {name: self._features(name, inputs) for name in names}
        answer = [self._solved(features) if rank() == 0 else None]
        if world_size() > 1:
            dist.broadcast_object_list(answer, 0)
        if isinstance(answer[0], InvalidInput):
            raise answer[0]
        assert answer[0] is not None
        return self.method.restore(answer[0])

    def _solved(self, features: dict[str, Tensor]) -> dict[str, Tensor] | InvalidInput:
        source, labels = self._balanced(features["source"], self.data.labels)
        if "target_labelled" in features:
            assert self.data.target_labels is not None
            source = torch.cat([source, features["target_labelled"]])
            labels = torch.cat([labels, self.data.target_labels])
        try:
            seed = derive_seed(self.config.seed, "method")
            return self.method.fit(source, labels, features["target"], seed).state_dict()
        except InvalidInput as error:
            return error

    def _balanced(self, source: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The source before target rows join it, whose classes count for nothing here."""
        if not self._sees_source:
            return source, labels
        return balanced_domain(self._balance, source, labels, self.config.seed)

    @property
    def _sees_source(self) -> bool:
        return "source" in self.method.needs_domains

    def _takes_target_labels(self) -> bool:
        given = self.data.target_labels is not None and self.config.target_label_weight > 0
        return given and self.method.takes_target_labels

    def _features(self, domain: str, inputs: Inputs) -> Tensor:
        return predict_features(self.model, inputs.rows[domain], inputs.start, self.data.device, domain_of(domain))

    def _left_out(self) -> list[str]:
        taken = built(self.config)
        unused = {"transfer": "direct", "multi_task": "none", "mixing": "none"}
        unused |= {} if self._sees_source else {"class_balance": "none"}
        return [
            f"{field} {stated.name!r} was left out: {self.config.method.name!r} trains nothing and takes the features "
            "of the backbone."
            for field in BARE
            if (stated := getattr(self.config, field)) != getattr(taken, field)
        ] + [
            f"{field} {stated!r} was left out: {self.config.method.name!r} trains nothing."
            for field, usual in unused.items()
            if (stated := getattr(self.config, field).name) != usual
        ]
