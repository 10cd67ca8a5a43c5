"""A network that takes token ids, their mask and pixels: a kind that is found when its folder lies among the others."""

import torch

from medexp.models.kinds import Kind, Spec


def _example(architecture, contract, generator):
    cases, tokens = 2, 5
    return {
        "ids": torch.randint(architecture["vocabulary"], (cases, tokens), generator=generator),
        "mask": torch.ones(cases, tokens, dtype=torch.bool),
        "pixels": torch.randn(cases, *contract["pixels"]["example_shape"][1:], generator=generator),
    }


KINDS = {
    "question": Kind(
        network="medexp.models.question.network:Question",
        inputs=lambda architecture: {
            "ids": Spec("int64", (-1, -1)),
            "mask": Spec("bool", (-1, -1)),
            "pixels": Spec("float32", (-1, 1, -1, -1)),
        },
        outputs=lambda architecture: {
            "answer": Spec("float32", (-1, architecture["answers"])),
            "length": Spec("int64", (-1,)),
        },
        example=_example,
        requirements=("transformers",),
    ),
}
