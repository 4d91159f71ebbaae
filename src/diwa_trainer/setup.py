from setuptools import find_packages, setup

NAME = "diwa_trainer"
VERBS = (
    "ingest",
    "train_eyes",
    "train_world_model",
    "pretrain",
    "train_reward",
    "finetune",
    "evaluate",
    "export",
    "verdict",
    "report",
    "pipeline",
    "sweep",
)

setup(
    name=NAME,
    version="0.1.0",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    package_data={NAME: ["*.yaml", "**/*.yaml", "**/*.html", "**/*.css"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
    ],
    install_requires=["setuptools"],
    extras_require={"test": ["pytest"], "ray": ["ray"]},
    entry_points={"console_scripts": [f"{verb} = {NAME}.__main__:{verb}" for verb in VERBS]},
    zip_safe=False,
    maintainer="The DiWA authors",
    maintainer_email="diwa@example.org",
    description="Bags in, a world model, a policy and a reward learned, a bundle out.",
    license="Apache-2.0",
)
