"""Files of the replaced system's newest version, and the networks in them.

Sizes are read off the weights and held against what the file says; every weight and table has its place, or the file is
refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BeforeValidator
from torch import Tensor, nn

from xecml.errors import InputError
from xecml.events import TASKS
from xecml.models.networks.reference import TOKENS
from xecml.models.newer import sizes
from xecml.models.newer.autoencoder import Decoders
from xecml.models.newer.cross_attention import CrossAttentionHead
from xecml.models.newer.encoder import NewerEncoder, newer
from xecml.models.newer.face_heads import FaceHeads
from xecml.models.newer.form import Form, Kind, form_of, plain
from xecml.models.newer.inputs import NewerNormaliser
from xecml.models.newer.network import NewerModel, NewerRepair
from xecml.models.newer.tables import check_tables, is_table
from xecml.models.original.checkpoints import PARTS, Weights, listed, names_of, state_of, weights_of
from xecml.models.weight_files import check_finite, no_larger_than, read
from xecml.schema import Described, checked

KINDS: dict[Kind, str] = {
    "regressor": "newest regressor of the replaced system: encoder and the heads of six tasks",
    "autoencoder": "newest masked autoencoder of the replaced system: encoder and decoders",
    "inpainter": "newest inpainter of the replaced system: encoder and heads of dead sensors",
}
_PREFIX: dict[Kind, str] = {"regressor": "backbone.", "autoencoder": "encoder.", "inpainter": "encoder."}
_CROSS = "cross_attn_head."
_CROSS_BUFFERS = ("knn_indices", "face_ids", "pos_embed", "token_face_ids_map", "sensor_positions")
_UNUSED = ("channel_log_vars",)


class _Content(Described):
    epoch: Annotated[int, BeforeValidator(plain)] | None = None


def is_encoder_alone(content: Any, path: str | Path) -> bool:
    """Whether a file of the newest version holds only an encoder, without a description of its inputs.

    Raises:
        InputError: it has such words beside an encoder, which no file has.
    """
    alone = any(name == "pos_embed" or name.startswith("fusion_transformer.") for name in names_of(content))
    if alone and content.get("config") is not None:
        raise InputError(
            f"{path} holds only an encoder but also a config, which no known version writes; use another file."
        )
    return alone


def kind_of(content: Any, path: str | Path) -> Kind:
    """What a file of the newest version is.

    Raises:
        InputError: it holds only an encoder, without a description of its inputs.
    """
    names = names_of(content)
    if is_encoder_alone(content, path):
        raise InputError(
            f"{path} holds only an encoder of the newest version of the replaced system, without a description of its "
            "inputs; start a training from it with --resume_from and model.layout=newer, whose recipe says them."
        )
    if any(name.startswith("backbone.") for name in names):
        return "regressor"
    heads = any(name.startswith(("head_", _CROSS)) for name in names)
    return "inpainter" if heads else "autoencoder"


def load_newer(
    path: str | Path, content: Any = None, *, said: Mapping[str, Any] | None = None
) -> NewerModel | NewerRepair:
    """Load a file of the newest version of the replaced system.

    Args:
        path: a regressor, an autoencoder or an inpainter.
        content: of the file, where it was read already.
        said: what the file leaves open, by key of its `config`; also `log_transform`, the tasks of a regressor among
            energy and timing that were trained on logarithms.

    Raises:
        InputError: the file does not say what is needed, says what is not known or contradicts itself; or weights are
            missing, left over, of the wrong shape or not finite.
    """
    content = read(path) if content is None else content
    kind = kind_of(content, path)
    form = form_of(kind, content.get("config"), said or {}, path)
    weights = weights_of(content, path)
    network: NewerModel | NewerRepair
    try:
        with no_larger_than(weights):
            encoder = encoder_of(kind, form, weights, path)
            network = _regressor(encoder, form, weights, path) if kind == "regressor" else (
                _repair(encoder, kind, form, weights, path)
            )  # fmt: skip
    except InputError as error:
        if str(path) in str(error):
            raise
        raise InputError(f"{path} does not fit the newest version of the replaced system; {error}") from error
    network.branches = (form["npho_branch"], form["time_branch"])
    if isinstance(network, NewerModel):
        network = network.only([task for task in TASKS if task in form.settings.active_tasks])
    return network


def load_encoder(
    path: str | Path, content: Any, like: NewerEncoder, *, said: Mapping[str, Any] | None = None
) -> tuple[NewerEncoder, Form | None]:
    """The encoder of any file of the newest version, and what the file says.

    Args:
        path: of the file; an encoder alone says nothing and takes the inputs of `like`.
        content: of the file.
        like: encoder of the recipe.
        said: see `load_newer`.

    Raises:
        InputError: see `load_newer`.
    """
    if not is_encoder_alone(content, path):
        kind = kind_of(content, path)
        form = form_of(kind, content.get("config"), said or {}, path)
        weights = weights_of(content, path)
        with no_larger_than(weights):
            encoder = encoder_of(kind, form, weights, path)
        own = {name: w for name, w in weights.items() if name.startswith(_PREFIX[kind])}
        fill(file_names(encoder, _PREFIX[kind]), _without_tables(own, encoder, path), path)
        return encoder, form
    weights = weights_of(content, path)
    fill(file_names(like, ""), _without_tables(weights, like, path), path)
    return like, None


def form_of_any(path: str | Path, content: Any) -> Form | None:
    """What a file says of its network; None if it holds only an encoder.

    Raises:
        InputError: see `form_of`.
    """
    if not is_encoder_alone(content, path):
        return form_of(kind_of(content, path), content.get("config"), {}, path)
    return None


def describe_newer(path: str | Path, content: Any = None) -> dict[str, Any]:
    """Facts about a file of the newest version: its settings, and the values used for those that it lacks.

    Raises:
        InputError: see `load_newer`; an encoder alone is described by its sizes.
    """
    content = read(path) if content is None else content
    key = state_of(content)[0]
    weights = weights_of(content, path)
    numbers = {"averaged weights": key not in ("", "model_state_dict"), "numbers stored": _n_numbers(weights)}
    if is_encoder_alone(content, path):
        found = sizes.of_encoder(weights, "", path)
        kind = "newest encoder of the replaced system; its inputs are not in it"
        return {"file": str(path), "kind": kind, "layout": "newer", **vars(found), **numbers}
    kind_ = kind_of(content, path)
    form = form_of(kind_, content.get("config"), {}, path)
    network = load_newer(path, content)
    epoch = checked(_Content, {"epoch": content.get("epoch")}, f"{path} is damaged", "use another checkpoint").epoch
    # only regressors count from 1
    finished = epoch if epoch is None or kind_ == "regressor" else epoch + 1
    return {
        "file": str(path),
        "kind": KINDS[kind_],
        "layout": "newer",
        "tasks": list(network.tasks) if isinstance(network, NewerModel) else [],
        **form.facts(),
        **vars(sizes.of_encoder(weights, _PREFIX[kind_], path)),
        **numbers,
        "epochs finished": finished,
    }


def _n_numbers(weights: Mapping[str, Tensor]) -> int:
    return sum(w.numel() for name, w in weights.items() if not is_table(name))


# -------------------------------------------------------------------------------------------------- the networks


def encoder_of(kind: Kind, form: Form, weights: Weights, path: str | Path) -> NewerEncoder:
    """The encoder of a form, with random weights.

    Raises:
        InputError: what the file says does not agree with its weights.
    """
    found = sizes.of_encoder(weights, _PREFIX[kind], path)
    sizes.agree(found, form, path)
    normaliser = NewerNormaliser(
        npho_scale=form["npho_scale"],
        npho_scale2=form["npho_scale2"],
        time_scale=form["time_scale"],
        time_shift=form["time_shift"],
        sentinel_npho=form["sentinel_npho"],
        sentinel_time=form["sentinel_time"],
        npho_threshold=form["npho_threshold"],
        scheme=form["npho_scheme"],
    )
    return newer(
        normaliser,
        outer_mode=form["outer_mode"],
        outer_fine_pool=form.pool if form["outer_mode"] == "finegrid" else None,
        # the others got it with their sizes
        masked_times=kind == "regressor" or "encoder_dim" in form.said,
        width=found.encoder_dim,
        feed_forward=found.dim_feedforward,
        layers=found.num_fusion_layers,
    )


def _regressor(encoder: NewerEncoder, form: Form, weights: Weights, path: str | Path) -> NewerModel:
    hidden = sizes.rows(weights, "heads.angle.0.weight", path)
    if form.settings.hidden_dim not in (None, hidden):
        raise InputError(f"{path} says hidden_dim = {form.settings.hidden_dim}, and its heads have {hidden}.")
    if not form.settings.active_tasks:
        raise InputError(f"{path} names no task in active_tasks, so none of its heads was trained; use another file.")
    settings = form.settings
    untrained = [t for t in settings.log_transform if t not in settings.active_tasks]
    if untrained:
        raise InputError(f"{path} was not trained for {untrained[0]}, which log_transform names; leave it out.")
    model = NewerModel(
        encoder, tuple(TASKS), hidden_dim=hidden, nll_tasks=settings.nll_tasks, log_tasks=settings.log_transform
    )
    own = file_names(encoder, "backbone.") | {f"heads.{name}": p for name, p in model.heads.named_parameters()}
    left = _without_tables(weights, encoder, path)
    if "encoder_dim" not in form.said:  # before that an encoder had a head, which nothing used
        left = {name: w for name, w in left.items() if not name.startswith("backbone.head.")}
    fill(own, left, path)
    return model


def _repair(encoder: NewerEncoder, kind: Kind, form: Form, weights: Weights, path: str | Path) -> NewerRepair:
    if "encoder_dim" not in form.said:
        raise InputError(
            f"{path} does not say encoder_dim: it is older than the newest version, and it is not known how its "
            "encoder treated hidden sensors; train an inpainter from its encoder with --mae_checkpoint and "
            "model.layout=newer."
        )
    head, own = (_decoders if kind == "autoencoder" else _inpainting_head)(encoder, form, weights, path)
    own |= file_names(encoder, "encoder.")
    left = {name: w for name, w in _without_tables(weights, encoder, path).items() if name not in _UNUSED}
    fill(own, left, path)
    return NewerRepair(encoder, head, form.channels)


Parameters = dict[str, nn.Parameter]


def _decoders(encoder: NewerEncoder, form: Form, weights: Weights, path: str | Path) -> tuple[Decoders, Parameters]:
    width = sizes.rows(weights, "dec_top.proj_in.weight", path)
    if form.settings.decoder_dim not in (None, width):
        raise InputError(f"{path} says decoder_dim = {form.settings.decoder_dim}, and its decoders have {width}.")
    head = Decoders(encoder, width, len(form.channels))
    return head, dict(head.named_parameters())


def _inpainting_head(
    encoder: NewerEncoder, form: Form, weights: Weights, path: str | Path
) -> tuple[FaceHeads | CrossAttentionHead, Parameters]:
    crossed = any(name.startswith(_CROSS) for name in weights)
    said = form.settings.head_type
    if crossed != (said == "cross_attention"):
        raise InputError(
            f"{path} says head_type = {said}, and has the weights of {'cross_attention' if crossed else 'per_face'}; "
            "it is damaged: use another checkpoint."
        )
    if crossed:
        return _cross_attention(encoder, form, weights, path)
    for part, what in (("attn_weight", "masked attention"), ("global_decoder", "heads without local context")):
        if any(name.startswith("head_inner.") and f".{part}" in name for name in weights):
            raise InputError(
                f"{path} has an inpainter with {what} (head_inner.{part}), which this version does not read; use it "
                "with the system that wrote it, or train an inpainter from its encoder with --mae_checkpoint."
            )
    if form.settings.use_masked_attention:
        raise InputError(
            f"{path} says use_masked_attention, and has no weights of it; it is damaged: use another checkpoint."
        )
    head = FaceHeads(encoder, len(form.channels))
    return head, dict(head.named_parameters())


def _cross_attention(
    encoder: NewerEncoder, form: Form, weights: Weights, path: str | Path
) -> tuple[CrossAttentionHead, Parameters]:
    found = sizes.of_cross_attention(weights, form, path)
    faces = torch.tensor(sizes.token_faces(TOKENS[encoder.views.outer_mode]))
    head = CrossAttentionHead(encoder.token_width, len(form.channels), faces, **found)
    for name, table in sizes.cross_tables(weights, faces, path).items():
        head.get_buffer(name).copy_(table)
    return head, {f"{_CROSS}{name}": p for name, p in head.named_parameters()}


# --------------------------------------------------------------------------------------------------- their weights


def file_names(encoder: NewerEncoder, prefix: str) -> Parameters:
    """Parameters of an encoder by their names in files."""
    names: Parameters = {}
    for name, parameter in encoder.named_parameters():
        part, own = next((part, own) for part, own in PARTS.items() if name.startswith(own))
        names[f"{prefix}{part}{name.removeprefix(own)}"] = parameter
    return names


def _without_tables(weights: Weights, encoder: NewerEncoder, path: str | Path) -> Weights:
    """Weights without tables, which are as this package has them."""
    check_tables(weights, encoder, path)
    cross = tuple(f"{_CROSS}{name}" for name in _CROSS_BUFFERS)
    return {name: w for name, w in weights.items() if not is_table(name) and name not in cross}


def fill(own: Parameters, weights: Weights, path: str | Path) -> None:
    """Load every parameter, by its name in the file, from weights.

    Raises:
        InputError: weights are missing, left over, of another shape or no finite numbers; they are listed.
    """
    wrong = sorted(
        f"{name} {tuple(weights[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own.keys() & weights.keys()
        if own[name].shape != weights[name].shape
    )
    problems = (
        ("missing", sorted(own.keys() - weights.keys())),
        ("left over", sorted(weights.keys() - own.keys())),
        ("of another shape", wrong),
    )
    found = [f"{what}: {listed(names)}" for what, names in problems if names]
    if found:
        raise InputError(f"{path} does not fit the newest version of the replaced system; {'; '.join(found)}.")
    check_finite(weights, path)
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(weights[name])
