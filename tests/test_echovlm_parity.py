"""The same numbers as the authors' own code, from their checkpoints (fixtures/echovlm/README.md)."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from assistants.echovlm import EchoVLMForConditionalGeneration
from assistants.echovlm.dual_path_moe import load_balancing_loss

FIXTURES = Path(__file__).parent / "fixtures" / "echovlm"
CASES = ("one_image", "three_images_batch")
LAYERS = range(2)
LOGITS, ROUTER, LOSS, AUX = 1e-4, 5e-5, 1e-5, 1e-6  # greatest difference, as the authors' numbers came with


class Case:
    def __init__(self, name: str):
        self.folder = FIXTURES / name
        self.inputs = load_file(self.folder / "inputs.safetensors")
        self.labels = self.inputs.pop("labels")
        self.outputs = load_file(self.folder / "outputs.safetensors")
        self.aux = json.loads((self.folder / "aux_loss.json").read_text())
        self.real = self.inputs["attention_mask"].bool()  # [B, T]; the rest is padding

    def layers(self, name: str) -> list[torch.Tensor]:
        return [self.outputs[f"{name}.{layer}"] for layer in LAYERS]


@pytest.fixture(scope="module", params=CASES)
def case(request) -> Case:
    return Case(request.param)


def farthest(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return (ours - theirs).abs().max().item()


@pytest.mark.parametrize("experts", ["grouped_mm", "eager", "batched_mm"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@torch.no_grad()
def test_logits_routing_and_losses(case, attention, experts):
    model = EchoVLMForConditionalGeneration.from_pretrained(
        case.folder, attn_implementation=attention, experts_implementation=experts
    )
    assert model.config.text_config._experts_implementation == experts
    result = model(**case.inputs, labels=case.labels, output_router_logits=True)
    assert farthest(result.logits[case.real], case.outputs["logits"][case.real]) <= LOGITS
    rows = case.real.flatten()
    for ours, theirs, chosen in zip(
        result.router_logits, case.layers("router_logits"), case.layers("selected_experts"), strict=True
    ):
        assert farthest(ours[rows], theirs[rows]) <= ROUTER
        assert torch.equal(ours[rows].topk(2).indices.sort().values, chosen[rows].sort().values)
    assert result.aux_loss.item() == pytest.approx(case.aux["aux_loss_with_mask"], abs=AUX)
    assert result.loss.item() == pytest.approx(case.aux["ce_plus_gamma_aux_with_mask"], abs=LOSS)


@torch.no_grad()
def test_without_router_logits_the_loss_is_plain_cross_entropy(case):
    model = EchoVLMForConditionalGeneration.from_pretrained(case.folder)
    assert model.config.text_config.output_router_logits  # the authors' config.json says so
    result = model(**case.inputs, labels=case.labels)
    assert result.loss.item() == pytest.approx(case.outputs["loss"].item(), abs=LOSS)
    assert result.aux_loss is None and result.router_logits is None


@torch.no_grad()
def test_greedy_tokens(case):
    model = EchoVLMForConditionalGeneration.from_pretrained(case.folder)
    ids = model.generate(**case.inputs, max_new_tokens=24, do_sample=False)
    assert torch.equal(ids, case.outputs["generated_ids"])


@torch.no_grad()
def test_both_paths_of_every_layer(case):
    model = EchoVLMForConditionalGeneration.from_pretrained(case.folder)
    seen = {layer: {} for layer in LAYERS}
    for layer in LAYERS:
        mixture = model.model.language_model.layers[layer].mlp
        for name, module in (("sum", mixture), ("ffn", mixture.ffn), ("coefficient", mixture.coefficient)):
            module.register_forward_hook(
                lambda _, __, output, layer=layer, name=name: seen[layer].__setitem__(name, output)
            )
    image = model.get_image_features(case.inputs["pixel_values"], case.inputs["image_grid_thw"]).pooler_output
    assert farthest(torch.cat(image), case.outputs["image_embeds"]) <= LOGITS
    model(**case.inputs)
    for layer, coefficient, moe, ffn in zip(
        LAYERS, case.layers("coef"), case.layers("moe_out"), case.layers("mlp_out"), strict=True
    ):
        theirs = coefficient[..., :1] * moe + coefficient[..., 1:] * ffn
        assert farthest(seen[layer]["coefficient"].softmax(-1)[case.real], coefficient[case.real]) <= LOGITS
        assert farthest(seen[layer]["ffn"][case.real], ffn[case.real]) <= LOGITS
        assert farthest(seen[layer]["sum"][case.real], theirs[case.real]) <= LOGITS


def test_positions(case):
    model = EchoVLMForConditionalGeneration.from_pretrained(case.folder)
    ids = case.inputs["input_ids"]
    positions, _ = model.model.get_rope_index(
        ids,
        model.model.token_types(ids),
        case.inputs["image_grid_thw"],
        attention_mask=case.inputs["attention_mask"],
    )
    assert torch.equal(positions[:, case.real], case.outputs["position_ids"][:, case.real])


@pytest.mark.parametrize("masked", [True, False])
def test_load_balancing_loss_of_their_router_logits(case, masked):
    mask = case.inputs["attention_mask"] if masked else None
    loss = load_balancing_loss(tuple(case.layers("router_logits")), case.aux["top_k"], mask)
    expected = case.aux["aux_loss_with_mask" if masked else "aux_loss_no_mask"]
    assert loss.item() == pytest.approx(expected, abs=AUX)
