"""labkit: the small PyTorch package under Drift Lab, a course on policy drift."""
import os

# MKL picks its kernels by how arrays happen to lie in memory, which differs between a lane alone and a lane
# beside others. This makes products a function of their numbers alone. It is read at the first product.
os.environ.setdefault("MKL_CBWR", "AUTO")
