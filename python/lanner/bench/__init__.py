"""Benchmarks beside the limits of the machine: `lanner bench`. Nothing here is imported by the package.

`ops`: `cases` is the one list of what is measured of `lanner.ops`; `contenders` makes the calls; `measure`
takes turns between them; `report` and `plot` show what came out.

`model`: `model_run` measures a file, alone or in turns with a peer; engines are processes (`engine_worker`)
that `rounds` lets take turns; `model_report` and `model_plot` show what came out.

`growth`: what a token costs behind more and more context, and in larger models; `growth_plot` draws it.
"""
