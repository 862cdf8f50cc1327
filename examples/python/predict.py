"""Predict with a checkpoint or an ONNX file, in bounded memory.

Usage: python predict.py MODEL FILE.root OUT.root

`xec predict MODEL FILE.root --out OUT.root` does this and more; here you choose the columns.
"""

import sys

import numpy as np

import xecml
from xecml import rootio

model_file, events, out = sys.argv[1:4]
model = xecml.load_model(model_file)
with rootio.TreeWriter(out, "mine") as tree:
    for chunk in rootio.read(events, list(model.branches), optional=["run", "event"], names=model.names):
        counts, times = (chunk[branch] for branch in model.branches)
        answer = model.predict(counts, times)  # GeV, s, cm, degrees; NaN where nothing was measured
        columns = {
            "run": chunk["run"],
            "event": chunk["event"],
            "energy_MeV": (1e3 * answer["energy"]).astype(np.float32),
            "u_mm": (10 * answer["uvwFI"][:, 0]).astype(np.float32),
        }
        tree.extend(columns)
        print(f"{len(counts)} events, mean energy {np.nanmean(columns['energy_MeV']):.1f} MeV")
