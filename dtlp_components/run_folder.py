# SPDX-License-Identifier: Apache-2.0
"""A run's folder: where training, evaluation and inference put their files, and find each other's."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["RunFolder", "mlflow_address"]


class RunFolder:
    """
    Every place below a run's ``output_dir``; nothing is made or read. The configurations spell the same places in JSON.

    Args:
        output_dir: of the run; a bundle's folder is that of its own run.
    """

    def __init__(self, output_dir: str | os.PathLike[str]) -> None:
        self.root = Path(output_dir)

    @classmethod
    def of_weights(cls, model_file: str | os.PathLike[str]) -> RunFolder:
        """The run that has weights in its ``models/``."""
        return cls(Path(os.path.abspath(model_file)).parent.parent)

    @property
    def models(self) -> Path:
        """Folder of weights for others to use, and of nothing else."""
        return self.root / "models"

    @property
    def model(self) -> Path:
        """The student's weights, a plain state dict."""
        return self.models / "model.pt"

    @property
    def checkpoints(self) -> Path:
        """Folder of what training needs for itself."""
        return self.root / "checkpoints"

    @property
    def last(self) -> Path:
        """Everything that is needed to go on."""
        return self.checkpoints / "last.pt"

    @property
    def previous(self) -> Path:
        """The checkpoint before :py:attr:`last`, for the day on which that one cannot be read."""
        return self.checkpoints / "previous.pt"

    @property
    def best(self) -> Path:
        """Weights of the best validation, of the same form as :py:attr:`model`."""
        return self.checkpoints / "best.pt"

    def kept(self, file: Path, date: str) -> Path:
        """Where weights or a checkpoint of an earlier run in this folder are kept."""
        return self.checkpoints / f"{file.stem}-{date}{file.suffix}"

    @property
    def logs(self) -> Path:
        """Folder of curves and records."""
        return self.root / "logs"

    @property
    def model_settings(self) -> Path:
        """The numbers that evaluation and inference have to share with the training."""
        return self.logs / "model_settings.json"

    @property
    def record(self) -> Path:
        """What was trained, how, by what and on what; written at the start, completed at the end."""
        return self.logs / "run.json"

    @property
    def exported(self) -> Path:
        """Of which iteration the weights in ``model.pt`` are."""
        return self.logs / "exported.json"

    @property
    def calibration(self) -> Path:
        """What the probabilities of the weights in ``model.pt`` are worth."""
        return self.logs / "calibration.json"

    @property
    def calibration_curve(self) -> Path:
        """How often the model is right, by how sure it is; a picture."""
        return self.logs / "calibration.png"

    @property
    def losses(self) -> Path:
        """Loss terms and learning rate, by iteration."""
        return self.logs / "losses.csv"

    @property
    def progress(self) -> Path:
        """Curves of the training, as a picture."""
        return self.logs / "progress.png"

    @property
    def experiment(self) -> Path:
        """What an experiment has done of this run."""
        return self.logs / "experiment.json"

    @property
    def experiment_log(self) -> Path:
        """What the run of an experiment printed."""
        return self.logs / "experiment.log"

    @property
    def run_name(self) -> Path:
        """The training's name in MLflow."""
        return self.logs / "run_name.txt"

    @property
    def checked_inputs(self) -> Path:
        """What the check of the scans found, for the next start."""
        return self.logs / "checked_inputs.json"

    @property
    def labeled_scans(self) -> Path:
        """The labeled scans that a bundle was made from, with their labels; a picture."""
        return self.logs / "labeled_scans.png"

    @property
    def error(self) -> Path:
        """Traceback of the error that ended the last command here, if one did that nobody had foreseen."""
        return self.logs / "error.txt"

    @property
    def lock(self) -> Path:
        """Says which process trains into this folder, as long as one does."""
        return self.logs / "lock"

    @property
    def pseudo_labels(self) -> Path:
        """How good every source of pseudo-labels is, by validation."""
        return self.logs / "pseudo_labels.csv"

    @property
    def tensorboard(self) -> Path:
        """Folder of TensorBoard's events."""
        return self.logs / "tensorboard"

    @property
    def mlflow(self) -> Path:
        """MLflow's data base."""
        return self.root / "mlruns.db"

    @property
    def evaluation(self) -> Path:
        """Folder of scores."""
        return self.root / "evaluation"

    def cases_csv(self, section: str, convention: str = "native") -> Path:
        """Scores by case of a section of the datalist, by a convention of scoring."""
        return self.evaluation / f"{section}_{convention}_cases.csv"

    def summary_csv(self, section: str, convention: str = "native") -> Path:
        """Means by class and domain."""
        return self.evaluation / f"{section}_{convention}_summary.csv"

    def summary_json(self, section: str, convention: str = "native") -> Path:
        """The same, with the convention in words and where the weights come from."""
        return self.evaluation / f"{section}_{convention}_summary.json"

    @property
    def predictions(self) -> Path:
        """Folder of label maps, where inference is told no other."""
        return self.root / "predictions"

    @property
    def next_scans(self) -> Path:
        """Folder of what to label next."""
        return self.root / "next"

    @property
    def proposals(self) -> Path:
        """Folder of the pseudo-labels to look through."""
        return self.root / "pseudo_labels"

    def picture(self, scan: str) -> Path:
        """The picture of a scan."""
        return self.root / "pictures" / f"{scan}.png"


def in_use_sentence(run: RunFolder, holder: str) -> str:
    """What to say if another process trains into a run's folder."""
    return (
        f"{run.root.absolute()}: is in use: {holder} is training into it. Each training run needs its own folder: "
        "wait until that one ends, or use another --output_dir."
    )


def mlflow_address(output_dir: str) -> str:
    """
    MLflow's tracking URI of a run, in which ``%`` and ``?`` of a path have a meaning of their own.

    Args:
        output_dir: the run's folder.
    """
    path = str(RunFolder(output_dir).mlflow.absolute())
    quoted = path.replace("%", "%25").replace("?", "%3F")
    # with the driver named, MLflow 3 does not make a folder of the quoted name beside
    return f"sqlite:///{path}" if quoted == path else f"sqlite+pysqlite:///{quoted}"
