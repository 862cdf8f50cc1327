"""The typed configuration: sections of a recipe, every key with its default, unit and meaning; see `recipes`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    create_model,
    field_validator,
    model_validator,
)

from xecml.choices import LOSSES, MASK_PATTERNS, LossName, PresetName
from xecml.events import TASKS, TaskName
from xecml.limits import (
    Count,
    Counted,
    FileName,
    Fraction,
    NotNegative,
    PathText,
    Positive,
    Real,
    Seed,
    Share,
    Text,
    Title,
    file_name,
)
from xecml.selections import Selection

Weight = Annotated[NotNegative, Field(le=1e6)]
Cells = Annotated[Count, Field(le=72)]
Bins = Annotated[Count, Field(le=200)]


def _selection(text: str) -> str:
    if text.strip():
        Selection(text)
    return text


def _from_the_beginning(value: Any) -> Any:
    """A single share is of the first events."""
    return (0.0, value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _rising(value: tuple[float, float]) -> tuple[float, float]:
    if not value[0] < value[1]:
        raise ValueError(f"a share must rise, not be {list(value)}; give such as [0, 0.8], or 0.8")
    return value


SelectionText = Annotated[str, AfterValidator(_selection)]
PartOfFiles = Annotated[tuple[Share, Share], BeforeValidator(_from_the_beginning), AfterValidator(_rising)]

RELATIVE_BRANCHES = ("relative_npho", "relative_time")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True)


def _made(name: str, base: type[_Section], fields: Mapping[str, tuple[Any, Any]]) -> Any:
    """A section with a key for each entry of a registry, by name (type, default)."""
    keys: dict[str, Any] = dict(fields)
    return create_model(name, __base__=base, **keys)


class DataConfig(_Section):
    """Where events come from and how they reach the network."""

    train_path: PathText | list[PathText] = Field("", description="training files: path, glob, folder or list")
    val_path: PathText | list[PathText] = Field("", description="validation files")
    train_selection: SelectionText = Field(
        "", description="condition on branches of training events, such as energyTruth > 0.045 and fiducial"
    )
    val_selection: SelectionText = Field("", description="condition on branches of validation events")
    train_share: PartOfFiles = Field(
        (0.0, 1.0), description="part of each file's events to train on: [from, to], or one number for [0, number]"
    )
    val_share: PartOfFiles = Field((0.0, 1.0), description="part of each file's events to validate on")
    tree_name: Text = Field("tree", description="name of the tree in the files")
    npho_branch: Text = Field("npho", description="branch of the counts; relative_npho for relative inputs")
    time_branch: Text = Field("time", description="branch of the times; relative_time for relative inputs")
    batch_size: Count = Field(256, le=65_536, description="events; in one step of one process")
    chunksize: Count = Field(256_000, le=10**9, description="events; largest number that is shuffled together")
    buffer_mb: Positive = Field(
        1000,
        le=1e7,
        description=(
            "MB; limit of the events held for shuffling, even if chunksize is larger; the process uses twice as much"
        ),
    )
    num_workers: Counted = Field(
        1,
        le=256,
        description=(
            "threads that read and decompress in the background (up to 4 while training waits for data); 0: no thread"
        ),
    )
    branches: dict[str, Text] = Field(
        {}, description="branches with other names in the files: usual name -> name in the files"
    )


class NormalizationConfig(_Section):
    """Constants of the input transforms; by default those that belong to the branches read."""

    npho_scale: Real | None = Field(None, ge=1e-9, le=1e9, description="photons; default 1000, for relative_npho 0.58")
    npho_scale2: Real | None = Field(None, ge=1e-6, le=1e6, description="default 4.08, for relative_npho 1.0")
    time_scale: Real | None = Field(None, ge=1e-12, le=1e3, description="s; default 1.14e-7, for relative_time 6.5e-8")
    time_shift: Real | None = Field(None, ge=-1e4, le=1e4, description="default -0.46, for relative_time 0.5")
    sentinel_value: Real = Field(-5.0, ge=-1e4, le=1e4, description="normalised time of an invalid sensor")
    npho_scheme: Literal["log1p", "sqrt", "anscombe", "linear"] = Field("log1p", description="transform of counts")
    sentinel_npho: Real | None = Field(
        None, ge=-1e4, le=1e4, description="layout newer: normalised count of a dead sensor; default -1 or the file's"
    )
    npho_threshold: Real | None = Field(
        None,
        ge=-1e9,
        le=1e9,
        description=(
            "layout newer: the network does not see times of sensors with fewer photons; default 100 or the file's"
        ),
    )


class ModelConfig(_Section):
    """The network."""

    preset: PresetName = Field("compact", description="name of the network's size")
    layout: Literal["standard", "original", "newer"] = Field(
        "standard",
        description=(
            "original or newer: the network of the replaced system's first or newest version, to load its files"
        ),
    )
    encoder_dim: Count = Field(1024, le=8192, multiple_of=32, description="layout newer: width of the tokens")
    dim_feedforward: Count | None = Field(
        None, le=65_536, description="layout newer: width within the transformer's layers; default 4 encoder_dim"
    )
    num_fusion_layers: Count = Field(2, le=64, description="layout newer: layers of the transformer")
    outer_mode: Literal["finegrid", "split"] = Field(
        "finegrid", description="reference: the outer face as one grid or two"
    )
    outer_fine_pool: tuple[Cells, Cells] | None = Field(
        (3, 3), description="reference: number of cells (z, phi) of the fine grid that are pooled into one"
    )
    hex_mixing: Literal["depthwise", "attention"] = Field(
        "depthwise", description="reference: how neighbouring sensors of the top and bottom faces are combined"
    )
    validity_channel: bool = Field(
        False, description="reference: give the network a third input channel that says which counts are valid"
    )
    hidden_dim: Count = Field(256, le=8192, description="hidden width of the heads")
    head_dropout: Fraction | None = Field(None, description="dropout in the heads; default 0, for reference 0.2")
    linear_path: bool = Field(
        False, description="regress: add a linear path to each head; after pre-training it starts from a linear fit"
    )
    drop_path_rate: Fraction = Field(0.0, description="share of events for which a residual branch is skipped")
    mask_ratio: Fraction = Field(
        0.6, ge=1e-3, description="mae, inpaint: share of an event's valid sensors that is hidden; inpaint 0.05"
    )
    decoder: Literal["light", "reference"] = Field("light", description="mae: network that predicts the hidden sensors")
    decoder_width: Count = Field(
        128, le=1024, description="mae: number of patterns over the detector that the decoder 'light' combines"
    )
    inpaint_heads: Literal["nearest", "faces", "both"] = Field(
        "nearest",
        description=(
            "inpaint: predict a dead sensor from its nearest sensors and the hot spot, from maps of the faces, "
            "or from both"
        ),
    )
    freeze_encoder: bool = Field(
        True, description="inpaint: do not train the encoder; needs a trained encoder to start from"
    )


_ENABLED = "whether the quantity is predicted"
_LOSS = "loss; differences are in target widths: " + ", ".join(
    f"{name} ({loss.meaning})" for name, loss in LOSSES.items()
)


class TaskConfig(_Section):
    """One predicted quantity."""

    enabled: bool = Field(False, description=_ENABLED)
    loss_fn: LossName = Field("smooth_l1", description=_LOSS)
    loss_beta: Positive = Field(
        1.0, le=1e6, description="difference, in target widths, above which smooth_l1 and huber are linear"
    )
    weight: Weight = Field(1.0, description="weight of this loss in the sum")


def _of_task(name: str) -> tuple[Any, Any]:
    """A task's section with the defaults of its entry, which a task that is given in part keeps."""
    known = TASKS[name]
    section = _made(
        f"{name}_config",
        TaskConfig,
        {
            "enabled": (bool, Field(known.enabled, description=_ENABLED)),
            "loss_fn": (LossName, Field(known.loss, description=_LOSS)),
        },
    )
    return section, section()


_EveryTask = _made("EveryTask", _Section, {name: _of_task(name) for name in TASKS})


class TasksConfig(_EveryTask):  # type: ignore[misc, valid-type]  # made from the vocabulary
    """What is predicted."""

    def enabled(self) -> dict[str, TaskConfig]:
        """Enabled tasks by name, in the order of the vocabulary."""
        return {name: task for name, task in self if task.enabled}


class TrainingConfig(_Section):
    """Optimiser, schedule, regularisation."""

    epochs: Count = Field(20, le=10**6, description="epochs; passes over the training files")
    lr: Positive = Field(3e-4, le=10, description="learning rate after the warm-up")
    lr_min: NotNegative = Field(1e-6, le=10, description="learning rate at the end")
    weight_decay: NotNegative = Field(1e-4, le=100, description="AdamW decay, on matrices only")
    warmup_epochs: NotNegative = Field(2, le=1e6, description="epochs; linear rise from lr / 100")
    encoder_lr_scale: Share = Field(
        1.0,
        description=(
            "factor for the encoder's learning rate; below 1 keeps more of its pre-training, 0 does not train it"
        ),
    )
    use_scheduler: bool = Field(True, description="cosine decay; false keeps lr after the warm-up")
    amp: bool = Field(True, description="use 16-bit arithmetic if the processor supports it")
    ema_decay: Fraction = Field(0.999, description="decay per step of the averaged weights")
    channel_dropout_rate: Fraction = Field(0.1, description="share of sensors switched off at random in training")
    grad_clip: NotNegative = Field(1.0, le=1e9, description="limit of the gradient's norm; 0 for none")
    accumulate: Count = Field(1, le=10**5, description="batches; number whose gradients are summed for one step")
    compile: bool = Field(
        False, description="use torch.compile if it works on this machine; the variable TORCH_COMPILE=0 prevents it"
    )
    early_stop_epochs: Counted = Field(
        0, le=10**6, description="epochs; the run stops after so many without improvement; 0: never"
    )
    validate_every: Count = Field(
        1, le=10**6, description="epochs; between two validations; the last epoch is always validated"
    )
    deterministic: bool = Field(
        False, description="use only algorithms that give identical bits in every run, also on GPUs"
    )
    loss_fn: Literal["mse", "l1", "smooth_l1"] = Field(
        "mse", description="mae, inpaint: loss on standardised differences; inpaint smooth_l1"
    )
    loss_beta: Positive = Field(
        1.0, le=1e6, description="mae, inpaint: difference, in widths, above which smooth_l1 is linear"
    )
    count_scale: Literal["transformed", "sqrt"] = Field(
        "transformed",
        description=(
            "mae, inpaint: compare counts as transformed for the network, or as square roots, which weigh "
            "sensors by their Poisson statistics"
        ),
    )
    count_balance: Weight = Field(
        0.0,
        description=(
            "photons; with sqrt: count at which the difference of counts weighs as much as that of roots; 0: "
            "roots alone"
        ),
    )
    npho_weight: Weight = Field(1.0, description="mae, inpaint: weight of the loss of counts")
    time_weight: Weight = Field(1.0, description="mae, inpaint: weight of the loss of times")
    auto_channel_weight: bool = Field(False, description="mae, inpaint: learn the relative weight of counts and times")
    mae_checkpoint: PathText | None = Field(
        None, description="inpaint, regress: checkpoint whose encoder the training starts from"
    )
    accelerator: Literal["auto", "cpu", "cuda"] = Field("auto", description="device to train on")
    devices: Count = Field(1, le=128, description="processes on this machine; ignored under torchrun and srun")
    num_nodes: Count = Field(1, le=10**4, description="machines; ignored under torchrun and srun")
    join_timeout: Real = Field(
        60, ge=1, le=86400, description="s; longest time that processes wait for each other at the start"
    )
    seed: Seed = Field(0, description="seed of initial weights, order of events, dropout and augmentation")


_EveryPattern = _made(
    "EveryPattern",
    _Section,
    {
        name: (Weight, Field(1.0 if name == "random" else 0.0, description=meaning))
        for name, meaning in MASK_PATTERNS.items()
    },
)


class MaskingConfig(_EveryPattern):  # type: ignore[misc, valid-type]  # made from the patterns
    """Which sensors are hidden in mae and inpaint; shares of events by pattern, in any sum."""

    dead_list: PathText | None = Field(None, description="file of sensor ids, one a line, for listed")
    ratio_start: Fraction | None = Field(
        None, gt=0, description="share of sensors hidden in the first epoch; by default model.mask_ratio"
    )
    ramp_epochs: Weight = Field(
        0.0, description="epochs; over which the share goes from ratio_start to model.mask_ratio"
    )
    time_threshold: NotNegative = Field(
        100.0, le=1e9, description="photons; times of sensors with fewer are not learnt"
    )

    def patterns(self) -> dict[str, float]:
        """Share of events of each pattern."""
        return {name: getattr(self, name) for name in MASK_PATTERNS}


class AugmentationConfig(_Section):
    """What is done to training batches, besides `training.channel_dropout_rate`; all off by default."""

    mirror_z: Share = Field(0.0, description="share of events that are mirrored in z together with their truth")
    mirror_y: Share = Field(0.0, description="share of events that are mirrored in y together with their truth")
    gain_jitter: NotNegative = Field(0.0, le=10, description="relative spread of each sensor's gain")
    time_jitter: NotNegative = Field(0.0, le=1e-3, description="s; spread of each sensor's time")
    dead_clusters: Share = Field(0.0, description="share of events with a round patch of dead sensors")
    cluster_radius: Positive = Field(5.0, le=500, description="cm; radius of such a patch")
    dead_channels: Share = Field(0.0, description="share of events with dead sensors, scattered or in 4 x 4 blocks")
    dead_fraction: Fraction = Field(0.1, gt=0, description="largest share of dead sensors in these events")
    pileup: Share = Field(0.0, description="share of events to which another event of the batch is added")
    pileup_light: tuple[Share, Share] = Field(
        (0.05, 0.5), description="smallest and largest factor for the light of the added event"
    )
    pileup_time: Positive = Field(5e-8, le=1e-3, description="s; largest difference of the times of the two events")


class ReweightingTaskConfig(_Section):
    """Flattening of the training sample in one quantity."""

    enabled: bool = Field(False, description="weight each event by the inverse of the number of events in its bin")
    nbins: Count = Field(30, le=100_000, description="number of bins of a scalar quantity")
    nbins_2d: tuple[Bins, Bins] | None = Field(
        None,
        description=(
            "numbers of bins; default for angle [20, 20], for uvwFI [10, 10], of which the first is also used for w"
        ),
    )


_EveryReweighting = _made(
    "EveryReweighting",
    _Section,
    {name: (ReweightingTaskConfig, ReweightingTaskConfig()) for name, task in TASKS.items() if task.flattened},
)


class ReweightingConfig(_EveryReweighting):  # type: ignore[misc, valid-type]  # made from the vocabulary
    """Reweighting of the training sample; weights of several quantities multiply, and have mean 1."""


class CheckpointConfig(_Section):
    """Where a run is kept and what it starts from."""

    resume_from: PathText | None = Field(
        None, description="checkpoint to continue from; auto: the last one of this run, if there is one"
    )
    save_dir: PathText = Field("artifacts", description="folder in which each run gets a folder")
    save_interval: Count = Field(
        10, le=10**6, description="epochs; between checkpoints that are kept besides the best and the last"
    )
    save_every_steps: Counted = Field(
        0, le=10**9, description="steps; between two writings of checkpoint_last; 0: only after each epoch"
    )
    save_predictions: Counted = Field(
        10, le=10**6, description="epochs; between two files with predicted sensors of mae and inpaint; 0: none"
    )
    weights_only: bool = Field(False, description="take only the weights of resume_from and begin at epoch 1")
    heads_from_scratch: list[TaskName] = Field(
        [],
        description="tasks whose truth has another distribution than in the training of resume_from: with "
        "weights_only and the same tasks, their heads and first guesses are not taken but learnt anew",
    )
    best_metric: Title = Field(
        "loss",
        description="validation metric by which the best checkpoint is chosen; lower is better, except for accuracies",
    )


class MlflowConfig(_Section):
    """Names of the run."""

    run_name: FileName | None = Field(None, description="name of the run; by default the recipe's file name")
    enabled: bool = Field(True, description="log to MLflow (at MLFLOW_TRACKING_URI, by default sqlite:///mlruns.db)")
    experiment: Title = Field("xecml", description="MLflow's experiment")
    tensorboard: PathText | None = Field("runs", description="folder for TensorBoard's files; null: none")


class ExportConfig(_Section):
    """What is exported after a training."""

    onnx: PathText | None = Field(
        None, description="name of an ONNX file to write into the run's folder; by default none"
    )

    @field_validator("onnx")
    @classmethod
    def _name(cls, value: str | None) -> str | None:
        if value is not None:
            file_name(value.rpartition("/")[2])
        return value


class Config(_Section):
    """A whole recipe."""

    data: DataConfig = DataConfig()
    normalization: NormalizationConfig = NormalizationConfig()
    model: ModelConfig = ModelConfig()
    tasks: TasksConfig = TasksConfig()
    loss_balance: Literal["manual", "auto"] = Field(
        "manual", description="weights of the tasks' losses: as given (manual) or learned (auto)"
    )
    training: TrainingConfig = TrainingConfig()
    masking: MaskingConfig = MaskingConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    reweighting: ReweightingConfig = ReweightingConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    mlflow: MlflowConfig = MlflowConfig()
    export: ExportConfig = ExportConfig()

    @model_validator(mode="after")
    def _masks(self) -> Config:
        if (self.masking.patterns()["listed"] > 0) != (self.masking.dead_list is not None):
            raise ValueError("masking.listed and masking.dead_list belong together; set both or neither")
        if self.training.count_scale == "sqrt" and self.data.npho_branch in RELATIVE_BRANCHES:
            raise ValueError(
                "training.count_scale=sqrt weighs photons, which relative counts are not; set data.npho_branch to an "
                "absolute branch or leave the key out"
            )
        if self.training.count_balance and self.training.count_scale != "sqrt":
            raise ValueError(
                "training.count_balance needs training.count_scale=sqrt; set that too, or count_balance to 0"
            )
        return self

    @model_validator(mode="after")
    def _reference_keys(self) -> Config:
        model = self.model
        if model.preset == "reference" or model.layout != "standard":
            return self
        for name in ("outer_mode", "outer_fine_pool", "hex_mixing", "validity_channel"):
            if getattr(model, name) != ModelConfig.model_fields[name].default:
                raise ValueError(
                    f"model.{name} is nothing to model.preset={model.preset}; set model.preset=reference too, or leave "
                    "the key out"
                )
        return self

    @model_validator(mode="after")
    def _newer_keys(self) -> Config:
        if self.model.layout == "newer":
            return self
        sections: tuple[tuple[str, _Section, tuple[str, ...]], ...] = (
            ("model", self.model, ("encoder_dim", "dim_feedforward", "num_fusion_layers")),
            ("normalization", self.normalization, ("sentinel_npho", "npho_threshold")),
        )
        for section, values, names in sections:
            for name in names:
                if getattr(values, name) != type(values).model_fields[name].default:
                    raise ValueError(
                        f"{section}.{name} is nothing to model.layout={self.model.layout}; set model.layout=newer too, "
                        "or leave the key out"
                    )
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        read = {"npho": self.data.npho_branch, "time": self.data.time_branch}
        for name in self.tasks.enabled():
            if TASKS[name].absolute and read[TASKS[name].needs] in RELATIVE_BRANCHES:
                raise ValueError(
                    f"tasks.{name} cannot be learnt from relative inputs, which carry no absolute scale; "
                    f"set data.{TASKS[name].needs}_branch to an absolute branch or switch the task off"
                )
        if not any(self.masking.patterns().values()):
            raise ValueError("masking has no pattern; set the share of at least one above 0")
        if not self.tasks.enabled():
            raise ValueError(
                f"no task is enabled; switch on at least one of tasks.{', '.join(TasksConfig.model_fields)}"
            )
        for name, chosen in self.tasks.enabled().items():
            if not LOSSES[chosen.loss_fn].fits(TASKS[name]):
                raise ValueError(f"tasks.{name}.loss_fn cannot be {chosen.loss_fn}; choose one that fits the quantity")
        return self

    @model_validator(mode="after")
    def _learns(self) -> Config:
        options = self.training
        if options.use_scheduler and options.lr_min > options.lr:
            raise ValueError(f"training.lr_min = {options.lr_min:g} is above training.lr = {options.lr:g}; lower it")
        if not any(task.weight for task in self.tasks.enabled().values()):
            raise ValueError("every enabled task has weight 0, so nothing is learnt; set one of tasks.*.weight above 0")
        if not (options.npho_weight or options.time_weight):
            raise ValueError("training.npho_weight and training.time_weight are both 0; set one above 0")
        if self.augmentation.pileup_light[0] > self.augmentation.pileup_light[1]:
            raise ValueError(f"augmentation.pileup_light must rise, not be {list(self.augmentation.pileup_light)}")
        return self
