"""What MLflow runs to load a registered model: `mlflow.pyfunc.load_model("models:/NAME@champion")`.

MLflow copies this file beside the package. The source of medexp is copied too, and used only where medexp is not installed: it
goes to the end of the search path, so that loading an old model never replaces the medexp that is at work.
"""

import importlib.util
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel


class RegisteredModel(PythonModel):
    """A network of a package, from what its contract says goes in to what it says comes out."""

    def load_context(self, context: Any) -> None:  # MLflow looks for the name `context`
        if importlib.util.find_spec("medexp") is None:
            sys.dont_write_bytecode = True  # as below: what lies beside the source would be run in its place
            sys.path.append(str(Path(context.artifacts["medexp"]).parent))
        from medexp.registry.served import serve

        self._answer = serve(Path(context.artifacts["package"]))

    def predict(
        self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None
    ) -> np.ndarray | dict[str, np.ndarray] | pd.DataFrame:
        """What the network says: of arrays an array, or several by name, as the signature has them; of paths a row each.

        Args:
            context: MLflow's.
            model_input: Paths, a data frame with a column `path`: the package's contract is executed on the files. Or what
                the network takes, the batch first: prepared volumes (B, C, X, Y, Z) or images (B, C, H, W) of one that takes
                a single array, else a dict of arrays by the names of the signature.
            params: `output`, the folder that masks of paths are written to, of a model that gives masks.

        Raises:
            MlflowException: What was given is not what the model takes, in words; a server answers 400 with them.
        """
        from medexp.errors import MedexpError

        del context  # MLflow hands it over
        try:
            return self._answer(model_input, params or {})
        except MedexpError as error:
            code = INVALID_PARAMETER_VALUE if error.exit_code == 2 else INTERNAL_ERROR
            raise MlflowException(str(error), error_code=code) from error


# A store holds what was registered and nothing else, or `medexp audit` could not tell what somebody put there.
with suppress(OSError):  # of a store that may not be written, it is somebody else's
    Path(str(__spec__.cached)).unlink()
mlflow.models.set_model(RegisteredModel())
