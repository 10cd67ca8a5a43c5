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
    """A network of a package, from images or volumes to what its contract says."""

    def load_context(self, context: Any) -> None:  # MLflow looks for the name `context`
        if importlib.util.find_spec("medexp") is None:
            sys.path.append(str(Path(context.artifacts["medexp"]).parent))
        from medexp.registry.loading import load_package

        self._net = load_package(Path(context.artifacts["package"]))

    def predict(
        self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None
    ) -> np.ndarray | dict[str, np.ndarray]:
        """What the network gives for normalised volumes (B, C, X, Y, Z) or images (B, C, H, W), float32: features (B, D) of an
        encoder, logits of a segmenter or a classifier, and both logits, by task, of a multi-task network."""
        import torch

        del context, params  # MLflow hands them over
        with torch.inference_mode():
            output = self._net(torch.as_tensor(model_input, dtype=torch.float32))
        if isinstance(output, dict):
            return {task: logits.numpy() for task, logits in output.items() if isinstance(logits, torch.Tensor)}
        return output.numpy()


mlflow.models.set_model(RegisteredModel())
