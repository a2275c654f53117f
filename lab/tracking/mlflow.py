"""MLflow."""

import importlib
import os
from collections.abc import Mapping
from typing import Any

from lab.run_folder.run import Run
from lab.tracking.base import Tracker, folder

EXPERIMENT = "lab"
LONGEST = 500  # characters of a parameter
ENDS = {"finished": "FINISHED", "failed": "FAILED"}


class MLflow(Tracker):
    """The store that `MLFLOW_TRACKING_URI` names, else a database in `.tracking/mlflow` beside the runs."""

    name = "mlflow"
    package = "mlflow"

    def start(self, run: Run, options: Mapping[str, Any]) -> str:
        MlflowClient: Any = importlib.import_module("mlflow").MlflowClient

        place = folder(run, self.name)
        place.mkdir(parents=True, exist_ok=True)
        store = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{place}/mlflow.db"
        self.client = MlflowClient(store)
        experiment = self.client.get_experiment_by_name(EXPERIMENT)
        files = None if "MLFLOW_TRACKING_URI" in os.environ else place.joinpath("artifacts").as_uri()
        of = experiment.experiment_id if experiment else self.client.create_experiment(EXPERIMENT, artifact_location=files)
        before = self.client.search_runs([of], f"tags.lab_run = '{run.id}'", max_results=1)
        made = before[0] if before else self.client.create_run(of, tags={"lab_run": run.id}, run_name=run.id)
        self.id = made.info.run_id
        self.client.update_run(self.id, status="RUNNING")
        for name, value in options.items():
            if name not in made.data.params:
                self.client.log_param(self.id, name, str(value)[:LONGEST])
        return f"mlflow ui --backend-store-uri {store}"

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.client.log_metric(self.id, name, value, step=step)

    def figure(self, name: str, figure: Any) -> None:
        self.client.log_figure(self.id, figure, f"{name}.html")

    def end(self, status: str) -> None:
        self.client.set_terminated(self.id, ENDS.get(status, "KILLED"))
