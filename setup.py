"""Maps the four folders at the root to `ringlet.*`; everything else is in pyproject.toml."""

from setuptools import find_packages, setup

FOLDERS = ("comm", "nn", "runtime", "launcher")

setup(
    packages=[
        "ringlet",
        *(
            f"ringlet.{name}"
            for name in find_packages(include=[*FOLDERS, *(f"{folder}.*" for folder in FOLDERS)])
        ),
    ],
    package_dir={
        "": "src",
        "ringlet": "src/ringlet",
        **{f"ringlet.{name}": name for name in FOLDERS},
    },
    package_data={
        "ringlet": ["py.typed"],
        "ringlet.launcher.commands.watch": ["page/*"],
        "ringlet.launcher.lessons": ["*/lesson.md"],
        "ringlet.runtime.planning": ["clusters/*.toml"],
    },
)
