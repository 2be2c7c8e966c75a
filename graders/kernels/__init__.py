"""The reference kernels: what a right answer is, in plain NumPy, independent of the solutions.

A kernel keeps the dtype of its inputs: in float64 it is the answer, in the working dtype it shows how far a
right formula may be off.
"""
