"""Runs a script that puts tensors on a GPU, where there is none: `cuda()` gives the tensor itself.

    python without_cuda.py SCRIPT [ARGUMENTS ...]

Of MMRec's models, MGCN and LATTICE say `cuda()` whatever the configuration says.
"""

import os
import runpy
import sys

import torch

if __name__ == "__main__":
    torch.Tensor.cuda = lambda tensor, *args, **options: tensor
    sys.argv = sys.argv[1:]
    sys.path.insert(0, os.getcwd())
    runpy.run_path(sys.argv[0], run_name="__main__")
