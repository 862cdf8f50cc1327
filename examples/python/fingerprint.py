"""Print a hash of what events are, for samples that several people make themselves.

Usage: python fingerprint.py FILE.root ...

Numbers are rounded before they are hashed, since processors may differ in the last bits of a floating-point number.
"""

import hashlib
import sys

import numpy as np

from xecml import rootio
from xecml.events import valid_counts

for name in sys.argv[1:]:
    found, events = hashlib.sha256(), 0
    light, depth = 0.0, 0.0
    for chunk in rootio.read(name, ["event", "npho", "energyTruth", "uvwTruth"]):
        total = np.where(valid_counts(chunk["npho"]), chunk["npho"], 0).sum(axis=1, dtype=np.float64)
        rounded = [
            chunk["event"],
            np.rint(1e5 * chunk["energyTruth"].astype(np.float64)),  # 10 keV
            np.rint(1e3 * chunk["uvwTruth"].astype(np.float64)),  # 10 micrometres
            np.rint(1e2 * np.log10(np.maximum(total, 1))),  # 2 %
        ]
        # event by event, so that the hash does not depend on how a file is cut into chunks
        columns = [np.asarray(part, "<i8").reshape(len(total), -1) for part in rounded]
        found.update(np.ascontiguousarray(np.concatenate(columns, axis=1)).tobytes())
        events += len(total)
        light += float(total.sum())
        depth += float(chunk["uvwTruth"][:, 2].sum(dtype=np.float64))
    print(f"{name}: {events} events, {found.hexdigest()[:16]}, {light / events:.0f} photons, w {depth / events:.4f} cm")
