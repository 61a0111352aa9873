"""A Ray Train run without what a slot has no use for, which can be ended from outside; nothing here imports torch."""

import ray
from ray.train import Result
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2._internal.execution.scaling_policy.fixed import FixedScalingPolicy
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from ray_tl.on_ray.torch_group import TorchGroup
from ray_tl.on_ray.trial_queue import Holder

# Each is a process of its own, which imports Ray Train before the first worker may begin. A slot reads no Ray Datasets,
# and its placement group goes with the job that it belongs to: there is one job a search.
UNUSED_CALLBACKS = {"DatasetsCallback", "PlacementGroupCleanerCallback"}


class LeanTrainer(DataParallelTrainer):
    """A `TorchTrainer` without the two helper actors for datasets and for orphaned placement groups.

    Its controller does not import torch. What it builds on is not public API of Ray.

    Args:
        queue: Told of the run's controller as soon as that works: to kill it ends the run and its workers.
        holder: The slot, in this start of it.
        group: Of the workers.
        settings: Of `DataParallelTrainer`.
    """

    def __init__(self, queue: ray.actor.ActorHandle, holder: Holder, group: TorchGroup, **settings: object) -> None:
        self._enrolment = _Enrolment(queue, holder)
        super().__init__(backend_config=group, **settings)

    def _initialize_and_run_controller(self, **settings: object) -> Result:
        if type(settings.get("scaling_policy")) is FixedScalingPolicy:
            settings["scaling_policy"] = _SilentPolicy(self.scaling_config)
        return super()._initialize_and_run_controller(**settings)

    def _create_default_callbacks(self) -> list:
        callbacks = super()._create_default_callbacks()
        kept = [callback for callback in callbacks if type(callback).__name__ not in UNUSED_CALLBACKS]
        return [*kept, self._enrolment]


class _SilentPolicy(FixedScalingPolicy):
    """Workers of a fixed number, for which the autoscaler is asked by the search as a whole and not by each slot.

    Ray knows the last request only, and a slot's would take the place of the search's.
    """

    def after_controller_start(self, train_run_context: object) -> None:
        """Ask for nothing."""

    def _maybe_send_resource_request(self) -> None:
        """Ask for nothing."""


class _Enrolment(ControllerCallback):
    """Tells the queue, from within the controller, which actor that is."""

    def __init__(self, queue: ray.actor.ActorHandle, holder: Holder) -> None:
        self._queue, self._holder = queue, holder

    def after_controller_start(self, train_run_context: object) -> None:
        self._queue.enrol.remote(self._holder, ray.get_runtime_context().current_actor)
