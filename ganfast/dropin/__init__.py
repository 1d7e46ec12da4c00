"""The drop-in: a dynamo backend, and `accelerate`, `explain`, `compare` on top of it."""
