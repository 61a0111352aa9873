import asyncio
from collections.abc import Coroutine

import pytest

from ray_tl.on_ray.trial_queue import MAX_RESTARTS, Job, Outcome, TrialQueue
from ray_tl.training.report import EpochReport
from tests.examples import BASELINE

SOON = 5.0  # nothing here waits so long unless it hangs
NOW = 0.001


def job(number: int) -> Job:
    return Job(f"job-{number}", number, BASELINE)


def report(epoch: int) -> EpochReport:
    values = {"scores": {}, "histogram": [], "losses": {}, "weights": {}, "freeze_depth": 0, "lr": 0.1, "seconds": 1.0}
    return EpochReport(epoch=epoch, **values)


def run(main: Coroutine[object, object, None]) -> None:
    asyncio.run(asyncio.wait_for(main, SOON))


async def queue_of(*numbers: int) -> TrialQueue:
    queue = TrialQueue(["data"])
    for number in numbers:
        await queue.submit(job(number))
    return queue


async def settled() -> None:
    """Every task has got as far as it can."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_jobs_are_handed_out_in_the_order_of_submission():
    async def main():
        queue = await queue_of(3, 1, 2)
        assert [await queue.next_job(slot, SOON) for slot in (0, 1, 2)] == [job(3), job(1), job(2)]

    run(main())


def test_slot_that_waits_gets_the_job_that_comes():
    async def main():
        queue = await queue_of()
        waiting = asyncio.create_task(queue.next_job(0, SOON))
        await settled()
        await queue.submit(job(4))
        assert await waiting == job(4)

    run(main())


def test_slot_without_work_is_told_so():
    async def main():
        queue = await queue_of()
        assert await queue.next_job(0, NOW) == "idle"
        await queue.submit(job(0))
        assert await queue.next_job(0, NOW) == job(0)

    run(main())


def test_report_waits_until_the_client_asks_for_the_next_one():
    async def main():
        queue = await queue_of(0)
        await queue.next_job(0, SOON)
        reporting = asyncio.create_task(queue.report(0, "job-0", report(1)))
        assert await queue.next_message("job-0") == report(1)
        await settled()
        assert not reporting.done()
        asking = asyncio.create_task(queue.next_message("job-0"))
        assert await reporting is False
        await queue.end(0, "job-0", Outcome())
        assert await asking == Outcome()

    run(main())


def test_report_of_a_trial_that_the_client_stops_says_stop():
    async def main():
        queue = await queue_of(0)
        await queue.next_job(0, SOON)
        reporting = asyncio.create_task(queue.report(0, "job-0", report(1)))
        await queue.next_message("job-0")
        await queue.stop("job-0")
        assert await reporting is True
        assert await queue.report(0, "job-0", report(2)) is True

    run(main())


def test_job_stopped_while_it_waits_is_skipped():
    async def main():
        queue = await queue_of(0, 1)
        await queue.stop("job-0")
        assert await queue.next_job(0, SOON) == job(1)
        assert await queue.next_job(1, NOW) == "idle"

    run(main())


def test_restarted_slot_gets_its_job_back_and_others_do_not():
    async def main():
        queue = await queue_of(0, 1)
        assert await queue.next_job(0, SOON) == job(0)
        assert await queue.next_job(1, SOON) == job(1)
        assert await queue.next_job(0, SOON) == job(0)
        assert (await queue.status()).restarts == {0: 1}

    run(main())


def test_job_whose_workers_die_too_often_ends_with_an_error_once():
    async def main():
        queue = await queue_of(0, 1)
        tries = [await queue.next_job(0, SOON) for _ in range(1 + MAX_RESTARTS)]
        assert tries == [job(0)] * (1 + MAX_RESTARTS)
        assert await queue.next_job(0, SOON) == job(1)
        outcome = await queue.next_message("job-0")
        assert outcome.error.startswith(f"its workers died {MAX_RESTARTS + 1} times; see the logs of slot 0")
        await queue.end(0, "job-0", Outcome(error="late"))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(queue.next_message("job-0"), NOW)

    run(main())


def test_stopped_job_is_not_handed_to_its_restarted_slot_again():
    async def main():
        queue = await queue_of(0)
        await queue.next_job(0, SOON)
        await queue.stop("job-0")
        assert await queue.next_job(0, NOW) == "idle"

    run(main())


def test_epoch_trained_again_after_a_restart_is_not_forwarded_again():
    async def main():
        queue = await queue_of(0)
        await queue.next_job(0, SOON)
        before = asyncio.create_task(queue.report(0, "job-0", report(1)))
        assert await queue.next_message("job-0") == report(1)
        before.cancel()  # its slot died
        await queue.next_job(0, SOON)
        assert await queue.report(0, "job-0", report(1)) is False
        after = asyncio.create_task(queue.report(0, "job-0", report(2)))
        assert await queue.next_message("job-0") == report(2)
        await queue.stop("job-0")
        assert await after is True

    run(main())


def test_slot_that_ended_its_job_gets_the_next_one():
    async def main():
        queue = await queue_of(0, 1)
        await queue.next_job(0, SOON)
        await queue.end(0, "job-0", Outcome(result={"agreement": 1.0}))
        assert await queue.next_job(0, SOON) == job(1)
        assert await queue.next_message("job-0") == Outcome(result={"agreement": 1.0})

    run(main())


def test_every_slot_is_told_that_the_queue_is_closed_whether_it_waits_or_asks_later():
    async def main():
        queue = await queue_of()
        waiting = asyncio.create_task(queue.next_job(0, SOON))
        await settled()
        await queue.close(2)
        assert await waiting == "closed"
        assert await queue.next_job(1, SOON) == "closed"
        assert await queue.next_job(1, SOON) == "closed"

    run(main())


def test_status_counts_waiting_jobs_slots_and_who_is_busy():
    async def main():
        queue = await queue_of(7, 8, 9)
        await queue.next_job(2, SOON)
        status = await queue.status()
        assert (status.waiting, status.slots, status.busy, status.restarts) == (2, 1, {2: 7}, {})
        await queue.end(2, "job-7", Outcome())
        assert (await queue.status()).busy == {}

    run(main())


def test_data_are_handed_out_as_they_came():
    async def main():
        assert await (await queue_of()).data() == ["data"]

    run(main())
