"""What does training by transformers' Trainer cost, with all our reporting? `python -m benchmarks.medgemma_step`

The demo's network, adapter and batches, on one CPU thread: `medexp.training.adapters.fit_adapter` inside a tracked run (the
Trainer with our callback, metrics of every step, MLflow on sqlite, system metrics, checkpoints) against a plain loop of
transformers and peft over the same examples: same network, adapter, collating, loss, AdamW and clipping, and nothing else.
Target: at most 1.05.

Epochs are taken in turns, in one process, and each has as many steps as the demo's. An epoch of ours has in it what comes with
it: loading, schedule, reading the losses, progress bar, the checkpoint and writing the metrics. Validation is in neither. The
first epoch warms up.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.fit_loop import Seconds, stopwatch
from benchmarks.sides import empty_home, told, verdict
from medexp.cli import main as medexp
from medexp.phases.medgemma.config import MedgemmaConfig

if TYPE_CHECKING:
    from peft import PeftModel

    from medexp.models.vision_language.bases import Base
    from medexp.training.adapters import Example

EXAMPLES = 480  # as many as the demo learns from: 30 steps of 16
WORDS, ANSWER = 100, 12  # tokens of a prompt beside its image, and of an answer
ROUNDS = 4


def compare(config: MedgemmaConfig) -> None:
    import torch

    from medexp.models.vision_language.bases import find_base
    from medexp.models.vision_language.tiny import write_tiny
    from medexp.phases.shared.launch import start_accelerator
    from medexp.tracking.runs import tracked_run
    from medexp.training.adapters import fit_adapter

    ours: list[Seconds] = []
    plain: list[Seconds] = []
    with empty_home() as folder:
        base = find_base(str(write_tiny(folder / "base", ["CORRECT - ERROR -"], 0)), None, folder)
        examples = random_examples(base)
        training = replace(config.training, epochs=ROUNDS + 1, validate_every=ROUNDS + 2)
        config = replace(config, output_dir=str(folder / "outputs"), training=training)
        accelerator = start_accelerator(config.device, config.threads, training.precision)
        bare_epoch = bare_loop(config, adapted(base, config), examples)
        with tracked_run("medgemma_step", config) as run:

            class Turns:
                """The run's reporter; where it is flushed, at the end of an epoch of ours, the other side has its turn."""

                watch = staticmethod(stopwatch(time.process_time))

                def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
                    run.reporter.metrics(values, step)

                def flush(self) -> None:
                    run.reporter.flush()
                    ours.append(Turns.watch())
                    bare = stopwatch(time.thread_time)
                    bare_epoch()
                    plain.append(bare())
                    Turns.watch = staticmethod(stopwatch(time.process_time))

            torch.manual_seed(config.seed)
            fit_adapter(
                adapted(base, config),
                examples,
                examples[:1],
                training,
                seed=config.seed,
                accelerator=accelerator,
                reporter=Turns(),  # type: ignore[arg-type]  # what else a reporter has is not called
                folder=run.folder / "state",
                title="ours",
                pad_id=0,
            )
    wall, cpu = (([one[i] for one in ours[1:]], [one[i] for one in plain[1:]]) for i in (0, 1))
    worse = max(median(a) / median(b) for a, b in (wall, cpu))
    steps = -(-EXAMPLES // training.batch_size)
    print(
        f"medgemma_step: wall {told(*wall)}; CPU {told(*cpu)}; target 1.05: {verdict(worse <= 1.05)}; epochs of {steps} steps"
    )


def adapted(base: "Base", config: MedgemmaConfig) -> "PeftModel":
    import torch

    from medexp.models.vision_language.adapters import add_adapter
    from medexp.models.vision_language.bases import load_base

    net = load_base(base, quantize="none", dtype=torch.float32, device=torch.device("cpu"))
    torch.manual_seed(config.seed)
    return add_adapter(net, config.lora)


def random_examples(base: "Base") -> "list[Example]":
    """Noise, of as many tokens as the demo's prompts and answers have."""
    import torch

    from medexp.models.vision_language.network import example_of as noise
    from medexp.training.adapters import example_of

    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(EXAMPLES):
        inputs = noise(base.architecture["config"], generator, 1)
        length = WORDS + int(torch.randint(20, (1,), generator=generator))
        prompt = example_of(inputs, torch.randint(9, 200, (length,), generator=generator)).inputs
        found.append(example_of(prompt, torch.randint(9, 200, (ANSWER,), generator=generator)))
    return found


def bare_loop(config: MedgemmaConfig, peft: "PeftModel", examples: "list[Example]") -> Callable[[], None]:
    """An epoch of the same steps and nothing else."""
    import torch

    from medexp.training.adapters import collate

    trained = [parameter for parameter in peft.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, config.training.lr, weight_decay=config.training.weight_decay)
    peft.train()

    def epoch() -> None:
        for picked in torch.randperm(EXAMPLES).split(config.training.batch_size):
            peft(**collate([examples[at] for at in picked], 0), use_cache=False).loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, config.training.grad_clip)
            optimizer.step()
            optimizer.zero_grad()

    return epoch


if __name__ == "__main__":
    medexp("medgemma", ["--device", "cpu", "--threads", "1"], run=compare)
