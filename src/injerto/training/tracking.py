"""Trackers that follow a run, through accelerate: TensorBoard, Weights & Biases (offline), MLflow (local files)."""

import os
from importlib.util import find_spec
from pathlib import Path

from injerto.basics.errors import InjertoError

PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow-skinny"}


def check_trackers(names: tuple[str, ...]) -> None:
    """Refuse a tracker that is not installed.

    Args:
        names: As the recipe says.

    Raises:
        InjertoError: Where its package is not there.
    """
    for name in names:
        if find_spec(name) is None:
            raise InjertoError(f"--track {name}: {name} is not installed; pip install {PACKAGES[name]}")


def prepare_trackers(names: tuple[str, ...], folder: Path) -> None:
    """Keep trackers on this machine and inside the run's folder, unless the environment says otherwise.

    Args:
        names: As the recipe says.
        folder: The run's folder.
    """
    place = folder.absolute()
    if "wandb" in names:
        os.environ.setdefault("WANDB_MODE", "offline")
        os.environ.setdefault("WANDB_SILENT", "true")
        os.environ.setdefault("WANDB_DIR", str(place))
    if "mlflow" in names:
        os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{place / 'mlflow.db'}")
