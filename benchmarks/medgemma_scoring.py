"""What does sharing a prompt between both answers save? `python -m benchmarks.medgemma_scoring`

Both answers to scenarios of the demo, by its tiny Gemma 3: the prompt run once and its keys and values shared, against each
answer run with its whole prompt, one scenario at a time on both sides. At least 1.5 times as fast, and the same
log-probabilities to 1e-4, in fp32. Beside it the same in the demo's batches, both answers at once against one after the other.
"""

import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from benchmarks.sides import empty_home, in_turns, told, verdict

ROUNDS, BATCH, SCENARIOS = 5, 16, 48
QUESTION = "Answer {first} or {second} and say why."


def main() -> None:
    from transformers import AutoModelForImageTextToText

    from medexp.data.scenarios.phantoms import ensure_scenarios
    from medexp.data.scenarios.prompts import answer_ids, load_processor, prompt_of
    from medexp.data.scenarios.read import read_scenarios
    from medexp.data.scenarios.steps import Ask
    from medexp.evaluation.answers import score_alone, score_answers
    from medexp.phases.medgemma.pretrained import demo_base

    torch.set_num_threads(1)
    with empty_home() as home:
        folder = ensure_scenarios(SCENARIOS, SCENARIOS, 0, home)
        scenarios = read_scenarios([folder / "val.jsonl"], None)
        base = demo_base(home)
        processor, net = load_processor(base), AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32).eval()
        ask = Ask(QUESTION, "CORRECT")
        context = net.config.text_config.max_position_embeddings
        prompts = [prompt_of(processor, one, ask, context=context) for one in scenarios]
        answers, pad_id = answer_ids(processor), processor.tokenizer.pad_token_id
        found: dict[str, np.ndarray] = {}

        def shared(size: int, *together: Sequence[Tensor]) -> float:
            started = time.process_time()
            scores = [score_answers(net, prompts, some, pad_id=pad_id, batch_size=size, device="cpu") for some in together]
            found[f"{size} {len(together)}"] = np.concatenate(scores, axis=1)
            return time.process_time() - started

        def alone() -> float:
            started = time.process_time()
            found["alone"] = np.array([[score_alone(net, prompt, one, "cpu") for one in answers] for prompt in prompts])
            return time.process_time() - started

        sides = {
            "alone": alone,
            "shared": lambda: shared(1, answers),
            "batches, one by one": lambda: shared(BATCH, answers[:1], answers[1:]),
            "batches": lambda: shared(BATCH, answers),
        }
        for measure in sides.values():
            measure()  # once unmeasured
        measured = in_turns(sides, ROUNDS)
    ratio = float(np.median(measured["alone"]) / np.median(measured["shared"]))
    apart = max(float(np.abs(scores - found["alone"]).max()) for scores in found.values())
    batches = told(measured["batches, one by one"], measured["batches"])
    lengths = [prompt.length for prompt in prompts]
    print(
        f"medgemma_scoring, {len(prompts)} prompts of {min(lengths)} to {max(lengths)} tokens, answers of "
        f"{' and '.join(str(len(one)) for one in answers)}, each answer alone against a shared prompt, CPU time: "
        f"{told(measured['alone'], measured['shared'])}; target 1.5: {verdict(ratio >= 1.5)}; log-probabilities at most "
        f"{apart:.2g} apart: {verdict(apart < 1e-4)}; in batches of {BATCH}: {batches}"
    )


if __name__ == "__main__":
    main()
