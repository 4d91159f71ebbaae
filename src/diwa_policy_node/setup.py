from setuptools import find_packages, setup

NAME = "diwa_policy_node"

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
    entry_points={
        "console_scripts": [
            "node = diwa_policy_node.node:main",
            "run_skill = diwa_policy_node.client:main",
            "twin_episodes = diwa_policy_node.twin_episodes:main",
        ]
    },
    zip_safe=False,
    maintainer="The DiWA authors",
    maintainer_email="diwa@example.org",
    description="Runs bundles at control rate: a lifecycle node with the RunSkill action.",
    license="Apache-2.0",
)
