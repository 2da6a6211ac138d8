"""Load what PyTorch loads at the first forward-mode derivative; in doing so it warns about itself."""

import warnings

import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    torch.func.jvp(torch.sin, (torch.zeros(1),), (torch.ones(1),))
