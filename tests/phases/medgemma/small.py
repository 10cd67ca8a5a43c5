"""Few scenarios, each with words and a picture of its own, and medgemma in small on them."""

from pathlib import Path
from typing import Any

from tests.data.scenarios.small_scenarios import SHORT, scenario, write_images, write_lines

SMALL: dict[str, Any] = {
    "model": "base",
    "scenarios": "train.jsonl,val.jsonl,test.jsonl",
    "image_dir": "images",
    "bootstrap_samples": "100",
    "data.jobs": "1",
    "threads": "1",
    "lora.rank": "2",
    "training.epochs": "2",
    "training.batch_size": "8",
    "scoring.paraphrases": '["Is it right?"]',
    "scoring.max_new_tokens": "3",
    "scoring.shown": "2",
}
SIZES = {"train": 16, "val": 16, "test": 8}


def scenarios(count: int, first: int = 0) -> list[dict[str, Any]]:
    """So many: the modalities in turn, of each every other is CORRECT; each has words of its own, and is a family."""
    made = []
    for number in range(first, first + count):
        modality = [*SHORT][number % 4]
        patient = "".join(chr(ord("a") + int(digit)) for digit in str(number))
        text = f"{modality} of patient {patient}."
        made.append(scenario(f"{SHORT[modality]}_{number:03}", modality, number // 4 % 2 == 0, input=text))
    return made


def write_splits(folder: Path) -> None:
    """train.jsonl, val.jsonl and test.jsonl, and their images beside them."""
    first = 0
    for split, count in SIZES.items():
        made = scenarios(count, first)
        write_lines(folder / f"{split}.jsonl", made)
        write_images(folder / "images", made, first)
        first += count
