"""The frozen encoder that looks at cases: of 2D images or of volumes, as its contract says."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from medexp import registry
from medexp.data.storage import local_file
from medexp.errors import CheckpointError, RegistryError
from medexp.models.checkpoints import load_state, load_weights, weights_digest
from medexp.models.kinds import build
from medexp.models.swin.features import KINDS, width
from medexp.models.swin.network import SwinEncoder, SwinSegmenter, segmenter_of
from medexp.models.unet.network import MultiTaskModel, UNetEncoder, size_of
from medexp.phases.phase2_2.config import Phase2_2Config
from medexp.phases.shared.context import Context
from medexp.phases.shared.images import CLASSES, demand_input
from medexp.phases.shared.packaging import parent_of
from medexp.registry.loading import load_verified, whole_network
from medexp.registry.package import Parent
from medexp.registry.packages import read_json
from medexp.registry.store import Pulled

_FIRST = "Train one first: mlflow run . -e phase2_1"


@dataclass(frozen=True)
class FrozenEncoder:
    """What turns a case into features, and never changes.

    Attributes:
        net: In eval mode, on the device.
        whole: The network that it is a part of, which is the encoder itself where there is no more; none of it gets gradients.
        architecture: Of the encoder alone, as `medexp.models.kinds.build` takes it.
        width: Features of a case.
        called: What it is, for a reader.
        parent: What it is, for a package.
        pulled: Its package; None for a checkpoint file.
    """

    net: UNetEncoder | SwinEncoder | SwinSegmenter
    whole: MultiTaskModel | SwinEncoder | SwinSegmenter
    architecture: Mapping[str, Any]
    width: int
    called: str
    parent: Parent
    pulled: Pulled | None

    @property
    def of_volumes(self) -> bool:
        return isinstance(self.net, SwinEncoder | SwinSegmenter)

    def state(self) -> dict[str, Tensor]:
        """All tensors of the network that the encoder is a part of, but those of a head: a copy."""
        state = self.whole.state_dict()
        return {key: value.detach().cpu().clone() for key, value in state.items() if not key.startswith("cls_head.")}

    def state_with(self, head: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights that a checkpoint holds: the multi-task network with the head in it, or encoder and head."""
        if isinstance(self.whole, MultiTaskModel):
            return self.state() | {f"cls_head.{key}": value.cpu() for key, value in head.items()}
        frozen = {f"encoder.{key}": value for key, value in self.state().items()}
        return frozen | {f"head.{key}": value.cpu() for key, value in head.items()}

    def network(self, classes: int) -> nn.Module:
        """A network that takes `state_with` a head of so many classes."""
        if isinstance(self.whole, MultiTaskModel):
            sizes = {key: self.architecture[key] for key in ("in_channels", "base_filters", "depth")}
            return MultiTaskModel(**sizes, classes=classes)
        return build(self.classifier(classes))

    def classifier(self, classes: int) -> dict[str, Any]:
        """The architecture of encoder and head."""
        return {"kind": "classifier", "encoder": dict(self.architecture), "features": self.width, "classes": classes}


def load_encoder(ctx: Context[Phase2_2Config]) -> FrozenEncoder:
    """The encoder that the configuration names.

    Raises:
        RegistryError: There is no such model, it holds no encoder that a head can be trained on, or takes other images.
        CheckpointError: There is no such file, or its network is of another size than `network` says.
        ConfigError: The encoder was trained on images of another size.
    """
    named = ctx.config.encoder
    if not named.startswith("models:/"):
        return _from_file(ctx)
    try:
        pulled = registry.pull(named)
    except RegistryError as error:
        raise RegistryError(f"encoder={named}: Encoder checkpoint not found: {error}") from error
    contract = read_json(pulled.folder, "contract.json")
    architecture, kind = contract["architecture"], contract["architecture"]["kind"]
    if kind not in ("multitask", "swin_encoder"):
        raise RegistryError(
            f"encoder={named}: is a {kind}; a head is trained on a multitask network or a swin_encoder. {_FIRST}"
        )
    parent = parent_of(pulled)
    with_decoder = kind == "swin_encoder" and KINDS[ctx.config.features].decoder
    whole = (whole_network if with_decoder else load_verified)(pulled.folder).to(ctx.device).requires_grad_(False)
    called = f"{pulled.name} version {pulled.version}"
    if isinstance(whole, MultiTaskModel):
        demand_input(pulled, ctx.config.data.input_size)
        return _of_multitask(whole, architecture, called, parent, pulled)
    assert isinstance(whole, SwinEncoder | SwinSegmenter)
    whole.gives = ctx.config.features
    if isinstance(whole, SwinSegmenter):
        architecture = segmenter_of(architecture, whole.out_channels)
    architecture = {**architecture, "features": whole.gives}
    return FrozenEncoder(whole, whole, architecture, width(whole.gives, architecture["feature_size"]), called, parent, pulled)


def _from_file(ctx: Context[Phase2_2Config]) -> FrozenEncoder:
    path = local_file(ctx.config.encoder, ctx.cache)
    if not path.is_file():
        raise CheckpointError(
            f"encoder={ctx.config.encoder}: Encoder checkpoint not found: no such file. {_FIRST}, then leave encoder out, or "
            "give the final_model.pt of its run"
        )
    state, wanted = load_state(path), asdict(ctx.config.network)
    found = size_of(state)
    if found and found != wanted:
        differ = ", ".join(f"{key} {found[key]} against {wanted[key]}" for key in wanted if found[key] != wanted[key])
        give = " ".join(f"-P network.{key}={found[key]}" for key in wanted if found[key] != wanted[key])
        raise CheckpointError(f"encoder={path}: architecture mismatch ({differ}); give {give}")
    whole = MultiTaskModel(1, **wanted)
    load_weights(whole, state, str(path))
    parent = Parent(path.name, None, None, weights_digest(whole.state_dict()))
    architecture = {"kind": "multitask", "in_channels": 1, **wanted, "classes": len(CLASSES)}
    return _of_multitask(whole.to(ctx.device).eval().requires_grad_(False), architecture, path.name, parent, None)


def _of_multitask(
    whole: MultiTaskModel, architecture: Mapping[str, Any], called: str, parent: Parent, pulled: Pulled | None
) -> FrozenEncoder:
    alone = {key: architecture[key] for key in ("in_channels", "base_filters", "depth")} | {"kind": "unet_encoder"}
    width = architecture["base_filters"] * 2 ** architecture["depth"]
    return FrozenEncoder(whole.encoder, whole, alone, width, called, parent, pulled)
