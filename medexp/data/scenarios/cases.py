"""A clinical scenario: an image, a text that proposes a treatment, and the answer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

ANSWERS = ("ERROR", "CORRECT")
"""What an output begins with, before ` - ` and the reason; their places are the labels."""

MODALITIES = ("xray", "histopathology", "mri", "ultrasound")
"""That a scenario may be of, where nothing else is said."""


@dataclass(frozen=True)
class Scenario:
    """One line of a JSONL file.

    Attributes:
        id: Unique over all files.
        instruction: What is asked.
        input: What is known of the patient, and the treatment; may be empty.
        output: The answer, which begins with one of ANSWERS and ` - `; None where nobody knows it.
        image: Its file.
        modality: Of the image.
        metadata: What else the line says of itself: scenario_id, image_type, error_type, severity, cost_impact; what it does
            not say is missing.
        file: Where it stands.
        line: The line there, from 1.
        family: Of those that share an image or a template (`medexp.data.scenarios.families`); empty where nobody looked.
    """

    id: str
    instruction: str
    input: str
    output: str | None
    image: Path
    modality: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    file: Path = Path()
    line: int = 0
    family: str = ""

    @property
    def label(self) -> int | None:
        """The place of its answer in ANSWERS: 0 ERROR, 1 CORRECT; None where nobody knows it."""
        return None if self.output is None else ANSWERS.index(self.output.partition(" - ")[0])

    @property
    def patient(self) -> str:
        """What stays in one split and is drawn as one: its family, else itself."""
        return self.family or self.id

    @property
    def scan(self) -> str:
        """Itself, as no slice of another one."""
        return self.id

    @property
    def images(self) -> tuple[Path, ...]:
        """Its file, as the images of other kinds of cases."""
        return (self.image,)

    @property
    def where(self) -> str:
        """File and line, as an editor opens them."""
        return f"{self.file}:{self.line}"
