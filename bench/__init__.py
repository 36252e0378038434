"""Benchmarks of Rowdrop: `python -m bench`. See docs/benchmarks.md.

Each figure is reported beside its floor, the bare requests it cannot do without, from the same run.
"""
