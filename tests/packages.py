"""What packages of small networks hold."""

import numpy as np
import pandas as pd

from medexp.phases import phase

ENCODER = {"kind": "swin_encoder", "in_channels": 4, "feature_size": 12, "window_size": 2}
EVALUATION = {"phase": "phase1", "revision": phase("phase1").revision, "split": "val", "data_digest": "d1", "made_on": "d0"}
SEGMENTER = {**ENCODER, "kind": "swin_unetr", "out_channels": 3}


def scores(cases: int = 12, dice: float = 0.8) -> pd.DataFrame:
    """`per_case.csv` of one patient a case, whose Dice varies a little about `dice`, in the same patients more or less."""
    noise = np.random.default_rng(0).normal(0, 0.025, cases)
    regions = {f"dice_{region}": dice * (1 + noise - noise.mean()) for region in ("TC", "WT", "ET")}
    return pd.DataFrame({"case": [f"p{i}-0" for i in range(cases)], "patient": [f"p{i}" for i in range(cases)], **regions})
