"""Heads from the past, compared with what was written."""

from __future__ import annotations

from datetime import timedelta


async def test_restore_to_times(site) -> None:
    head = site.create()
    await site.start(head)
    written = await site.write(head, *range(10))
    site.link(head)
    for index in (0, 4, 9):
        child = await site.restore(head, written[index].time)
        assert await site.numbers(child) == list(range(index + 1))
        await site.stop(child)
    before = await site.restore(head, written[0].time - timedelta(seconds=5))
    assert await site.numbers(before) == []
