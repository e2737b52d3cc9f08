"""Ids: what they name can be read, nothing else can."""

from __future__ import annotations

import re

from senryu.service.ids import new_id


def test_every_letter_may_stand_everywhere() -> None:
    ids = [new_id("msg_") for _ in range(3000)]
    assert len(set(ids)) == 3000
    assert all(re.fullmatch("msg_01[1-9A-HJ-NP-Za-km-z]{22}", id) for id in ids)
    assert {len({id[at] for id in ids}) for at in range(6, 28)} == {58}
