"""Compare two files of predictions of the same events.

Usage: python compare.py A.root B.root

The files are those of `xec predict` on events with truth. Residuals of the same event are correlated, so that the
difference of two resolutions is known better than each: its error comes from resampling events, for both files alike.
"""

import sys

import numpy as np

from xecml.evaluation.tables import read_table
from xecml.resolution import s68

a, b = read_table(sys.argv[1]), read_table(sys.argv[2])
keys = [np.stack([t["run"], t["event"]], axis=1).astype(np.int64) for t in (a, b)]
in_both = set(map(tuple, keys[0])) & set(map(tuple, keys[1]))
order = [np.lexsort(k.T[::-1]) for k in keys]
order = [o[[tuple(row) in in_both for row in k[o]]] for o, k in zip(order, keys, strict=True)]
print(f"{len(order[0])} events in both files")

rng = np.random.default_rng(0)
samples = rng.integers(len(order[0]), size=(100, len(order[0])))
print(f"{'':>8} {'A: s68':>9} {'B: s68':>9} {'A - B':>18}")
for name, unit, scale in (("theta", "deg", 1), ("energy", "MeV", 1e3), ("timing", "ps", 1e12), ("u", "mm", 10)):
    pairs = zip((a, b), order, strict=True)
    residuals = [scale * (t[f"pred_{name}"].astype(float) - t[f"true_{name}"])[o] for t, o in pairs]
    widths = [s68(r) for r in residuals]
    error = np.std([s68(residuals[0][s]) - s68(residuals[1][s]) for s in samples])
    print(f"{name:>8} {widths[0]:9.3g} {widths[1]:9.3g} {widths[0] - widths[1]:9.3g} +- {error:.2g} {unit}")
