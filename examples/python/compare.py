"""Compare two files of predictions of the same events.

Usage: python compare.py A.root B.root

The files are those of `xec predict` or `xec baseline` on events with truth. Both have seen the same light, so that the
difference of two resolutions is known better than each of them; its error is taken event by event.
"""

import sys

from xecml.evaluation.paired import compare_paired
from xecml.evaluation.tables import n_events, read_table, same_events

tables = same_events({name: read_table(file) for name, file in zip("AB", sys.argv[1:3], strict=True)})
print(f"{n_events(tables['A'])} events in both files")
print(f"{'s68 of':<16} {'A':>9} {'B':>9} {'A - B':>9}")
for difference in compare_paired(tables)[0].differences:
    if difference.figure == "s68":
        a, b = difference.first, difference.second
        print(f"{difference.label:<16} {a:9.3g} {b:9.3g} {a - b:9.3g} +- {difference.error:.2g} {difference.unit}")
