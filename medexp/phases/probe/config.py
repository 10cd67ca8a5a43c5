"""Configuration of the probe."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from medexp.config.bounds import Share
from medexp.config.data import PhantomConfig, VolumeFilesConfig
from medexp.config.keys import Called, Role, Subject
from medexp.config.networks import FeatureKind
from medexp.config.shared import (
    CacheDir,
    Confidence,
    Device,
    Folds,
    Jobs,
    OutputDir,
    Profile,
    Samples,
    Seed,
    Threads,
)
from medexp.config.training import SearchConfig


@dataclass(frozen=True)
class ProbeConfig:
    """What a registered encoder's features tell about a labelled table, beside what simpler sources tell.

    Args:
        profile: demo (embedded phantoms, seconds on two cores) or full (a table of real data).
        encoder: The encoder: models:/NAME@alias or models:/NAME/VERSION.
        table: TSV with the columns id, path (a BraTS case folder or a 4D NIfTI file), label, patient and, where it is split,
            split (train and val fit the head, test judges it). Without it phantoms of meningioma and glioma (demo only).
        folds: Folds of a cross-validation by patient over a table that has no case of the split test: all of its cases are
            judged, each by a head that has not seen its patient. 0 draws test_fraction of the patients instead; a table that
            has test cases is judged on these, once.
        features: What is pooled from the encoder's maps: gap10 (the average of the bottleneck), multiscale (averages and
            maxima of encoder1 to encoder4) or tumour_weighted (the hidden states where the network sees tumour; takes its
            decoder). The figures of the others are told beside it.
        head: logistic (logistic regression) or mlp (one hidden layer).
        test_fraction: Share of the patients of each label that is tested on, 0 to 1, where the table has none for test and
            there are no folds.
        seed: Seed of the split, the folds, the MLP and the resamples.
        data: How the files of the table's volumes are found.
        search: How the head's hyperparameter is chosen.
        phantoms: The embedded data, of a seed that no encoder was trained on.
    """

    profile: Profile
    encoder: Annotated[str, Subject()]
    table: Annotated[str | None, Role.CASES]
    folds: Folds
    features: Annotated[FeatureKind, Called("")]
    head: Annotated[Literal["logistic", "mlp"], Called("")]
    test_fraction: Annotated[Share, Role.CASES]
    bootstrap_samples: Samples
    confidence: Confidence
    output_dir: OutputDir
    cache_dir: CacheDir
    seed: Seed
    device: Device
    threads: Threads
    jobs: Jobs
    data: VolumeFilesConfig
    search: SearchConfig
    phantoms: Annotated[PhantomConfig, Role.CASES]

    def problems(self) -> Iterator[str]:
        if self.profile == "full" and self.table is None:
            yield "table: profile=full needs real data; give table=FILE.tsv"
