from setuptools import find_packages, setup

NAME = "diwa_bridge"

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
            "node = diwa_bridge.arm.node:main",
            "cameras = diwa_bridge.cameras.node:main",
            "teleop = diwa_bridge.teleop.node:main",
        ]
    },
    zip_safe=False,
    maintainer="The DiWA authors",
    maintainer_email="diwa@example.org",
    description="A Franka arm, its hand and its cameras as ROS 2 topics, and tele-operation.",
    license="Apache-2.0",
)
