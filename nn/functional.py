"""Functions under PyTorch's names; see each one's docstring for shapes and errors.

They are listed by subject in `ringlet.nn.autograd.operations`.
"""

from ringlet.nn.autograd.operations import *  # noqa: F403
