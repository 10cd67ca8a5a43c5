"""Configuration of predict."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, doc

from medexp.config.bounds import Natural, Told
from medexp.config.data import ClassFolders, Labels, Suffixes, label_problems, suffix_problems
from medexp.config.keys import Called, Role
from medexp.config.networks import FeatureKind
from medexp.config.shared import (
    CacheDir,
    Confidence,
    Device,
    Jobs,
    OutputDir,
    Profile,
    Samples,
    Seed,
    Threads,
    Written,
)


@dataclass(frozen=True)
class PredictDataConfig:
    """How new cases are read.

    Args:
        labels: What the values in segmentations mean, those beside the cases and those that are written, by the edition of
            BraTS (as of phase1); without it as in the segmentations that the model was trained on.
        label_map: With labels=map: from the values to 0 background, 1 necrotic or non-enhancing core, 2 edema, 3 enhancing
            tumour.
        patient_pattern: Regular expression on a case's name; its first group is the patient, by whom intervals are drawn. A
            case that it does not match is a patient of its own; where a table says the patient, that counts.
        jobs: Cases read ahead, while another is predicted.
    """

    labels: Annotated[Labels | None, Role.CASES]
    label_map: Annotated[dict[int, int] | None, Role.CASES]
    suffixes: Suffixes
    classes: ClassFolders
    patient_pattern: Annotated[str, Role.CASES]
    jobs: Jobs

    def problems(self) -> Iterator[str]:
        yield from label_problems(self.labels, self.label_map)
        yield from suffix_problems(self.suffixes)


@dataclass(frozen=True)
class PredictConfig:
    """A registered model on new files: masks, probabilities or features, and scores where a truth lies beside them.

    Args:
        profile: demo (phantoms of a seed that no model was trained on) or full (your files).
        model: The model: models:/NAME@alias or models:/NAME/VERSION.
        base: Folder, as transformers keeps models, of the base that an adapter was trained on, where that is not registered
            and is elsewhere than it was then.
        input: What is predicted: a case's folder, a folder of cases, a 4D NIfTI file, a picture, a folder of pictures,
            scenarios (.jsonl, or a folder with some), or a table (.tsv, .csv) with a column path and, if they are known, id,
            patient and label; or a list [...] of these. Each may be s3://bucket/key, of a table or of scenarios with all that
            lies beside them.
            Without it phantoms (demo only).
        image_dir: Folder, or s3://bucket/prefix, that image_file of scenarios is looked up in; without it images/ beside them,
            or their own folder.
        output: Folder that gets what is predicted, one that is not there yet; the same command again goes on where it
            stopped. Without it predictions/ in the run's own folder.
        features: gap10, multiscale or tumour_weighted: which features an encoder gives, or a segmenter beside its masks;
            without it an encoder gives what its network gives, gap10.
        evaluate: Whether the scores are written to the version that was predicted with, as external validation; needs a truth
            beside the cases, and a model that has not seen them.
        shown: Cases of which the run shows a picture.
        seed: Seed of the resamples.
        data: How new cases are read.
        phantoms: Patients of the embedded data.
    """

    profile: Profile
    model: Annotated[str, Called("")]
    base: Annotated[str | None, Role.WHERE]
    input: Annotated[tuple[str, ...], Role.CASES]
    image_dir: Annotated[str | None, Role.CASES]
    output: Annotated[Written | None, Role.WHERE]
    features: FeatureKind | None
    evaluate: bool
    shown: Annotated[Natural, Role.WHERE]
    bootstrap_samples: Samples
    confidence: Confidence
    output_dir: OutputDir
    cache_dir: CacheDir
    seed: Seed
    device: Device
    threads: Threads
    data: PredictDataConfig
    phantoms: Annotated[int, Ge(4), Told("at least 4"), Role.CASES, doc("Patients of the embedded data.")]

    def problems(self) -> Iterator[str]:
        if self.profile == "full" and not self.input:
            yield "input: profile=full needs real data; give input=PATH"
