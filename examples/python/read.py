"""Read an event file chunk by chunk.

python read.py FILE.root
"""

import sys

import numpy as np

from xecml import geometry, rootio
from xecml.events import valid_counts, valid_times

npho_sum = np.zeros(6)
events = timed = 0
for chunk in rootio.read(sys.argv[1], ["npho", "time"], optional=["energyTruth"]):
    valid = valid_counts(chunk["npho"])  # (events, 4760): sensors that saw light
    light = np.where(valid, chunk["npho"], 0)  # photons; 1e10 stands where nothing was measured
    npho_sum += np.bincount(geometry.face_codes(), light.sum(axis=0), minlength=6)
    timed += valid_times(chunk["npho"], chunk["time"]).sum()
    events += len(light)

print(f"{events} events, {timed / events:.0f} sensors with a time in each")
for face, total in zip(geometry.FACES, npho_sum, strict=True):
    print(f"{face:>6}: {total / events:12.0f} photons an event, {100 * total / npho_sum.sum():5.1f} % of the light")
