"""What enters the network: which rows of which domains at each step, and how they are changed on the way."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ray_tl.adaptation.method import AdaptationMethod, View
from ray_tl.collectives import rank, world_size
from ray_tl.config import TrialConfig
from ray_tl.data.augmentation import as_input, augmentation_for, dropped_activations, strong_view, views_of
from ray_tl.data.augmentation.base import Rows
from ray_tl.data.domains import DomainPair, LabelledDomain
from ray_tl.data.mixing import MIXINGS, mixed_labels
from ray_tl.models.domain_norm import Domain, domain_of
from ray_tl.models.transfer_model import TransferModel
from ray_tl.randomness import generator
from ray_tl.training.batches import PairedBatches, Step, check_accumulation, least_steps_of_an_epoch
from ray_tl.training.class_balance import SourceBalance
from ray_tl.training.data import Inputs, TrialData, intermediate
from ray_tl.training.transfer import TRANSFERS, TransferContext

Views = dict[View, Tensor]


class Feed:
    """Joint batches of a trial, as views on the device.

    Args:
        config: The whole trial.
        data: Domains of the study.

    Attributes:
        leg: Part of the way from source to target on which the trial is.
        inputs: Of every domain in the role that it has on this leg, at the stage at which they enter now.
        evaluated: The same for each view over which predictions are averaged.
        batches: Of this rank.
        class_weights: Of each class in the task loss on the source, [C], on the device; `None` where all weigh 1.
    """

    def __init__(self, config: TrialConfig, data: TrialData) -> None:
        self.config, self.data = config, data
        self._transfer = TRANSFERS.create(
            config.transfer.name, config.transfer.params, TransferContext(len(data.pair.intermediate))
        )
        self._joining = joining(config, data.pair)
        few = [torch.as_tensor(domain.labels) for _, domain in self._joining]
        self._given_labels = torch.cat([data.labels, *few]) if few else data.labels
        self._balance = SourceBalance(config, data.pair.num_classes, data.cache.capacity_bytes)
        self._has_auxiliary = config.multi_task.name != "none"
        self._entered = self.inputs = Inputs(data.rows, 0)
        self.evaluated: Sequence[Inputs] = [self.inputs]
        self._augmentation = augmentation_for(config.augmentation, data.pair.modality)
        self._strong = strong_view(data.pair.modality)
        self._mixing = MIXINGS.create(config.mixing.name, config.mixing.params)
        self._looks = views_of(config.test_time_augmentation)
        check_accumulation(config)
        self._least_steps = 1
        self.go_to(0.0)

    def go_to(self, progress: float) -> None:
        """The epoch that begins at `progress` comes next; domains change their roles where a leg of the way begins."""
        self.leg = self._transfer.leg_at(progress)
        self._assign()

    def enter_at(self, model: TransferModel, depth: int) -> None:
        """From now on the first `depth` stages are frozen: what they give is computed once, unless images change."""
        cuts = self._mixing is not None and not self._mixing.on_activations
        changed = cuts or self.config.augmentation.name != "none"
        self._entered = Inputs(self.data.rows, 0) if changed else self.data.inputs(model, depth)
        self.evaluated = self.data.evaluated(model, 0 if changed else depth, self._looks)
        if self._joining:
            rows = self._entered.rows
            joined = torch.cat([rows["source"], *(rows[intermediate(number)] for number, _ in self._joining)])
            self._entered = replace(self._entered, rows={**rows, "source": joined})
        has_head_alone = self._entered.start == model.backbone.num_stages
        self._balance.begin_phase(is_frozen=has_head_alone)
        self._least_steps = least_steps_of_an_epoch(self.config) if has_head_alone else 1
        self._assign()

    def views(
        self, step: Step, method: AdaptationMethod, progress: float, epoch: int, index: int
    ) -> tuple[Views, Views, Tensor, Tensor | None]:
        """What one step needs.

        Args:
            step: Rows of this rank.
            method: Says which views it needs now.
            progress: In [0, 1] of full fidelity.
            epoch: Counted from 0.
            index: Of the step in its epoch.

        Returns:
            What enters the network, [N, ...], and which rows of their domains these are, [N], for each view; labels of
            the source rows, [N], or [N, C] where they are mixed; labels of the labelled target rows, `None` if that
            view is not there.
        """
        views, rows = self._views(step, method, progress, epoch, index)
        labels = self._source_labels[step.source_rows if "source" in views else []].to(self.data.device)
        if self._mixing is not None and "source" in views:
            views["source"], labels = self._mixed(
                views["source"], step, generator(self.config.seed, "mixing", epoch, index)
            )
        few = self.data.target_labels
        target_labels = None if few is None or "target_labelled" not in views else few[step.labelled_rows]
        return views, rows, labels, None if target_labels is None else target_labels.to(self.data.device)

    def labels(self, domain: str) -> Tensor | None:
        """Of `source` or `target_labelled`, [N], on the device; `None` for a domain without labels."""
        labels = {"source": self._source_labels, "target_labelled": self.data.target_labels}.get(domain)
        return None if labels is None else labels.to(self.data.device)

    def auxiliary_labels(self, step: Step) -> Tensor | None:
        """Of the rows of another task, [N], on the device; `None` if there is none."""
        return self.data.auxiliary_labels[step.auxiliary_rows].to(self.data.device) if self._has_auxiliary else None

    def joined_batches(
        self, method: AdaptationMethod, progress: float, epoch: int
    ) -> Iterator[tuple[Tensor, list[Domain]]]:
        """This rank's share of an epoch's batches as the network trains on them, and the domain of each equal part."""
        for index, parts in enumerate(self.batches.steps(epoch)):
            for part in parts:
                views, *_ = self.views(part, method, progress, epoch, index)
                yield torch.cat(list(views.values())), [domain_of(view) for view in views]

    def target_batches(self) -> Iterator[Tensor]:
        """This rank's share of joint batches of the target, of equal size, as it enters the network unchanged.

        Rows that do not fill a batch are left out; which ones is a function of the seed.
        """
        rows = self.evaluated[0].rows["target"]  # never that of a domain which stands in its place for a while
        joint = max(1, min(self.batches.per_rank, len(rows) // world_size())) * world_size()
        order = torch.randperm(len(rows), generator=generator(self.config.seed, "target batches"))
        for batch in order.split(joint):
            if len(batch) == joint:
                yield rows[batch.chunk(world_size())[rank()]].to(self.data.device)

    def notes(self) -> list[str]:
        """What became of the batch size that was asked for, and what a method sees of it."""
        return [*self._size_notes(), *self._accumulation_notes(), *self._balance.notes()]

    def _assign(self) -> None:
        """Rows and batches for the roles of this leg."""
        place, data = self.leg.target, self.data
        rows = self._entered.rows
        played = rows["target"] if place is None else rows[intermediate(place)]
        joined = (len(domain) for number, domain in self._joining if number < self.leg.num_joined)
        num_source = len(data.pair.source) + sum(joined)
        source = self._balance.balanced(rows["source"], self._given_labels, num_source)
        self.inputs = replace(self._entered, rows={**rows, "source": source.rows, "target": played})
        self._source_labels = source.labels
        self.class_weights = (
            None if source.weights is None else source.weights.to(data.device, torch.get_default_dtype())
        )
        self.batches = PairedBatches(
            num_source,
            len(played),
            self.config.batch_size,
            rank(),
            world_size(),
            self.config.seed,
            num_labelled(data.pair),
            len(data.auxiliary_labels) if self._has_auxiliary else 0,
            self.config.accumulation,
            source.draw,
            self._least_steps,
        )

    def _views(
        self, step: Step, method: AdaptationMethod, progress: float, epoch: int, index: int
    ) -> tuple[Views, Views]:
        random = generator(self.config.seed, "augmentation", epoch, index)
        numbers = {"source": step.source_rows, "target": step.target_rows, "target_labelled": step.labelled_rows}
        numbers["auxiliary"] = step.auxiliary_rows
        views: Views = {}
        for name in self._needed_views(method, progress):
            domain = "target" if name == "strong" else name
            mixes = name == "source" and self._mixing is not None
            chosen = torch.cat([step.source_before, step.source_rows]) if mixes else numbers[domain]
            places: Rows = step.places_from_before() if mixes else step.share
            inputs = self.inputs.rows[domain][chosen].to(self.data.device)
            change = self._strong_view if name == "strong" else self._weak_view
            views[name] = change(inputs, random, places, step.total)
        return views, {name: numbers["target" if name == "strong" else name].to(self.data.device) for name in views}

    def _needed_views(self, method: AdaptationMethod, progress: float) -> tuple[View, ...]:
        needs = method.needs_at(progress)
        joins = method.takes_target_labels and self.config.target_label_weight > 0
        if self.data.target_labels is not None and joins and "target_labelled" not in method.needs:
            needs = (*needs, "target_labelled")
        return (*needs, "auxiliary") if self._has_auxiliary else needs

    def _mixed(self, views: Tensor, step: Step, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Each source example mixed with the one before it in the joint batch, whichever rank has that one.

        Args:
            views: Of `source_before` and of the source rows, as they enter the network, [1 + N, ...].
            step: Rows of this rank.
            random: In the same state on every rank.
        """
        assert self._mixing is not None
        draws = torch.rand(step.total, self._mixing.num_draws, generator=random)[step.share]
        mixed, shares = self._mixing.mix(views[1:], views[:-1], draws)
        labels = self._source_labels[torch.cat([step.source_before, step.source_rows])].to(self.data.device)
        return mixed, mixed_labels(labels[1:], labels[:-1], shares, self.data.pair.num_classes)

    def _weak_view(self, inputs: Tensor, random: torch.Generator, places: Rows, total: int) -> Tensor:
        if self.inputs.start > 0:
            return inputs
        return self._augmentation.augment(as_input(inputs), random, places, total)

    def _strong_view(self, inputs: Tensor, random: torch.Generator, places: Rows, total: int) -> Tensor:
        weak = self._weak_view(inputs, random, places, total)
        if self.inputs.start > 0:
            return dropped_activations(weak, random, places, total)
        return self._strong.augment(weak, random, places, total)

    def _size_notes(self) -> list[str]:
        actual = self.batches.per_step
        if actual == self.config.batch_size:
            return []
        return [
            f"batch_size={self.config.batch_size} became {actual}, the most that {world_size()} workers share evenly "
            f"and the smaller domain of {min(self.batches.num_source, self.batches.num_target)} rows holds."
        ]

    def _accumulation_notes(self) -> list[str]:
        joint, micro = self.batches.per_step, self.batches.per_rank * world_size()
        if joint == micro:
            return []
        return [
            f"accumulation={self.config.accumulation}: losses over a whole batch (alignment, diversity) and batch "
            f"normalisation that trains see {micro} examples at a time instead of {joint}."
        ]


def joining(config: TrialConfig, pair: DomainPair) -> list[tuple[int, LabelledDomain]]:
    """Number and content of the intermediate domains whose labelled examples come to the source on the way."""
    context = TransferContext(len(pair.intermediate))
    leg = TRANSFERS.create(config.transfer.name, config.transfer.params, context).last_leg()
    between = enumerate(pair.intermediate[: leg.num_joined])
    return [(number, domain) for number, domain in between if isinstance(domain, LabelledDomain)]


def num_labelled(pair: DomainPair) -> int:
    """Examples of the target whose labels were given for training."""
    return 0 if pair.target_labelled is None else len(pair.target_labelled)
