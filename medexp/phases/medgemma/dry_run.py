"""All that a training needs, tried: base, tokenizer, scenarios, device, one batch, and the memory that it would take."""

from medexp.data.scenarios.prepared import PreparedScenarios
from medexp.models.vision_language.adapters import add_adapter, expected_parameters
from medexp.models.vision_language.bases import Base
from medexp.phases.medgemma import checks
from medexp.phases.medgemma.adapter import loaded
from medexp.phases.medgemma.asking import Asking
from medexp.phases.medgemma.config import MedgemmaConfig
from medexp.phases.shared.context import Context
from medexp.phases.shared.publishing import Summary
from medexp.training.adapters import memory_of

_MIB = 2**20


def dry_run(ctx: Context[MedgemmaConfig], base: Base, asking: Asking, data: PreparedScenarios) -> None:
    """One step's worth of everything; nothing is trained and nothing registered."""
    config = ctx.config
    scenarios = [data.cases[case] for case in data.ids("train")]
    asked = [(prompt.length, prompt.images) for prompt in map(asking.prompt, scenarios)]  # their pixels are not kept
    lengths, counted = zip(*asked, strict=True)
    longest = lengths.index(max(lengths))
    digests = {case: data.facts[case].voxels_sha256 for case in data.ids("train")}
    example = asking.examples([scenarios[longest]], digests)[0]
    net = loaded(ctx, base)
    adapted = add_adapter(net, config.lora)
    learns = {name: one.numel() for name, one in adapted.named_parameters() if one.requires_grad}
    memory = memory_of(adapted, example, config.training, asking.pad_id)
    elsewhere = [name for name in learns if "lora_" not in name]
    ctx.check(
        checks.parameters(sum(learns.values()), expected_parameters(net, config.lora), elsewhere),
        checks.images({"training": (min(counted), max(counted))}, len(asked)),
    )
    tokenizer, whole = asking.processor.tokenizer, sum(one.numel() for one in net.parameters())
    splits = ", ".join(f"{len(data.ids(split))} {split}" for split in ("train", "val", "test") if data.ids(split))
    needed = memory.fixed + config.training.batch_size * memory.per_scenario
    rows = [
        ["base", f"{base.source}{f' at {base.revision}' if base.revision else ''}: {type(adapted.get_base_model()).__name__}"],
        ["tokenizer", f"{type(tokenizer).__name__}, {len(tokenizer):,} tokens, context {asking.context:,}"],
        ["scenarios", f"{splits}, of {data.manifest['patient'].nunique()} families"],
        ["device", f"{ctx.device}, {config.training.precision}, quantize={config.quantize}"],
        ["trainable", f"{sum(learns.values()):,} of {whole:,} parameters ({sum(learns.values()) / whole:.2%})"],
        ["longest prompt", f"{max(lengths):,} tokens, {scenarios[longest].id}"],
        ["memory, fixed", f"{memory.fixed / _MIB:,.0f} MiB: weights, adapter, gradients, AdamW"],
        [
            "memory, a scenario",
            f"{memory.per_scenario / _MIB:,.0f} MiB: what is kept for the gradients, of the longest prompt",
        ],
        ["memory, a step", f"{needed / _MIB:,.0f} MiB with batches of {config.training.batch_size}"],
        ["memory, there", f"{memory.available / _MIB:,.0f} MiB: batches of {memory.batch_size} fit"],
    ]
    fits = config.training.batch_size <= memory.batch_size
    ctx.finish(
        Summary(
            headline="dry run: all that a training needs is there" if fits else "dry run: a training would not fit",
            title="what was found",
            head=["", "found"],
            rows=rows,
            words=[
                "Nothing was trained, and nothing was registered.",
                *([] if fits else [f"Out of memory is to be expected: {config.memory}."]),
            ],
            following=["Next, train:      the same command without dry_run=true"],
        )
    )
