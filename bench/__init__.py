"""How fast Rowdrop is, each figure beside its floor in the same run: `python -m bench`.  See docs/benchmarks.md."""
