from pathlib import Path

from setuptools import setup

NAME = "diwa_bringup"

setup(
    name=NAME,
    version="0.1.0",
    packages=[],
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/launch", sorted(map(str, Path("launch").glob("*.py")))),
        (f"share/{NAME}/config", sorted(map(str, Path("config").glob("*.yaml")))),
    ],
    install_requires=["setuptools"],
    extras_require={"test": ["pytest"]},
    zip_safe=False,
    maintainer="The DiWA authors",
    maintainer_email="diwa@example.org",
    description="Launch files and parameters of the stack, and nothing else.",
    license="Apache-2.0",
)
