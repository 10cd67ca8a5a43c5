"""The demo's base: shipped for the code's own recipe; it reads drawings, and knows no treatment's indication."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

from medexp.data.scenarios.cases import ANSWERS
from medexp.data.scenarios.phantoms import ensure_scenarios
from medexp.data.scenarios.phantoms.words import TREATMENTS
from medexp.data.scenarios.prompts import answer_ids, load_processor, prompt_of
from medexp.data.scenarios.read import read_scenarios
from medexp.data.scenarios.steps import Ask
from medexp.evaluation.answers import score_answers
from medexp.phases.medgemma.pretrained import REMEDIES, SHIPPED, TREATED, batch, demo_base, description, judgement, key, render

HELD_OUT = 7  # a stream of drawings that nothing was pretrained on


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return demo_base(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def processor(folder):
    return load_processor(folder)


@pytest.fixture(scope="module")
def net(folder):
    return AutoModelForImageTextToText.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def drawn(processor):
    return render(96, HELD_OUT, processor, 1)


def said(net, processor, drawn, ask, pixels=None):
    """Of each drawing the answer to its question that is likeliest token by token, and the right one."""
    rng = np.random.default_rng(0)
    pairs = [ask(int(one), int(place), rng) for one, place in zip(drawn.shown, drawn.places, strict=True)]
    inputs, answered = batch(processor, pairs)
    with torch.inference_mode():
        logits = net(**inputs, pixel_values=(drawn.pixels if pixels is None else pixels).float()).logits
    likeliest = logits[:, :-1].argmax(-1)
    ids, which = inputs["input_ids"][:, 1:], answered[:, 1:]
    return likeliest, ids, which


def test_the_base_is_shipped_for_the_codes_own_recipe(folder):
    remedy = "drawings, words, network or recipe changed: python -m benchmarks.medgemma_base makes it anew"
    assert [one.name for one in SHIPPED.iterdir()] == [key()], remedy
    assert sum(file.stat().st_size for file in folder.iterdir()) < 2e6
    assert {file.name for file in folder.iterdir()} == {file.name for file in (SHIPPED / key()).iterdir()}


def test_it_describes_drawings_that_it_never_saw(net, processor, drawn):
    likeliest, ids, which = said(net, processor, drawn, description)
    right = ((likeliest == ids) | ~which).all(1)
    assert right.float().mean() > 0.8  # modality, finding and place, every token of them
    # Of another drawing's pixels it says what that one shows.
    likeliest, ids, which = said(net, processor, drawn, description, drawn.pixels.roll(1, 0))
    assert ((likeliest == ids) | ~which).all(1).float().mean() < 0.2


def test_it_judges_proposals_by_the_drawing(net, processor, drawn):
    def judged(pixels=None):
        likeliest, ids, which = said(net, processor, drawn, judgement, pixels)
        first = which.float().argmax(1, keepdim=True)
        return float((likeliest.gather(1, first) == ids.gather(1, first)).float().mean())

    assert judged() > 0.8
    # Beside the image of another finding what was right is wrong, and half of what was wrong is right.
    assert judged(drawn.pixels.roll(1, 0)) < 0.4


def test_which_treatment_is_for_which_finding_stands_in_no_text_that_it_learned_from():
    rng = np.random.default_rng(0)
    for shown in range(12):
        for ask in (description, judgement):
            for _ in range(25):
                question, answer = ask(shown, 1, rng)
                assert not any(wording in answer for wording in TREATED)
                if ask is judgement:
                    assert not any(wording in question for wording in TREATED)
    assert not {name for names in REMEDIES.values() for name in names} & {word for said in TREATED for word in said.split()}
    # Nor is a treatment that a patient had earlier likelier with what it is for.
    meant = [f"Earlier: {one}." for each in TREATMENTS["xray", "effusion"] for one in each]
    with_it = [any(one in description(1, 0, rng)[0] for one in meant) for _ in range(3000)]
    assert abs(np.mean(with_it) - len(meant) / len(TREATED)) < 0.015


def test_of_scenarios_it_knows_nothing(net, processor, tmp_path):
    folder = ensure_scenarios(2, 96, 0, tmp_path)
    scenarios = read_scenarios([folder / "val.jsonl"], folder / "images")
    ask = Ask("Answer {first} or {second} and say why.", "CORRECT")
    prompts = [prompt_of(processor, one, ask, context=512) for one in scenarios]
    scores = score_answers(
        net, prompts, answer_ids(processor), pad_id=processor.tokenizer.pad_token_id, batch_size=16, device=torch.device("cpu")
    )
    right = scores.argmax(1) == np.array([one.label for one in scenarios])
    assert ANSWERS[1] == "CORRECT"
    assert abs(right.mean() - 0.5) < 0.17  # 96 coins leave it once in a thousand times
