"""Networks from recipes: the one place where keys of a configuration become arguments of constructors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

from torch import nn

from xecml.choices import LOSSES, PRESETS
from xecml.config import RELATIVE_BRANCHES, Config
from xecml.errors import InputError
from xecml.models.encoder import Encoder
from xecml.models.networks import compact
from xecml.models.networks.quick_look import N_FEATURES
from xecml.models.networks.reference import ReferenceEncoder, reference
from xecml.models.newer.encoder import newer
from xecml.models.newer.inputs import NewerNormaliser
from xecml.models.normalise import ABSOLUTE_DEFAULTS, RELATIVE_DEFAULTS, Normaliser
from xecml.models.original.network import original
from xecml.models.rebuild.autoencoder import Autoencoder
from xecml.models.rebuild.decoders import LightDecoder, ReferenceDecoder
from xecml.models.rebuild.head_of_faces import FaceHeads
from xecml.models.rebuild.head_of_hot_spot import HotSpotHead
from xecml.models.rebuild.head_of_nearest import NearestHead
from xecml.models.rebuild.inpainter import Inpainter
from xecml.models.rebuild.shower import NUMBERS, POINTS
from xecml.models.regressor import Regressor


def normaliser(config: Config) -> Normaliser:
    """Input transform of a recipe: its constants, or the defaults of the branches it reads."""
    given = config.normalization
    counts = RELATIVE_DEFAULTS if config.data.npho_branch in RELATIVE_BRANCHES else ABSOLUTE_DEFAULTS
    times = RELATIVE_DEFAULTS if config.data.time_branch in RELATIVE_BRANCHES else ABSOLUTE_DEFAULTS

    def constant(name: str, defaults: Mapping[str, float]) -> float:
        value = getattr(given, name)
        return defaults[name] if value is None else float(value)

    constants = {name: constant(name, counts) for name in ("npho_scale", "npho_scale2")}
    constants |= {name: constant(name, times) for name in ("time_scale", "time_shift")}
    if config.model.layout == "newer":
        return NewerNormaliser(
            **constants,
            sentinel_npho=-1.0 if given.sentinel_npho is None else given.sentinel_npho,
            sentinel_time=given.sentinel_value,
            npho_threshold=100.0 if given.npho_threshold is None else given.npho_threshold,
            scheme=given.npho_scheme,
        )
    return Normaliser(**constants, sentinel=given.sentinel_value, scheme=given.npho_scheme)


def build_encoder(config: Config) -> nn.Module:
    """The encoder of a recipe, with random weights."""
    options, inputs = config.model, normaliser(config)
    if options.layout == "original":
        return original(
            inputs,
            outer_mode=options.outer_mode,
            outer_fine_pool=options.outer_fine_pool,
            drop_path=options.drop_path_rate,
        )
    if isinstance(inputs, NewerNormaliser):
        return newer(
            inputs,
            outer_mode=options.outer_mode,
            outer_fine_pool=options.outer_fine_pool,
            width=options.encoder_dim,
            feed_forward=options.dim_feedforward,
            layers=options.num_fusion_layers,
            drop_path=options.drop_path_rate,
        )
    encoder: nn.Module = PRESETS[options.preset].does(config, inputs)
    return encoder


def compact_encoder(config: Config, inputs: Normaliser) -> nn.Module:
    """An encoder of `xecml.models.networks.compact`, by the preset's name."""
    return compact.PRESETS[config.model.preset](inputs, drop_path=config.model.drop_path_rate)


def reference_encoder(config: Config, inputs: Normaliser) -> nn.Module:
    """The reference encoder."""
    options = config.model
    return reference(
        inputs,
        outer_mode=options.outer_mode,
        outer_fine_pool=options.outer_fine_pool,
        validity_channel=options.validity_channel,
        hex_mixing=options.hex_mixing,
        event_time=config.data.time_branch not in RELATIVE_BRANCHES,
        drop_path=options.drop_path_rate,
    )


def build_model(config: Config, job: str = "regress") -> nn.Module:
    """The network of a job, with random weights and constants not yet fitted."""
    builders: dict[str, Callable[[Config], nn.Module]] = {
        "regress": build_regressor, "mae": build_autoencoder, "inpaint": build_inpainter,
    }  # fmt: skip
    return builders[job](config)


def build_regressor(config: Config) -> Regressor:
    """The regressor of a recipe, with random weights and unfitted targets."""
    wide = config.model.layout != "standard" or config.model.preset == "reference"
    dropout = config.model.head_dropout
    return Regressor(
        build_encoder(config),
        list(config.tasks.enabled()),
        hidden_dim=config.model.hidden_dim,
        dropout=(0.2 if wide else 0.0) if dropout is None else dropout,
        linear_path=config.model.linear_path,
        with_sigma=[name for name, task in config.tasks.enabled().items() if LOSSES[task.loss_fn].predicts_width],
    )


def build_autoencoder(config: Config) -> Autoencoder:
    """The autoencoder of a recipe, with random weights.

    Raises:
        InputError: the reference decoders are asked for beside another encoder.
    """
    encoder, options = build_encoder(config), config.model
    if options.decoder == "light":
        decoder: nn.Module = LightDecoder(_code_width(encoder), width=options.decoder_width)
    elif isinstance(encoder, ReferenceEncoder):
        decoder = ReferenceDecoder(encoder.token_names, encoder.out_width // len(encoder.token_names))
    else:
        raise InputError("model.decoder=reference needs the tokens of model.preset=reference; use the light decoder.")
    return Autoencoder(encoder, decoder, time_threshold=config.masking.time_threshold)


def build_inpainter(config: Config) -> Inpainter:
    """The inpainter of a recipe, with random weights; its encoder is frozen as the recipe says."""
    encoder, options = build_encoder(config), config.model
    tokens = len(encoder.token_names) if isinstance(encoder, ReferenceEncoder) else 1
    width = _code_width(encoder) // tokens
    heads: list[nn.Module] = []
    if options.inpaint_heads in ("nearest", "both"):
        about = N_FEATURES + POINTS * NUMBERS
        heads += [NearestHead(width, n_tokens=tokens), HotSpotHead(width * tokens, about)]
    if options.inpaint_heads in ("faces", "both"):
        heads.append(FaceHeads(width * tokens))
    return Inpainter(
        encoder,
        heads,
        n_tokens=tokens,
        time_threshold=config.masking.time_threshold,
        freeze_encoder=options.freeze_encoder,
    )


def _code_width(encoder: nn.Module) -> int:
    return int(cast(Encoder, encoder).out_width)
