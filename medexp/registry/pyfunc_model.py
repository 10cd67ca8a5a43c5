"""What MLflow runs to load a registered model: `mlflow.pyfunc.load_model("models:/NAME@champion")`.

MLflow copies this file beside the package. The source of medexp is copied too, and used only where medexp is not installed: it
goes to the end of the search path, so that loading an old model never replaces the medexp that is at work.
"""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow.pyfunc import PythonModel


class RegisteredModel(PythonModel):
    """A network of a package, from what its contract says goes in to what it says comes out."""

    def load_context(self, context: Any) -> None:  # MLflow looks for the name `context`
        if importlib.util.find_spec("medexp") is None:
            sys.path.append(str(Path(context.artifacts["medexp"]).parent))
        from medexp.registry.loading import load_package
        from medexp.registry.packages import network_of, read_json

        package = Path(context.artifacts["package"])
        self._net = load_package(package)
        self._architecture = network_of(read_json(package, "contract.json"))

    def predict(
        self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None
    ) -> np.ndarray | dict[str, np.ndarray]:
        """What the network gives, an array or several by name, as the model's signature has them.

        Args:
            context: MLflow's.
            model_input: What the network takes, the batch first: normalised volumes (B, C, X, Y, Z) or images (B, C, H, W) of
                one that takes a single array, else a dict of arrays by the names of the signature.
            params: MLflow's.
        """
        import torch

        from medexp.models.kinds import ONLY, kind_of, outputs_of

        del context, params  # MLflow hands them over
        arrays: Any = model_input  # MLflow warns of every other type than the annotated one
        arrays = arrays if isinstance(arrays, dict) else {ONLY: arrays}
        given = {
            name: torch.as_tensor(arrays[name], dtype=getattr(torch, spec.dtype))
            for name, spec in kind_of(self._architecture).inputs(self._architecture).items()
        }
        with torch.inference_mode():
            output = outputs_of(self._net, self._architecture, given)
        return output[ONLY].numpy() if ONLY in output else {name: value.numpy() for name, value in output.items()}


mlflow.models.set_model(RegisteredModel())
