"""How often a case is told to lie outside what a model saw: fresh phantoms of the demo's kind, and folders of other cases.

python -m benchmarks.outside [FOLDER ...]
"""

import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from medexp.data import seen
from medexp.data.headers import of_volume
from medexp.data.volumes.background import ground_of
from medexp.data.volumes.brats import image_files, read_case
from medexp.data.volumes.cases import CHANNELS, Case
from medexp.data.volumes.facts import fields_of
from medexp.data.volumes.phantoms import ensure_phantoms

TRAINED = 54  # of the demo's cases
ROOMS = (0.25, 0.5, 1.0)


def looked(folder: Path) -> dict[str, seen.Field]:
    volume = read_case(Case(folder.name, folder.name, files := image_files(folder), None), {})
    header = of_volume(dict(zip(CHANNELS, files, strict=True)))
    return fields_of(header, volume, [ground_of(channel) for channel in volume.image])


def main() -> None:
    with TemporaryDirectory() as scratch:
        made = {seed: sorted(ensure_phantoms("meningioma", 60, seed, Path(scratch)).iterdir()) for seed in (0, 3, 4, 5)}
        known = seen.ranges(looked(case) for case in made[0][:TRAINED])
        fresh = [looked(case) for seed in (3, 4, 5) for case in made[seed]]
    groups = {"fresh phantoms": fresh}
    groups |= {str(folder): [looked(case) for case in sorted(folder.iterdir())] for folder in map(Path, sys.argv[1:])}
    for room in ROOMS:
        for name, cases in groups.items():
            told = [[sentence.split(" is ")[0] for sentence in seen.outside(case, known, room)] for case in cases]
            by_field = Counter(field for fields in told for field in fields)
            print(f"room {room}, {name}: {sum(map(bool, told))} of {len(cases)}; {dict(sorted(by_field.items()))}")


if __name__ == "__main__":
    main()
