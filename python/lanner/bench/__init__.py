"""Benchmarks of `lanner.ops`, beside the limits of the machine, NumPy and PyTorch: `lanner bench ops`.

`cases` is the one list of what is measured; `contenders` makes the calls; `measure` takes turns between them;
`report` and `plot` show what came out. Nothing here is imported by the rest of the package.
"""
