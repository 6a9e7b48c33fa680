"""Every metric of the node. `docs/metrics.md` explains them; a test compares.

Import this only after `telemetry.set_up`: Prometheus' client decides at import where the values of a process live.
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_FAST = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5, 30)
_JOB = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
_ROAD = (1, 2, 5, 10, 20, 30, 60, 90, 120, 180, 300, 600, 1200, 3600, 14400)


def _gauge(name: str, doc: str, labels: tuple[str, ...] = (), mode: str = "mostrecent") -> Gauge:
    return Gauge(name, doc, labels, multiprocess_mode=mode)  # type: ignore[arg-type]


instances_received = Counter("radnode_instances_received_total", "Instances acknowledged.", ("calling_aet",))
received_bytes = Counter("radnode_received_bytes_total", "Bytes of acknowledged data sets.", ("calling_aet",))
instances_flawed = Counter(
    "radnode_instances_flawed_total", "Instances kept that cannot be filed, or were refused as broken."
)
associations = Counter("radnode_associations_total", "Associations, by what became of them.", ("event", "reason"))
associations_open = _gauge("radnode_associations_open", "Associations open now.", mode="livesum")
store_seconds = Histogram("radnode_store_seconds", "One C-STORE, by stage.", ("stage",), buckets=_FAST)

series_completed = Counter("radnode_series_completed_total", "Series taken as complete.")
series_verdicts = Counter(
    "radnode_series_verdicts_total", "Series taken as complete, by what is known of it.", ("verdict",)
)
series_incomplete = _gauge("radnode_series_incomplete", "Series that wait for instances known to be missing.")
queries = Counter("radnode_queries_total", "Peers asked for what they have or to send it.", ("destination", "outcome"))
instances_fetched = Counter("radnode_instances_fetched_total", "Missing instances a peer has sent.", ("destination",))
studies_completed = Counter("radnode_studies_completed_total", "Studies taken as complete.")
study_verdicts = Counter(
    "radnode_study_verdicts_total", "Studies taken as complete, by what is known of them.", ("verdict",)
)
rules_matched = Counter("radnode_rules_matched_total", "Matches of a rule.", ("rule",))
series_unmatched = Counter("radnode_series_unmatched_total", "Complete series that no rule took.")
series_open = _gauge("radnode_series_open", "Series still receiving.")
routing_reloads = Counter("radnode_routing_reloads_total", "Readings of a changed routing file.", ("outcome",))
routing_ok = _gauge("radnode_routing_last_reload_successful", "1 while the routing file on disk is the one in force.")

jobs_ended = Counter("radnode_jobs_ended_total", "Jobs that reached a final state.", ("app", "state"))
job_crashes = Counter("radnode_job_crashes_total", "Children that died by a signal.", ("app",))
job_seconds = Histogram("radnode_job_seconds", "A job in its child process.", ("app",), buckets=_JOB)
jobs = _gauge("radnode_jobs", "Jobs now, by state.", ("state",))
oldest_waiting_job = _gauge("radnode_oldest_waiting_job_seconds", "Age of the oldest waiting job; 0 without one.")
jobs_overdue = _gauge("radnode_jobs_overdue", "Running jobs that are a minute over their app's time limit.")
tickets_missing = _gauge("radnode_tickets_missing", "Tickets that core found missing at its last look.", ("queue",))

model_requests = Counter("radnode_model_requests_total", "Requests of apps to a model.", ("model", "outcome"))
model_seconds = Counter("radnode_model_seconds_total", "Time that apps waited for a model.", ("model",))

delivery_attempts = Counter(
    "radnode_delivery_attempts_total", "Attempts to deliver, by outcome.", ("destination", "outcome")
)
instances_sent = Counter("radnode_instances_sent_total", "Instances a destination stored.", ("destination",))
delivery_seconds = Histogram("radnode_delivery_seconds", "One attempt to deliver.", ("destination",), buckets=_JOB)
deliveries = _gauge("radnode_deliveries", "Deliveries now, by state.", ("destination", "state"))
oldest_waiting_delivery = _gauge(
    "radnode_oldest_waiting_delivery_seconds", "Age of the oldest waiting delivery; 0 without one.", ("destination",)
)
last_image_to_delivered = Histogram(
    "radnode_last_image_to_delivered_seconds", "From the last image's arrival to the result's.", ("app",), buckets=_ROAD
)

notices = Counter("radnode_notices_total", "Pages that say that no result came in time.", ("app",))
notifications = Counter("radnode_notifications_total", "Attempts to notify, by outcome.", ("event", "outcome"))

commitments = _gauge("radnode_commitments", "Storage Commitment transactions now, by state.", ("state",))
commitment_reports = Counter("radnode_commitment_reports_total", "Attempts to report, by outcome.", ("outcome",))

purged_instances = Counter("radnode_purged_instances_total", "Instances whose files retention removed.")
purged_bytes = Counter("radnode_purged_bytes_total", "Bytes that retention removed, results included.")
oldest_kept = _gauge("radnode_oldest_kept_seconds", "Since when nothing came of the oldest study whose files are kept.")
spool_free_bytes = _gauge("radnode_spool_free_bytes", "Free space where the spool lies.")
part_restarts = Counter("radnode_part_restarts_total", "Parts the supervisor had to start again.", ("part",))
parts = _gauge("radnode_parts", "Living processes of a part.", ("part",))
info = _gauge("radnode_info", "1; the label says which version runs.", ("version",))
