"""The mailbox without Ray: an asyncio object like any other."""

from __future__ import annotations

import asyncio

from trainables.decisions import Decisions, Verdict


async def both_orders(decisions: Decisions) -> list[Verdict]:
    await decisions.post("t0000", 1, "stop")
    early = await decisions.answer("t0000", 1)
    waiting = asyncio.create_task(decisions.answer("t0000", 2))
    await asyncio.sleep(0)
    assert not waiting.done()
    await decisions.post("t0000", 2, "interrupt")
    return [early, await waiting]


def test_an_answer_waits_for_its_verdict_and_a_verdict_for_its_question() -> None:
    assert asyncio.run(both_orders(Decisions())) == ["stop", "interrupt"]


def test_each_trial_and_epoch_has_a_verdict_of_its_own() -> None:
    async def ask() -> list[Verdict]:
        decisions = Decisions()
        questions = [("t0000", 1), ("t0000", 2), ("t0001", 1)]
        answers = [asyncio.create_task(decisions.answer(*question)) for question in questions]
        for question, verdict in zip(questions, ("continue", "stop", "interrupt"), strict=True):
            await decisions.post(*question, verdict)  # type: ignore[arg-type]
        return list(await asyncio.gather(*answers))

    assert asyncio.run(ask()) == ["continue", "stop", "interrupt"]


def test_a_second_verdict_on_one_report_is_dropped() -> None:
    async def ask() -> Verdict:
        decisions = Decisions()
        await decisions.post("t0000", 1, "continue")
        await decisions.post("t0000", 1, "stop")
        return await decisions.answer("t0000", 1)

    assert asyncio.run(ask()) == "continue"


def test_a_verdict_is_taken_out_so_that_a_repeated_report_waits_for_a_new_one() -> None:
    async def ask() -> list[Verdict]:
        decisions = Decisions()
        await decisions.post("t0000", 1, "continue")
        first = await decisions.answer("t0000", 1)
        assert decisions._verdicts == {}
        again = asyncio.create_task(decisions.answer("t0000", 1))
        await asyncio.sleep(0)
        assert not again.done()
        await decisions.post("t0000", 1, "stop")
        return [first, await again]

    assert asyncio.run(ask()) == ["continue", "stop"]
