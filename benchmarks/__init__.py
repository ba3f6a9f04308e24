"""How fast nearcache is beside other clients, measured where you run it; see ``docs/benchmarks.md``."""
