"""How many jobs run at once: an app's own limit, a worker's cores, and the places on a GPU."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from radnode.domain.app import Resources
from radnode.run.capacity import Capacity, Share, devices
from radnode.state import claims, schema
from radnode.state.ledger import Ledger
from tests.databases import Database, make_job, rows

NEEDS = {"small": Resources(), "big": Resources(cpu=3), "gpu": Resources(gpu=1), "pair": Resources(gpu=2)}


def claim(ledger: Ledger, owner: str = "worker-1", **given: object) -> str | None:
    with ledger.begin() as tx:
        job = claims.claim(tx, "cpu", owner, **given)  # type: ignore[arg-type]
    return None if job is None else str(job.id)


def take(capacity: Capacity, app: str, needs: Mapping[str, Resources] = NEEDS) -> Share | None:
    """Room for a job of the app, as if one waited."""

    def best(lacking: Collection[str]) -> str | None:
        return None if app in lacking else app

    claimed = capacity.claim(needs, best, str)
    return None if claimed is None else claimed[1]


def given(capacity: Capacity, app: str) -> Share:
    share = take(capacity, app)
    assert share is not None
    return share


# ---- an app's limit --------------------------------------------------------------------------------------------------


def test_jobs_of_an_app_at_its_limit_wait_and_others_pass_them(ledger: Ledger) -> None:
    for name, app in [("a", "rare"), ("b", "rare"), ("c", "other")]:
        make_job(ledger, name, app=app)
    assert [claim(ledger, limits={"rare": 1}) for _ in range(3)] == ["a", "c", None]
    with ledger.begin() as tx:
        (running,) = [each for each in rows(ledger, schema.job) if each.id == "a"]
        assert claims.finish(tx, running, [])
    assert claim(ledger, limits={"rare": 1}) == "b"


def test_many_workers_at_once_never_run_more_of_an_app_than_its_limit(ledger: Ledger, database: Database) -> None:
    for number in range(24):
        make_job(ledger, f"{number:02d}", app="rare")
    lock, running, most, done = threading.Lock(), Counter[str](), [], []

    def work(owner: str) -> None:
        own = database.open()
        while len(done) < 24:
            name = claim(own, owner, limits={"rare": 2})
            if name is None:
                continue
            with lock:
                running["rare"] += 1
                most.append(running["rare"])
                done.append(name)
            (job,) = [each for each in rows(own, schema.job) if each.id == name]
            with lock:
                running["rare"] -= 1
            with own.begin() as tx:
                assert claims.finish(tx, job, [])
        own.close()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, [f"worker-{n}" for n in range(6)]))
    assert sorted(done) == [f"{number:02d}" for number in range(24)]
    assert max(most) <= 2


def test_nothing_overtakes_the_best_job_when_it_waits_for_room(ledger: Ledger) -> None:
    make_job(ledger, "a", app="big")
    make_job(ledger, "b", app="small")
    assert claim(ledger, too_big=["big"]) is None
    assert [claim(ledger), claim(ledger)] == ["a", "b"]


# ---- cores -----------------------------------------------------------------------------------------------------------


def test_cores_are_shared_out_and_come_back(tmp_path: Path) -> None:
    capacity = Capacity(4, "none", tmp_path)
    big = given(capacity, "big")
    small = given(capacity, "small")
    assert (big.cores, small.cores) == (3, 1)
    assert take(capacity, "small") is None
    capacity.give_back(small, keep=False)
    assert take(capacity, "big") is None
    capacity.give_back(big, keep=False)
    assert given(capacity, "big").cores == 3


def test_a_job_that_wants_more_cores_than_there_are_gets_all_of_them(tmp_path: Path) -> None:
    capacity = Capacity(2, "none", tmp_path)
    assert given(capacity, "big").cores == 2
    assert take(capacity, "small") is None


def test_where_no_job_waits_no_room_is_taken(tmp_path: Path) -> None:
    capacity = Capacity(1, "0", tmp_path)
    assert capacity.claim(NEEDS, lambda lacking: None, str) is None
    assert given(capacity, "gpu").devices == "0"


# ---- GPU slots -------------------------------------------------------------------------------------------------------


def test_every_job_gets_a_gpu_of_its_own(tmp_path: Path) -> None:
    capacity = Capacity(8, "0,1", tmp_path)
    shares = [given(capacity, "gpu"), given(capacity, "gpu")]
    assert sorted(each.devices for each in shares) == ["0", "1"]
    assert take(capacity, "gpu") is None
    assert given(capacity, "small").devices == ""


def test_a_gpu_named_twice_takes_two_jobs_but_a_job_for_two_gpus_gets_two_different_ones(tmp_path: Path) -> None:
    assert given(Capacity(8, "0,0,1", tmp_path / ".."), "pair").devices == "0,1"
    capacity = Capacity(8, "0,0", tmp_path)
    assert [given(capacity, "gpu").devices, given(capacity, "gpu").devices] == ["0", "0"]
    assert take(capacity, "gpu") is None


def test_workers_of_one_host_never_share_a_slot_and_a_dead_ones_is_free_again(tmp_path: Path) -> None:
    one, other = Capacity(8, "0", tmp_path), Capacity(8, "0", tmp_path)
    share = given(one, "gpu")
    assert take(other, "gpu") is None
    share.slots[0].unlock()  # as the kernel does when the worker is gone
    assert given(other, "gpu").devices == "0"


def test_a_slot_with_a_model_on_it_stays_the_workers_own_and_is_chosen_again_for_its_app(tmp_path: Path) -> None:
    one, other = Capacity(8, "0,1", tmp_path), Capacity(8, "0,1", tmp_path)
    loaded = given(one, "gpu")
    one.give_back(loaded, keep=True)
    assert [each and each.devices for each in (take(other, "gpu"), take(other, "gpu"))] == ["1", None]
    assert given(one, "gpu").slots == loaded.slots


def test_the_setting_names_the_gpus(tmp_path: Path) -> None:
    assert devices("none") == []
    assert devices(" 0, GPU-7 ,0") == ["0", "GPU-7", "0"]
    assert devices("auto") == [""] or all(each.isdigit() for each in devices("auto"))
