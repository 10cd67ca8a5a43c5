"""Classifiers: a head on an encoder."""

from medexp.models.kinds import ONLY, Kind, Spec, kind_of


def _kind(network: str, *requirements: str) -> Kind:
    return Kind(
        network=f"medexp.models.classifier.network:{network}",
        inputs=lambda architecture: kind_of(architecture["encoder"]).inputs(architecture["encoder"]),
        outputs=lambda architecture: {ONLY: Spec("float32", (-1, architecture["classes"]))},
        example=lambda architecture, *given: kind_of(architecture["encoder"]).example(architecture["encoder"], *given),
        requirements=requirements,
    )


KINDS = {"classifier": _kind("classifier"), "oct_classifier": _kind("oct_classifier", "transformers", "pydicom")}
