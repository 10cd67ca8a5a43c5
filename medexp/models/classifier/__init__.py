"""A classifier: a head on a frozen encoder of any kind."""

from medexp.models.kinds import ONLY, Kind, Spec, kind_of

KINDS = {
    "classifier": Kind(
        network="medexp.models.classifier.network:classifier",
        inputs=lambda architecture: kind_of(architecture["encoder"]).inputs(architecture["encoder"]),
        outputs=lambda architecture: {ONLY: Spec("float32", (-1, architecture["classes"]))},
        example=lambda architecture, *given: kind_of(architecture["encoder"]).example(architecture["encoder"], *given),
    ),
}
