import io
import re

import pytest
from rich.console import Console, RenderableType

from ray_tl.config import Component
from ray_tl.observability.tables import best_first, ended_line, ended_table, headline, progress_view, trials_table
from ray_tl.study.records import TrialState
from tests.examples import BASELINE, epoch, spec, trial

EVERY_STATE = [
    trial(number, state, objectives, error="[/x] broke")
    for number, (state, objectives) in enumerate(
        (state, values) for state in TrialState for values in ([], [0.25, 0.5])
    )
]


def rows(renderable: RenderableType) -> list[list[str]]:
    """Words of each row below the header."""
    lines = text(renderable).splitlines()
    return [
        line.split() for line in lines if re.match(r" *(★ )?\d+ +(running|complete|pruned|failed|infeasible)", line)
    ]


def text(renderable: RenderableType) -> str:
    console = Console(width=300, file=io.StringIO())
    console.print(renderable)
    return console.file.getvalue()


@pytest.mark.parametrize("record", EVERY_STATE, ids=lambda record: f"{record.state}-{len(record.epochs)}")
def test_trial_of_every_state_with_and_without_epochs_has_a_row_and_a_line(record):
    (row,) = rows(trials_table([record], "title"))
    assert row[:3] == [str(record.number), str(record.state), f"{len(record.epochs)}/{record.config.epochs}"]
    assert f"trial {record.number:>3} {record.state}" in ended_line(record)
    assert ended_line(record).endswith("[/x] broke")


def test_row_shows_scores_and_what_trains():
    (row,) = rows(trials_table([trial(3, objectives=[0.25, 0.5], is_baseline=True)], "title"))
    shown = "3 complete 2/2 0.500 90.0% source_only (baseline) 0 none"
    assert row == shown.split()


def test_row_of_a_head_that_was_solved_for_has_nothing_about_training():
    only = epoch(9, 0.5).model_copy(update={"losses": {}, "weights": {}})
    config = BASELINE.model_copy(update={"method": Component(name="knn"), "freeze_depth": 2})
    record = trial(3, config=config, epochs=[only])
    assert rows(trials_table([record], "title")) == [["3", "complete", "9/9", "0.500", "90.0%", "knn"]]
    assert "objective 0.500 at epoch 9, knn," in ended_line(record)


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"freeze_depth": "last_2"}, "all but 2"),
        ({"freeze_depth": "head_only"}, "all"),
        ({"freeze_depth": "everything"}, "0"),
        ({"trained_stages": 1}, "0, 1 train"),
    ],
)
def test_presets_and_blocks_are_shown_as_what_is_frozen(changes, shown):
    assert f" {shown} " in text(trials_table([trial(3, config=BASELINE.model_copy(update=changes))], "title"))


def test_champion_is_marked_and_true_accuracy_is_a_column_of_its_own():
    first, second = rows(trials_table([trial(1), trial(2)], "title", champion=2, oracle={2: 0.875}))
    assert (first[0], first[-1]) == ("1", "–")
    assert (second[:2], second[-1]) == (["★", "2"], "87.5%")


def test_order_is_complete_by_objective_then_the_rest_by_how_far_they_came():
    trials = [
        trial(0, TrialState.PRUNED, [0.9]),
        trial(1, TrialState.COMPLETE, [0.3]),
        trial(2, TrialState.FAILED, []),
        trial(3, TrialState.PRUNED, [0.1, 0.1]),
        trial(4, TrialState.COMPLETE, [0.4]),
        trial(5, TrialState.PRUNED, [0.95]),
    ]
    assert [record.number for record in best_first(trials)] == [4, 1, 3, 5, 0, 2]


def test_once_there_is_a_champion_the_order_is_that_of_the_choice():
    trials = [trial(number, objectives=[0.1 * number]) for number in range(3)]
    trials += [trial(3, objectives=[0.8]), trial(4, TrialState.PRUNED, [0.9])]  # a guard has rejected 3
    table = ended_table(trials, 1, {1: 0.75, 0: 0.5, 2: 0.25})
    assert table.title == "best first, by merit: what the winner is chosen by"
    assert [row[:5] for row in rows(table)] == [
        ["★", "1", "complete", "1/1", "0.750"],
        ["0", "complete", "1/1", "0.500", "0.000"],
        ["2", "complete", "1/1", "0.250", "0.200"],
        ["3", "complete", "1/1", "–", "0.800"],
        ["4", "pruned", "1/1", "–", "0.900"],
    ]


def test_before_there_is_a_champion_the_order_is_that_of_the_objective():
    table = ended_table([trial(0, objectives=[0.1]), trial(1, objectives=[0.2])], None, {})
    assert table.title == "best first, by label-free objective"
    assert [row[:4] for row in rows(table)] == [["1", "complete", "1/1", "0.200"], ["0", "complete", "1/1", "0.100"]]


def test_headline_counts_states_and_cost():
    trials = [trial(0, cost_s=3.0), trial(1, TrialState.RUNNING, cost_s=4.0), trial(2, TrialState.FAILED, [])]
    assert headline(spec(), trials, 12.4) == (
        "study office: 2/4 trials ended (1 running, 1 complete, 1 failed), 12 s, 7 worker-seconds of training"
    )


def test_headline_of_a_study_that_has_not_begun():
    assert headline(spec(), [], 0) == "study office: 0/4 trials ended (none yet), 0 s, 0 worker-seconds of training"


def test_progress_shows_running_trials_apart_and_at_most_six_ended():
    shown = rows(progress_view(spec(), [trial(0, TrialState.RUNNING), *map(trial, range(1, 9))], 1.0))
    assert [row[1] for row in shown] == ["running"] + ["complete"] * 6


def test_progress_of_a_study_that_has_not_begun_is_its_headline():
    assert text(progress_view(spec(), [], 0.0)).strip() == headline(spec(), [], 0.0)


def test_refits_stand_with_their_trial_and_show_no_held_out_accuracy():
    trials = [trial(number, objectives=[0.1 * number]) for number in range(1, 4)]
    trials += [trial(4, objectives=[0.9], refit_of=2), trial(5, objectives=[0.9], refit_of=2, combines=(4,))]
    shown = rows(ended_table(trials, champion=5, merits={2: 1.0, 3: 0.5, 1: 0.0}))
    assert [" ".join(row).split(" complete")[0] for row in shown] == ["★ 5", "2", "4", "3", "1"]
    assert ["trained on" in " ".join(row) for row in shown] == [True, False, True, False, False]
    assert "source_only (of refits 4)" in " ".join(shown[0])
    assert "source_only (refit of 2)" in " ".join(shown[2])


def test_refits_are_no_trials_of_the_search():
    trials = [trial(0), trial(1, TrialState.PRUNED), trial(2, refit_of=1), trial(3, TrialState.RUNNING, refit_of=1)]
    found = headline(spec(), trials, 0.0)
    assert "2/4 trials ended (1 complete, 1 pruned), 2 refits (1 running, 1 complete), 0 s" in found
    assert "2/4 trials ended (1 complete, 1 pruned), 1 refit (1 complete), 0 s" in headline(spec(), trials[:3], 0.0)
