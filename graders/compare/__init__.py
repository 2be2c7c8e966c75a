"""An attempt beside the reference solution: error, cost, time, code, and the kata's own pictures.

What a kata compares stands in its `.compare.py`, which gives `PROBES` and `PICTURES`.
"""

from graders.compare.plan import Picture, Probe

__all__ = ["Picture", "Probe"]
