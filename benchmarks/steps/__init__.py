"""Training steps of published GANs: what `bench_step.py` and `profile_step.py` run. benchmarks/README.md says how they are measured."""
