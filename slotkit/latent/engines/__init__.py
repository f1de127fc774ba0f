"""Engines of the latent form, side by side: the same operation on arrays, written for different machines.

`contract.py` declares the operation, `registry.py` lists the engines. `eager.py` is the one to read;
`cpu.py` calls the compiled loops of `cpu_choose.py` and `cpu_sample.py`. A new engine is one file here and
one line in the registry; tests/latent/test_engines.py then holds it to the dense form.
"""
