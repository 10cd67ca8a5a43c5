"""What does LoRA on a network of MedGemma 4B's shape cost on a GPU? `python -m benchmarks.medgemma_gpu`

First the demo on the GPU: its checks, and the adapter in a fresh process, on the GPU and on the CPU, against what the run
wrote down. Then a Gemma 3 of MedGemma 4B's sizes with random weights, in bfloat16, on generated scenarios: seconds to hash and
load it, and of a step; the memory that is foretold against what a training takes, with gradient checkpointing and without;
both answers behind a shared prompt against each alone; what merging rounds away, by how much an adapter does; the whole phase,
also quantised where bitsandbytes is there; what is said where memory is out, and whether the batch that is then named fits.
Random weights tell nothing of accuracy. No figure is set as a target.

Each part is a process of its own, with a limit of time: one that fails leaves the others. `--lines FILE` gets the figures as
JSON lines. `--device cpu --tiny` shows where it stands or fails without a GPU; the figures then say nothing.
"""

import argparse
import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.sides import ROOT, empty_home

if TYPE_CHECKING:
    from medexp.phases.medgemma.asking import Asking, Examples
    from medexp.phases.medgemma.config import MedgemmaConfig

TEXT = {
    "hidden_size": 2560,
    "intermediate_size": 10240,
    "num_hidden_layers": 34,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "vocab_size": 262208,
    "sliding_window": 1024,
    "max_position_embeddings": 131072,
}
VISION = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 896,
    "patch_size": 14,
}
IMAGE_TOKENS, PATTERN = 256, 6  # every sixth layer of the decoder attends to the whole context
TINY_TEXT = TEXT | {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "head_dim": 16, "vocab_size": 2048}
TINY_VISION = VISION | {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
TINY_VISION |= {"image_size": 112}
TINY_TOKENS = 16
TRAINING, TESTING = 32, 16
EPOCHS, BATCH, STEPS = 2, 4, 6
LARGER = (1, 4, 16, 64)  # times what was trained, for what merging rounds away
SPARE = 12 * 2**30  # bytes that are left beside the weights where memory is to be out
TOO_MANY = 32


@dataclass
class Work:
    """What a part is done with: where, on what device, and where its figures go."""

    part: str
    device: str
    tiny: bool
    home: Path
    lines: Path

    @property
    def base(self) -> Path:
        return self.home / "base"

    @property
    def scenarios(self) -> Path:
        from medexp.data.scenarios.phantoms import ensure_scenarios

        return ensure_scenarios(TRAINING, TESTING, 0, self.home / "scenarios")

    def settings(self, **more: object) -> list[str]:
        """The command line of the phase at the real shape; in the names of further keys __ is a dot."""
        files = [str(self.scenarios / f"{split}.jsonl") for split in ("train", "val")]
        given = {"profile": "full", "model": self.base, "scenarios": ",".join(files), "image_dir": self.scenarios / "images"}
        given |= {"device": self.device, "training.epochs": EPOCHS, "training.batch_size": BATCH, "data.jobs": 2}
        given |= {"bootstrap_samples": 200, "scoring.max_new_tokens": 16, "scoring.paraphrases": "[]"}
        return options(given | {key.replace("__", "."): value for key, value in more.items()})

    def tell(self, what: str, **figures: Any) -> None:
        """A line for people, and one of JSON."""
        shown = ", ".join(f"{name} {f'{value:.4g}' if isinstance(value, float) else value}" for name, value in figures.items())
        print(f"{self.part}, {what}: {shown}", flush=True)
        with self.lines.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"part": self.part, "what": what, **figures}, default=str) + "\n")

    def synchronise(self) -> None:
        import torch

        if self.device == "cuda":
            torch.cuda.synchronize()

    def peak(self) -> float:
        """Largest GiB of tensors since the last call."""
        import torch

        if self.device != "cuda":
            return float("nan")
        found = torch.cuda.max_memory_allocated() / 2**30
        torch.cuda.reset_peak_memory_stats()
        return found

    def timed(self, work: Callable[[], Any]) -> tuple[Any, float]:
        self.synchronise()
        started = time.perf_counter()
        made = work()
        self.synchronise()
        return made, time.perf_counter() - started


def options(settings: Mapping[str, object]) -> list[str]:
    return [part for key, value in settings.items() for part in (f"--{key}", str(value))]


@dataclass
class Both(io.TextIOBase):
    """What is printed, shown and kept."""

    shown: Any
    kept: list[str] = field(default_factory=list)

    def write(self, text: str) -> int:
        self.kept.append(text)
        return int(self.shown.write(text))

    def flush(self) -> None:
        self.shown.flush()


def phase(work: Work, what: str, argv: Sequence[str]) -> tuple[int, str, str | None]:
    """The phase in this process: its exit code, what it printed and its run."""
    from medexp.cli import main as medexp

    printed = Both(sys.stdout)
    with redirect_stdout(printed), redirect_stderr(printed):
        code, seconds = work.timed(lambda: medexp("medgemma", argv))
    text = "".join(printed.kept)
    run = next(iter(re.findall(r"^Run: (\w+)|in run (\w+)\.", text, re.MULTILINE)), None)
    run_id = next(filter(None, run)) if run else None
    checks = {name: told for told, name in re.findall(r"^(PASSED|FAILED) ([A-Z0-9-]+) ", text, re.MULTILINE)}
    blocked = [line for line in text.splitlines() if "error:" in line]
    work.tell(what, exit_code=code, seconds=seconds, peak_gib=work.peak(), run=run_id, checks=checks, errors=blocked)
    for name in ("PARAMETERS", "FROZEN", "MERGE", "LOSS", "IMAGES"):
        for line in re.findall(rf"^(?:PASSED|FAILED) MEDGEMMA-{name} .*$", text, re.MULTILINE):
            work.tell(f"{what}, {name}", line=line)
    if run_id:
        (work.home / f"{work.part}.run").write_text(run_id)
        of_run(work, what, run_id)
    return code, text, run_id


def of_run(work: Work, what: str, run_id: str) -> None:
    """Steps a second, the GPU's memory as the system metrics have it, accuracy and the adapter's size."""
    from mlflow import MlflowClient

    client = MlflowClient()
    stamps = [one.timestamp for one in client.get_metric_history(run_id, "train/loss")]
    gaps = [(after - before) / 1000 for before, after in pairwise(stamps)]
    metrics = client.get_run(run_id).data.metrics
    names = ("val/final/accuracy", "base/accuracy", "blind/accuracy", "other_image/accuracy", "train/loss", "val/loss")
    files = sorted((Path("outputs") / run_id).glob("adapter/adapter_model.safetensors"))
    work.tell(
        f"{what}, its run",
        steps=len(stamps),
        step_seconds=median(gaps) if gaps else float("nan"),
        adapter_bytes=[file.stat().st_size for file in files],
        **{name: metrics[name] for name in names if name in metrics},
    )


def demo(work: Work) -> None:
    """The demo as it is."""
    small = {"phantoms.training": 32, "phantoms.testing": 16, "training.epochs": 2} if work.tiny else {}
    phase(work, "the demo", options({"device": work.device, **small}))


def served(part: str, *devices: str) -> Callable[[Work], None]:
    """What another part registered, in a fresh process, against what its run wrote down."""

    def pulled(work: Work) -> None:
        import numpy as np
        import pandas as pd
        from mlflow import MlflowClient, artifacts

        from medexp import registry
        from medexp.data.scenarios.prompts import Prompt, answer_ids, load_processor
        from medexp.evaluation.answers import score_answers

        run_id = (work.home / f"{part}.run").read_text()
        table = pd.read_csv(artifacts.download_artifacts(run_id=run_id, artifact_path="answers.csv"))
        wanted = table[table["arm"] == "adapter"].set_index("case")[["log_error", "log_correct"]]
        versions = MlflowClient().search_model_versions("name='medgemma_lora_adapter'")
        version = next(one.version for one in versions if one.run_id == run_id)
        phantoms = Path(os.environ["XDG_CACHE_HOME"]) if part == "demo" else work.home / "scenarios"
        logs = {}
        for device in dict.fromkeys([work.device, *devices]):
            made, seconds = work.timed(partial(registry.predictor, f"models:/medgemma_lora_adapter/{version}", device))
            cases = [case for case in made.find(next(phantoms.rglob("val.jsonl"))).cases if case.id in wanted.index][:64]
            ready = [made.ready(case) for case in cases]
            prompts = [Prompt(case.id, one.given, 1) for case, one in zip(cases, ready, strict=True)]
            answers = answer_ids(load_processor(made.folder / "processor"))
            logs[device] = score_answers(made.net, prompts, answers, pad_id=0, batch_size=BATCH, device=made.device)
            odds = logs[device][:, 1] - logs[device][:, 0]
            shares = np.array([(made.answer(one).probabilities or {})["CORRECT"] for one in ready])
            from_run = np.abs(logs[device] - wanted.loc[[case.id for case in cases]].to_numpy()).max()
            work.tell(
                f"pulled on {device}",
                version=version,
                scenarios=len(cases),
                seconds=seconds,
                log_probability_from_the_run=float(from_run),
                probability_one_by_one=float(np.abs(shares - 1 / (1 + np.exp(-odds))).max()),
                peak_gib=work.peak(),
            )
        if len(logs) > 1:
            apart = float(np.abs(logs[work.device] - logs["cpu"]).max())
            work.tell(f"{work.device} against cpu", log_probability_at_most_apart=apart)

    return pulled


def write_base(work: Work) -> None:
    """A folder of the real shape with random weights, as transformers writes it in shards."""
    import torch
    from torch import nn
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3Processor

    from medexp.data.scenarios.prompts import load_processor
    from medexp.phases.medgemma.pretrained import demo_base

    text, vision, tokens = (TINY_TEXT, TINY_VISION, TINY_TOKENS) if work.tiny else (TEXT, VISION, IMAGE_TOKENS)
    demo = demo_base(work.home)
    held = json.loads((demo / "config.json").read_text())
    kept = {name: held[name] for name in ("boi_token_index", "eoi_token_index", "image_token_index", "eos_token_id")}
    named = {name: held["text_config"][name] for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    layers = int(text["num_hidden_layers"])
    every = ["sliding_attention" if (layer + 1) % PATTERN else "full_attention" for layer in range(layers)]
    config = Gemma3Config(
        text_config={**text, **named, "layer_types": every},
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, **vision},
        mm_tokens_per_image=tokens,
        architectures=["Gemma3ForConditionalGeneration"],
        **kept,
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)

    def make() -> Any:
        with torch.device(work.device):
            made = Gemma3ForConditionalGeneration(config)
        nn.init.normal_(made.model.multi_modal_projector.mm_input_projection_weight, std=float(vision["hidden_size"]) ** -0.5)
        return made

    net, seconds = work.timed(make)
    numbers = sum(one.numel() for one in net.parameters())
    _, writing = work.timed(lambda: net.save_pretrained(work.base, max_shard_size="2GB"))
    processor, edge = load_processor(demo), vision["image_size"]
    processor.image_processor.size = {"height": edge, "width": edge}
    processor.tokenizer.model_max_length = text["max_position_embeddings"]
    whole = {"image_processor": processor.image_processor, "tokenizer": processor.tokenizer}
    processor = Gemma3Processor(**whole, chat_template=processor.chat_template, image_seq_length=tokens)
    processor.save_pretrained(work.base)
    files = sorted(work.base.glob("*.safetensors"))
    work.tell(
        "written",
        parameters=numbers,
        files=len(files),
        gigabytes=sum(file.stat().st_size for file in files) / 1e9,
        seconds_to_make=seconds,
        seconds_to_write=writing,
        peak_gib=work.peak(),
    )


def dry_run(work: Work) -> None:
    """What the phase foretells, with gradient checkpointing, as it is without asking."""
    _, text, _ = phase(work, "dry run", work.settings(dry_run="true"))
    found = re.findall(r"^│ (memory, .*?|trainable|longest prompt) +│ (.*?) +│$", text, re.MULTILINE)
    work.tell("foretold", **{name.replace(", ", "_").replace(" ", "_"): told for name, told in found})


def whole(work: Work) -> None:
    """The phase at the real shape."""
    phase(work, "the phase", work.settings())


def quantised(bits: str) -> Callable[[Work], None]:
    def part(work: Work) -> None:
        fewer = work.settings(quantize=bits, scoring__max_new_tokens=4, bootstrap_samples=100)
        phase(work, f"the phase, {bits}", fewer)

    return part


@dataclass
class Stopwatch:
    """A reporter that only takes the time of each step."""

    stamps: list[float] = field(default_factory=list)

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:  # noqa: ARG002  # as reporters have it
        if "train/loss" in values:
            self.stamps.append(time.perf_counter())

    def flush(self) -> None:
        pass

    @property
    def seconds(self) -> float:
        """Of the middle step, the first two left out."""
        gaps = [after - before for before, after in pairwise(self.stamps[1:])]
        return median(gaps) if gaps else float("nan")


def asked(work: Work) -> "tuple[MedgemmaConfig, Asking, Any, Examples]":
    """Configuration, prompts, the base and what is learned from."""
    import hashlib

    from medexp.cli import configuration
    from medexp.data.scenarios.read import read_scenarios
    from medexp.models.vision_language.bases import find_base
    from medexp.phases.medgemma.reading import asking_of

    config: MedgemmaConfig = configuration("medgemma", work.settings())
    cache = work.home / work.part
    base, seconds = work.timed(lambda: find_base(str(work.base), None, cache))
    _, again = work.timed(lambda: find_base(str(work.base), None, cache))
    work.tell("the base found", seconds=seconds, seconds_again=again, digest=base.digest)
    asking = asking_of(base.folder, base.architecture["config"], config, cache)
    scenarios = read_scenarios([work.scenarios / "train.jsonl"], work.scenarios / "images")
    digests = {one.id: hashlib.sha256(one.image.read_bytes()).hexdigest() for one in scenarios}
    examples, seconds = work.timed(lambda: asking.examples(scenarios, digests))
    lengths = [example.labels.shape[1] for example in examples]
    work.tell("prompts made", scenarios=len(scenarios), seconds=seconds, shortest=min(lengths), longest=max(lengths))
    return config, asking, base, examples


def steps(work: Work) -> None:
    """One process with the base in it: loading, hashing, training with and without checkpointing, scoring, merging."""
    import gc
    import shutil
    from dataclasses import replace

    import numpy as np
    import torch

    from medexp.data.scenarios.prompts import answer_ids
    from medexp.data.scenarios.read import read_scenarios
    from medexp.evaluation.answers import score_alone, score_answers
    from medexp.models.vision_language.adapters import add_adapter, digests, expected_parameters, merged, untouched
    from medexp.models.vision_language.bases import load_base
    from medexp.phases.shared.launch import start_accelerator
    from medexp.training.adapters import fit_adapter, memory_of

    config, asking, base, examples = asked(work)
    accelerator = start_accelerator(config.device, config.threads, config.training.precision)
    device = accelerator.device
    net, seconds = work.timed(lambda: load_base(base, quantize="none", dtype=torch.bfloat16, device=device))
    work.tell("loaded", seconds=seconds, peak_gib=work.peak())
    before, seconds = work.timed(lambda: digests(net))
    work.tell("digests of all tensors", tensors=len(before), seconds=seconds)
    scenarios = read_scenarios([work.scenarios / "val.jsonl"], work.scenarios / "images")
    prompts, answers = [asking.prompt(one) for one in scenarios], answer_ids(asking.processor)

    def score(batch_size: int, of: Any) -> Any:
        return score_answers(of, prompts, answers, pad_id=asking.pad_id, batch_size=batch_size, device=device)

    of_base = score(BATCH, net)
    torch.manual_seed(0)
    peft = add_adapter(net, config.lora)
    trainable = sum(one.numel() for one in peft.parameters() if one.requires_grad)
    work.tell("adapter", trainable=trainable, expected=expected_parameters(net, config.lora))

    def fit(batch_size: int, count: int, *, checkpointing: bool, lr: float = config.training.lr) -> Stopwatch:
        training = replace(
            config.training, batch_size=batch_size, gradient_checkpointing=checkpointing, epochs=1, validate_every=2, lr=lr
        )
        folder, watch = work.home / "state", Stopwatch()
        shutil.rmtree(folder, ignore_errors=True)
        fit_adapter(
            peft,
            [examples[place % len(examples)] for place in range(count)],
            examples[:1],
            training,
            seed=0,
            accelerator=accelerator,
            reporter=watch,  # type: ignore[arg-type]  # what else a reporter has is not called
            folder=folder,
            title="steps",
            pad_id=asking.pad_id,
        )
        return watch

    longest = max(examples, key=lambda example: example.labels.shape[1])
    memories = {}
    for checkpointing in (True, False):
        training = replace(config.training, gradient_checkpointing=checkpointing)
        memory, seconds = work.timed(partial(memory_of, peft, longest, training, asking.pad_id))
        memories[checkpointing] = memory
        work.peak()
        watch = fit(BATCH, BATCH * (STEPS + 2), checkpointing=checkpointing)
        work.tell(
            f"training, batches of {BATCH}, checkpointing {checkpointing}",
            step_seconds=watch.seconds,
            peak_gib=work.peak(),
            foretold_gib=(memory.fixed + BATCH * memory.per_scenario) / 2**30,
            fixed_gib=memory.fixed / 2**30,
            per_scenario_gib=memory.per_scenario / 2**30,
            fits=memory.batch_size,
            seconds_to_foretell=seconds,
        )
    changed, seconds = work.timed(lambda: untouched(peft, before))
    work.tell("untouched", changed=len(changed), seconds=seconds)

    score(1, peft)  # once unmeasured
    shared, of_shared = work.timed(lambda: score(1, peft))
    batches, of_batches = work.timed(lambda: score(BATCH, peft))
    alone, of_alone = work.timed(
        lambda: np.array([[score_alone(peft, prompt, answer, device) for answer in answers] for prompt in prompts])
    )
    work.tell(
        "scoring",
        scenarios=len(prompts),
        answers=[len(answer) for answer in answers],
        seconds_shared=of_shared / len(prompts),
        seconds_in_batches=of_batches / len(prompts),
        seconds_alone=of_alone / len(prompts),
        ratio=of_alone / of_shared,
        shared_from_alone=float(np.abs(shared - alone).max()),
        batches_from_alone=float(np.abs(batches - alone).max()),
        margins_from_alone=float(np.abs(np.diff(shared - alone)).max()),
        typical=float(np.median(alone)),
        peak_gib=work.peak(),
    )

    halves = [one for name, one in peft.named_parameters() if "lora_B" in name]
    was = 1
    for times in LARGER:
        with torch.no_grad():
            for one in halves:
                one.mul_(times / was)
        was = times
        adapted = score(BATCH, peft)
        with peft.disable_adapter():
            disabled = score(BATCH, peft)
        (absorbed, certificate), seconds = work.timed(lambda: merged(peft))
        after = score(BATCH, absorbed)
        del absorbed
        work.tell(
            f"merging, {times} x what {2 * (STEPS + 2)} steps trained",
            seconds=seconds,
            adapter_moves=float(np.abs(adapted - of_base).max()),
            disabled_from_base=float(np.abs(disabled - of_base).max()),
            merged_from_adapted=float(np.abs(after - adapted).max()),
            margin_moves=float(np.abs(np.diff(adapted - of_base)).max()),
            margin_merged_from_adapted=float(np.abs(np.diff(after - adapted)).max()),
            weights_from_formula=max(certificate.tensors.values()),
            wrong=[*certificate.left_over, *certificate.changed_elsewhere][:3],
        )
    if work.device != "cuda":
        return
    gc.collect()
    torch.cuda.empty_cache()
    ballast = ballast_of(memories[False].step + 6 * memories[False].per_scenario)
    training = replace(config.training, gradient_checkpointing=False)
    memory = memory_of(peft, longest, training, asking.pad_id)
    work.tell("a full device", ballast_gib=ballast.numel() / 2**30, says=str(memory))
    for batch_size in (memory.batch_size, memory.batch_size + 2, 2 * memory.batch_size):
        try:
            fit(max(batch_size, 1), 2 * max(batch_size, 1), checkpointing=False)
            work.tell("a full device", batch=batch_size, fits=True)
        except torch.OutOfMemoryError as error:
            work.tell("a full device", batch=batch_size, fits=False, notes=getattr(error, "__notes__", []))
        gc.collect()
        torch.cuda.empty_cache()


def ballast_of(left: int) -> Any:
    """A tensor that leaves so many bytes of the device."""
    import torch

    return torch.empty(max(torch.cuda.mem_get_info()[0] - left, 1), dtype=torch.uint8, device="cuda")


def full(work: Work) -> None:
    """The phase on a device that others have nearly filled: what it says, and whether the batch that it names fits."""
    import gc

    import torch

    if work.device != "cuda":
        return
    weights = sum(file.stat().st_size for file in work.base.glob("*.safetensors"))
    ballast = ballast_of(weights + SPARE)

    def tried(batch_size: int) -> tuple[int, str, str | None]:
        less = {"training__gradient_checkpointing": "false", "training__epochs": 1, "scoring__max_new_tokens": 0}
        return phase(work, f"batches of {batch_size}", work.settings(**less, training__batch_size=batch_size))

    code, text, _ = tried(TOO_MANY)
    told = " ".join(text[text.find("error:") :].split())
    work.tell("memory is out", exit_code=code, ballast_gib=ballast.numel() / 2**30, told=told[:600])
    gc.collect()
    torch.cuda.empty_cache()
    if fits := re.search(r"batch_size=(\d+) fits", told):
        tried(int(fits[1]))


def versions(work: Work) -> None:
    """Which versions answer, and whether bitsandbytes computes here."""
    import importlib.metadata
    import platform

    import torch

    names = ("torch", "transformers", "peft", "accelerate", "tokenizers", "safetensors", "huggingface_hub", "bitsandbytes")
    found = {dist.name.replace("-", "_"): dist.version for dist in importlib.metadata.distributions() if dist.name}
    device = torch.cuda.get_device_name() if work.device == "cuda" else "cpu"
    memory = torch.cuda.get_device_properties(0).total_memory / 2**30 if work.device == "cuda" else 0.0
    work.tell("versions", python=platform.python_version(), **{name: found.get(name) for name in names})
    work.tell("device", name=device, gib=memory, cores=os.cpu_count())
    if found.get("bitsandbytes") and work.device == "cuda":
        import bitsandbytes  # type: ignore[import-not-found,unused-ignore]

        layer = bitsandbytes.nn.Linear8bitLt(64, 64, has_fp16_weights=False).cuda()
        work.tell("bitsandbytes", computes=bool(torch.isfinite(layer(torch.randn(2, 64, device="cuda").half())).all()))


PARTS: Mapping[str, tuple[Callable[[Work], None], int]] = {
    "versions": (versions, 60),
    "demo": (demo, 240),
    "served": (served("demo", "cpu"), 60),
    "base": (write_base, 90),
    "dry_run": (dry_run, 90),
    "phase": (whole, 150),
    "steps": (steps, 150),
    "4bit": (quantised("4bit"), 100),
    "8bit": (quantised("8bit"), 100),
    "served_phase": (served("phase"), 80),
    "served_4bit": (served("4bit"), 80),
    "served_8bit": (served("8bit"), 80),
    "full": (full, 120),
}
"""By name: what is done, and seconds that it may take."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a shape that a CPU can take")
    parser.add_argument("--lines", type=Path, default=Path("medgemma_gpu.jsonl"))
    parser.add_argument("--parts", default=",".join(PARTS), help="with a comma one after the other, with + side by side")
    parser.add_argument("--seconds", type=float, default=3600, help="after so many no further part begins")
    parser.add_argument("--inside", type=Path, help="for its own use: the folder that the parts share")
    given = parser.parse_args()
    lines = given.lines.resolve()
    if given.inside:
        part, _ = PARTS[given.parts]
        part(Work(given.parts, given.device, given.tiny, given.inside, lines))
        return
    started = time.perf_counter()
    with empty_home() as home:
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        surroundings = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "COLUMNS": "200"}
        for group in given.parts.split(","):
            left = given.seconds - (time.perf_counter() - started)
            begun = time.perf_counter()
            going = {}
            for name in group.split("+") if left > 15 else ():
                command = [sys.executable, "-m", "benchmarks.medgemma_gpu", "--inside", str(home), "--parts", name]
                command += ["--device", given.device, "--lines", str(lines), *(["--tiny"] if given.tiny else [])]
                going[name] = subprocess.Popen(command, env=surroundings)  # noqa: S603  # ours
            for name in group.split("+"):
                limit = min(float(PARTS[name][1]), left)
                told = "NOT MEASURED, no time left"
                if process := going.get(name):
                    try:
                        code = process.wait(max(0.0, limit - (time.perf_counter() - begun)))
                        told = "done" if code == 0 else f"FAILED with exit code {code}"
                    except subprocess.TimeoutExpired:
                        process.kill()
                        process.wait()
                        told = f"NOT MEASURED, more than {limit:.0f} s"
                print(f"=== {name}: {told}, {time.perf_counter() - begun:.1f} s", flush=True)


if __name__ == "__main__":
    main()
