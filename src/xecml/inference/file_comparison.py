"""Compare event files with the sample that a model was trained on; answers are computed for `outlier` alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from xecml import rootio
from xecml.data import source
from xecml.errors import InputError
from xecml.inference.repair_models import Knowing, NetworkRepair, OnnxRepair, is_repair, load_repair
from xecml.inference.trained_model import Model, load_model
from xecml.inference.training_comparison import Comparison
from xecml.progress import progress


def compare_files(
    model_path: str | Path,
    files: str | Path | Sequence[str | Path],
    *,
    tree: str = rootio.DEFAULT_TREE,
    chunk_events: int = 512,
) -> Comparison:
    """Compare the events of files, taken together, with a model's training sample; memory does not grow with them.

    Args:
        model_path: checkpoint or exported file, of a model that predicts or fills sensors.
        files: event files.
        tree: name of the tree in them.
        chunk_events: events in memory at a time.

    Raises:
        InputError: model or files are unusable, or the model does not say what it was trained on.
    """
    model: Model | Knowing
    if is_repair(model_path):
        repair = load_repair(model_path)
        assert isinstance(repair, NetworkRepair | OnnxRepair)
        model, branches, names = repair, repair.branches, repair.names
    else:
        predictor = load_model(model_path)
        model, branches, names = predictor, predictor.branches, predictor.names
    training = model.training
    if training is None:
        raise InputError(
            f"{model_path} does not say what its training events were like, as it was made before this was kept; "
            "train it anew, or check the files without it."
        )
    comparison, paths = Comparison(training), source.expand(files)
    with progress(source.count_events(paths, tree), "compare") as bar:
        for path in paths:
            here = source.names_here(path, tree, names)
            for chunk in source.read([path], branches, tree=tree, names=here, chunk_events=chunk_events):
                npho, time = (chunk[branch] for branch in branches)
                if (found := model.compare(npho, time)) is not None:
                    comparison.add(found[1], found[0])
                bar.advance(len(npho))
    return comparison
