"""Makes the checkpoints that are shipped for oct's demo anew: `python -m benchmarks.oct_checkpoints`

Where the phantoms, the recipe or the network change, the shipped ones are no longer of the demo's key
(tests/phases/oct/test_pretrained.py says so); this pretrains them and puts them in the place of the old ones, in six minutes.
Other hardware takes sums in another order, so that there the weights come out close to these and not the same.
"""

import shutil
import time
from pathlib import Path

from benchmarks.sides import empty_home


def main() -> None:
    with empty_home() as folder:
        from medexp.models.checkpoints import weights_digest
        from medexp.models.encoders import load_oct_encoder
        from medexp.phases.oct.pretrained import KINDS, RECIPE, SHIPPED, key, pretrain
        from medexp.phases.shared.launch import start_accelerator

        start = time.process_time()
        made: Path = folder / key()
        pretrain(made, RECIPE, start_accelerator("cpu", 1), jobs=2, report=lambda line: print(line, flush=True))
        spent = time.process_time() - start
        shutil.rmtree(SHIPPED, ignore_errors=True)
        shutil.copytree(made, SHIPPED / key())
        for name in KINDS:
            net, _ = load_oct_encoder(SHIPPED / key() / f"{name}.pt")
            print(f"{name}: digest {weights_digest(net.state_dict())}")
        print(f"oct_checkpoints: {spent:.0f} CPU-s beside the rendering, in {SHIPPED / key()}")


if __name__ == "__main__":
    main()
