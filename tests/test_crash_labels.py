"""`kill -9` at every boundary between two durable steps, one test each: nothing is lost, nothing comes twice."""

from __future__ import annotations

from tests.crashes import labels, unlabelled


def test_every_transaction_and_every_rename_has_a_crash_label_of_its_own() -> None:
    assert unlabelled() == []
    assert len(labels()) == len(set(labels())) > 60
