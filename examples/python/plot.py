"""Plot the light against the true energy, and draw an event.

python plot.py FILE.root OUT.png
"""

import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("agg")  # no window: pictures go to files
import matplotlib.pyplot as plt
import numpy as np

from xecml import rootio
from xecml.events import valid_counts
from xecml.figures.event_display import display_event

file, out = sys.argv[1], Path(sys.argv[2])
energy, light, depth = [], [], []
for chunk in rootio.read(file, ["npho", "energyTruth", "uvwTruth"]):
    energy.append(1e3 * chunk["energyTruth"])  # GeV to MeV
    light.append(np.where(valid_counts(chunk["npho"]), chunk["npho"], 0).sum(axis=1))
    depth.append(chunk["uvwTruth"][:, 2])  # cm

figure, axes = plt.subplots()
points = axes.scatter(np.concatenate(energy), np.concatenate(light) / 1e6, c=np.concatenate(depth), s=6, vmax=20)
axes.set(xlabel="true energy [MeV]", ylabel="sum of the counts [million photons]")
figure.colorbar(points, label="depth w [cm]")
figure.savefig(out, dpi=150)

event = out.with_name(f"{out.stem}_event{out.suffix}")
display_event(file, 0, event)
print(f"Wrote {out} and {event}.")
