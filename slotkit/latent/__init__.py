"""The latent form: one trained number a connection instead of K scores.

`line.py` has the recurrence and the staircase, and `engines/` the engines that apply them to whole tensors.
`state.py`, `guard.py` and `weight.py` are about one tensor, `form.py` is about all tensors of a machine.
"""
