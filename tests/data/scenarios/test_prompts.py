"""Prompts: what stands in them, and what cannot go wrong in silence."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from medexp.data.preprocessing import Preprocessing, read_preprocessing
from medexp.data.scenarios.cases import Scenario
from medexp.data.scenarios.prompts import answer_ids, collate, completion_ids, load_processor, prompt_of, read_rgb
from medexp.data.scenarios.steps import Ask
from medexp.errors import ConfigError, DataError, RegistryError
from tests.gemma import MICRO, tiny_gemma

ASK = Ask("Say {first} or {second}, {first} first.", "CORRECT")
TURN = "Look at the X-ray.\nA biopsy is proposed.\nSay CORRECT or ERROR, CORRECT first."
WORDS = st.text(st.characters(codec="utf-8", exclude_characters="<"), max_size=40).map(lambda text: f"ERROR - so{text}")


@pytest.fixture(scope="module")
def gemma(tmp_path_factory):
    return tiny_gemma(tmp_path_factory.mktemp("gemma"))


@pytest.fixture(scope="module")
def processor(gemma):
    return load_processor(gemma)


@pytest.fixture(scope="module")
def scenario(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "chest.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)).save(path)
    return Scenario("s1", "Look at the X-ray.", "A biopsy is proposed.", "ERROR - nothing is there.", path, "xray")


@pytest.fixture
def copied(gemma, tmp_path):
    """The processor's files, to be changed."""
    for path in gemma.iterdir():
        if path.suffix != ".safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def decoded(processor, prompt):
    return processor.tokenizer.decode(prompt.inputs["input_ids"][0])


def test_a_prompt_is_the_image_the_text_and_the_beginning_of_a_reply(processor, scenario):
    prompt = prompt_of(processor, scenario, ASK, context=MICRO.context)
    image = f"\n\n<start_of_image>{'<image_soft_token>' * 4}<end_of_image>\n\n"
    assert decoded(processor, prompt) == f"<bos><start_of_turn>user\n{image}{TURN}<end_of_turn>\n<start_of_turn>model\n"
    assert prompt.images == 1 and prompt.case == "s1" and prompt.length == prompt.inputs["attention_mask"].sum()
    assert prompt.inputs["pixel_values"].shape == (1, 3, MICRO.image, MICRO.image)
    is_image = prompt.inputs["input_ids"] == processor.tokenizer.image_token_id
    assert is_image.sum() == processor.image_seq_length == 4
    torch.testing.assert_close(prompt.inputs["token_type_ids"], is_image.long())


def test_without_the_image_no_token_and_no_pixel_stands_for_it(processor, scenario):
    prompt = prompt_of(processor, scenario, ASK, context=MICRO.context, image="none")
    assert decoded(processor, prompt) == f"<bos><start_of_turn>user\n{TURN}<end_of_turn>\n<start_of_turn>model\n"
    assert prompt.images == 0 and "pixel_values" not in prompt.inputs
    assert not prompt.inputs["token_type_ids"].any()


def test_another_image_instruction_or_order_changes_that_alone(processor, scenario, tmp_path):
    own = prompt_of(processor, scenario, ASK, context=MICRO.context)
    Image.new("L", (40, 30), 200).save(tmp_path / "other.png")
    other = prompt_of(processor, scenario, ASK, context=MICRO.context, image=tmp_path / "other.png")
    assert torch.equal(other.inputs["input_ids"], own.inputs["input_ids"])
    assert not torch.equal(other.inputs["pixel_values"], own.inputs["pixel_values"])
    told = decoded(processor, prompt_of(processor, scenario, ASK, context=MICRO.context, instruction="What is it?"))
    assert told == decoded(processor, own).replace("Look at the X-ray.", "What is it?")
    turned = decoded(processor, prompt_of(processor, scenario, replace(ASK, first="ERROR"), context=MICRO.context))
    assert turned == decoded(processor, own).replace("CORRECT or ERROR, CORRECT", "ERROR or CORRECT, ERROR")
    silent = decoded(processor, prompt_of(processor, replace(scenario, input=" "), ASK, context=MICRO.context))
    assert silent == decoded(processor, own).replace("A biopsy is proposed.\n", "")


@pytest.mark.parametrize("field", ["instruction", "input", "output"])
@pytest.mark.parametrize("token", ["<start_of_image>", "<image_soft_token>", "<end_of_turn>", "<bos>", "<pad>"])
def test_text_that_the_model_would_read_as_a_control_token_is_refused(processor, scenario, field, token):
    with pytest.raises(DataError, match=f"scenario s1: its text holds {token}"):
        prompt_of(processor, replace(scenario, **{field: f"ERROR - a {token} b"}), ASK, context=MICRO.context)
    if field == "output":
        with pytest.raises(DataError, match=f"output: its text holds {token}"):
            completion_ids(processor, f"ERROR - a {token} b")


def test_a_prompt_and_its_answer_fit_into_the_context_or_are_refused(processor, scenario):
    prompt = prompt_of(processor, scenario, ASK, context=MICRO.context)
    fits = prompt.length + len(completion_ids(processor, scenario.output))
    assert prompt_of(processor, scenario, ASK, context=fits).length == prompt.length
    with pytest.raises(DataError, match=f"scenario s1: {prompt.length} tokens and .* the model takes {fits - 1} in all"):
        prompt_of(processor, scenario, ASK, context=fits - 1)
    unanswered = replace(scenario, output=None)
    fits = prompt.length + max(map(len, answer_ids(processor)))
    prompt_of(processor, unanswered, ASK, context=fits)
    with pytest.raises(DataError, match="scenario s1"):
        prompt_of(processor, unanswered, ASK, context=fits - 1)


@given(output=WORDS)
def test_prompt_and_completion_are_the_whole_conversation(processor, scenario, output):
    prompt = prompt_of(processor, scenario, ASK, context=MICRO.context)
    content = [{"type": "image", "image": read_rgb(scenario.image)}, {"type": "text", "text": TURN}]
    turns = [{"role": "user", "content": content}, {"role": "assistant", "content": [{"type": "text", "text": output}]}]
    whole = processor.apply_chat_template(turns, tokenize=True, return_dict=True, return_tensors="pt")["input_ids"][0]
    made = torch.cat([prompt.inputs["input_ids"][0], completion_ids(processor, output)])
    torch.testing.assert_close(whole[: len(made)], made)
    assert made[-1] == processor.tokenizer.convert_tokens_to_ids("<end_of_turn>")
    assert not processor.tokenizer.decode(whole[len(made) :]).strip()


@given(output=WORDS)
def test_a_completion_begins_with_the_whole_answer(processor, output):
    error, correct = answer_ids(processor)
    assert [processor.tokenizer.decode(ids) for ids in (error, correct)] == ["ERROR -", "CORRECT -"]
    torch.testing.assert_close(completion_ids(processor, output)[: len(error)], error)
    torch.testing.assert_close(completion_ids(processor, output.replace("ERROR", "CORRECT"))[: len(correct)], correct)


def test_an_answer_that_is_tokenised_otherwise_in_a_reply_is_no_answer(copied, processor):
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)  # merges go across words
    made.decoder = decoders.ByteLevel()
    special = [str(token) for token in processor.tokenizer.added_tokens_decoder.values()]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        ["ERROR - the"] * 9, trainers.BpeTrainer(vocab_size=290, special_tokens=special, initial_alphabet=alphabet)
    )
    made.save(str(copied / "tokenizer.json"))
    with pytest.raises(DataError, match="'ERROR - the end': its tokens .* do not begin with those of the answer alone"):
        completion_ids(load_processor(copied), "ERROR - the end")


@pytest.mark.parametrize("output", ["Error - no", "INCORRECT - no", "ERROR: no", "no ERROR - no", ""])
def test_an_output_begins_with_an_answer(processor, output):
    with pytest.raises(DataError, match="begins with neither 'ERROR -' nor 'CORRECT -'"):
        completion_ids(processor, output)


def test_the_template_may_be_the_tokenizers_alone(copied, processor, scenario):
    (copied / "chat_template.jinja").unlink()
    with pytest.raises(ConfigError, match="no chat template.*Put its chat_template.jinja into the folder"):
        load_processor(copied)
    settings = json.loads((copied / "tokenizer_config.json").read_text())
    (copied / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": processor.chat_template}))
    own, found = (prompt_of(one, scenario, ASK, context=512) for one in (processor, load_processor(copied)))
    torch.testing.assert_close(found.inputs, own.inputs)


def changed(copied, old, new):
    path = copied / "chat_template.jinja"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return load_processor(copied)


def test_an_image_that_the_template_lets_fall_is_noticed(copied, scenario):
    blind = changed(copied, "{{ '<start_of_image>' }}", "")
    with pytest.raises(ConfigError, match="no prompt of scenario s1: .* images"):
        prompt_of(blind, scenario, ASK, context=512)
    assert prompt_of(blind, scenario, ASK, context=512, image="none").images == 0


def test_a_text_that_the_template_lets_fall_is_noticed(copied, scenario):
    deaf = changed(copied, "{{ item['text'] | trim }}", "")
    with pytest.raises(ConfigError, match="leaves the text out"):
        prompt_of(deaf, scenario, ASK, context=512)


def test_a_reply_that_does_not_follow_its_prompt_is_noticed(copied):
    thinking = changed(copied, "<start_of_turn>model\n", "<start_of_turn>model\nLet me think.")
    with pytest.raises(ConfigError, match="a reply does not follow its prompt"):
        answer_ids(thinking)


def test_image_tokens_are_marked_or_there_is_no_prompt(gemma, scenario):
    forgetful = load_processor(gemma)
    forgetful.return_mm_token_type_ids = False
    with pytest.raises(ConfigError, match="does not give token_type_ids"):
        prompt_of(forgetful, scenario, ASK, context=512)


def test_an_image_of_other_tokens_than_said_is_noticed(gemma, scenario):
    other = load_processor(gemma)
    other.image_seq_length = 5
    with pytest.raises(ConfigError, match="4 tokens, and 5 each"):
        prompt_of(other, scenario, ASK, context=512)


def test_a_folder_without_a_processor_says_what_belongs_there(tmp_path, gemma):
    with pytest.raises(ConfigError, match=f"{tmp_path}: .*processor_config.json and chat_template.jinja"):
        load_processor(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        (tmp_path / name).write_bytes((gemma / name).read_bytes())
    with pytest.raises(ConfigError, match=f"{tmp_path}: .*processor_config.json and chat_template.jinja"):
        load_processor(tmp_path)


def test_a_batch_is_padded_on_the_side_that_is_asked_for(processor, scenario):
    prompts = [prompt_of(processor, scenario, ASK, context=512, instruction="Look. " * times) for times in (1, 3)]
    short, long = prompts
    lacking = long.length - short.length
    left, right = (collate(prompts, 7, side) for side in ("left", "right"))
    kept = {"left": slice(lacking, None), "right": slice(short.length)}
    filled = {"left": slice(lacking), "right": slice(short.length, None)}
    for batch, side in ((left, "left"), (right, "right")):
        place, own = filled[side], kept[side]
        assert (batch["input_ids"][0, place] == 7).all()
        assert not batch["attention_mask"][0, place].any() and not batch["token_type_ids"][0, place].any()
        for name in ("input_ids", "attention_mask", "token_type_ids"):
            torch.testing.assert_close(batch[name][0, own], short.inputs[name][0])
            torch.testing.assert_close(batch[name][1], long.inputs[name][0])
        assert batch["pixel_values"].shape[0] == 2


def test_images_of_different_shapes_are_no_batch(processor, scenario):
    own = prompt_of(processor, scenario, ASK, context=512)
    large = replace(own, case="s2", inputs={**own.inputs, "pixel_values": torch.zeros(1, 3, 20, 16)})
    with pytest.raises(DataError, match="s1, s2: pixel_values of shapes .* use a batch size of 1"):
        collate([own, large], 0)


def test_a_question_names_both_answers():
    with pytest.raises(ValidationError, match="{second} must stand in it"):
        Ask("Is it {first}?", "ERROR")
    with pytest.raises(ValidationError, match="CORRECT' or 'ERROR"):
        Ask("{first} or {second}?", "MAYBE")
    steps = Preprocessing("scenarios", (ASK,))
    assert read_preprocessing(steps.as_record, "contract") == steps
    with pytest.raises(RegistryError, match="contract: step ask version 1: first"):
        read_preprocessing(steps.as_record | {"steps": [{**steps.as_record["steps"][0], "first": "NO"}]}, "contract")
