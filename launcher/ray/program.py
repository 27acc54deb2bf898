"""A script or module on all ranks: `ringlet run --engine ray`."""

from functools import partial

from ringlet.launcher.errors import ExitCode
from ringlet.launcher.ray.job import Work, exit_code
from ringlet.launcher.ray.options import RayOptions
from ringlet.launcher.ray.rank import enter, folder_here
from ringlet.launcher.supervisor.environment import Job


def run_script(program: list[str], job: Job, options: RayOptions) -> int:
    """Run a script, or "-m" and a module, with arguments, on all ranks; returns the exit code. The
    hosts have this folder at the same path."""
    return exit_code(job, options, Work(partial(_script, program, folder_here())))


def _script(program: list[str], folder: str) -> int:
    from ringlet.launcher.workers.program import run_program

    enter(folder)
    run_program(program)
    return ExitCode.OK
