"""What Ray Tune keeps of a trial that has ended: next to nothing, since the study store has all of it."""

from contextlib import suppress

from ray import tune
from ray.tune.experiment import Trial


class ForgetEnded(tune.Callback):
    """Drops ended trials from Tune, which would write 16 kB to disk for each.

    The last one stays: Tune makes a table of what it has at the end, and wants something to make it of.
    """

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: object) -> None:
        with suppress(AttributeError):  # what is touched here is not public: a later Ray may have it elsewhere
            ended = [trial for trial in trials if trial.is_finished() and trial.temporary_state.ray_actor is None]
            for trial in ended[:-1]:
                trials.remove(trial)
                _empty(trial)


def _empty(trial: Trial) -> None:
    """Tune still has it in a set or two, and writes what is in these to its own state."""
    metadata = trial.run_metadata
    metadata.last_result, metadata.metric_analysis, metadata.metric_n_steps = {}, {}, {}
    trial._state_json = "{}"
