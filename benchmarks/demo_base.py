"""Makes the base that is shipped for the demo anew: `python -m benchmarks.demo_base`

Where the demo's settings, the phantoms or the pretraining change, the shipped base is no longer that of the demo's key
(tests/phases/phase1/test_pretrained.py says so); this trains it and puts it in the place of the old one, in five minutes of an
idle core. Other hardware takes sums in another order, so that there the weights come out close to these and not the same.
"""

import shutil
import time
from pathlib import Path

from benchmarks.sides import empty_home


def main() -> None:
    with empty_home() as folder:
        from medexp.cli import configuration
        from medexp.models.checkpoints import load_state
        from medexp.phases.phase1.pretrained import SHIPPED, key, load_base, pretrain
        from medexp.phases.shared.launch import start_accelerator
        from medexp.registry.packages import CASES

        config = configuration("phase1", [])
        accelerator = start_accelerator("cpu", 1)
        file = folder / key(config) / "finetuned_model_fold_0.pt"
        start = time.process_time()
        pretrain(config, accelerator, folder / "cache", file)
        spent = time.process_time() - start
        shutil.rmtree(SHIPPED, ignore_errors=True)
        target = SHIPPED / file.parent.name
        target.mkdir(parents=True)
        for name in (file.name, CASES):
            shutil.copyfile(file.with_name(name), target / name)
        digest = load_base(config, accelerator, Path()).digest
        print(f"demo_base: {len(load_state(file))} tensors, digest {digest}, {spent:.0f} CPU-s, in {target}")


if __name__ == "__main__":
    main()
