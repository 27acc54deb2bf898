"""`ringlet data ...`: text as tokens."""

from ringlet.launcher.commands.data.build import build
from ringlet.launcher.commands.data.show import show
from ringlet.launcher.commands.options import Group

data = Group(
    "data",
    help="Make text into tokens to train on; look at them.",
    no_args_is_help=True,
    commands=[build, show],
)
