"""Make the shipped constants of the conventional reconstruction from simulated events of the default detector.

Run: python benchmarks/make_conventional.py [-n EVENTS] [--jobs J] [--folder DIR]

`signal`: photons of 52.8 MeV from the target. `decoupled`: photons of 15 to 60 MeV whose direction and position are
independent. The samples stay in the folder, and are taken from there where they are.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from xecml.conventional.constants import FOLDER
from xecml.files import atomic_path
from xecml.inference.baseline import baseline_files
from xecml.simulation.generate import simulate
from xecml.simulation.settings import make_settings

SAMPLES: dict[str, dict[str, Any]] = {
    "signal": {"vertex": "signal", "energy_mev": 52.8},
    "decoupled": {"vertex": "decoupled"},
}
"""Settings of each sample."""
_FIRST_SEED = 9001


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=40_000, help="events a sample")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("artifacts/conventional"))
    options = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    for k, (name, settings) in enumerate(SAMPLES.items()):
        path = sample(options.folder / f"{name}.root", options.n, settings, _FIRST_SEED + k, options.jobs)
        report = baseline_files([path], options.folder / f"{name}_answers.root", calibrate=True, threads=options.jobs)
        assert report.made is not None
        with atomic_path(FOLDER / f"{name}.json") as temporary:
            shutil.copyfile(report.made, temporary)
        print("\n".join(report.lines()))


def sample(path: Path, events: int, settings: dict[str, Any], seed: int, jobs: int) -> Path:
    """Simulated events; as they are where they have been made before."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        simulate(path, events, settings=make_settings(settings), seed=seed, jobs=jobs)
    return path


if __name__ == "__main__":
    main()
