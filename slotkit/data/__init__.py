"""Datasets: where they come from, how they are split, and how they reach a network.

Import from the modules: this package itself imports nothing, so that the names of the datasets can be
listed without torch.

* `sources`: the registry of datasets, `find`, `load`, `fetch`. Importing it does not import torch.
* `images`: `ImageSet`, `Dataset` and the seeded `split` into training and validation images.
* `batches`: shuffled and augmented batches for training, ordered ones for evaluation.
* `seeds`: the one way from (seed, epoch, ...) to a random generator.
"""
