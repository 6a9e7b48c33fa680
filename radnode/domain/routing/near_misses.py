"""Near misses: rules that would have taken a study but for one condition, on an attribute that is absent.

Perhaps nothing is wrong; perhaps a scanner does not fill it in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def near_misses_in(timeline: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """By the last word on each series and on the study.

    Args:
        timeline: events of a study, the oldest first, with what `Evaluation.for_timeline` says of the rules.

    Returns, of each, `rule`, `line`, `keyword` (the attribute), `reason` and `SeriesInstanceUID` (empty: a study rule).
    """
    judged = [each for each in timeline if each["event"] in ("complete", "study complete")]
    last = {each["SeriesInstanceUID"]: each for each in judged}
    return [
        {
            "rule": rule["rule"],
            "line": rule["line"],
            "keyword": rule["absent"][0],
            "reason": rule["reason"],
            "SeriesInstanceUID": uid,
        }
        for uid, each in last.items()
        for rule in each.get("rules", ())
        if rule.get("failed") == 1 and len(rule.get("absent", ())) == 1
    ]
