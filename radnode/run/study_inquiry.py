"""Asks peers what series they have of a study, and has those sent that are missing here."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from radnode.dicom.negotiation import EXPLICIT_LE
from radnode.dicom.peer import Peer
from radnode.dicom.query import find
from radnode.domain.assembly import COUNT
from radnode.domain.routing import Destination
from radnode.domain.study_assembly import StudyInventory
from radnode.run.fetching import Wanted
from radnode.run.inquiry import Inquiry
from radnode.state import assembling, jobs

_MOST_SERIES = 2000


@dataclass(frozen=True)
class Subject:
    """A study that peers are asked about, as it was when its series were complete."""

    id: int
    changes: int
    study_uid: str
    calling_aet: str
    called_aet: str


class StudyInquiry(Inquiry[StudyInventory]):
    """About a study: a `Subject`."""

    kind = "study"

    def inventories(self, study: Subject) -> tuple[StudyInventory, ...]:
        return tuple(replace(said, fresh=fresh) for fresh, said in self.answers(study))

    def look_up(self, destination: Destination, row: Subject) -> StudyInventory:
        with self.ledger.read() as tx:
            here = {each.series_instance_uid: assembling.uids(tx, each.id) for each in assembling.sound(tx, row.id)}
        return study_inventory(destination, row.study_uid, here, self._own, self.title(row))

    def may_lack(self, said: StudyInventory) -> bool:
        return bool(said.lacking)

    def wanted(self, row: Subject, said: StudyInventory) -> list[Wanted]:
        with self.ledger.read() as tx:
            known = {each.series_instance_uid: each.id for each in assembling.sound(tx, row.id)}
            here = {uid: assembling.uids(tx, series_id) for uid, series_id in known.items()}
        found = []
        for uid, lacking in said.lacking.items():
            missing = frozenset(lacking.keys() - here.get(uid, frozenset()))
            kinds = [(each, EXPLICIT_LE) for each in sorted(set(lacking.values()) - {""})]
            if missing:
                found.append(Wanted(row.id, known.get(uid), row.study_uid, uid, self.title(row), kinds, missing))
        return found

    def _own(self, uids: Collection[str]) -> set[str]:
        with self.ledger.read() as tx:
            return jobs.made_here(tx, uids)


def study_inventory(
    destination: Destination,
    study_uid: str,
    here: Mapping[str, Collection[str]],
    own: Callable[[Collection[str]], Collection[str]],
    calling_aet: str,
) -> StudyInventory:
    """What a peer has of a study: the count of each series, and where that is not ours its instances.

    Args:
        here: Series Instance UID -> SOP Instance UIDs.
        own: which of these instances are radnode's own results.

    Raises PeerError.
    """
    peer, study = Peer.of(destination), {"StudyInstanceUID": study_uid}
    found = find(peer, "SERIES", study, ("SeriesInstanceUID", COUNT), calling_aet=calling_aet, most=_MOST_SERIES)
    counts = {each["SeriesInstanceUID"]: each[COUNT] for each in found if each["SeriesInstanceUID"]}
    has: dict[str, int] = {}
    lacking: dict[str, dict[str, str]] = {}
    for uid, count in counts.items():
        mine = here.get(uid, ())
        if mine and count == str(len(mine)):
            has[uid] = len(mine)
            continue
        images = find(
            peer, "IMAGE", {**study, "SeriesInstanceUID": uid}, ("SOPInstanceUID", "SOPClassUID"),
            calling_aet=calling_aet,
        )  # fmt: skip
        named = {each["SOPInstanceUID"]: each["SOPClassUID"] for each in images if each["SOPInstanceUID"]}
        theirs = named.keys() - set(own(named))
        if theirs:
            has[uid] = len(theirs)
        if rest := theirs - set(mine):
            lacking[uid] = {each: named[each] for each in sorted(rest)}
    same = not lacking and has == {uid: len(each) for uid, each in here.items()}
    return StudyInventory(destination.name, len(has), sum(has.values()), lacking, same)
