"""Logging of a run's metrics: always as JSON lines beside the checkpoints, optionally to TensorBoard and MLflow.

The file is complete on its own. The others may be missing, or their server may vanish: the run goes on, and says so.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from xecml.config import Config
from xecml.errors import InputError
from xecml.limits import file_name, shown

METRICS = "metrics.jsonl"
DEFAULT_URI = "sqlite:///mlruns.db"
_LONGEST_VALUE = 500
# by default MLflow's client asks a silent server for minutes before it gives up; what the user sets goes first
_PATIENCE = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}


def check_places(config: Config, name: str) -> None:
    """Look, before any work, whether a run can be kept where its recipe says.

    Raises:
        InputError: the name is none for a folder; a folder is a file or cannot be written; MLflow's place is a folder.
    """
    try:
        file_name(name)
    except ValueError as error:
        raise InputError(f"A run cannot be named {shown(name)}: {error}.") from None
    _check_folder("checkpoint.save_dir", Path(config.checkpoint.save_dir) / name)
    if config.mlflow.tensorboard:
        _check_folder("mlflow.tensorboard", Path(config.mlflow.tensorboard) / name)
    if config.mlflow.enabled:
        tracking_uri()


def _check_folder(key: str, folder: Path) -> None:
    there = next(path for path in (folder, *folder.parents, Path()) if os.path.lexists(path))
    if not there.is_dir():
        raise InputError(f"{key}: {there} is not a folder, so nothing can be kept in {folder}; name another folder.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"{key}: the folder {there} cannot be written; name another folder.")


class MetricsFile:
    """Append-only `metrics.jsonl`: one object a line.

    On resuming, lines after the checkpoint's epoch are removed, so that the file is that of one run.
    """

    def __init__(self, folder: Path, first_epoch: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / METRICS
        kept = [line for line in self.lines() if line["epoch"] < first_epoch] if first_epoch > 1 else []
        self.path.write_text("".join(_line(values) for values in kept), encoding="utf-8")

    def lines(self) -> list[dict[str, Any]]:
        """All whole lines, as dictionaries; a line cut off by a kill is left out."""
        if not self.path.exists():
            return []
        found = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found

    def write(self, values: Mapping[str, Any]) -> None:
        """Append one line, at once on disk."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line(values))
            file.flush()
            os.fsync(file.fileno())


def _line(values: Mapping[str, Any]) -> str:
    # JSON has no NaN
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
    return json.dumps(finite) + "\n"


class Tracker:
    """All places that a run logs to.

    Args:
        folder: of the run.
        first_epoch: 1, or the first epoch of a resumed run.
        run_name: shown by MLflow and TensorBoard.
        experiment: MLflow's experiment; none for no MLflow.
        tensorboard: folder of TensorBoard's files; none for no TensorBoard.
        run_id: MLflow run to go on with.
    """

    def __init__(
        self,
        folder: Path,
        first_epoch: int,
        *,
        run_name: str,
        experiment: str | None = None,
        tensorboard: Path | None = None,
        run_id: str | None = None,
    ) -> None:
        self.file = MetricsFile(folder, first_epoch)
        self.run_id = run_id
        self._failed: set[str] = set()
        self._board: Any = self._open_board(tensorboard / run_name, first_epoch) if tensorboard else None
        self._mlflow: Any = self._open_mlflow(experiment, run_name) if experiment else None

    def _open_board(self, folder: Path, first_epoch: int) -> Any:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self._give_up("TensorBoard", "it is not installed (pip install 'xecml[track]')")
            return None
        # what a killed run wrote beyond its checkpoint is purged
        return SummaryWriter(str(folder), purge_step=first_epoch)

    def _open_mlflow(self, experiment: str, run_name: str) -> Any:
        uri = tracking_uri()
        try:
            mlflow = _import_mlflow()
        except ImportError:
            self._give_up("MLflow", "it is not installed (pip install 'xecml[track]')")
            return None

        def start() -> None:
            mlflow.set_tracking_uri(uri)
            mlflow.set_experiment(experiment)
            if mlflow.active_run():  # of a training in this process that died
                mlflow.end_run("FAILED")
            known = self.run_id and mlflow.search_runs(filter_string=f"run_id = '{self.run_id}'", output_format="list")
            run = mlflow.start_run(run_id=self.run_id if known else None, run_name=None if known else run_name)
            self.run_id = run.info.run_id

        return mlflow if self._try("MLflow", start) else None

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Keep the recipe with the run: sections within sections become dotted names.

        MLflow's parameters stand for ever. What a resumed run has changed is kept as a tag `changed.<key>`.
        """
        if not (mlflow := self._mlflow):
            return
        # names of files need not be UTF-8
        texts = ((key, str(value).encode(errors="backslashreplace").decode()) for key, value in _flat(values))
        flat = {key: text[:_LONGEST_VALUE] for key, text in texts}

        def log() -> None:
            before = mlflow.get_run(self.run_id).data.params
            mlflow.log_params({key: value for key, value in flat.items() if key not in before})
            changed = {key: value for key, value in flat.items() if before.get(key, value) != value}
            if changed:
                mlflow.set_tags({f"changed.{key}": value for key, value in changed.items()})

        self._try("MLflow", log)

    def epoch(self, values: Mapping[str, Any]) -> None:
        """Log an epoch's numbers everywhere."""
        self.file.write(values)
        step = int(values["epoch"])
        # the epoch is where the others stand, and no curve itself
        curves = {k: v for k, v in values.items() if k != "epoch" and isinstance(v, int | float)}
        numbers = {k: float(v) for k, v in curves.items() if math.isfinite(v)}
        if self._board:
            for name, value in numbers.items():
                self._board.add_scalar(name, value, step)
            self._board.flush()
        if mlflow := self._mlflow:
            self._try("MLflow", lambda: mlflow.log_metrics(numbers, step=step))

    def artifacts(self, paths: Sequence[Path]) -> None:
        """Copy files to MLflow."""
        if mlflow := self._mlflow:
            there = [str(path) for path in paths if path.exists()]
            self._try("MLflow", lambda: [mlflow.log_artifact(path, run_id=self.run_id) for path in there])

    def close(self, status: str = "FINISHED") -> None:
        """End the run everywhere; files may follow.

        Args:
            status: in MLflow: FINISHED, KILLED by a signal, FAILED by an error.
        """
        if self._board:
            self._board.close()
        if mlflow := self._mlflow:
            self._try("MLflow", lambda: mlflow.end_run(status))

    def hints(self) -> list[str]:
        """Commands that show the curves."""
        found = []
        if self._mlflow:
            uri = tracking_uri()
            served = uri.startswith(("http://", "https://"))
            found.append(f"{uri} in a browser" if served else f"mlflow ui --host 127.0.0.1 --backend-store-uri {uri}")
        if self._board:
            found.append(f"tensorboard --logdir {Path(self._board.log_dir).parent}")
        return found

    def _try(self, what: str, action: Callable[[], Any]) -> bool:
        if what in self._failed:
            return False
        try:
            action()
        except InputError:
            raise
        except Exception as error:  # a server's client raises what it likes; a training must not die of it
            self._give_up(what, (str(error).splitlines() or [type(error).__name__])[0])
            return False
        return True

    def _give_up(self, what: str, why: str) -> None:
        self._failed.add(what)
        print(f"{what} is left out: {why}; metrics.jsonl has all metrics.", file=sys.stderr, flush=True)


@contextmanager
def failures_told(tracker: Tracker | None) -> Iterator[None]:
    """End a run that an error or a signal ends with what it was: FAILED or KILLED."""
    try:
        yield
    except BaseException as error:
        if tracker:
            tracker.close("FAILED" if isinstance(error, Exception) else "KILLED")
        raise


def add_artifacts(run_id: str, paths: Sequence[Path]) -> None:
    """Copy files to an MLflow run, which may be over; where that fails, one line says so.

    Raises:
        InputError: MLFLOW_TRACKING_URI is a folder.
    """
    uri = tracking_uri()
    try:
        client = _import_mlflow().MlflowClient(tracking_uri=uri)
        for path in paths:
            client.log_artifact(run_id, str(path))
    except Exception as error:  # a server's client raises what it likes
        why = (str(error).splitlines() or [type(error).__name__])[0]
        print(
            f"MLflow did not get all artifacts of the run: {why}; they are in the folder of the run.",
            file=sys.stderr,
            flush=True,
        )


def tracking_uri() -> str:
    """Where MLflow keeps runs: `MLFLOW_TRACKING_URI`, or a database in the current folder.

    Raises:
        InputError: it is a folder.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
    if uri.startswith("file:") or "://" not in uri:
        raise InputError(f"MLFLOW_TRACKING_URI={uri} is a folder, which MLflow no longer takes; use {DEFAULT_URI}.")
    return uri


def _import_mlflow() -> Any:
    for name, value in _PATIENCE.items():
        os.environ.setdefault(name, value)
    import mlflow

    # that it makes a database is no news to a physicist
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    return mlflow


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
