import json

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from tests.gemma import MICRO, tiny_gemma


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_gemma(tmp_path_factory.mktemp("gemma") / "tiny")


@pytest.fixture(scope="module")
def processor(folder):
    return AutoProcessor.from_pretrained(folder, local_files_only=True)


@pytest.fixture(scope="module")
def net(folder):
    return AutoModelForImageTextToText.from_pretrained(folder, local_files_only=True).eval()


def asked(processor, image, text="Is a biopsy appropriate? ünknown ✓ 7 mm"):
    content = [{"type": "image", "image": image}, {"type": "text", "text": text}]
    return processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )


def test_the_folder_is_as_transformers_writes_one(folder, net, processor):
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["Gemma3ForConditionalGeneration"]
    assert {file.name for file in folder.iterdir()} >= {"model.safetensors", "tokenizer.json", "processor_config.json"}
    assert type(net).__name__ == "Gemma3ForConditionalGeneration" and type(processor).__name__ == "Gemma3Processor"
    assert net.lm_head.weight.data_ptr() == net.model.language_model.embed_tokens.weight.data_ptr()


def test_a_prompt_has_the_turns_of_gemma_and_its_images_tokens_are_told(processor):
    inputs = asked(processor, Image.new("RGB", (40, 30)))
    image = processor.tokenizer.image_token_id
    assert inputs["pixel_values"].shape == (1, 3, MICRO.image, MICRO.image)
    assert torch.equal(inputs["token_type_ids"] == 1, inputs["input_ids"] == image)
    assert int((inputs["input_ids"] == image).sum()) == MICRO.image_tokens
    text = processor.tokenizer.decode(inputs["input_ids"][0])
    assert text.startswith("<bos><start_of_turn>user\n")
    assert text.endswith("ünknown ✓ 7 mm<end_of_turn>\n<start_of_turn>model\n")
    assert processor.tokenizer.unk_token_id not in inputs["input_ids"]


def test_the_image_reaches_the_answer_and_the_seed_gives_the_weights(net, processor, folder, tmp_path):
    with torch.inference_mode():
        black, white = (
            net(**asked(processor, Image.new("RGB", (16, 16), colour))).logits[0, -1] for colour in ("black", "white")
        )
    assert not torch.allclose(black, white, atol=1e-4)
    again, other = (tiny_gemma(tmp_path / str(seed), seed).joinpath("model.safetensors").read_bytes() for seed in (0, 1))
    assert again == folder.joinpath("model.safetensors").read_bytes() != other


def test_it_generates_until_the_turn_ends(net, processor):
    inputs = asked(processor, Image.new("RGB", (16, 16)))
    with torch.inference_mode():
        ids = net.generate(**inputs, max_new_tokens=5, do_sample=False)
    assert inputs["input_ids"].shape[1] < ids.shape[1] <= inputs["input_ids"].shape[1] + 5
    assert processor.tokenizer.convert_tokens_to_ids("<end_of_turn>") in net.generation_config.eos_token_id
