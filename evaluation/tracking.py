"""The one door to MLflow: runs, metrics with a glossary, artifacts, and traces of recorded executions.

Default store: SQLite in the repository's mlflow/ folder, no server; `MLFLOW_TRACKING_URI` names another. A
store that does not answer stops nothing (`evaluation.delivery`). Traces come from the ledger after credit,
never from live instrumentation. MLflow is imported on first use, and its global state (active run, tracking
address) is never touched.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.adapters import PATIENT, REFUSALS, fetch_adapter, request_limits, tracking_client, tracking_uri
from agents.home import jade_home
from evaluation.delivery import RefusedError, TrackedRun, flatten
from evaluation.glossary import METRICS, glossary_markdown
from evaluation.spool import Operation, Spool
from evaluation.traces import RunCredit, digest, otel_span, token_usage

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["METRICS", "PARENT", "RunCredit", "TrackedRun", "fetch_adapter", "flatten", "track", "tracking_uri"]

PARENT = "mlflow.parentRunId"
"""Tag that MLflow nests runs by."""
KEY = "jade.key"
"""Tag that names the opening of a run, so that a second try finds what the first one made."""
TABLES = "mlflow.loggedArtifacts"
"""Tag by which the UI knows which artifacts are tables."""
_OPENING_SECONDS = 60.0
"""How long to wait for another process that opens the same SQLite store."""
HURRIED = 5, 0
"""Seconds and further tries of a request while training or an evaluation waits for it."""


@contextmanager
def track(
    experiment: str,
    run_name: str | None = None,
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, Any] | None = None,
    resume_run_id: str | None = None,
) -> Iterator[TrackedRun]:
    """Track what happens inside the `with` block as one run.

    Args:
        experiment: Name; made if it does not exist.
        run_name: Readable name of the run.
        params: The whole configuration; nested mappings become dotted names.
        tags: Such as the three hashes; searchable in the UI.
        resume_run_id: Go on with this run instead of making one.

    Yields:
        The run; its methods never raise because of the store.

    Raises:
        ConfigError: The store refuses to open the run: no such run id, a deleted experiment, a bad address.
    """
    uri = tracking_uri()
    spools = jade_home() / "tracking"
    run = TrackedRun(MlflowStore(uri), Spool.fresh(spools))
    run.open(experiment, run_name, tags or {}, resume_run_id)
    if not run.waiting:
        deliver(uri, spools)
    if params:
        run.log_params(params)
    run.log_text(glossary_markdown(), "glossary.md")
    status = "FAILED"
    try:
        yield run
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        run.close(status)


def deliver(uri: str, spools: Path | None = None) -> int:
    """Deliver what ended runs left behind for this store; return how many operations went out.

    What another process delivers at this moment is left to it. After two outages the rest waits for the next time.
    """
    sent, outages, store = 0, 0, MlflowStore(uri)
    for spool in Spool.waiting(spools or jade_home() / "tracking"):
        if spool.header.get("uri") == uri:
            before = spool.pending
            outages += not TrackedRun(store, spool).flush()
            sent += before - spool.pending
            if outages == 2:
                break
    return sent


class MlflowStore:
    """MLflow behind the operations of `evaluation.delivery`; each may be done twice without harm."""

    def __init__(self, uri: str) -> None:
        """Name the store; nothing is imported or opened yet."""
        self.uri = uri
        self.patient = True

    @cached_property
    def client(self) -> MlflowClient:
        """Return the client; the first use imports MLflow and opens the store, whose tables one process makes alone."""
        folder = _sqlite_folder(self.uri)
        if folder is None:
            return tracking_client(self.uri)
        folder.mkdir(parents=True, exist_ok=True)
        with _opening(self.uri):  # MLflow has no lock: of two that come first, one fails
            return tracking_client(self.uri)

    @contextmanager
    def _answering(self, retries: int | None = None) -> Iterator[None]:
        """Tell refusals (trying again cannot help) from outages (anything else), and these within seconds."""
        seconds, usual = PATIENT if self.patient else HURRIED
        try:
            with request_limits(seconds, usual if retries is None else retries):
                yield
        except RefusedError:
            raise
        except NotImplementedError as error:
            raise RefusedError(str(error)) from error
        except Exception as error:
            if getattr(error, "error_code", None) in REFUSALS:
                raise RefusedError(str(error)) from error
            raise

    def open(self, operation: Operation) -> str:
        """Create or resume a run and return its id; see `evaluation.delivery.Store`."""
        with self._answering(retries=0):  # MLflow itself would repeat what makes a run, and make two
            client, run_id = self.client, operation["run_id"]
            if run_id is not None:
                client.get_run(run_id)
                client.update_run(run_id, status="RUNNING")
                self._set_tags(run_id, operation["tags"])
                return str(run_id)
            experiment = self._experiment(operation["experiment"])
            return self._made(experiment, operation) or self._make(experiment, operation)

    def _made(self, experiment: str, operation: Operation) -> str | None:
        """Return the run that an earlier try made before its answer was lost, or None."""
        if not operation.get("again"):
            return None
        found = self.client.search_runs([experiment], f"tags.`{KEY}` = '{operation['key']}'", max_results=1)
        return str(found[0].info.run_id) if found else None

    def _make(self, experiment: str, operation: Operation) -> str:
        run = self.client.create_run(
            experiment,
            start_time=operation["time"],
            tags={**operation["tags"], KEY: str(operation.get("key", ""))},
            run_name=operation["name"],
        )
        return str(run.info.run_id)

    def apply(self, run_id: str, operation: Operation, files: Path | None) -> None:
        """Carry out one operation of an open run; see `evaluation.delivery.Store`."""
        with self._answering():
            match operation["op"]:
                case "metrics":
                    self._log_metrics(run_id, operation)
                case "params":
                    self._log_params(run_id, operation["values"])
                case "tags":
                    self._set_tags(run_id, operation["values"])
                case "files" if files is None:
                    raise RefusedError("its files are gone")
                case "files":
                    self.client.log_artifacts(run_id, str(files), operation["path"] or None)
                case "table":
                    self._log_table(run_id, operation["columns"], operation["name"])
                case "traces":
                    self._log_traces(run_id, operation["traces"])
                case "end":
                    self.client.set_terminated(run_id, operation["status"], operation["time"])
                case other:
                    raise RefusedError(f"unknown operation {other!r}")

    def _experiment(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is None:
            folder = _sqlite_folder(self.uri)
            location = (folder / "artifacts" / name).as_uri() if folder is not None else None
            try:
                return str(self.client.create_experiment(name, artifact_location=location))
            except Exception as error:  # made meanwhile: by another process, or by a try whose answer was lost
                if getattr(error, "error_code", None) != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = self.client.get_experiment_by_name(name)
                if found is None:
                    raise
        if found.lifecycle_stage != "active":
            raise RefusedError(f"experiment {name!r} is deleted; restore it or choose another name")
        return str(found.experiment_id)

    def _log_metrics(self, run_id: str, operation: Operation) -> None:
        from mlflow.entities import Metric

        when, step = operation["time"], operation["step"]
        metrics = [Metric(name, float(value), when, step) for name, value in operation["values"].items()]
        for start in range(0, len(metrics), 1000):
            self.client.log_batch(run_id, metrics=metrics[start : start + 1000])

    def _log_table(self, run_id: str, columns: Mapping[str, list[Any]], name: str) -> None:
        """Write a table where the UI shows it; MLflow's own way appends it to itself when it is done twice."""
        rows = {"columns": list(columns), "data": list(zip(*columns.values(), strict=True))}
        self.client.log_dict(run_id, rows, name)
        shown = json.loads(self.client.get_run(run_id).data.tags.get(TABLES, "[]"))
        if (entry := {"path": name, "type": "table"}) not in shown:
            self._set_tags(run_id, {TABLES: json.dumps([*shown, entry])})

    def _log_params(self, run_id: str, values: Mapping[str, str]) -> None:
        """Log parameters; those of a resumed run keep their first value, changes are named in a tag."""
        from mlflow.entities import Param

        known = self.client.get_run(run_id).data.params
        new = [Param(name, value[:6000]) for name, value in values.items() if name not in known]
        for start in range(0, len(new), 100):
            self.client.log_batch(run_id, params=new[start : start + 100])
        changed = {name: value for name, value in values.items() if known.get(name, value) != value[:6000]}
        if changed:
            self._set_tags(run_id, {"jade.changed_params": json.dumps(changed)[:8000]})

    def _set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        if tags:
            self.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def _log_traces(self, run_id: str, traces: list[Mapping[str, Any]]) -> None:
        """Write finished traces synchronously, under ids that follow from the run: a second time adds nothing."""
        from mlflow.entities import Span, TraceInfo, TraceLocation, TraceState
        from mlflow.tracing.client import TracingClient

        client = TracingClient(self.uri)
        experiment = self.client.get_run(run_id).info.experiment_id
        for trace in traces:
            trace_id = f"tr-{digest(run_id, trace['run'])[:32]}"
            spans = [otel_span(trace_id, trace, number) for number in range(len(trace["spans"]))]
            tokens = token_usage(trace["prompt_tokens"], trace["response_tokens"])
            client.log_spans(experiment, [Span.from_dict(span) for span in spans])
            client.start_trace(
                TraceInfo(
                    trace_id=trace_id,
                    trace_location=TraceLocation.from_experiment_id(experiment),
                    request_time=trace["started_ns"] // 1_000_000,
                    execution_duration=round(trace["spans"][0]["end"] * 1000),
                    state=TraceState.ERROR if trace["failed"] else TraceState.OK,
                    request_preview=trace["question"][:1000],
                    response_preview=trace["answer"][:1000],
                    client_request_id=trace["run"],
                    trace_metadata={
                        "mlflow.trace_schema.version": "3",
                        "mlflow.sourceRun": run_id,
                        "mlflow.trace.tokenUsage": json.dumps(tokens),
                    },
                    tags={"mlflow.traceName": trace["name"], **trace["tags"]},
                )
            )


@contextmanager
def _opening(uri: str) -> Iterator[None]:
    """Hold the lock of whoever opens a store, where one can be had."""
    from filelock import FileLock

    lock = FileLock(jade_home() / "locks" / f"mlflow-{digest(uri)[:16]}.lock")
    with suppress(OSError, NotImplementedError):  # a Timeout is an OSError
        Path(lock.lock_file).parent.mkdir(exist_ok=True)
        lock.acquire(timeout=_OPENING_SECONDS)
    try:
        yield
    finally:
        lock.release()


def _sqlite_folder(uri: str) -> Path | None:
    """Return the folder of a SQLite store, which also holds its artifacts; None for any other store."""
    return Path(uri.removeprefix("sqlite:///")).resolve().parent if uri.startswith("sqlite:///") else None
