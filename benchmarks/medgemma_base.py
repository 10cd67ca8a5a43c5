"""Makes the base that is shipped for medgemma's demo anew: `python -m benchmarks.medgemma_base`

Where the drawings, the words, the network or the recipe change, the shipped one is no longer of the demo's key
(tests/phases/medgemma/test_pretrained.py says so); this pretrains it and puts it in the place of the old one, in five minutes
of an idle core. Other hardware takes sums in another order: there the weights come out close to these, not the same.
"""

import shutil
import time

from benchmarks.sides import empty_home


def main() -> None:
    with empty_home() as folder:
        from medexp.phases.medgemma.pretrained import SHIPPED, key, pretrain

        start = time.process_time()
        pretrain(folder / key(), jobs=2, report=lambda line: print(line, flush=True))
        spent = time.process_time() - start
        shutil.rmtree(SHIPPED, ignore_errors=True)
        shutil.copytree(folder / key(), SHIPPED / key())
        print(f"medgemma_base: {spent:.0f} CPU-s beside the drawing, in {SHIPPED / key()}")


if __name__ == "__main__":
    main()
