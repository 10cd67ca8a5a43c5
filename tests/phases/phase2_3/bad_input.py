"""What phase 2.3 refuses: the keys that are given, and words of what is told."""

from tests.phases.shared.image_runs import MODELS

BAD: dict[str, tuple[dict[str, str], list[str]]] = {
    "pictures alone": ({"slices_dir": ""}, ["train: no slice with a mask of a tumour", "slices_dir=FOLDER"]),
    "slices alone": ({"kaggle_dir": "nowhere"}, ["nowhere"]),
    "no such network": (
        {"multitask": "models:/nobody/1"},
        ["multitask=models:/nobody/1", "no model nobody", f"are: {MODELS['phase2_1']}"],
    ),
    "no such classifier": (
        {"classifier": f"models:/{MODELS['phase2_2']}/9"},
        [f"classifier=models:/{MODELS['phase2_2']}/9", "no version 9; it has: 1"],
    ),
    "a classifier as network": (
        {"multitask": f"models:/{MODELS['phase2_2']}/1"},
        ["multitask=", "is of the class EncoderClassifier", "phase 2.1"],
    ),
    "a network as classifier": (
        {"classifier": f"models:/{MODELS['phase2_1']}/1"},
        ["classifier=", "is of the class MultiTaskModel", "phase 2.2"],
    ),
    "images of another size": ({"data.input_size": "[16, 16]"}, ["data.input_size", "(16, 16)", "(32, 32)"]),
    "a rate of the encoder that is not below": (
        {"training.lr_encoder": "1e-4"},
        ["training.lr_encoder: found 0.0001; below lr_decoder (0.0001)", "below lr_head (0.0001)"],
    ),
    "a margin below 0": ({"margin": "-0.1"}, ["margin: found -0.1; at least 0"]),
}
