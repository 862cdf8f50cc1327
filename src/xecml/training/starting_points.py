"""What a training starts from: nothing, its own checkpoint, the encoder of another, or an original model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import nn

from xecml.config import RELATIVE_BRANCHES, Config
from xecml.errors import InputError
from xecml.events import TASKS
from xecml.inference.calibration_record import without_calibration
from xecml.inference.checkpoint_reading import averaged_weights, load_exactly
from xecml.inference.checkpoint_schema import check_run, understood
from xecml.models.corrections import PREFIX as CORRECTIONS
from xecml.models.networks.reference import ReferenceEncoder
from xecml.models.newer.checkpoints import form_of_any, kind_of, load_encoder, load_newer
from xecml.models.newer.encoder import NewerEncoder
from xecml.models.newer.form import Form, recipe_keys, recipe_values
from xecml.models.newer.network import NewerModel, NewerRepair
from xecml.models.normalise import ABSOLUTE_DEFAULTS, RELATIVE_DEFAULTS, Normaliser
from xecml.models.original.checkpoints import check_readable, load_original, recognise
from xecml.models.original.network import OriginalModel, OriginalViews
from xecml.models.regressor import SIGMA_FACTOR, SIGMA_SHAPE, Regressor
from xecml.models.weight_files import check_finite, check_weights, read
from xecml.pretrained import is_shipped, model_file
from xecml.training.weight_average import WeightAverage

_TASK_PARTS = (("heads.", "."), ("paths.", "."), ("", "_"))
"""Before and after a task's name in the names of what belongs to it."""


@dataclass(frozen=True)
class Start:
    """How a training begins.

    Attributes:
        resumed: content of the checkpoint that is gone on from; none where the epoch is 1.
        encoder_given: whether the encoder came from elsewhere, and keeps its constants.
        line: what was taken and left, in one line; empty for a start from nothing.
        targets_given: whether means, widths and anchors of the targets came too, and are not to be fitted.
        from_scratch: tasks for which they did not, nor a head.
    """

    resumed: dict[str, Any] | None
    encoder_given: bool
    line: str
    targets_given: bool = False
    from_scratch: tuple[str, ...] = ()


def start(model: nn.Module, config: Config, *, kind: str, tasks: list[str]) -> Start:
    """Load the weights of the checkpoint that a recipe names into a model.

    Of `checkpoint.resume_from`, the same job with the same tasks is continued, or gives only its weights; of
    anything else, and of `training.mae_checkpoint`, the encoder is taken, exactly or not at all. A model of the
    original layout gives its encoder, and its trained heads where the job has them too; fitting the targets then keeps
    their answers. The corrections of a calibration are left behind, and the line says so.

    Raises:
        InputError: unusable checkpoint, or one that does not fit; names the keys or layers.
    """
    resumed = config.checkpoint.resume_from
    given = resumed or config.training.mae_checkpoint
    scratch = tuple(config.checkpoint.heads_from_scratch)
    if given is None:
        if scratch:
            raise InputError("checkpoint.heads_from_scratch needs a checkpoint; name it as checkpoint.resume_from.")
        return Start(None, False, "")
    path = str(model_file(given))
    if unknown := [task for task in scratch if task not in tasks]:
        raise InputError(
            f"checkpoint.heads_from_scratch names '{unknown[0]}', which this training does not learn; its tasks are "
            f"{', '.join(tasks) or 'none'}."
        )
    file = read(path)
    found = recognise(file)
    if found == "newer":
        return _from_newer(model, config, file, path)
    if found is not None:
        return _from_original(model, file, path, scratch)
    content, dropped = without_calibration(understood(file, path))
    _check_inputs(config, content, path)
    same = resumed is not None and content["kind"] == kind and content.get("tasks", []) == tasks
    # a shipped model has no optimizer to go on with
    if same and not config.checkpoint.weights_only and not is_shipped(path):
        check_run(content, path)
        if scratch:
            raise InputError(
                "checkpoint.heads_from_scratch belongs to a start from weights alone; set "
                "checkpoint.weights_only=true, or leave it out to go on."
            )
        load_exactly(model, content["model_state"], path, "the configured model")
        at = f"epoch {content['epoch']}" + (f", batch {content['batch_in_epoch']}" if content["batch_in_epoch"] else "")
        average = "average" if content.get("ema_state") else "average from the weights, since it has none"
        return Start(
            content,
            True,
            f"Continuing from {path} at {at}: weights, {average}, optimizer, schedule, random state.{dropped}",
            True,
        )
    weights = averaged_weights(content)
    if same:
        # factors of sigmas belong to the end of that training
        of_its_end = (SIGMA_FACTOR, SIGMA_SHAPE)
        kept = {n: w for n, w in weights.items() if not (_of_tasks(n, scratch) or n.endswith(of_its_end))}
        kept |= {n: w for n, w in model.state_dict().items() if _of_tasks(n, scratch)}
        load_exactly(model, kept, path, "the configured model")
        but = f" but those of the {_heads(scratch)}, which begin anew" if scratch else ""
        return Start(
            None,
            True,
            f"Took all weights of {path}{_source(content)}{but}; epoch 1, a new optimizer.{dropped}",
            True,
            scratch,
        )
    encoder = {name.removeprefix("encoder."): w for name, w in weights.items() if name.startswith("encoder.")}
    if not encoder:
        raise InputError(f"{path} ({content['kind']}) has no encoder; start from a regression or an autoencoder.")
    load_exactly(model.get_submodule("encoder"), encoder, path, "the configured encoder")
    left = sorted({name.split(".")[0] for name in weights} - {"encoder", CORRECTIONS})
    return Start(
        None,
        True,
        f"Took the encoder ({len(encoder)} tensors) of {path}{_source(content)}; left {', '.join(left) or 'nothing'}; "
        f"epoch 1, a new optimizer, heads from scratch.{dropped}",
    )


def _of_tasks(name: str, tasks: tuple[str, ...]) -> bool:
    """Whether a tensor of a regressor belongs to the head, the linear path or the targets of one of the tasks."""
    return name.startswith(tuple(f"{part}{task}{end}" for task in tasks for part, end in _TASK_PARTS))


def _heads(tasks: tuple[str, ...]) -> str:
    return f"head{'s' if len(tasks) > 1 else ''} of {', '.join(tasks)}"


def _check_inputs(config: Config, content: dict[str, Any], path: str) -> None:
    """Refuse what no shape of a weight would show: an encoder for other inputs, or another grid of the outer face."""
    ours, theirs, differ = config.model_dump(mode="json"), content["config"], list[str]()
    weights = averaged_weights(content)
    keys = ["data.npho_branch", "data.time_branch", "normalization.npho_scheme"]
    if config.model.preset == "reference" and config.model.outer_mode == "finegrid":
        keys.append("model.outer_fine_pool")
    for key in keys:
        section, _, name = key.partition(".")
        if name not in theirs.get(section, {}):  # a key that its version did not have
            continue
        own, other = ours[section][name], theirs[section][name]
        # the names of branches may differ, what is in them may not
        what = [value in RELATIVE_BRANCHES if section == "data" else value for value in (own, other)]
        if what[0] != what[1]:
            differ.append(f"{key} is {own} here and {other} there")
    for name in RELATIVE_DEFAULTS:
        given, found = getattr(config.normalization, name), weights.get(f"encoder.normaliser.{name}")
        if given is None or found is None:  # a constant that the recipe leaves open is the file's
            continue
        if found.numel() == 1 and float(found) != float(torch.tensor(given)):
            differ.append(f"normalization.{name} is {given:g} here and {float(found):g} there")
    if differ:
        raise InputError(f"{path} was trained for other inputs: {'; '.join(differ)}. Set these keys as in the file.")


def restore(
    saved: dict[str, Any],
    path: str,
    optimizer: torch.optim.Optimizer,
    groups: list[dict[str, Any]],
    loss: nn.Module,
    average: WeightAverage,
) -> None:
    """Put optimizer, loss and average back to where a checkpoint has them; rates of groups are the recipe's.

    Raises:
        InputError: the recipe has other groups of weights, or another loss.
    """
    # loading overwrites what the groups say, and what they say is the recipe's; the rate is chosen in every step
    own = [{key: value for key, value in group.items() if key not in ("params", "lr")} for group in groups]
    try:
        _check_moments(saved["optimizer_state"], groups, path)
        optimizer.load_state_dict(saved["optimizer_state"])
        loss.load_state_dict(saved["loss_state"])
    except (_OtherGroupsError, RuntimeError) as error:
        raise InputError(
            f"{path} trained other weights (model.freeze_encoder, training.encoder_lr_scale or a loss was changed); "
            "keep these keys to go on, or begin anew from its weights with checkpoint.weights_only=true."
        ) from error
    for group, values in zip(optimizer.param_groups, own, strict=True):
        group |= values
    check_finite(saved["loss_state"], path)
    load_exactly(average.module, averaged_weights(saved), path, "the configured model")
    average.take_buffers()
    average.updates = saved["ema_updates"] if saved.get("ema_state") else 0


class _OtherGroupsError(Exception):
    """An optimizer had other groups of weights."""


def _check_moments(saved: dict[str, Any], groups: list[dict[str, Any]], path: str) -> None:
    """See that moments are numbers in the shapes of their weights, since a step trusts them."""
    ours, theirs = ([group["params"] for group in all_of] for all_of in (groups, saved["param_groups"]))
    if [len(group) for group in ours] != [len(group) for group in theirs]:
        raise _OtherGroupsError
    weights = dict(zip(chain(*theirs), chain(*ours), strict=True))
    for number, moments in saved["state"].items():
        named = {f"optimizer_state.{number}.{name}": moment for name, moment in moments.items()}
        check_finite(check_weights(named, path, "optimizer_state"), path)
        shape = weights[number].shape
        if {n: m.shape for n, m in moments.items()} != {"step": (), "exp_avg": shape, "exp_avg_sq": shape}:
            raise InputError(
                f"{path} is damaged: 'optimizer_state.{number}' does not fit its weights; begin anew from its weights "
                "with checkpoint.weights_only=true."
            )


def _from_original(model: nn.Module, content: Mapping[str, Any], path: str, scratch: tuple[str, ...]) -> Start:
    """Load the encoder of a file of the original layout, and its heads where they serve."""
    check_readable(content, path)
    encoder = model.get_submodule("encoder")
    if not isinstance(encoder, ReferenceEncoder) or not isinstance(encoder.views, OriginalViews):
        raise InputError(f"{path} is of the original layout; set model.layout=original to go on from it.")
    constants = _set_by_hand(encoder.normaliser)
    found = load_original(path, content, normalization=constants, outer_fine_pool=encoder.views.outer_fine_pool)
    other = found.encoder if isinstance(found, OriginalModel) else found
    assert isinstance(other, ReferenceEncoder)
    load_exactly(encoder, other.state_dict(), path, "the configured encoder")
    _same_grid(encoder, other, path)
    heads = _take_heads(model, found, path, scratch) if isinstance(model, Regressor) else []
    taken = f"Took the encoder{' and the heads of ' if heads else ''}{', '.join(heads)} of {path} (original layout)"
    return Start(None, True, f"{taken}; epoch 1, a new optimizer{_scratch(model, heads)}.")


def _from_newer(model: nn.Module, config: Config, content: Mapping[str, Any], path: str) -> Start:
    """Load the encoder of a file of the replaced system's newest version, and its heads where they serve."""
    encoder = model.get_submodule("encoder")
    if not isinstance(encoder, NewerEncoder):
        said = form_of_any(path, content)
        keys = "" if said is None else f", as the file says: {recipe_keys(said)}"
        raise InputError(f"{path} is of the replaced system's newest version; set model.layout=newer{keys}.")
    threshold = config.normalization.npho_threshold
    open_ = threshold is not None and "npho_threshold" not in (content.get("config") or ())
    other, form = load_encoder(path, content, encoder, said={"npho_threshold": threshold} if open_ else None)
    if form is None:
        line = f"Took the encoder of {path}, which does not describe its inputs; they are taken from the recipe"
        return Start(None, True, f"{line}; epoch 1, a new optimizer{_scratch(model, [])}.")
    _check_newer_recipe(config, form, path, heads=isinstance(model, Regressor))
    load_exactly(encoder, other.state_dict(), path, "the configured encoder")
    heads: list[str] = []
    if isinstance(model, Regressor) and isinstance(found := _newer_model(content, path), NewerModel):
        heads = _take_heads(model, found, path, config.checkpoint.heads_from_scratch)
    taken = f"Took the encoder{' and the heads of ' if heads else ''}{', '.join(heads)} of {path} (newest version)"
    unsaid = "".join(f", {key} {value:g} since the file does not say" for key, value in form.unsaid.items()
                     if key == "npho_threshold")  # fmt: skip
    return Start(None, True, f"{taken}{unsaid}; epoch 1, a new optimizer{_scratch(model, heads)}.")


def _newer_model(content: Mapping[str, Any], path: str) -> NewerModel | NewerRepair | None:
    return load_newer(path, content) if kind_of(content, path) == "regressor" else None


def _scratch(model: nn.Module, heads: list[str]) -> str:
    fresh = [task for task in getattr(model, "tasks", ()) if task not in heads]
    return f", heads of {', '.join(fresh)} from scratch" if fresh else ""


def _check_newer_recipe(config: Config, form: Form, path: str, *, heads: bool) -> None:
    """Refuse a recipe whose network would not be the file's; constants that it leaves open are the file's.

    Args:
        config: the recipe.
        form: of the file.
        path: of the file.
        heads: whether their width counts, too.

    Raises:
        InputError: names all keys that differ.
    """
    ours = config.model_dump(mode="json")
    differ = []
    for key, value in recipe_values(form).items():
        section, _, name = key.partition(".")
        if name == "hidden_dim" and not heads:
            continue
        own = ours[section][name]
        # the names of branches may differ, what is in them may not
        same = (own in RELATIVE_BRANCHES) == (value in RELATIVE_BRANCHES) if section == "data" else own == value
        if not (same or (own is None and name != "outer_fine_pool")):
            differ.append(f"{key} is {own} here and {value} there")
    if differ:
        raise InputError(f"{path} was trained for another recipe: {'; '.join(differ)}. Set these keys as in the file.")


def _set_by_hand(normaliser: Normaliser) -> dict[str, float]:
    """Constants of a recipe that are not defaults; they go before those of a file."""
    values = {name: float(normaliser.get_buffer(name)) for name in RELATIVE_DEFAULTS}
    defaults = [{n: float(torch.tensor(v)) for n, v in d.items()} for d in (RELATIVE_DEFAULTS, ABSOLUTE_DEFAULTS)]
    return {name: value for name, value in values.items() if all(value != d[name] for d in defaults)}


def _same_grid(ours: ReferenceEncoder, theirs: ReferenceEncoder, path: str) -> None:
    """The fine grid has no weights that could fail to fit, so its pooling is compared by itself."""
    sizes = [e.views.grid for e in (ours, theirs) if isinstance(e.views, OriginalViews)]
    if ours.views.outer_mode == "finegrid" and sizes[0] != sizes[1]:
        raise InputError(
            f"{path} has an outer grid of {sizes[1]} cells and the recipe one of {sizes[0]}; set model.outer_fine_pool "
            "as in the file."
        )


def _take_heads(
    model: Regressor, found: OriginalModel | NewerModel | ReferenceEncoder, path: str, scratch: Sequence[str]
) -> list[str]:
    """Load the trained heads of the model's tasks; a single-task file's has another form and stays behind."""
    if isinstance(found, ReferenceEncoder):
        return []
    wanted = [task for task in model.tasks if task in found.trained_heads and task not in scratch]
    heads = {task: dict(found.heads[task].state_dict()) for task in wanted}
    taken = [task for task, weights in heads.items() if weights.keys() == model.heads[task].state_dict().keys()]
    for task in taken:
        own, weights, size = model.heads[task].state_dict(), heads[task], TASKS[task].size
        for name in list(weights)[-2:]:
            # logarithms of variances there, of widths here; what says how sure a head is may not be there
            sure = weights[name][size:] / 2 if task in found.with_sigma else own[name][size:]
            weights[name] = (
                torch.cat([weights[name][:size], sure]) if task in model.with_sigma else weights[name][:size]
            )
        load_exactly(model.heads[task], weights, path, f"the configured head of {task}")
    model.trained_heads = frozenset(taken)
    model.trained_widths = frozenset(taken) & found.with_sigma & model.with_sigma
    return taken


def _source(content: dict[str, Any]) -> str:
    averaged = "averaged weights" if content.get("ema_state") else "weights, since it has no average"
    return f" ({content['kind']} of {', '.join(content.get('tasks', [])) or 'no task'}; {averaged})"
