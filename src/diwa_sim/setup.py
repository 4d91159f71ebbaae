from setuptools import find_packages, setup

NAME = "diwa_sim"

setup(
    name=NAME,
    version="0.1.0",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    package_data={NAME: ["assets/*", "assets/**/*", "*.yaml"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
    ],
    install_requires=["setuptools"],
    extras_require={"test": ["pytest"]},
    entry_points={
        "console_scripts": [
            "collect = diwa_sim.__main__:collect",
            "hands = diwa_sim.hands:main",
            "node = diwa_sim.node:main",
            "record = diwa_sim.recorder:main",
        ]
    },
    zip_safe=False,
    maintainer="The DiWA authors",
    maintainer_email="diwa@example.org",
    description="A MuJoCo play table that stands in for the robot, in Gymnasium and in ROS.",
    license="Apache-2.0",
)
