"""Train a network from Python.

python train.py TRAIN.root VAL.root NAME [RECIPE] [section.key=value ...]
"""

import sys

from xecml.recipes import load_config
from xecml.training.loop import train


def main() -> None:
    """Read the command line, train, and print what was reached."""
    train_file, val_file, name, recipe, *settings = [*sys.argv[1:], *(["demo"] if len(sys.argv) == 4 else [])]
    paths = {"data.train_path": train_file, "data.val_path": val_file}
    config = load_config(recipe, settings, paths)  # any key: see 'xec train --help-config'
    result = train(config, name=name)
    print(f"Best checkpoint: {result.best}")
    for metric in ("theta_s68_deg", "energy_s68_MeV", "timing_s68_ps", "u_s68_mm", "v_s68_mm", "w_s68_mm"):
        print(f"{metric:>15}: {result.metrics[f'val/{metric}']:.3g}")


if __name__ == "__main__":  # a training on several devices starts this file again in other processes
    main()
