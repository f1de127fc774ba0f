"""The latent form: one trained number a connection instead of K scores.

`latent.py` has the recurrence and the staircase, `eager.py` and `cpu.py` are engines that apply them,
`engines.py` names the engines, `weight.py` is one tensor's state and `form.py` a whole machine's.
"""
