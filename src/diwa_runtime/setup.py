from setuptools import find_packages, setup

NAME = "diwa_runtime"

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
    description="What trainer and robot must agree on: the Spec, the assembler, the bundle and its session.",
    license="Apache-2.0",
)
