"""Configuration of the probe."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from medexp.config.data import PhantomConfig
from medexp.config.training import SearchConfig


@dataclass(frozen=True)
class ProbeConfig:
    """What a registered encoder's features tell about a labelled table, beside what simpler sources tell.

    Args:
        profile: demo (embedded phantoms, seconds on two cores) or full (a table of real data).
        encoder: The encoder: models:/NAME@alias or models:/NAME/VERSION.
        table: TSV with the columns id, path (a BraTS case folder or a 4D NIfTI file), label, patient and, where it is split,
            split (train and val fit the head, test judges it). Without it phantoms of meningioma and glioma (demo only).
        head: logistic (logistic regression) or mlp (one hidden layer).
        test_fraction: Share of the patients of each label that is tested on, 0 to 1, where the table has no column split.
        bootstrap_samples: Resamples of an interval.
        confidence: Coverage of an interval, 0 to 1.
        output_dir: Folder that gets one folder a run, named by its run id.
        cache_dir: Folder for what is computed once; without it $XDG_CACHE_HOME/medexp or ~/.cache/medexp.
        seed: Seed of the split, the folds, the random encoder, the MLP and the resamples.
        device: auto, cpu, cuda or mps.
        threads: Threads of torch; without it torch decides.
        jobs: Cases read in parallel.
        search: How the head's hyperparameter is chosen.
        phantoms: The embedded data, of a seed that no encoder was trained on.
    """

    profile: str
    encoder: str
    table: str | None
    head: Literal["logistic", "mlp"]
    test_fraction: float
    bootstrap_samples: int
    confidence: float
    output_dir: str
    cache_dir: str | None
    seed: int
    device: Literal["auto", "cpu", "cuda", "mps"]
    threads: int | None
    jobs: int
    search: SearchConfig
    phantoms: PhantomConfig

    def problems(self) -> Iterator[str]:
        if self.profile == "full" and self.table is None:
            yield "table: profile=full needs real data; give table=FILE.tsv"
        for key in ("test_fraction", "confidence"):
            if not 0 < getattr(self, key) < 1:
                yield f"{key}: found {getattr(self, key)}; above 0 and below 1"
        if self.bootstrap_samples < 100:
            yield f"bootstrap_samples: found {self.bootstrap_samples}; at least 100"
        if self.seed < 0:
            yield f"seed: found {self.seed}; at least 0"
        if self.threads is not None and self.threads < 1:
            yield f"threads: found {self.threads}; at least 1"
        if self.jobs < 1:
            yield f"jobs: found {self.jobs}; at least 1"
