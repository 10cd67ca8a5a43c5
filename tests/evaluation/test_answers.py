"""Answers are scored whole, as each would be alone, and replies are read strictly."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from PIL import Image
from torch import Tensor
from transformers import (
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from medexp.data.scenarios.cases import Scenario
from medexp.data.scenarios.prompts import Processor, Prompt, answer_ids, completion_ids, load_processor, prompt_of
from medexp.data.scenarios.steps import Ask
from medexp.errors import DataError, TrainingDiverged
from medexp.evaluation.answers import generate, parse, score_alone, score_answers
from medexp.models.vision_language.tiny import write_tiny
from tests.gemma import MICRO

ASK = Ask("Is it {first} or {second}?", "CORRECT")
COUNT = 5
ON_CPU: dict[str, Any] = {"pad_id": 0, "device": "cpu"}


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of initial weights large enough that images, places and masks show in its answers."""
    texts = ["ERROR - CORRECT - The picture shows a nodule."]
    return write_tiny(tmp_path_factory.mktemp("gemma"), texts, 0, replace(MICRO, spread=0.5))


@pytest.fixture(scope="module")
def processor(gemma: Path) -> Processor:
    return load_processor(gemma)


@pytest.fixture(scope="module", params=[512, 20], ids=["window as long as the prompt", "window shorter than the prompt"])
def net(gemma: Path, request: pytest.FixtureRequest) -> Any:
    net = AutoModelForImageTextToText.from_pretrained(gemma)
    config = json.loads((gemma / "config.json").read_text())
    config["text_config"]["sliding_window"] = request.param
    made = type(net)(type(net.config).from_dict(config))
    made.load_state_dict(net.state_dict())
    made.generation_config = net.generation_config
    return made


@pytest.fixture(scope="module")
def scenarios(tmp_path_factory: pytest.TempPathFactory) -> list[Scenario]:
    """Of different lengths and images."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    made = []
    for number in range(COUNT):
        path = folder / f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (16 + number, 20, 3), np.uint8)).save(path)
        made.append(Scenario(f"s{number}", "Look at it. " * (number % 3), "A biopsy.", "ERROR - no.", path, "xray"))
    return made


def asked(processor: Processor, scenarios: Sequence[Scenario]) -> list[Prompt]:
    """One of them without its image."""
    return [
        prompt_of(processor, one, ASK, context=512, image="none" if place == 2 else "own")
        for place, one in enumerate(scenarios)
    ]


def answers_of(processor: Processor) -> list[Tensor]:
    """Of several lengths."""
    return [*answer_ids(processor), completion_ids(processor, "CORRECT - the nodule grows")]


def alone(net: Any, prompts: Sequence[Prompt], answers: Sequence[Tensor]) -> np.ndarray:
    return np.array([[score_alone(net, prompt, answer, "cpu") for answer in answers] for prompt in prompts])


def adapted(net: Any) -> Any:
    """With an adapter of random weights on the decoder's attention."""
    layers = r".*language_model\.layers\.\d+\.self_attn\.(q|k|v|o)_proj"
    torch.manual_seed(1)
    return get_peft_model(net, LoraConfig(r=4, target_modules=layers, init_lora_weights=False, lora_dropout=0.5))


@pytest.mark.parametrize("size", [1, 2, COUNT])
def test_a_shared_prompt_gives_what_each_answer_alone_does(
    net: Any, processor: Processor, scenarios: list[Scenario], size: int
) -> None:
    prompts, answers = asked(processor, scenarios), answers_of(processor)
    assert len({prompt.length for prompt in prompts}) > 2 and len({len(answer) for answer in answers}) > 1
    scores = score_answers(net, prompts, answers, batch_size=size, **ON_CPU)
    assert scores.dtype == np.float64 and scores.shape == (COUNT, 3) and (scores < 0).all()
    np.testing.assert_allclose(scores, alone(net, prompts, answers), rtol=0, atol=1e-4)


def test_an_adapter_answers_for_itself_and_alike(net: Any, processor: Processor, scenarios: list[Scenario]) -> None:
    prompts, answers = asked(processor, scenarios), answers_of(processor)
    base = score_answers(net, prompts, answers, batch_size=COUNT, **ON_CPU)
    peft = adapted(net).train()
    try:
        scores = score_answers(peft, prompts, answers, batch_size=COUNT, **ON_CPU)
        assert peft.training  # and its dropout was off: it would have answered otherwise each time
        np.testing.assert_allclose(scores, alone(peft, prompts, answers), rtol=0, atol=1e-4)
        assert np.abs(scores - base).max(axis=0).min() > 1e-2
        with peft.disable_adapter():
            off = score_answers(peft, prompts, answers, batch_size=COUNT, **ON_CPU)
        np.testing.assert_allclose(off, base, rtol=0, atol=1e-5)
    finally:
        peft.unload()


def test_each_token_of_an_answer_counts_once(net: Any, processor: Processor, scenarios: list[Scenario]) -> None:
    (prompt,), answer = asked(processor, scenarios[:1]), completion_ids(processor, "ERROR - no.")
    inputs = {name: value.clone() for name, value in prompt.inputs.items()}
    by_hand = 0.0
    for token in answer:
        with torch.inference_mode():
            by_hand += float(net(**inputs).logits[0, -1].log_softmax(-1)[token])
        inputs["input_ids"] = torch.cat([inputs["input_ids"], token.view(1, 1)], 1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        inputs["token_type_ids"] = torch.cat([inputs["token_type_ids"], torch.zeros(1, 1, dtype=torch.long)], 1)
    (score,) = score_answers(net, [prompt], [answer], batch_size=1, **ON_CPU)
    np.testing.assert_allclose(score, by_hand, rtol=0, atol=1e-4)


def test_answers_of_one_token_need_no_second_run(net: Any, processor: Processor, scenarios: list[Scenario]) -> None:
    prompts, answers = asked(processor, scenarios), [torch.tensor([40]), torch.tensor([41])]
    scores = score_answers(net, prompts, answers, batch_size=2, **ON_CPU)
    np.testing.assert_allclose(scores, alone(net, prompts, answers), rtol=0, atol=1e-4)


def test_image_tokens_without_marks_give_other_answers_and_are_refused(
    net: Any, processor: Processor, scenarios: list[Scenario]
) -> None:
    prompt = asked(processor, scenarios)[0]
    bare = replace(prompt, inputs={name: value for name, value in prompt.inputs.items() if name != "token_type_ids"})
    answer = answer_ids(processor)[0]
    assert abs(score_alone(net, prompt, answer, "cpu") - score_alone(net, bare, answer, "cpu")) > 1e-3
    for work in (
        lambda: score_answers(net, [bare], [answer], batch_size=1, **ON_CPU),
        lambda: generate(net, [bare], processor, max_new_tokens=2, batch_size=1, device="cpu"),
    ):
        with pytest.raises(DataError, match="scenario s0: token_type_ids are missing"):
            work()


def test_what_is_no_number_names_its_scenario(net: Any, processor: Processor, scenarios: list[Scenario]) -> None:
    prompts = asked(processor, scenarios)
    spoilt = torch.full_like(prompts[1].inputs["pixel_values"], torch.nan)
    prompts[1] = replace(prompts[1], inputs={**prompts[1].inputs, "pixel_values": spoilt})
    for work in (
        lambda: score_answers(net, prompts, answer_ids(processor), batch_size=COUNT, **ON_CPU),
        lambda: generate(net, prompts, processor, max_new_tokens=2, batch_size=COUNT, device="cpu"),
        lambda: score_alone(net, prompts[1], answer_ids(processor)[0], "cpu"),
    ):
        with pytest.raises(TrainingDiverged, match="s1: [0-9,]+ NaN") as caught:
            work()
        assert not any(f"s{number}:" in str(caught.value) for number in (0, 2, 3, 4))


def test_a_network_that_learned_an_answer_scores_and_says_it(
    gemma: Path, processor: Processor, scenarios: list[Scenario]
) -> None:
    """Two scenarios that differ in nothing but the image, with one answer each."""
    net = AutoModelForImageTextToText.from_pretrained(gemma)
    outputs = ["ERROR - no.", "CORRECT - a nodule."]
    both = [replace(one, instruction="Look.", output=output) for one, output in zip(scenarios, outputs, strict=False)]
    prompts = [prompt_of(processor, one, ASK, context=512) for one in both]
    before = score_answers(net, prompts, answer_ids(processor), batch_size=2, **ON_CPU)
    optimizer = torch.optim.Adam(net.parameters(), 2e-2)
    for _ in range(30):
        for prompt, output in zip(prompts, outputs, strict=True):
            said = completion_ids(processor, output)[None]
            inputs = {**prompt.inputs, "input_ids": torch.cat([prompt.inputs["input_ids"], said], 1)}
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
            inputs["token_type_ids"] = torch.cat([prompt.inputs["token_type_ids"], torch.zeros_like(said)], 1)
            labels = inputs["input_ids"].clone()
            labels[:, : prompt.length] = -100
            net(**inputs, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    scores = score_answers(net, prompts, answer_ids(processor), batch_size=2, **ON_CPU)
    assert scores.argmax(axis=1).tolist() == [0, 1] and (scores.max(axis=1) > np.log(0.9)).all()
    assert (before < np.log(0.1)).all()
    replies = generate(net, prompts, processor, max_new_tokens=20, batch_size=2, device="cpu")
    assert replies == outputs and [parse(reply) for reply in replies] == ["ERROR", "CORRECT"]
    cut = generate(net, prompts, processor, max_new_tokens=1, batch_size=2, device="cpu")
    assert all(output.startswith(reply) and reply != output for reply, output in zip(cut, outputs, strict=True))


def test_a_batch_says_what_each_prompt_alone_does(net: Any, processor: Processor, scenarios: list[Scenario]) -> None:
    prompts = asked(processor, scenarios)
    together, one_by_one = (
        generate(net, prompts, processor, max_new_tokens=6, batch_size=size, device="cpu") for size in (COUNT, 1)
    )
    assert together == one_by_one
    ids = prompts[0].inputs["input_ids"]
    with torch.inference_mode():
        first = int(net(**prompts[0].inputs).logits[0, -1].argmax())
    said = generate(net, prompts[:1], processor, max_new_tokens=1, batch_size=1, device="cpu")
    assert said == processor.tokenizer.batch_decode([[first]], skip_special_tokens=True) and ids.shape[1] > 1


def test_another_kind_of_model_is_asked_by_its_own_processor(processor: Processor, scenarios: list[Scenario]) -> None:
    """A LLaVA: no token types, a space before a reply, images by another number of tokens."""
    template = (
        "{% for turn in messages %}{{ turn['role'].upper() }}: {% for part in turn['content'] %}"
        "{{ '<image_soft_token>\n' if part['type'] == 'image' else part['text'] + ' ' }}{% endfor %}{% endfor %}"
        "{{ 'ASSISTANT:' if add_generation_prompt else '' }}"
    )
    tokenizer = processor.tokenizer
    image = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    settings = {"patch_size": 4, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    other = LlavaProcessor(image, tokenizer, chat_template=template, **settings)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = LlamaConfig(
        vocab_size=len(tokenizer), initializer_range=0.5, pad_token_id=0, bos_token_id=2, eos_token_id=1, **small
    )
    vision = CLIPVisionConfig(image_size=16, patch_size=4, **small)
    torch.manual_seed(0)
    net = LlavaForConditionalGeneration(
        LlavaConfig(text_config=text, vision_config=vision, image_token_id=tokenizer.image_token_id)
    )
    prompts, answers = asked(other, scenarios), answers_of(other)
    assert [prompt.images for prompt in prompts] == [1, 1, 0, 1, 1] and "token_type_ids" not in prompts[0].inputs
    assert tokenizer.decode(prompts[2].inputs["input_ids"][0]).endswith("Is it CORRECT or ERROR? ASSISTANT:")
    assert tokenizer.decode(answers[2]) == " CORRECT - the nodule grows<eos>"
    scores = score_answers(net, prompts, answers, batch_size=3, **ON_CPU)
    np.testing.assert_allclose(scores, alone(net, prompts, answers), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("ERROR - no tumour", "ERROR"),
        ("correct.", "CORRECT"),
        ("The treatment is **Correct**", "CORRECT"),
        ("ERROR\nERROR", "ERROR"),
        ("error-prone", "ERROR"),
        ("INCORRECT", None),
        ("It is incorrect - ERROR", "ERROR"),
        ("ERRORS were made", None),
        ("CORRECT or ERROR?", None),
        ("Error - a biopsy is not correct", None),
        ("", None),
        ("I cannot tell", None),
    ],
)
def test_a_reply_holds_one_of_both_words_or_no_answer(reply: str, answer: str | None) -> None:
    assert parse(reply) == answer


@given(st.lists(st.sampled_from(["ERROR", "CORRECT", "incorrect", "Terror", "corrected", "no", "Error", "correct"])))
def test_what_surrounds_the_word_does_not_matter(words: list[str]) -> None:
    found = {word.upper() for word in words} & {"ERROR", "CORRECT"}
    assert parse(", ".join(words)) == (found.pop() if len(found) == 1 else None)
