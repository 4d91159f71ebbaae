from setuptools import find_packages, setup

NAME = "diwa_ros"

setup(
    name=NAME,
    version="0.1.0",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
    ],
    install_requires=["setuptools"],
    extras_require={"test": ["pytest"]},
    zip_safe=False,
    maintainer="The DiWA authors",
    maintainer_email="diwa@example.org",
    description="What the nodes share: how a process is told to stop, parameters, diagnostics, messages.",
    license="Apache-2.0",
)
