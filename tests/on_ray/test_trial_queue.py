import asyncio
from collections.abc import Coroutine

import pytest

from ray_tl.on_ray.trial_queue import CLIENT_START_S, LOOK_EVERY_S, Holder, Job, Limits, Outcome, TrialQueue
from ray_tl.study.failures import RETRIES, Failure, FailureKind
from ray_tl.training.report import EpochReport
from tests.examples import BASELINE, spec

SOON = 5.0  # nothing here waits so long unless it hangs
NOW = 0.001
FIRST, SECOND, THIRD = (Holder(slot) for slot in range(3))
DIED = Failure(FailureKind.WORKER_DIED, "its worker died.")
SPEC = spec(grace_epochs=3)
GRACE_EPOCHS = SPEC.search.grace_epochs
LIMITS = Limits(lease_s=60, hang_s=900, trial_s=3600)


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def job(number: int) -> Job:
    return Job(f"job-{number}", number, BASELINE)


def report(epoch: int) -> EpochReport:
    values = {"scores": {}, "histogram": [], "losses": {}, "weights": {}, "freeze_depth": 0, "lr": 0.1, "seconds": 1.0}
    return EpochReport(epoch=epoch, **values)


def run(main: Coroutine[object, object, None]) -> None:
    asyncio.run(asyncio.wait_for(main, SOON))


async def queue_of(*numbers: int, clock: Clock | None = None) -> TrialQueue:
    queue = TrialQueue(["data"], SPEC, LIMITS, clock or Clock())
    for number in numbers:
        await queue.submit(job(number))
    return queue


async def settled() -> None:
    """Every task has got as far as it can."""
    for _ in range(50):
        await asyncio.sleep(0)


def test_jobs_are_handed_out_in_the_order_of_submission():
    async def main():
        queue = await queue_of(3, 1, 2)
        assert [await queue.next_job(holder, SOON) for holder in (FIRST, SECOND, THIRD)] == [job(3), job(1), job(2)]

    run(main())


def test_slot_that_waits_gets_the_job_that_comes():
    async def main():
        queue = await queue_of()
        waiting = asyncio.create_task(queue.next_job(FIRST, SOON))
        await settled()
        await queue.submit(job(4))
        assert await waiting == job(4)

    run(main())


def test_slot_without_work_is_told_so():
    async def main():
        queue = await queue_of()
        assert await queue.next_job(FIRST, NOW) == "idle"
        await queue.submit(job(0))
        assert await queue.next_job(FIRST, NOW) == job(0)

    run(main())


def test_job_that_is_submitted_again_is_the_same_job():
    async def main():
        queue = await queue_of(0, 0)
        assert await queue.next_job(FIRST, NOW) == job(0)
        await queue.submit(job(0))
        assert await queue.next_job(SECOND, NOW) == "idle"

    run(main())


def test_report_is_answered_when_the_client_has_decided():
    async def main():
        queue = await queue_of(0)
        await queue.next_job(FIRST, SOON)
        reporting = asyncio.create_task(queue.report(FIRST, "job-0", report(1)))
        assert await queue.next_message("job-0", 0) == report(1)
        await settled()
        assert not reporting.done()
        asking = asyncio.create_task(queue.next_message("job-0", 1))
        assert await reporting is False
        await queue.end(FIRST, "job-0", Outcome())
        assert await asking == Outcome()

    run(main())


def test_training_goes_on_without_an_answer_if_the_client_is_gone(monkeypatch):
    monkeypatch.setattr("ray_tl.on_ray.trial_queue.DECISION_S", NOW)

    async def main():
        queue = await queue_of(0)
        await queue.next_job(FIRST, SOON)
        assert [await queue.report(FIRST, "job-0", report(epoch)) for epoch in (1, 2)] == [False, False]

    run(main())


def test_next_client_of_a_trial_hears_what_the_one_before_had_not_passed_on():
    async def main():
        queue = await queue_of(0)
        await queue.next_job(FIRST, SOON)
        reporting = [asyncio.create_task(queue.report(FIRST, "job-0", report(epoch))) for epoch in (1, 2, 3)]
        assert await queue.next_message("job-0", 0) == report(1)  # and this client is killed
        assert await queue.next_message("job-0", 0) == report(1)
        assert await queue.next_message("job-0", 2) == report(3)
        asking = asyncio.create_task(queue.next_message("job-0", 3))
        assert await asyncio.gather(*reporting) == [False, False, False]
        asking.cancel()

    run(main())


def test_last_report_of_a_trial_waits_for_a_client_that_starts_but_not_for_one_that_never_does():
    async def main():
        clock = Clock()
        queue = await queue_of(1, clock=clock)
        await queue.submit(job(2), awaits_client=True)
        await queue.next_job(FIRST, SOON)
        await queue.end(FIRST, "job-1", Outcome())
        told = asyncio.create_task(queue.next_message("job-1", 0))
        await asyncio.sleep(2 * LOOK_EVERY_S)
        assert not told.done()
        started = asyncio.create_task(queue.next_message("job-2", 0))
        assert await told == Outcome()
        started.cancel()
        await queue.submit(job(2), awaits_client=True)
        told = asyncio.create_task(queue.next_message("job-1", 0))
        await settled()
        clock.now += CLIENT_START_S + 1
        assert await told == Outcome()

    run(main())


def test_report_of_an_epoch_that_ends_no_trial_does_not_wait_for_clients():
    async def main():
        queue = await queue_of(1)
        await queue.submit(job(2), awaits_client=True)
        await queue.next_job(FIRST, SOON)
        reported = asyncio.create_task(queue.report(FIRST, "job-1", report(GRACE_EPOCHS - 1)))
        assert await queue.next_message("job-1", 0) == report(GRACE_EPOCHS - 1)
        reported.cancel()

    run(main())


def test_report_of_a_trial_that_the_client_stops_says_stop():
    async def main():
        queue = await queue_of(0)
        await queue.next_job(FIRST, SOON)
        reporting = asyncio.create_task(queue.report(FIRST, "job-0", report(1)))
        await queue.next_message("job-0", 0)
        await queue.stop("job-0")
        assert await reporting is True
        assert await queue.report(FIRST, "job-0", report(2)) is True

    run(main())


def test_client_that_never_asked_for_a_job_or_is_no_longer_its_client_can_not_stop_it():
    async def main():
        queue = await queue_of(0)
        await queue.stop("job-0", "dismissed")
        await queue.next_job(FIRST, SOON)
        reporting = asyncio.create_task(queue.report(FIRST, "job-0", report(1)))
        await queue.next_message("job-0", 0, "lost")
        await queue.next_message("job-0", 0, "present")
        await queue.stop("job-0", "lost")
        asking = asyncio.create_task(queue.next_message("job-0", 1, "present"))
        assert await reporting is False
        await queue.stop("job-0", "present")
        assert await queue.report(FIRST, "job-0", report(2)) is True
        asking.cancel()

    run(main())


def test_job_stopped_while_it_waits_is_skipped():
    async def main():
        queue = await queue_of(0, 1)
        await queue.stop("job-0")
        assert await queue.next_job(FIRST, SOON) == job(1)
        assert await queue.next_job(SECOND, NOW) == "idle"

    run(main())


def test_job_of_a_lost_slot_goes_to_the_front_for_any_slot():
    async def main():
        queue = await queue_of(0, 1)
        assert await queue.next_job(FIRST, SOON) == job(0)
        await queue.lost(FIRST, DIED)
        assert await queue.next_job(SECOND, SOON) == job(0)
        assert await queue.next_job(Holder(0, 2), SOON) == job(1)

    run(main())


def test_job_whose_worker_came_back_in_its_middle_is_handed_out_again():
    async def main():
        queue = await queue_of(0)
        assert [await queue.next_job(FIRST, SOON) for _ in range(2)] == [job(0), job(0)]

    run(main())


def retries(queue: TrialQueue, failure: Failure) -> Coroutine[object, object, int]:
    """How often job 0 is handed out anew after such a failure."""

    async def count() -> int:
        for times in range(100):
            if await queue.next_job(FIRST, NOW) == "idle":
                return times - 1
            await queue.end(FIRST, "job-0", Outcome(failure))
        return 100

    return count()


@pytest.mark.parametrize("kind", FailureKind)
def test_job_is_tried_again_as_often_as_its_kind_of_failure_allows(kind):
    async def main():
        queue = await queue_of(0)
        assert await retries(queue, Failure(kind, "no.")) == RETRIES[kind]
        outcome = await queue.next_message("job-0", 0)
        assert (outcome.failure.kind, outcome.error[:3]) == (kind, "no.")

    run(main())


def test_progress_resets_the_count_of_failures():
    async def main():
        queue = await queue_of(0)
        for epoch in range(1, 3 * RETRIES[FailureKind.WORKER_DIED]):
            assert await queue.next_job(FIRST, NOW) == job(0)
            reporting = asyncio.create_task(queue.report(FIRST, "job-0", report(epoch)))
            await settled()
            await queue.lost(FIRST, DIED)
            reporting.cancel()
        assert await queue.next_job(FIRST, NOW) == job(0)

    run(main())


def test_job_that_ran_out_of_shared_memory_waits_behind_the_others():
    async def main():
        queue = await queue_of(0, 1)
        await queue.next_job(FIRST, NOW)
        await queue.end(FIRST, "job-0", Outcome(Failure(FailureKind.OUT_OF_SHARED_MEMORY, "full.")))
        assert [await queue.next_job(holder, NOW) for holder in (FIRST, SECOND)] == [job(1), job(0)]

    run(main())


def test_slot_that_has_lost_its_job_is_not_heard_any_more():
    async def main():
        queue = await queue_of(0)
        await queue.next_job(FIRST, NOW)
        await queue.lost(FIRST, DIED)
        await queue.next_job(SECOND, NOW)
        assert await queue.report(FIRST, "job-0", report(1)) is True
        await queue.end(FIRST, "job-0", Outcome())
        reporting = asyncio.create_task(queue.report(SECOND, "job-0", report(1)))
        assert await queue.next_message("job-0", 0) == report(1)
        await queue.stop("job-0")
        assert await reporting is True

    run(main())


def test_epoch_trained_again_by_another_slot_is_not_forwarded_again():
    async def main():
        queue = await queue_of(0)
        await queue.next_job(FIRST, SOON)
        before = asyncio.create_task(queue.report(FIRST, "job-0", report(1)))
        assert await queue.next_message("job-0", 0) == report(1)
        before.cancel()
        await queue.lost(FIRST, DIED)
        await queue.next_job(SECOND, SOON)
        asking = asyncio.create_task(queue.next_message("job-0", 1))
        await settled()
        assert await queue.report(SECOND, "job-0", report(1)) is False
        after = asyncio.create_task(queue.report(SECOND, "job-0", report(2)))
        assert await asking == report(2)
        await queue.stop("job-0")
        assert await after is True

    run(main())


@pytest.mark.parametrize(
    ("seconds", "beats", "kind", "said"),
    [
        (60, [], None, ""),
        (61, [], FailureKind.NODE_LOST, "slot 0 was silent for 60 s."),
        (900, range(0, 901, 50), None, ""),
        (951, range(0, 952, 50), FailureKind.HUNG, "slot 0 did no step for 900 s."),
    ],
)
def test_slot_that_is_silent_or_hangs_is_overdue(seconds, beats, kind, said):
    async def main():
        clock = Clock()
        queue = await queue_of(0, clock=clock)
        await queue.next_job(FIRST, NOW)
        for clock.now in beats:
            await queue.beat(FIRST, "job-0", steps=7)
        clock.now = seconds
        found = [(holder, failure.kind, failure.message) for holder, failure in await queue.overdue()]
        assert found == ([] if kind is None else [(FIRST, kind, said)])

    run(main())


def test_slot_that_makes_steps_is_never_overdue():
    async def main():
        clock = Clock()
        queue = await queue_of(0, clock=clock)
        await queue.next_job(FIRST, NOW)
        for steps in range(70):
            clock.now = 50.0 * steps
            await queue.beat(FIRST, "job-0", steps)
        assert await queue.overdue() == []

    run(main())


def test_limit_of_a_trial_counts_its_time_on_all_slots():
    async def main():
        clock = Clock()
        queue = await queue_of(0, clock=clock)
        for clock.now in (0.0, 10_000.0):  # between them it waits for a slot
            await queue.next_job(FIRST, NOW)
            for _ in range(44):
                clock.now += 45
                await queue.beat(FIRST, "job-0", int(clock.now))
            kinds = [failure.kind for _, failure in await queue.overdue()]
            await queue.lost(FIRST, DIED)
        assert kinds == [FailureKind.TIME_LIMIT]

    run(main())


def test_slot_that_ended_its_job_gets_the_next_one():
    async def main():
        queue = await queue_of(0, 1)
        await queue.next_job(FIRST, SOON)
        await queue.end(FIRST, "job-0", Outcome(result={"agreement": 1.0}))
        assert await queue.next_job(FIRST, SOON) == job(1)
        assert await queue.next_message("job-0", 0) == Outcome(result={"agreement": 1.0})

    run(main())


def test_closed_queue_sends_slots_and_clients_home():
    async def main():
        queue = await queue_of(0)
        await queue.next_job(FIRST, SOON)
        waiting = asyncio.create_task(queue.next_job(SECOND, SOON))
        asking = asyncio.create_task(queue.next_message("job-0", 0))
        await settled()
        await queue.close()
        assert await waiting == "closed"
        assert await asking == Outcome(is_withdrawn=True)
        assert await queue.report(FIRST, "job-0", report(1)) is True
        assert await queue.next_job(FIRST, SOON) == "closed"

    run(main())


def test_as_many_slots_retire_as_are_told_to_and_not_in_the_middle_of_a_job():
    async def main():
        queue = await queue_of(0)
        await queue.next_job(FIRST, SOON)
        waiting = asyncio.create_task(queue.next_job(SECOND, SOON))
        await settled()
        await queue.keep([FIRST, SECOND], 1)
        assert await waiting == "closed"
        assert (await queue.status()).busy == {0: 0}
        await queue.end(FIRST, "job-0", Outcome())
        assert await queue.next_job(FIRST, NOW) == "idle"

    run(main())


def test_slot_that_was_told_to_end_is_not_counted_twice_while_it_ends():
    async def main():
        queue = await queue_of()
        await queue.keep([FIRST, SECOND], 1)
        assert await queue.next_job(FIRST, NOW) == "closed"
        await queue.keep([FIRST, SECOND], 1)  # it has not ended yet
        assert await queue.next_job(SECOND, NOW) == "idle"
        await queue.keep([SECOND, Holder(0, 2)], 1)
        assert await queue.next_job(SECOND, NOW) == "closed"

    run(main())


def test_status_counts_waiting_jobs_slots_and_who_is_busy():
    async def main():
        queue = await queue_of(7, 8, 9)
        await queue.next_job(THIRD, SOON)
        status = await queue.status()
        assert (status.waiting, status.up, status.busy) == (2, {THIRD}, {2: 7})
        await queue.end(THIRD, "job-7", Outcome())
        assert (await queue.status()).busy == {}

    run(main())


def test_what_has_ended_and_is_not_asked_for_any_more_is_forgotten():
    async def main():
        queue = await queue_of(*range(50))
        for number in range(50):
            await queue.next_job(FIRST, NOW)
            await queue.end(FIRST, f"job-{number}", Outcome())
            await queue.stop(f"job-{number}")
        assert queue._entries == {}

    run(main())


def test_data_are_handed_out_as_they_came():
    async def main():
        assert await (await queue_of()).data() == ["data"]

    run(main())
